"""The hand-written list of what there is: every method, and the name its settings go by.

A kind is what a recipe file and the command line call a settings class. A test proves that every
file with a CARD is listed here, and that every kind is the class name in kebab-case.
"""

from dataclasses import dataclass
from typing import Any

from doublure import tasks
from doublure.compress import expand_classifier, inherit, post_training_quantization, pruning
from doublure.core.cards import Card
from doublure.core.checks import kind_name
from doublure.engine.codec import Codec
from doublure.engine.plugins import Plugins
from doublure.objectives import (
    activation_boundaries,
    attention_transfer,
    continual,
    correlation_congruence,
    crd,
    dist,
    divergence,
    dkd,
    fit_nets,
    hard_labels,
    knowledge_adjustment,
    knowledge_representing,
    logit_l1,
    logit_standardisation,
    mlld,
    nst,
    pkt,
    review_kd,
    rkd,
    similarity_preserving,
    soft_targets,
    srrl,
    stage_outputs,
    truncated_targets,
    vid,
    weighted,
    wsld,
)
from doublure.rules import frozen_batchnorm
from doublure.sources import (
    adversarial,
    augmentation,
    autoaugment,
    balanced,
    combined,
    deep_inversion,
    dfad,
    fast_meta,
    few,
    flat,
    knowledge_within,
    lcw,
    leaves,
    matched,
    mixing,
    noise,
    rdskd,
    rehearsed,
    replay,
    shader_files,
    shaders,
    short_inversion,
    surrogate,
)
from doublure.tasks.generation import cramer_wold
from doublure.tasks.translation import on_policy, return_to_go, sentences, sequence_level

_PLAIN = Card(paper="", needs=("nothing",))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method: its name, where it lives, what it rests on and the verb that reaches it."""

    name: str
    room: str
    verb: str
    card: Card
    settings: type | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as `doublure methods --json` gives it."""
        return {
            "name": self.name,
            "paper": self.card.paper,
            "arxiv": self.card.arxiv,
            "room": self.room,
            "needs": list(self.card.needs),
            "verb": self.verb,
        }


def _entry(settings: type, verb: str, card: Card) -> Entry:
    room = "/".join(settings.__module__.split(".")[1:])
    return Entry(name=kind_name(settings), room=room, verb=verb, card=card, settings=settings)


def _source(settings: type, card: Card = _PLAIN) -> Entry:
    verb = f"synthesize {kind_name(settings)}"
    return _entry(settings, verb, card)


def _recipe_source(settings: type, card: Card) -> Entry:
    """A source that is a recipe of the same name, with an objective and a loop of its own."""
    verb = f"distill --method {kind_name(settings)}"
    return _entry(settings, verb, card)


def _wrapper(settings: type, card: Card = _PLAIN) -> Entry:
    verb = f"distill --set {kind_name(settings)}.FIELD=VALUE"
    return _entry(settings, verb, card)


def _objective(settings: type, card: Card = _PLAIN) -> Entry:
    verb = f"distill --objective {kind_name(settings)}"
    return _entry(settings, verb, card)


