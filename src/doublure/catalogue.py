"""The hand-written list of what there is: every method, and the name its settings go by.

A kind is what a recipe file and the command line call a settings class. A test proves that every
file with a CARD is listed here, and that every kind is the class name in kebab-case.
"""

from dataclasses import dataclass
from typing import Any

from doublure.cards import Card
from doublure.checks import one_of
from doublure.compress import inherit, post_training_quantization, pruning, widening
from doublure.objectives import (
    activation_boundaries,
    attention_transfer,
    continual,
    correlation_congruence,
    cramer_wold,
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
    return_to_go,
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
    on_policy,
    rdskd,
    rehearsed,
    replay,
    sentences,
    sequence_level,
    shader_files,
    shaders,
    short_inversion,
    surrogate,
)

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


def _source(name: str, settings: type, file: str, card: Card = _PLAIN) -> Entry:
    verb = f"synthesize {name}"
    return Entry(name=name, room=f"sources/{file}", verb=verb, card=card, settings=settings)


def _recipe_source(name: str, settings: type, file: str, card: Card) -> Entry:
    """A source that is a recipe of the same name, with an objective and a loop of its own."""
    verb = f"distill --method {name}"
    return Entry(name=name, room=f"sources/{file}", verb=verb, card=card, settings=settings)


def _wrapper(name: str, settings: type, file: str, card: Card = _PLAIN) -> Entry:
    verb = f"distill --set {name}.FIELD=VALUE"
    return Entry(name=name, room=f"sources/{file}", verb=verb, card=card, settings=settings)


def _objective(name: str, settings: type, file: str, card: Card = _PLAIN) -> Entry:
    verb = f"distill --objective {name}"
    return Entry(name=name, room=f"objectives/{file}", verb=verb, card=card, settings=settings)


