import pytest
import torch

from doublure.core.protocols import Outputs, image_batch, metrics_of
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.warm_up import WarmUp
from doublure.objectives.weighted import Stateless, Weighted, WeightedLoss, open_loss

EXAMPLES = (Weighted(terms=((0.9, SoftTargets()), (0.1, HardLabels(of="teacher")))),)

BATCH = image_batch(torch.zeros(4, 1, 2, 2), labels=torch.tensor([0, 1, 2, 0]))
RNG = torch.Generator().manual_seed(0)


def traces() -> tuple[Outputs, Outputs]:
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    return Outputs(output=logits[0].requires_grad_()), Outputs(output=logits[1])


def test_each_term_keeps_its_name_and_is_scaled_by_its_weight():
    student, teacher = traces()
    objective = Weighted(terms=((0.9, SoftTargets(temperature=4.0)), (0.1, HardLabels())))
    loss = open_loss(objective, torch.nn.Identity(), None, BATCH, RNG)
    terms = loss(student, teacher, BATCH)
    alone = SoftTargets(temperature=4.0)(student, teacher, BATCH)["soft_targets"]
    assert set(terms) == {"soft_targets", "hard_labels"}
    torch.testing.assert_close(terms["soft_targets"], 0.9 * alone)


def test_at_temperature_1_the_sum_is_cross_entropy_with_mixed_targets():
    student, teacher = traces()
    objective = Weighted(terms=((0.7, SoftTargets(temperature=1.0)), (0.3, HardLabels())))
    loss = open_loss(objective, torch.nn.Identity(), None, BATCH, RNG)
    ours = torch.autograd.grad(sum(loss(student, teacher, BATCH).values()), student.output)
    one_hot = torch.nn.functional.one_hot(BATCH.labels, 3).float()
    mixed = 0.7 * teacher.output.softmax(-1) + 0.3 * one_hot
    theirs = torch.autograd.grad(
        torch.nn.functional.cross_entropy(student.output, mixed), student.output
    )
    torch.testing.assert_close(ours, theirs)


def test_two_terms_of_one_name_are_refused():
    student, teacher = traces()
    objective = Weighted(terms=((1.0, SoftTargets()), (1.0, SoftTargets(temperature=2.0))))
    loss = open_loss(objective, torch.nn.Identity(), None, BATCH, RNG)
    with pytest.raises(ValueError, match="two objectives of the sum have a term 'soft_targets'"):
        loss(student, teacher, BATCH)


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match="weight must be positive, got 0"):
        Weighted(terms=((0.0, SoftTargets()),))


def test_a_sum_tells_what_its_parts_measured_and_most_measure_nothing():
    class Measured(Stateless):
        @property
        def metrics(self):
            return {"heard": torch.tensor(0.5)}

    plain, telling = Stateless(HardLabels()), Measured(SoftTargets())
    assert metrics_of(WeightedLoss([(1.0, plain)])) == {}
    both = WeightedLoss([(1.0, plain), (0.1, WarmUp(telling, 4))])
    assert metrics_of(both) == {"heard": torch.tensor(0.5)}
