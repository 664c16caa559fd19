import math

import pytest
import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.core.seeding import from_seed
from doublure.objectives.continual import Continual, new_class_loss, separation_loss
from doublure.objectives.soft_targets import soft_target_loss

DEFAULTS = {"rehearsal": 1.0, "separation": 1.0, "lwf": 1.0, "temperature": 1.0}
EXAMPLES = (Continual(lwf=0.5),)


def logits(seed: int, classes: int) -> torch.Tensor:
    return torch.randn(6, classes, generator=from_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([3, 4, 3, -1, -1, -1])
OLD, STUDENT = logits(0, 3), logits(1, 5)


def terms(student: torch.Tensor, objective: Continual) -> dict[str, torch.Tensor]:
    batch = image_batch(torch.zeros(6, 1, 1, 1), labels=LABELS)
    return objective(Outputs(output=student), Outputs(output=OLD), batch)


def test_each_term_is_a_mean_over_its_own_images():
    found = terms(STUDENT, Continual(lwf=2.0, rehearsal=3.0))
    student, old = STUDENT.float(), OLD.float()
    taught = soft_target_loss(student[:, :3], old, 1.0).tolist()
    labelled = [-student[i].log_softmax(-1)[LABELS[i]].item() for i in range(3)]
    assert found["new_classes"].item() == pytest.approx(sum(labelled) / 3, rel=1e-5)
    assert found["lwf"].item() == pytest.approx(2 * sum(taught[:3]) / 3, rel=1e-5)
    assert found["rehearsal"].item() == pytest.approx(3 * sum(taught[3:]) / 3, rel=1e-5)


def test_new_logits_do_not_matter_to_the_old_network_answers():
    changed = STUDENT.clone()
    changed[:, 3:] += 7.0
    one, other = terms(STUDENT, Continual()), terms(changed, Continual())
    assert torch.equal(one["lwf"], other["lwf"])
    assert torch.equal(one["rehearsal"], other["rehearsal"])
    assert not torch.equal(one["new_classes"], other["new_classes"])


def test_labels_over_new_classes_do_not_touch_the_old_logits():
    student = STUDENT.clone().requires_grad_()
    terms(student, Continual(over="new", separation=0.0, lwf=0.0, rehearsal=0.0))[
        "new_classes"
    ].backward()
    assert student.grad[:, :3].abs().max() == 0
    assert student.grad[:3, 3:].abs().min() > 0
    assert student.grad[3:].abs().max() == 0


def test_rehearsal_and_separation_are_the_answer_with_nothing_for_new_classes():
    found = terms(STUDENT, Continual())
    old, ours = OLD[3:].float().softmax(1), STUDENT[3:].float().log_softmax(1)
    whole = sum(
        float(old[i, c] * (old[i, c].log() - ours[i, c])) for i in range(3) for c in range(3)
    )
    together = found["rehearsal"] + found["separation"]
    assert together.item() == pytest.approx(whole / 3, rel=1e-5)


def test_separation_lowers_new_logits_of_transfer_images_and_touches_no_labelled_one():
    student = STUDENT.clone().requires_grad_()
    terms(student, Continual())["separation"].backward()
    assert student.grad[3:, 3:].min() > 0
    assert student.grad[3:, :3].max() < 0
    assert student.grad[:3].abs().max() == 0


def test_an_answer_of_equal_logits_gives_the_old_classes_their_number():
    assert separation_loss(torch.zeros(1, 8), 2).item() == pytest.approx(math.log(4.0))


def test_without_separation_the_new_logits_of_transfer_images_are_free():
    student = STUDENT.clone().requires_grad_()
    sum(terms(student, Continual(separation=0.0)).values()).backward()
    assert student.grad[3:, 3:].abs().max() == 0


def test_two_new_classes_by_hand():
    loss = new_class_loss(torch.tensor([[9.0, 0.0, math.log(3.0)]]), torch.tensor([2]), 1)
    assert loss.item() == pytest.approx(-math.log(0.75))


def test_a_student_that_answers_as_before_has_nothing_to_remember():
    student = torch.cat((OLD, logits(5, 2)), 1)
    found = terms(student, Continual())
    assert found["lwf"].abs() < 1e-6
    assert found["rehearsal"].abs() < 1e-6


def test_without_transfer_images_the_rehearsal_is_zero_and_not_nan():
    batch = image_batch(torch.zeros(6, 1, 1, 1), labels=torch.full((6,), 4))
    found = Continual()(Outputs(output=STUDENT), Outputs(output=OLD), batch)
    assert found["rehearsal"] == 0


def test_plain_fine_tuning_has_one_term():
    assert list(terms(STUDENT, Continual(lwf=0.0, rehearsal=0.0))) == ["new_classes"]


def test_labels_are_needed():
    batch = image_batch(torch.zeros(6, 1, 1, 1))
    with pytest.raises(ValueError, match="needs class labels; give labelled images"):
        Continual()(Outputs(output=STUDENT), Outputs(output=OLD), batch)


def test_labels_over_new_classes_and_separation_would_call_everything_old():
    with pytest.raises(ValueError, match="every image would be called old; set separation to 0"):
        Continual(over="new")


def test_without_rehearsal_there_is_nothing_to_separate_and_labels_may_be_over_new_classes():
    found = terms(STUDENT, Continual(over="new", rehearsal=0.0))
    assert list(found) == ["new_classes", "lwf"]
