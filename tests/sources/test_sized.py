import pytest

from doublure.sources.noise import Noise
from doublure.sources.sized import Sized
from tests import tiny


def test_images_have_the_size_asked_for_and_are_those_of_the_source_at_that_size():
    stream = Sized(source=Noise(), size=(4, 6)).open(tiny.context(), None, tiny.rng())
    assert stream.draw(0, None).images.shape == (8, 1, 4, 6)


def test_without_a_size_nothing_changes():
    one, other = (
        source.open(tiny.context(), None, tiny.rng()).draw(3, None).images
        for source in (Noise(), Sized(source=Noise()))
    )
    assert one.equal(other)


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="size must be positive"):
        Sized(source=Noise(), size=(0, 4))
