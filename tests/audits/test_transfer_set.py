import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from doublure.audits import transfer_reference
from doublure.audits.calibration import NotCalibrated, fit_calibration
from doublure.audits.transfer_set import TransferSetScorer, score_transfer_set
from doublure.core.protocols import Batch
from doublure.nets.network import Network
from doublure.sources.adversarial import Adversarial
from doublure.sources.augmentation import Augmented
from doublure.sources.balanced import Balanced
from doublure.sources.flat import Flat
from doublure.sources.leaves import Leaves
from doublure.sources.mixing import Mixed
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders
from doublure.sources.surrogate import Surrogate
from tests.tiny import CONTRACT, Grey, network


@pytest.fixture(scope="module", autouse=True)
def _small_reference():
    with pytest.MonkeyPatch.context() as patch:
        some = tuple(s for s in transfer_reference.FAMILIES if not isinstance(s, Shaders))
        patch.setattr(transfer_reference, "FAMILIES", some)
        patch.setattr(transfer_reference, "_IMAGES", 512)
        yield


def made(body: nn.Module | None = None, **contract) -> Network:
    return Network(body or network(0), dataclasses.replace(CONTRACT, **contract), "tiny")


def card(source, teacher: Network | None = None, count: int = 300, **changes):
    fields = {"name": "it", "count": count, "seed": 0, "temperature": 4.0} | changes
    return score_transfer_set(teacher or made(), source, **fields)


def plain(found):
    return {name: estimate.value for name, estimate in found.measurements.items()}


@pytest.fixture(scope="module")
def stacked():
    source = Mixed(source=Augmented(source=Balanced(source=Leaves(), chunk=64)))
    return card(Adversarial(source=source))


def test_both_streams_are_scored_raw_first(stacked):
    assert stacked.wrappers == ("balanced", "augmented", "mixed", "adversarial")
    assert stacked.shown is stacked.fed
    assert stacked.raw.count == stacked.fed.count == 300
    assert plain(stacked.raw)["class_entropy"] != plain(stacked.fed)["class_entropy"]
    assert stacked.to_finding().name == "transfer set it"
    assert "as fed: balanced, then augmented" in stacked.text()


def test_the_raw_column_is_that_of_the_source_alone(stacked):
    alone = card(Leaves())
    assert alone.fed is None
    assert plain(alone.raw).items() <= plain(stacked.raw).items()


def test_every_figure_of_the_card_is_there(stacked):
    expected = {
        *("class_entropy", "min_class_share", "uncovered", "pair_coverage", "mutual_information"),
        *("mutual_information_tau", "teacher_entropy_tau", "confidence", "near_boundary"),
        *(
            "bn_distance",
            "bn_divergence",
            "feature_coverage",
            "feature_rank",
            "duplicates",
            "clipped",
        ),
        *("boundary_success", "boundary_distance"),
    }
    assert expected <= stacked.fed.measurements.keys()
    assert stacked.raw.measurements.keys() - stacked.fed.measurements.keys() == {
        "augmentation_agreement"
    }


def test_the_same_seed_gives_the_same_card_and_another_another():
    assert card(Grey()) == card(Grey())
    assert card(Grey()).raw != card(Grey(), seed=1).raw


def test_a_card_does_not_depend_on_the_sets_scored_before_it():
    scorer = TransferSetScorer(made(), temperature=4.0, calibration=None)
    scorer.score(Flat(), name="other", count=100, seed=0)
    assert scorer.score(Grey(), name="it", count=300, seed=0) == card(Grey())


def test_the_teacher_is_left_as_it_was():
    teacher = made().train()
    before = copy.deepcopy(teacher.state_dict())
    card(Balanced(source=Grey(), chunk=64), teacher)
    assert teacher.training
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(layer._forward_pre_hooks for layer in teacher.modules())


def test_sums_do_not_depend_on_how_many_images_come_at_once():
    assert card(Grey(), count=128).raw.count == 128
    assert card(Grey(), count=129).raw.count == 129


def test_balancing_evens_the_classes_that_the_student_sees():
    found = card(Balanced(source=Leaves(), chunk=64))
    assert plain(found.fed)["class_entropy"] > plain(found.raw)["class_entropy"]
    assert plain(found.fed)["min_class_share"] > 0.7


