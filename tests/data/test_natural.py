import numpy as np
import pytest
from PIL import Image

from doublure.data.natural import natural_contract, natural_shape
from doublure.verbs.synthesize import synthesize


def test_digits_are_what_they_are():
    assert natural_shape("builtin/digits") == (8, 8, 1)
    assert natural_shape("builtin/digits:test") == (8, 8, 1)


@pytest.mark.parametrize(("shape", "channels"), [((5, 6, 7), 1), ((5, 6, 7, 3), 3)])
def test_arrays_without_labels_say_their_shape(tmp_path, shape, channels):
    np.savez(tmp_path / "x.npz", x=np.zeros(shape, np.uint8))
    assert natural_shape(tmp_path / "x.npz") == (6, 7, channels)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3)])
def test_the_first_file_of_a_folder_speaks_for_all(tmp_path, mode, channels):
    Image.new(mode, (7, 6)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    assert natural_shape(tmp_path) == (6, 7, channels)


def test_a_set_says_its_shape(tmp_path):
    synthesize("noise", count=3, size=(6, 7), channels=1, out=tmp_path / "set")
    assert natural_shape(tmp_path / "set") == (6, 7, 1)


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="there is no 'nowhere'"):
        natural_shape("nowhere")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 8, 8), np.uint8)}, "has no array 'y', so it has no labels"),
        ({"y": np.arange(2)}, "has no array 'x': images are expected under that name"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.zeros(2, int)}, "has one class only"),
    ],
)
def test_arrays_to_learn_from_that_lack_something_say_what(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        natural_contract(tmp_path / "x.npz")


def test_an_unreadable_first_file_is_passed_over_where_that_is_asked_for(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (7, 6), ord(name)).save(tmp_path / name / "1.png")
    (tmp_path / "a" / "0.png").write_bytes(b"nothing")
    assert natural_contract(tmp_path, skip_bad=True).size == (6, 7)
    with pytest.raises(ValueError, match=r"1 of 3 images in .* cannot be read.*--skip-bad"):
        natural_contract(tmp_path)
    for path in tmp_path.rglob("1.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="none of its 3 images can be read"):
        natural_contract(tmp_path, skip_bad=True)
