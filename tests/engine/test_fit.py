import math

import pytest
import torch
from torch import nn

from doublure.core.protocols import Batch, Outputs
from doublure.core.seeding import reseed
from doublure.engine.fit import fit
from doublure.engine.non_finite import NonFiniteLossError, NonFiniteWeightsError
from doublure.engine.optimizers import SGD, AdamW
from doublure.engine.schedules import Constant, OneCycle
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.weighted import Stateless
from tests import tiny


def train(seed: int = 0, *, checkpointer=None, logger=None, loss=None, **changes):
    student = tiny.network(1)
    settings = tiny.settings(**changes)
    stream = tiny.Grey(labels=True).open(tiny.context(settings), None, tiny.rng(seed))
    return fit(
        student,
        stream,
        Stateless(loss or HardLabels()),
        settings=settings,
        rng=tiny.rng(seed),
        checkpointer=checkpointer,
        logger=logger,
    )


def test_the_same_seed_gives_the_same_student_and_another_seed_another():
    assert tiny.same_weights(train(0).network, train(0).network)
    assert not tiny.same_weights(train(0).network, train(1).network)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": AdamW(), "learning_rate": 1e-3},
        {"optimizer": AdamW(betas=(0.5, 0.9)), "learning_rate": 1e-3},
        {"ema_decay": 0.9, "schedule": OneCycle()},
        {"gradient_clip": 0.5, "precision": "bfloat16"},
    ],
)
def test_going_on_from_any_saved_step_gives_the_same_bits(changes):
    whole = tiny.Memory(3, 4, 7)
    expected = train(checkpointer=whole, **changes)
    for state in whole.states:
        checkpointer = tiny.Memory()
        checkpointer.held = state
        assert tiny.same_weights(
            train(checkpointer=checkpointer, **changes).network, expected.network
        )


def test_journal_and_keeper_never_change_the_student():
    lines = []
    told = train(logger=lines.append, checkpointer=tiny.Memory(*range(12)), log_every=1)
    assert tiny.same_weights(told.network, train().network)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {"loss", "hard_labels", "learning_rate", "images_per_second"} <= set(lines[0])
    assert set(lines[0]["metrics"]) == {"brightness"}


def test_a_resumed_journal_says_what_the_uninterrupted_one_said():
    whole, lines = tiny.Memory(6), []
    train(checkpointer=whole, logger=lines.append)
    checkpointer, rest = tiny.Memory(), []
    checkpointer.held = whole.states[0]
    train(checkpointer=checkpointer, logger=rest.append)
    figures = ("step", "loss", "hard_labels", "metrics", "learning_rate")
    assert [[line[f] for f in figures] for line in rest] == [
        [line[f] for f in figures] for line in lines[1:]
    ]


def test_a_step_is_seeded_as_torch_seeds_itself():
    with torch.random.fork_rng(devices=[]):
        reseed(11, torch.device("cpu"))
        ours = torch.rand(3)
        torch.manual_seed(11)
        assert torch.equal(torch.rand(3), ours)


def test_torchs_global_generator_is_put_back():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    train()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_term_that_goes_bad_stops_the_run_with_its_step_and_name():
    calls = iter(range(100))

    def loss(student: Outputs, teacher: Outputs | None, batch: Batch):
        bad = math.nan if next(calls) == 5 else 1.0
        return {"fine": student.output.mean(), "broken": student.output.mean() * bad}

    with pytest.raises(NonFiniteLossError, match="'broken' became non-finite at step 5"):
        train(loss=loss)


def test_weights_that_go_bad_in_the_last_step_are_no_student_and_are_never_saved():
    def steep(student: Outputs, teacher: Outputs | None, batch: Batch):
        return {"steep": student.output.mean() * 1e36}

    checkpointer = tiny.Memory(1)
    for where in ({"checkpointer": checkpointer}, {}):
        with pytest.raises(NonFiniteWeightsError, match=r"or infinity after step 1: .*--lr"):
            train(loss=steep, steps=1, learning_rate=1e6, **where)
    assert checkpointer.states == []


def test_nothing_bad_is_ever_saved():
    def loss(student: Outputs, teacher: Outputs | None, batch: Batch):
        return {"broken": student.output.mean() * math.inf}

    checkpointer = tiny.Memory(1, 2, 3)
    with pytest.raises(NonFiniteLossError):
        train(loss=loss, checkpointer=checkpointer, log_every=100)
    assert checkpointer.states == []


def test_a_rate_of_zero_freezes_the_parameters_it_names():
    trained = train(rates=(("6.*", 0.0),)).network
    start = tiny.network(1)
    assert torch.equal(trained[6].weight, start[6].weight)
    assert not torch.equal(trained[0].weight, start[0].weight)


def test_a_rate_for_no_parameter_is_refused():
    with pytest.raises(ValueError, match=r"match no parameter of the student: \['norm\*'\]"):
        train(rates=(("norm*", 0.1),))


def test_the_loop_takes_the_step_that_sgd_by_hand_takes():
    start = tiny.network(1)
    start[3] = nn.Identity()
    settings = tiny.settings(
        steps=1, schedule=Constant(), optimizer=SGD(momentum=0.0), weight_decay=0.0
    )
    stream = tiny.Grey(labels=True).open(tiny.context(settings), None, tiny.rng())
    batch = stream.draw(0, None)
    by_hand = tiny.network(1)
    by_hand[3] = nn.Identity()
    nn.functional.cross_entropy(by_hand(batch.images), batch.labels).backward()
    fit(start, stream, Stateless(HardLabels()), settings=settings, rng=tiny.rng())
    for ours, theirs in zip(start.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)


def test_the_average_lags_behind_the_weights():
    fast, slow = train().network, train(ema_decay=0.99).network
    start = tiny.network(1)
    assert (slow[0].weight - start[0].weight).norm() < (fast[0].weight - start[0].weight).norm()
    assert torch.equal(slow[1].running_mean, fast[1].running_mean)
