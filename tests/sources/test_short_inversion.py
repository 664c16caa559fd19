import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from doublure.core.protocols import (
    Batch,
    InputContract,
    OptimisedSource,
    OptimisingStream,
    Source,
    StreamContext,
    WrappingSource,
    image_batch,
    innermost,
    parts_of,
)
from doublure.core.seeding import child, from_seed
from doublure.engine.label_space import check_label_space
from doublure.nets.batchnorm_statistics import (
    MomentsRecorder,
    batchnorm_kl,
    stored_statistics,
)
from doublure.nets.network import freeze
from doublure.objectives.activation_boundaries import ActivationBoundaries
from doublure.sources.augmentation import Augmented
from doublure.sources.matched import Matched
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders
from doublure.sources.short_inversion import (
    ShortInversion,
    assign_labels,
    disagreement,
)
from tests import tiny

EXAMPLES = (ShortInversion(source=Noise(), iterations=3),)

COLOUR = InputContract(size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=3)
# Leaves the starts as the inner source drew them, so that they can be drawn again.
PLAIN = ShortInversion(source=Matched(source=Noise()), iterations=12, mixing=0.0)


def teacher(seed: int = 0) -> nn.Module:
    """A network whose BatchNorm has seen images of another kind than any that are drawn here."""
    network = tiny.network(seed)
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(32, 1, 8, 8, generator=from_seed(seed)).round())
    return freeze(network)


def drawn(
    settings: ShortInversion = PLAIN,
    student: nn.Module | None = None,
    *,
    asked: nn.Module | None = None,
    step: int = 0,
    seed: int = 0,
    **context,
) -> Batch:
    where = dataclasses.replace(tiny.context(batch_size=12, steps=6), **context)
    return settings.open(where, asked or teacher(), from_seed(seed)).draw(step, student)


def divergence(images: Tensor) -> float:
    network = teacher()
    stored = stored_statistics(network)
    with torch.no_grad(), MomentsRecorder(network, stored) as recorder:
        network(images)
        return batchnorm_kl(recorder.read(), stored).item()


def test_labels_are_assigned_so_that_the_sum_is_largest_by_hand():
    # Three images lean to class 0, of which there are two; the second one loses least by the other.
    likely = torch.tensor([[-0.1, -3.0], [-0.2, -1.0], [-0.3, -2.0], [-4.0, -0.2]])
    assert assign_labels(likely, torch.tensor([1, 0, 1, 0])).tolist() == [0, 1, 0, 1]


def test_no_other_order_of_the_labels_sums_to_more():
    likely = torch.randn(6, 4, generator=from_seed(0)).log_softmax(-1)
    dealt = torch.tensor([0, 0, 1, 2, 3, 3])
    labels = assign_labels(likely, dealt)
    assert labels.sort().values.tolist() == dealt.tolist()
    orders = torch.tensor([*itertools.permutations(dealt.tolist())])
    most = likely[torch.arange(6), orders].sum(-1).max()
    torch.testing.assert_close(likely[torch.arange(6), labels].sum(), most)


def test_an_image_without_hope_does_not_decide_where_the_others_go():
    # Unclipped, the first row's 999 nats would push the second image out of its class.
    likely = torch.tensor([[-999.0, -1999.0], [-0.1, -3.0]])
    assert assign_labels(likely, torch.tensor([0, 1])).tolist() == [1, 0]


@pytest.mark.parametrize(("batch_size", "steps"), [(12, 1), (7, 3), (2, 3)])
def test_every_class_comes_equally_often(batch_size, steps):
    settings = dataclasses.replace(PLAIN, iterations=1)
    stream = settings.open(
        tiny.context(batch_size=batch_size, steps=steps), teacher(), from_seed(0)
    )
    labels = torch.cat([stream.draw(step, None).labels for step in range(steps)])
    counts = labels.bincount(minlength=3)
    assert counts.max() - counts.min() <= (0 if len(labels) % 3 == 0 else 1)


