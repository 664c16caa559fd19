"""The hand-written list of all methods, and the kinds of their settings.

A kind is the name of a settings class in recipe files and on the command line. A test checks that
every file with a CARD is listed here, and that every kind is the class name in kebab-case.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from doublure import tasks
from doublure.audits import saliency, worst_case_quantization
from doublure.compress import (
    batch_norm_scale,
    expand_classifier,
    inherit,
    mixed_precision,
    post_training_quantization,
    pruning,
)
from doublure.core.cards import Card
from doublure.core.checks import kind_name
from doublure.engine.codec import Codec
from doublure.engine.optimizers import OPTIMIZERS
from doublure.engine.plugins import Plugins
from doublure.engine.schedules import SCHEDULES
from doublure.nets import batchnorm_init, pooled_conv
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
    per_pixel,
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
from doublure.rules import frozen_batchnorm, learned_normalisation, pooled_filters
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
    interleaved,
    knowledge_within,
    lcw,
    leaves,
    matched,
    mixing,
    noise,
    rdskd,
    rehearsed,
    replay,
    scenes,
    shader_files,
    shaders,
    short_inversion,
    sized,
    surrogate,
)
from doublure.tasks.generation import cramer_wold
from doublure.tasks.segmentation import pixel_labels
from doublure.tasks.translation import on_policy, return_to_go, sentences, sequence_level

_PLAIN = Card(paper="", needs=("nothing",))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method: its name, file, card and verb.

    Args:
        place: path of the file within the package.
        by_name: whether the command line can create it from its name only, without a path or
            another part.
        sized: returns its settings for a contract, if they depend on that.
    """

    name: str
    place: str
    verb: str
    card: Card
    settings: type | None = None
    by_name: bool = True
    sized: Callable[[Any], Any] | None = None

    def make(self, contract: Any = None) -> Any:
        """Return settings with default values, for a network's contract if it is known."""
        assert self.settings is not None
        if self.sized is not None and contract is not None:
            return self.sized(contract)
        return self.settings()

    def to_json(self) -> dict[str, Any]:
        """Return the entry as in `doublure methods --json`."""
        return {
            "name": self.name,
            "paper": self.card.paper,
            "arxiv": self.card.arxiv,
            "file": f"{self.place}.py",
            "needs": list(self.card.needs),
            "verb": self.verb,
        }


def _entry(settings: type, verb: str, card: Card | None = None, **more: Any) -> Entry:
    """Return the entry of a settings class: named by it, with the card of its file."""
    module = settings.__module__
    own: Card = getattr(sys.modules[module], "CARD", _PLAIN)
    return Entry(
        name=kind_name(settings),
        place="/".join(module.split(".")[1:]),
        verb=verb.format(kind=kind_name(settings)),
        card=card or own,
        settings=settings,
        **more,
    )


def _source(settings: type, card: Card | None = None, **more: Any) -> Entry:
    return _entry(settings, "synthesize {kind}", card, **more)


def _recipe_source(settings: type) -> Entry:
    """A source with a recipe of the same name, with its own objective and training."""
    return _entry(settings, "distill --method {kind}")


def _wrapper(settings: type) -> Entry:
    return _entry(settings, "distill --set {kind}.FIELD=VALUE")


def _objective(settings: type, **more: Any) -> Entry:
    return _entry(settings, "distill --objective {kind}", **more)


def _recipe(name: str, card: Card, more: str = "", place: str = "recipes") -> Entry:
    """A recipe: a function that returns the stages of a method."""
    verb = f"distill --method {name} {more}".rstrip()
    return Entry(name=name, place=place, verb=verb, card=card)