def test_one_image_over_and_over_is_all_duplicates(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", x=pixels.repeat(90, 0))
    found = card(Surrogate(data=str(tmp_path / "one.npz"), held_out=0.0))
    assert found.raw.count == 90  # a second epoch shows nothing new
    assert plain(found.raw)["duplicates"] == 1.0
    assert found.verdict == "fail"
    assert any("repeats images" in note for note in found.notes)


def test_distances_to_the_boundary_are_those_of_the_runner_up():
    """A linear teacher of two classes: the distance is |margin| over the gradient's length."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        body[1].weight.copy_(torch.stack([torch.ones(64), -torch.ones(64)]) / 64)
        body[1].bias.zero_()
    found = card(Noise(mean=(0.6,), std=(0.05,)), made(body, classes=2), count=256)
    # Each of 64 pixels is 0.1 from the 0.5 that the boundary asks for on average.
    expected = 0.1 * 64**0.5
    assert plain(found.raw)["boundary_success"] == 1.0
    assert plain(found.raw)["boundary_distance"] == pytest.approx(expected, rel=0.1)


def test_another_normalisation_is_noted():
    found = card(Noise(mean=(0.05,), std=(0.01,)))
    assert any("channel 0 has mean 0.05" in note for note in found.notes)
    assert not any("channel" in note for note in card(Grey()).notes)


def test_three_channels_and_many_classes_are_scored():
    body = nn.Sequential(nn.Flatten(), nn.Linear(192, 60))
    contract = {"channels": 3, "mean": (0.5,) * 3, "std": (0.3,) * 3, "classes": 60}
    found = card(Leaves(), made(body, **contract), count=200)
    assert found.verdict == "fail"
    assert any("too few to judge 60 classes" in reason for reason in found.reasons)


def test_without_a_calibration_nothing_is_predicted():
    assert card(Grey()).prediction == NotCalibrated(reason="no calibration at hand")


def test_a_teacher_without_batchnorm_is_scored_and_ranks_by_the_pairs_of_classes():
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    found = card(Augmented(source=Leaves()), made(body))
    assert found.standing.figure == "pair_coverage"
    assert found.standing.value == found.fed.value("pair_coverage")
    assert "bn_distance" in found.fed.missing


def test_how_far_the_work_is_is_told():
    told = []
    teacher = made()
    TransferSetScorer(teacher, temperature=4.0, calibration=None, watch=told.append).score(
        Augmented(source=Grey()), name="it", count=200, seed=0
    )
    assert told[0] == "reference images"
    assert told[1:4] == ["it: getting ready", "it: 128 of 200 images", "it: 200 of 200 images"]
    assert told[-1] == "it, as fed: 200 of 200 images"


def test_a_calibration_predicts_where_it_was_measured():
    rows = [plain(card(source).shown) for source in (Grey(), Flat(), Leaves())]
    calibration = fit_calibration(
        rows,
        [0.2, 0.4, 0.9],
        {"boundary_distance": "minus_log"},
        ridge=0.1,
        error=0.1,
        classes=(3, 3),
        side=(8, 8),
        count=300,
        tasks=("tiny",),
    )
    found = card(Leaves(), calibration=calibration)
    assert found.prediction.low <= found.prediction.ratio <= found.prediction.high
    assert found.to_json()["predicted"]["ratio"] == found.prediction.ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    def open(self, stream_context, teacher, rng):
        return TokenStream()


class TokenStream:
    def draw(self, step, student):
        view = {"tokens": torch.zeros(1)}
        return Batch(views={"student": view, "teacher": view})

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_what_shows_no_images_is_refused():
    with pytest.raises(ValueError, match=r"scored by images .* TokenStream draws dict"):
        card(Tokens())


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        card(Grey(), count=0)


def test_a_source_that_plans_ahead_is_told_how_long_the_run_will_be():
    source = Balanced(source=Grey(), chunk=64, least_showings=16)
    short, long = (plain(card(source, count=256, run_length=n).fed) for n in (None, 64 * 256))
    assert short["duplicates"] > 0.9  # a pool of sixteen images
    assert long["duplicates"] < 0.9