def test_disagreement_by_hand_and_at_most_two_nats_an_image():
    logits = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    p = logits.softmax(-1)[0]
    expected = (p * (p / 0.5).log()).sum() / 2
    torch.testing.assert_close(disagreement(torch.zeros(2, 2), logits, 1.0), expected)
    apart = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
    assert disagreement(*apart, 1.0).item() == 2


def test_it_is_a_wrapper_that_optimises_images_and_shows_the_way():
    settings = ShortInversion()
    assert settings.source == Matched(source=Shaders())
    assert isinstance(settings, Source)
    assert isinstance(settings, WrappingSource)
    assert isinstance(settings, OptimisedSource)
    assert settings.optimises == "images"
    stream = PLAIN.open(tiny.context(), teacher(), from_seed(0))
    assert isinstance(stream, OptimisingStream)


def test_what_optimises_images_is_the_innermost_source_whatever_it_begins_with():
    settings = ShortInversion()
    around = Augmented(source=settings)
    assert innermost(around) is settings
    assert [type(part).__name__ for part in parts_of(around)] == [
        *("Augmented", "ShortInversion", "Matched", "Shaders")
    ]
    with pytest.raises(ValueError, match="ShortInversion uses"):
        check_label_space(ActivationBoundaries(), around)


def test_the_statistics_come_nearer_to_those_of_the_teacher():
    settings = dataclasses.replace(PLAIN, cross_entropy=0.0, adversarial=0.0)
    before, after = (divergence(images) for images in start_and_result(settings))
    assert after < 0.7 * before  # starts handed out unchanged would fail here


def test_the_teacher_calls_more_images_by_their_labels_and_surer():
    settings = dataclasses.replace(PLAIN, features=0.0, cross_entropy=1.0)
    start, result = start_and_result(settings)
    labels = drawn(settings).labels
    answers = [teacher()(images).log_softmax(-1) for images in (start, result)]
    likely = [answer[torch.arange(12), labels].mean() for answer in answers]
    assert likely[1] > likely[0] + 0.02


def start_and_result(settings: ShortInversion) -> tuple[Tensor, Tensor]:
    stream = settings.open(tiny.context(batch_size=12, steps=6), teacher(), from_seed(0))
    batch, path = stream.draw_followed(0, None, (0.0,), 12)
    assert path.iterations == (0, settings.iterations)
    assert torch.equal(path.images[-1], batch.images)
    return path.images[0], path.images[-1]


def test_the_way_begins_at_the_inner_sources_images():
    stream = PLAIN.open(tiny.context(batch_size=12, steps=6), teacher(), from_seed(0))
    inner = PLAIN.source.open(
        tiny.context(batch_size=12, steps=6), teacher(), child(from_seed(0), "source")
    )
    start = stream.draw_followed(3, None, (0.0,), 12)[1].images[0]
    assert torch.equal(start, inner.draw(3, None).images)


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """A source of images none of which has anything of another: rows of a Hadamard matrix."""

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "Patterns":
        return self

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return image_batch((HADAMARD[1:13].view(12, 1, 8, 8) + 1) / 2)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


HADAMARD = torch.from_numpy(hadamard(64)).float()


def test_starts_are_two_of_the_inner_images_mixed_and_matched_anew():
    # So little contrast that nothing is clipped.
    contract = dataclasses.replace(tiny.CONTRACT, std=(0.05,))
    settings = dataclasses.replace(PLAIN, source=Patterns(), mixing=0.5)
    where = dataclasses.replace(tiny.context(batch_size=12, steps=6), contract=contract)
    stream = settings.open(where, teacher(), from_seed(0))
    start = stream.draw_followed(0, None, (0.0,), 12)[1].images[0].flatten(1)
    parts = (start - start.mean(1, keepdim=True)) @ HADAMARD[1:13].T / 64
    parts[parts.abs() < 1e-6] = 0
    assert ((parts > 0).sum(1) <= 2).all()
    own, other = parts.diagonal(), parts.sum(1) - parts.diagonal()
    assert (own >= other).all()
    assert (other > 0).sum() >= 9
    spread = (start.std(1) / 0.05).log()
    assert 0.1 < spread.std() < 0.5


