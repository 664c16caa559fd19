import pytest
import torch

from doublure.core.protocols import Stream
from doublure.sources.procedural import ProceduralStream
from tests.tiny import context, rng


def paint(num_images: int, numbers: torch.Generator) -> torch.Tensor:
    return torch.rand((num_images, 1, 8, 8), generator=numbers)


def test_it_is_a_stream_whose_networks_see_one_tensor():
    stream = ProceduralStream(paint, context(), rng())
    batch = stream.draw(0, None)
    assert isinstance(stream, Stream)
    assert batch.views["student"] is batch.views["teacher"]
    assert batch.images.shape == (8, 1, 8, 8)


def test_a_batch_depends_on_seed_and_step_and_not_on_what_was_drawn_before():
    one, other = (
        ProceduralStream(paint, context(), rng(1)),
        ProceduralStream(paint, context(), rng(1)),
    )
    one.draw(0, None)
    assert torch.equal(one.draw(5, None).images, other.draw(5, None).images)
    assert not torch.equal(one.draw(4, None).images, one.draw(5, None).images)
    foreign = ProceduralStream(paint, context(), rng(2))
    assert not torch.equal(foreign.draw(5, None).images, other.draw(5, None).images)


def test_splits_and_ranks_never_see_the_same_images():
    contexts = [context(), context(split="held_out"), context(rank=1, world=2)]
    drawn = [ProceduralStream(paint, where, rng()).draw(0, None).images for where in contexts]
    assert len({images.sum().item() for images in drawn}) == len(contexts)


def test_state_of_another_stream_is_refused():
    stream = ProceduralStream(paint, context(), rng())
    stream.load_state_dict(stream.state_dict())
    with pytest.raises(ValueError, match=r"a procedural stream has no state, got \['pool'\]"):
        stream.load_state_dict({"pool": 1})
