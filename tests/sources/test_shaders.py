"""Shader images as a source: seeds in, the same images out, in any order and on any share."""

import re

import pytest
import torch
from torch import nn

from doublure.core.protocols import InputContract, Source, Stream, StreamContext
from doublure.core.seeding import from_seed
from doublure.shaders.families import ABSTRACT, FAMILIES
from doublure.shaders.program import Program
from doublure.shaders.torch_backend import TorchPainter
from doublure.sources.shaders import CARD, Shaders, ShaderStream, worth_showing, worthy_instances

EXAMPLES = (Shaders(num_programs=6, instances=4),)

CPU = torch.device("cpu")


def context(size=(12, 12), batch_size=20, channels=3, **fields) -> StreamContext:
    grey = (0.5,) * channels
    contract = InputContract(size=size, channels=channels, mean=grey, std=grey, classes=10)
    return StreamContext(contract=contract, device=CPU, batch_size=batch_size, steps=9, **fields)


def opened(where=None, seed=0, **settings) -> ShaderStream:
    settings = {"num_programs": 5, **settings}
    return Shaders(**settings).open(where or context(), None, from_seed(seed))


def record(stream: ShaderStream, steps=range(4)) -> tuple[set[int], set[int]]:
    """Return the seeds of the programs and of the images of some steps."""
    turns = [turn for step in steps for turn in stream.plan(step)]
    return (
        {turn.program.seed for turn in turns},
        {seed for turn in turns for seed in turn.image_seeds.tolist()},
    )


def test_it_is_a_source_and_needs_nothing():
    assert isinstance(Shaders(), Source)
    assert isinstance(opened(), Stream)
    assert CARD.needs == ("nothing",)
    assert CARD.arxiv == "2310.13782"


def test_the_same_seed_gives_the_same_images_in_any_order():
    forwards, backwards = opened(), opened()
    images = [forwards.draw(step, None).images for step in range(3)]
    for step in (2, 0, 1):
        assert torch.equal(backwards.draw(step, nn.Identity()).images, images[step])
    assert forwards.state_dict() == {}
    assert not torch.equal(images[0], images[1])


def test_another_seed_gives_other_images():
    assert not torch.equal(opened(seed=1).draw(0, None).images, opened().draw(0, None).images)


def test_the_generator_handed_in_is_left_as_it_was():
    rng = from_seed(0)
    before = rng.get_state()
    Shaders(num_programs=2).open(context(), None, rng).draw(0, None)
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize(("size", "channels"), [((8, 20), 3), ((20, 8), 1), ((9, 9), 1)])
def test_images_have_the_networks_shape_and_lie_between_zero_and_one(size, channels):
    batch = opened(context(size=size, channels=channels, batch_size=11)).draw(0, None)
    assert batch.images.shape == (11, channels, *size)
    assert batch.images.dtype == torch.float32
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.views["teacher"] is batch.views["student"]


def test_grey_images_are_the_luminance_of_the_coloured_ones():
    colour = opened().draw(0, None).images
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = opened(context(channels=1)).draw(0, None).images
    torch.testing.assert_close(grey, (colour * weights).sum(1, keepdim=True))


def test_every_family_has_its_share_of_the_programs():
    stream = opened(context(batch_size=2 * len(ABSTRACT)), num_programs=len(ABSTRACT), instances=2)
    families = [turn.program.family for turn in stream.plan(0)]
    assert sorted(families) == sorted(ABSTRACT)
    assert set(ABSTRACT) < set(FAMILIES)


def test_every_program_has_a_turn_before_any_has_another():
    stream = opened(context(batch_size=10), num_programs=5, instances=2)
    laps = [[turn.program.seed for turn in stream.plan(step)] for step in range(3)]
    assert len({tuple(sorted(lap)) for lap in laps}) == 1
    assert len(set(laps[0])) == 5
    assert len({tuple(lap) for lap in laps}) > 1


def test_no_image_is_shown_twice():
    _, images = record(opened(), range(20))
    assert len(images) == 20 * 20


def test_the_splits_share_neither_programs_nor_images_whatever_the_seeds():
    shown = [record(opened(context(split="train"), seed=seed)) for seed in range(3)]
    held_out = [record(opened(context(split="held_out"), seed=seed)) for seed in range(3)]
    for kind in (0, 1):
        assert all(seed % 2 == 0 for seeds in shown for seed in seeds[kind])
        assert all(seed % 2 == 1 for seeds in held_out for seed in seeds[kind])


def test_steps_may_be_skipped_and_drawn_far_apart():
    stream, fresh = opened(num_programs=3), opened(num_programs=3)
    for step in (0, 40, 1, 41):
        stream.draw(step, None)
    assert torch.equal(stream.draw(40, None).images, fresh.draw(40, None).images)
    assert torch.equal(stream.draw(1, None).images, fresh.draw(1, None).images)