SOURCES = (
    _source(shaders.Shaders, shaders.CARD),
    _source(shader_files.ShaderFiles, shaders.CARD),
    _source(leaves.Leaves, leaves.CARD),
    _source(noise.Noise, noise.CARD),
    _source(flat.Flat, flat.CARD),
    Entry(
        name="lcw",
        room="sources/lcw",
        verb="synthesize lcw --set generator=RUN",
        card=cramer_wold.CARD,
        settings=lcw.LCW,
    ),
    _source(surrogate.Surrogate, surrogate.CARD),
    Entry(
        name="few",
        room="sources/few",
        verb="distill --recipe FILE",
        card=_PLAIN,
        settings=few.Few,
    ),
    _source(deep_inversion.DeepInversion, deep_inversion.CARD),
    _source(knowledge_within.Inceptionism, knowledge_within.CARD),
    _source(knowledge_within.BatchNormStatistics, knowledge_within.CARD),
    _source(short_inversion.ShortInversion, short_inversion.CARD),
    Entry(
        name="sentences",
        room="tasks/translation/sentences",
        verb="distill --transfer TEXT",
        card=_PLAIN,
        settings=sentences.Sentences,
    ),
    _recipe_source(dfad.DFAD, dfad.CARD),
    _recipe_source(rdskd.RDSKD, rdskd.CARD),
    _recipe_source(fast_meta.FastMeta, fast_meta.CARD),
)
WRAPPERS = (
    _wrapper(matched.Matched, matched.CARD),
    _wrapper(balanced.Balanced, balanced.CARD),
    _wrapper(augmentation.Augmented, augmentation.CARD),
    _wrapper(replay.Replay, replay.CARD),
    _wrapper(autoaugment.AutoAugmented, autoaugment.CARD),
    _wrapper(mixing.Mixed, mixing.CARD),
    _wrapper(adversarial.Adversarial, adversarial.CARD),
    _wrapper(on_policy.OnPolicy, on_policy.CARD),
    _wrapper(sequence_level.SequenceLevel, sequence_level.CARD),
    Entry(
        name="combined",
        room="sources/combined",
        verb="distill --recipe FILE",
        card=_PLAIN,
        settings=combined.Combined,
    ),
    Entry(
        name="rehearsed",
        room="sources/rehearsed",
        verb="continual",
        card=continual.CARD,
        settings=rehearsed.Rehearsed,
    ),
)
OBJECTIVES = (
    _objective(soft_targets.SoftTargets, soft_targets.CARD),
    _objective(divergence.Divergence, divergence.CARD),
    _objective(logit_l1.LogitL1, logit_l1.CARD),
    _objective(knowledge_adjustment.KnowledgeAdjustment, knowledge_adjustment.CARD),
    _objective(truncated_targets.TruncatedTargets, truncated_targets.CARD),
    _objective(similarity_preserving.SimilarityPreserving, similarity_preserving.CARD),
    _objective(activation_boundaries.ActivationBoundaries, activation_boundaries.CARD),
    _objective(knowledge_representing.KnowledgeRepresenting, knowledge_representing.CARD),
    _objective(hard_labels.HardLabels, hard_labels.CARD),
    _objective(dkd.DKD, dkd.CARD),
    _objective(dist.DIST, dist.CARD),
    _objective(wsld.WSLD, wsld.CARD),
    _objective(logit_standardisation.LogitStandardisation, logit_standardisation.CARD),
    _objective(mlld.MLLD, mlld.CARD),
    _objective(fit_nets.FitNets, fit_nets.CARD),
    _objective(stage_outputs.StageOutputs, stage_outputs.CARD),
    _objective(attention_transfer.AttentionTransfer, attention_transfer.CARD),
    _objective(nst.NST, nst.CARD),
    _objective(vid.VID, vid.CARD),
    _objective(review_kd.ReviewKD, review_kd.CARD),
    _objective(srrl.SRRL, srrl.CARD),
    _objective(rkd.RKD, rkd.CARD),
    _objective(pkt.PKT, pkt.CARD),
    _objective(correlation_congruence.CorrelationCongruence, correlation_congruence.CARD),
    _objective(crd.CRD, crd.CARD),
    _objective(return_to_go.ReturnToGo, return_to_go.CARD),
    _objective(weighted.Weighted),
    Entry(
        name="continual",
        room="objectives/continual",
        verb="continual",
        card=continual.CARD,
        settings=continual.Continual,
    ),
)
RECIPES = (
    Entry(
        name="auto",
        room="tasks/classification/auto",
        verb="distill",
        card=Card(paper="", needs=("logits", "features")),
    ),
    Entry(
        name="shader-kd",
        room="recipes",
        verb="distill --method shader-kd",
        card=shaders.CARD,
    ),
    Entry(
        name="surrogate-kd",
        room="recipes",
        verb="distill --method surrogate-kd --transfer IMAGES",
        card=surrogate.CARD,
    ),
    Entry(
        name="activation-boundary",
        room="recipes",
        verb="distill --method activation-boundary",
        card=activation_boundaries.CARD,
    ),
    Entry(
        name="adaptive-deep-inversion",
        room="recipes",
        verb="distill --method adaptive-deep-inversion",
        card=deep_inversion.CARD,
    ),
    Entry(
        name="sequence-kd",
        room="tasks/translation/recipes",
        verb="distill --method sequence-kd --transfer TEXT",
        card=sequence_level.CARD,
    ),
    Entry(
        name="autoaugment-kd",
        room="tasks/classification/recipes",
        verb="distill --method autoaugment-kd --transfer IMAGES --labels",
        card=truncated_targets.CARD,
    ),
)
TRANSFORMS = (
    Entry(
        name="pruning",
        room="compress/pruning",
        verb="prune",
        card=pruning.CARD,
        settings=pruning.Pruning,
    ),
    Entry(
        name="post-training-quantization",
        room="compress/post_training_quantization",
        verb="quantize",
        card=post_training_quantization.CARD,
        settings=post_training_quantization.PostTrainingQuantization,
    ),
    Entry(
        name="expand-classifier",
        room="compress/expand_classifier",
        verb="continual",
        card=continual.CARD,
        settings=expand_classifier.ExpandClassifier,
    ),
)
INITIALISATIONS = (
    Entry(
        name="inherit",
        room="compress/inherit",
        verb="distill",
        card=inherit.CARD,
        settings=inherit.Inherit,
    ),
)
RULES = (
    Entry(
        name="frozen-batch-norm",
        room="rules/frozen_batchnorm",
        verb="quantize --steps N",
        card=_PLAIN,
        settings=frozen_batchnorm.FrozenBatchNorm,
    ),
)
METHODS: tuple[Entry, ...] = (
    *RECIPES,
    *SOURCES,
    *WRAPPERS,
    *OBJECTIVES,
    *TRANSFORMS,
    *INITIALISATIONS,
    *RULES,
)

CODEC = Codec(
    kinds={
        family: {entry.name: entry.settings for entry in entries if entry.settings is not None}
        for family, entries in (
            ("source", (*SOURCES, *WRAPPERS)),
            ("objective", OBJECTIVES),
            ("rule", RULES),
            ("transform", TRANSFORMS),
            ("initialisation", INITIALISATIONS),
        )
    }
)


def plugins() -> Plugins:
    """Return what the engine has to know of the methods."""
    return Plugins(
        tasks=tasks.TASKS, codec=CODEC, papers={entry.name: entry.card.paper for entry in METHODS}
    )
