import torch

from doublure.engine.distill import distill
from doublure.objectives.soft_targets import SoftTargets
from doublure.rules.frozen_batchnorm import FrozenBatchNorm
from tests import tiny


def trained(*rules: FrozenBatchNorm) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    student = tiny.network(1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    distill(
        student,
        tiny.network(0),
        tiny.Grey(),
        SoftTargets(),
        settings=tiny.settings(),
        context=tiny.context(),
        rng=tiny.rng(),
        rules=rules,
    )
    return before, student


def moved(rules: tuple[FrozenBatchNorm, ...]) -> set[str]:
    before, student = trained(*rules)
    return {n for n, value in student.state_dict().items() if not torch.equal(before[n], value)}


def test_buffers_stay_byte_for_byte_and_weights_learn():
    frozen = moved((FrozenBatchNorm(),))
    assert not {name for name in frozen if "running" in name or "num_batches" in name}
    assert {"0.weight", "1.weight", "6.weight"} <= frozen


def test_without_the_rule_the_statistics_move():
    assert {"1.running_mean", "1.running_var"} <= moved(())