def test_a_batch_may_end_within_a_programs_turn_and_span_laps():
    stream = opened(context(batch_size=19), num_programs=3, instances=4)
    counts = [len(showing.times) for showing in stream.plan(1)]
    assert counts == [4, 4, 4, 4, 3]
    assert stream.draw(1, None).images.shape[0] == 19


def test_ranks_draw_parts_of_their_own():
    seeds = [record(opened(context(rank=rank, world=2)))[1] for rank in range(2)]
    assert seeds[0].isdisjoint(seeds[1])


def test_an_image_can_be_painted_again_from_its_record():
    stream = opened()
    turn = stream.plan(1)[2]
    again = worthy_instances(*turn, TorchPainter(CPU))
    images = TorchPainter(CPU).paint([again], (12, 12), 2)
    assert torch.equal(images, stream.draw(1, None).images[16:20])
    assert ((turn.times >= 0.1) & (turn.times <= 10)).all()


def test_the_same_images_are_kept_at_every_size():
    small, large = opened(), opened(context(size=(48, 48)))
    for mine, theirs in zip(small.plan(0), large.plan(0), strict=True):
        kept = worthy_instances(*mine, TorchPainter(CPU))
        assert torch.equal(kept.floats, worthy_instances(*theirs, TorchPainter(CPU)).floats)
    means = [stream.draw(0, None).images.mean((2, 3)) for stream in (small, large)]
    torch.testing.assert_close(*means, rtol=0, atol=0.05)


def test_supersampling_changes_little_but_edges():
    rough, smooth = (
        opened(context(size=(32, 32)), supersample=n, families=("plasma",)).draw(0, None).images
        for n in (1, 3)
    )
    assert (rough - smooth).abs().mean() < 0.05


def test_constant_and_saturated_images_are_told_from_others():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    white, black_and_white = torch.ones(1, 3, 8, 8), (ramp > 0.5).float()
    nothing = torch.full((1, 3, 8, 8), torch.nan)
    images = torch.cat((ramp, white, black_and_white, 0.5 + ramp * 0.01, nothing))
    assert worth_showing(images).tolist() == [True, False, False, False, False]


def test_empty_images_are_drawn_anew_and_the_others_are_left():
    stream = opened(num_programs=3, families=("ridged", "gradients"), instances=64)
    for program in (stream._program(place) for place in range(3)):
        seeds, times = torch.arange(64), torch.linspace(0.1, 10, 64, dtype=torch.float64)
        first = program.instances(seeds, times)
        kept = worthy_instances(program, seeds, times, TorchPainter(CPU))
        small = TorchPainter(CPU).paint([kept], (16, 16), 1)
        assert worth_showing(small).all()
        shown = worth_showing(TorchPainter(CPU).paint([first], (16, 16), 1))
        assert torch.equal(kept.floats[:, shown], first.floats[:, shown])
        assert not shown.all() or torch.equal(kept.floats, first.floats)


def test_a_program_that_shows_nothing_is_named(monkeypatch):
    program = opened()._program(0)
    monkeypatch.setattr(
        "doublure.sources.shaders._probed",
        lambda instances, _: torch.zeros(instances.count, dtype=torch.bool),
    )
    seeds = torch.tensor([1])
    with pytest.raises(RuntimeError, match=re.escape(f"shader program {program.seed} (")):
        worthy_instances(program, seeds, torch.ones(1, dtype=torch.float64), TorchPainter(CPU))


def test_two_images_of_one_program_differ():
    images = opened(instances=8).draw(0, None).images
    distances = torch.cdist(images[:8].flatten(1), images[:8].flatten(1))
    assert (distances.fill_diagonal_(9) > 0.1).all()


def test_programs_can_be_restricted_to_families():
    stream = opened(families=("julia", "leaves"))
    families = {turn.program.family for turn in stream.plan(0)}
    assert families == {"julia", "leaves"}
    assert all(isinstance(turn.program, Program) for turn in stream.plan(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_programs": 0}, "num_programs must be positive, got 0"),
        ({"supersample": 0}, "supersample must be positive"),
        ({"families": ("julai",)}, "unknown shader family 'julai'; did you mean 'julia'"),
        ({"families": ()}, r"families is empty"),
        ({"time_range": (3.0, 1.0)}, "time_range must be two increasing times"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Shaders(**settings)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="but the network takes 4"):
        opened(context(channels=4))


def test_a_foreign_state_is_refused():
    with pytest.raises(ValueError, match="has no state, got"):
        opened().load_state_dict({"step": 3})