def test_images_are_harder_for_the_student_than_without_the_adversarial_term():
    network, student = teacher(), freeze(tiny.network(5))
    # What these two say is so much alike that it takes a low temperature to tell them apart.
    settings = dataclasses.replace(PLAIN, adversarial=1e3, temperature=0.1)
    apart = [
        disagreement(student(batch.images), network(batch.images), 0.1).item()
        for batch in (drawn(settings), drawn(settings, student))
    ]
    assert apart[1] > 1.2 * apart[0]
    plain = dataclasses.replace(settings, adversarial=0.0)
    assert torch.equal(drawn(plain, student).images, drawn(plain).images)


def test_the_student_comes_back_as_it_was():
    student = tiny.network(3)
    student(torch.rand(4, 1, 8, 8)).sum().backward()
    student[4].eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in student.parameters()]
    modes = [module.training for module in student.modules()]
    drawn(student=student)
    assert [module.training for module in student.modules()] == modes
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in before)
    after = [parameter.grad for parameter in student.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, gradients, strict=True))


def test_a_student_of_other_classes_cannot_disagree():
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(ValueError, match="set adversarial to 0"):
        drawn(student=student)


def test_grey_images_are_never_mirrored_and_coloured_ones_are():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *tiny.network(0)[1:]).eval()
    # A mirror is the only move of images of less than 16 pixels.
    contract = dataclasses.replace(COLOUR, size=(8, 8))
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    settings = dataclasses.replace(PLAIN, learning_rate=1e-12)
    drawn(settings, asked=network, contract=contract)
    whole = [x for x in seen if len(x) == 12]  # without the glance of two that folds it
    assert [torch.allclose(x, whole[0], atol=1e-6) for x in whole[1:]].count(False) in range(2, 11)
    grey = teacher()
    seen.clear()
    grey.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    drawn(settings, asked=grey)
    whole = [x for x in seen if len(x) == 12]
    assert all(torch.allclose(x, whole[0], atol=1e-6) for x in whole[1:])


def test_facts_count_the_passes_and_tell_the_terms():
    metrics = drawn(student=tiny.network(3)).metrics
    assert metrics["teacher_passes"].item() == 1 + 2 * PLAIN.iterations
    loss = 30 * metrics["feature_divergence"] - 0.1 * metrics["disagreement"]
    assert metrics["inversion_loss"] > loss  # the rest is cross-entropy
    assert 0 <= metrics["recognised"] <= 1
    assert "disagreement" not in drawn().metrics


def test_a_draft_takes_one_iteration():
    assert drawn(draft=True).metrics["teacher_passes"].item() == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "iterations must be positive, got 0"),
        ({"features": -1.0}, "features must not be negative, got -1.0"),
        ({"mixing": 0.7}, r"mixing must be in \[0, 0.5\], got 0.7"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ShortInversion(**wrong)


def test_without_a_teacher_or_its_logits_there_is_nothing_to_invert():
    with pytest.raises(ValueError, match="needs a teacher"):
        PLAIN.open(tiny.context(), None, from_seed(0))
    dense = nn.Sequential(nn.BatchNorm2d(1)).eval()
    with pytest.raises(ValueError, match="only classifiers can be inverted"):
        drawn(asked=dense)


def test_a_loss_that_diverges_is_told():
    with pytest.raises(ValueError, match="became non-finite"):
        drawn(dataclasses.replace(PLAIN, cross_entropy=3e38, features=3e38))


def test_without_batchnorm_labels_alone_pull_and_a_warning_says_so():
    network = tiny.network(0)
    network[1] = nn.GroupNorm(2, 4)
    network = freeze(network)
    with pytest.warns(RuntimeWarning, match="no BatchNorm statistics to match"):
        stream = PLAIN.open(tiny.context(batch_size=12, steps=6), network, from_seed(0))
    batch, path = stream.draw_followed(0, None, (0.0,), 12)
    assert "feature_divergence" not in batch.metrics
    start, result = (
        network(images).log_softmax(-1)[torch.arange(12), batch.labels].mean()
        for images in (path.images[0], batch.images)
    )
    assert result > start + 0.02