SOURCES = (
    _source(shaders.Shaders),
    _source(shader_files.ShaderFiles, shaders.CARD, by_name=False),
    _source(leaves.Leaves),
    _source(noise.Noise),
    _source(flat.Flat),
    _entry(lcw.LCW, "synthesize lcw --set generator=RUN", cramer_wold.CARD),
    _source(surrogate.Surrogate, by_name=False),
    _entry(few.Few, "distill --few DATA", by_name=False),
    _source(deep_inversion.DeepInversion, sized=deep_inversion.settings_for),
    _source(knowledge_within.Inceptionism, sized=knowledge_within.inceptionism_for),
    _source(knowledge_within.BatchNormStatistics, sized=knowledge_within.batch_norm_statistics_for),
    _source(short_inversion.ShortInversion),
    _entry(scenes.Scenes, "distill --transfer SCENES", by_name=False),
    _entry(sentences.Sentences, "distill --transfer TEXT", by_name=False),
    _recipe_source(dfad.DFAD),
    _recipe_source(rdskd.RDSKD),
    _recipe_source(fast_meta.FastMeta),
)
WRAPPERS = (
    _wrapper(matched.Matched),
    _wrapper(balanced.Balanced),
    _wrapper(augmentation.Augmented),
    _wrapper(replay.Replay),
    _wrapper(autoaugment.AutoAugmented),
    _wrapper(mixing.Mixed),
    _wrapper(adversarial.Adversarial),
    _wrapper(sized.Sized),
    _wrapper(on_policy.OnPolicy),
    _wrapper(sequence_level.SequenceLevel),
    _entry(interleaved.Interleaved, "train --interleave SHARE", pooled_conv.CARD),
    _entry(combined.Combined, "distill --recipe FILE"),
    _entry(rehearsed.Rehearsed, "continual", continual.CARD),
)
OBJECTIVES = (
    _objective(soft_targets.SoftTargets),
    _objective(divergence.Divergence),
    _objective(logit_l1.LogitL1),
    _objective(knowledge_adjustment.KnowledgeAdjustment),
    _objective(truncated_targets.TruncatedTargets),
    _objective(similarity_preserving.SimilarityPreserving),
    _objective(activation_boundaries.ActivationBoundaries),
    _objective(knowledge_representing.KnowledgeRepresenting),
    _objective(hard_labels.HardLabels),
    _objective(dkd.DKD),
    _objective(dist.DIST),
    _objective(wsld.WSLD),
    _objective(logit_standardisation.LogitStandardisation),
    _objective(mlld.MLLD),
    _objective(fit_nets.FitNets),
    _objective(stage_outputs.StageOutputs),
    _objective(attention_transfer.AttentionTransfer),
    _objective(nst.NST),
    _objective(vid.VID),
    _objective(review_kd.ReviewKD),
    _objective(srrl.SRRL),
    _objective(rkd.RKD),
    _objective(pkt.PKT),
    _objective(correlation_congruence.CorrelationCongruence),
    _objective(crd.CRD),
    _objective(per_pixel.PerPixel),
    _entry(pixel_labels.PixelLabels, "train"),
    _objective(return_to_go.ReturnToGo),
    _objective(weighted.Weighted, by_name=False),
    _entry(continual.Continual, "continual", by_name=False),
)
RECIPES = (
    Entry(
        name="auto",
        place="tasks/classification/auto",
        verb="distill",
        card=Card(paper="", needs=("logits", "features")),
    ),
    _recipe("shader-kd", shaders.CARD),
    _recipe("surrogate-kd", surrogate.CARD, "--transfer IMAGES"),
    _recipe("activation-boundary", activation_boundaries.CARD),
    _recipe("adaptive-deep-inversion", deep_inversion.CARD),
    _recipe(
        "sequence-kd", sequence_level.CARD, "--transfer TEXT", place="tasks/translation/recipes"
    ),
    _recipe(
        "autoaugment-kd",
        truncated_targets.CARD,
        "--transfer IMAGES --labels",
        place="tasks/classification/recipes",
    ),
)
TRANSFORMS = (
    _entry(pruning.Pruning, "prune"),
    _entry(post_training_quantization.PostTrainingQuantization, "quantize"),
    _entry(mixed_precision.MixedPrecision, "quantize --bits auto"),
    _entry(expand_classifier.ExpandClassifier, "continual", continual.CARD),
    _entry(batch_norm_scale.BatchNormScale, "train --batch-norm revisited", batchnorm_init.CARD),
)
INITIALISATIONS = (_entry(inherit.Inherit, "distill"),)
AUDITS = (
    _entry(saliency.SaliencyAudit, "audit saliency"),
    _entry(worst_case_quantization.WorstCaseQuantization, "audit quantization"),
)
RULES = (
    _entry(frozen_batchnorm.FrozenBatchNorm, "quantize --steps N"),
    _entry(
        learned_normalisation.LearnedNormalisation,
        "train --batch-norm revisited",
        batchnorm_init.CARD,
    ),
    _entry(
        pooled_filters.PooledFilters,
        "train --interleave-filters split --interleave SHARE",
        pooled_conv.CARD,
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
    *AUDITS,
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
    | {"schedule": {kind_name(schedule): schedule for schedule in SCHEDULES}}
    | {"optimizer": {kind_name(optimizer): optimizer for optimizer in OPTIMIZERS}}
)


def by_name(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return the entries that can be created from a name."""
    return {entry.name: entry for entry in entries if entry.by_name}


def plugins() -> Plugins:
    """Return the codec of recipes with all methods."""
    return Plugins(
        tasks=tasks.TASKS, codec=CODEC, papers={entry.name: entry.card.paper for entry in METHODS}
    )
