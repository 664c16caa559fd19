"""The same number of steps with soft targets alone, and with a tenth for the boundaries first."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from drawing import STUDENT, TEACHER, digits_teacher, picture

from doublure.core.seeding import child, from_seed
from doublure.data.datasets import open_data
from doublure.engine.method import MethodInputs
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipes import activation_boundary
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.evaluation import evaluate

STEPS, EVERY = 300, 15
STUDENT_REF = NetworkRef(ref="builtin/convnet-6")


def lasting(stage: Stage, steps: int) -> Stage:
    fit = replace(stage.fit, steps=steps, batch_size=64, log_every=EVERY, precision="float32")
    return replace(stage, fit=fit)


def curve(stages: Sequence[Stage], teacher: Network) -> tuple[list[int], list[float]]:
    """Return steps and accuracies, in %, of a student that goes through the stages."""
    evaluation_data = open_data("builtin/digits", teacher.contract, split="test", labels=True)
    network = load(STUDENT_REF, like=teacher.contract, rng=from_seed(1))
    steps: list[int] = []
    accuracies: list[float] = []

    def look(_: Mapping[str, Any]) -> None:
        steps.append(EVERY * (len(steps) + 1))
        accuracies.append(100 * evaluate(network, evaluation_data).accuracy)
        network.train()

    for i, stage in enumerate(stages):
        open_stage(stage, teacher, network, child(from_seed(0), i))(logger=look)
    return steps, accuracies


def main() -> None:
    teacher = digits_teacher()
    images = Surrogate(data="builtin/digits")
    first, second = activation_boundary(MethodInputs(contract=teacher.contract, base=images))
    begun = STEPS // 10
    with picture("activation_boundary", 190) as figure:
        axes = figure.subplots()
        for name, colour, stages in (
            ("soft targets", TEACHER, [lasting(second, STEPS)]),
            ("boundaries first", STUDENT, [lasting(first, begun), lasting(second, STEPS - begun)]),
        ):
            axes.plot(*curve(stages, teacher), color=colour, label=name)
        axes.set_xlabel("steps")
        axes.set_title("accuracy, %")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    main()