SOURCES = (
    _source("shaders", shaders.Shaders, "shaders", shaders.CARD),
    _source("shader-files", shader_files.ShaderFiles, "shader_files", shaders.CARD),
    _source("leaves", leaves.Leaves, "leaves", leaves.CARD),
    _source("noise", noise.Noise, "noise", noise.CARD),
    _source("flat", flat.Flat, "flat", flat.CARD),
    Entry(
        name="lcw",
        room="sources/lcw",
        verb="synthesize lcw --set generator=RUN",
        card=cramer_wold.CARD,
        settings=lcw.Lcw,
    ),
    _source("surrogate", surrogate.Surrogate, "surrogate", surrogate.CARD),
    Entry(
        name="few",
        room="sources/few",
        verb="distill --recipe FILE",
        card=_PLAIN,
        settings=few.Few,
    ),
    _source("deep-inversion", deep_inversion.DeepInversion, "deep_inversion", deep_inversion.CARD),
    _source(
        "inceptionism", knowledge_within.Inceptionism, "knowledge_within", knowledge_within.CARD
    ),
    _source(
        "batch-norm-statistics",
        knowledge_within.BatchNormStatistics,
        "knowledge_within",
        knowledge_within.CARD,
    ),
    _source(
        "short-inversion", short_inversion.ShortInversion, "short_inversion", short_inversion.CARD
    ),
    Entry(
        name="sentences",
        room="sources/sentences",
        verb="distill --transfer TEXT",
        card=_PLAIN,
        settings=sentences.Sentences,
    ),
    _recipe_source("dfad", dfad.Dfad, "dfad", dfad.CARD),
    _recipe_source("rdskd", rdskd.Rdskd, "rdskd", rdskd.CARD),
    _recipe_source("fast-meta", fast_meta.FastMeta, "fast_meta", fast_meta.CARD),
)
WRAPPERS = (
    _wrapper("matched", matched.Matched, "matched", matched.CARD),
    _wrapper("balanced", balanced.Balanced, "balanced", balanced.CARD),
    _wrapper("augmented", augmentation.Augmented, "augmentation", augmentation.CARD),
    _wrapper("replay", replay.Replay, "replay", replay.CARD),
    _wrapper("auto-augmented", autoaugment.AutoAugmented, "autoaugment", autoaugment.CARD),
    _wrapper("mixed", mixing.Mixed, "mixing", mixing.CARD),
    _wrapper("adversarial", adversarial.Adversarial, "adversarial", adversarial.CARD),
    _wrapper("on-policy", on_policy.OnPolicy, "on_policy", on_policy.CARD),
    _wrapper("sequence-level", sequence_level.SequenceLevel, "sequence_level", sequence_level.CARD),
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
    _objective("soft-targets", soft_targets.SoftTargets, "soft_targets", soft_targets.CARD),
    _objective("divergence", divergence.Divergence, "divergence", divergence.CARD),
    _objective("logit-l1", logit_l1.LogitL1, "logit_l1", logit_l1.CARD),
    _objective(
        "knowledge-adjustment",
        knowledge_adjustment.KnowledgeAdjustment,
        "knowledge_adjustment",
        knowledge_adjustment.CARD,
    ),
    _objective(
        "truncated-targets",
        truncated_targets.TruncatedTargets,
        "truncated_targets",
        truncated_targets.CARD,
    ),
    _objective(
        "similarity-preserving",
        similarity_preserving.SimilarityPreserving,
        "similarity_preserving",
        similarity_preserving.CARD,
    ),
    _objective(
        "activation-boundaries",
        activation_boundaries.ActivationBoundaries,
        "activation_boundaries",
        activation_boundaries.CARD,
    ),
    _objective(
        "knowledge-representing",
        knowledge_representing.KnowledgeRepresenting,
        "knowledge_representing",
        knowledge_representing.CARD,
    ),
    _objective("hard-labels", hard_labels.HardLabels, "hard_labels", hard_labels.CARD),
    _objective("dkd", dkd.Dkd, "dkd", dkd.CARD),
    _objective("dist", dist.Dist, "dist", dist.CARD),
    _objective("wsld", wsld.Wsld, "wsld", wsld.CARD),
    _objective(
        "logit-standardisation",
        logit_standardisation.LogitStandardisation,
        "logit_standardisation",
        logit_standardisation.CARD,
    ),
    _objective("mlld", mlld.Mlld, "mlld", mlld.CARD),
    _objective("fit-nets", fit_nets.FitNets, "fit_nets", fit_nets.CARD),
    _objective("stage-outputs", stage_outputs.StageOutputs, "stage_outputs", stage_outputs.CARD),
    _objective(
        "attention-transfer",
        attention_transfer.AttentionTransfer,
        "attention_transfer",
        attention_transfer.CARD,
    ),
    _objective("nst", nst.Nst, "nst", nst.CARD),
    _objective("vid", vid.Vid, "vid", vid.CARD),
    _objective("review-kd", review_kd.ReviewKd, "review_kd", review_kd.CARD),
    _objective("srrl", srrl.Srrl, "srrl", srrl.CARD),
    _objective("rkd", rkd.Rkd, "rkd", rkd.CARD),
    _objective("pkt", pkt.Pkt, "pkt", pkt.CARD),
    _objective(
        "correlation-congruence",
        correlation_congruence.CorrelationCongruence,
        "correlation_congruence",
        correlation_congruence.CARD,
    ),
    _objective("crd", crd.Crd, "crd", crd.CARD),
    _objective("return-to-go", return_to_go.ReturnToGo, "return_to_go", return_to_go.CARD),
    _objective("weighted", weighted.Weighted, "weighted"),
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
        room="auto",
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
        room="text_recipes",
        verb="distill --method sequence-kd --transfer TEXT",
        card=sequence_level.CARD,
    ),
    Entry(
        name="autoaugment-kd",
        room="labelled_recipes",
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
        name="widening",
        room="compress/widening",
        verb="continual",
        card=continual.CARD,
        settings=widening.Widening,
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

_KINDS: dict[str, dict[str, type]] = {
    family: {entry.name: entry.settings for entry in entries if entry.settings is not None}
    for family, entries in (
        ("source", (*SOURCES, *WRAPPERS)),
        ("objective", OBJECTIVES),
        ("rule", RULES),
        ("transform", TRANSFORMS),
        ("initialisation", INITIALISATIONS),
    )
}
_NAMES = {settings: name for kinds in _KINDS.values() for name, settings in kinds.items()}


def compares_layers_alone(objective: object) -> bool:
    """Whether an objective says nothing about the answers, so that no classifier learns from it."""
    if isinstance(objective, weighted.Weighted):
        return all(compares_layers_alone(part) for _, part in objective.terms)
    entry = next((e for e in OBJECTIVES if e.settings is type(objective)), None)
    return entry is not None and entry.card.needs == ("features",)


def compares_answers(objective: object) -> bool:
    """Whether an objective of the catalogue needs a teacher that knows the student's classes."""
    if isinstance(objective, weighted.Weighted):
        return any(compares_answers(part) for _, part in objective.terms)
    if isinstance(objective, hard_labels.HardLabels):
        return objective.of == "teacher"
    entry = next((e for e in OBJECTIVES if e.settings is type(objective)), None)
    return entry is not None and "logits" in entry.card.needs


def settings_of(family: str, kind: str) -> type:
    """Return the settings class of a kind of source, objective or rule."""
    return _KINDS[family][one_of(f"kind of {family}", kind, _KINDS[family])]


def kind_of(settings: type) -> str | None:
    """Return the kind of a settings class; None for one that needs none."""
    return _NAMES.get(settings)
