import numpy as np
import pytest
import torch
from PIL import Image

from doublure.core.protocols import InputContract
from doublure.data.image_folder import UnreadableImagesError
from doublure.data.scenes import IGNORED, names_scenes, open_scenes, scene_contract
from tests.scenes import SIZE, draw_scene, write_scene, write_scenes, write_split

CONTRACT = InputContract(
    size=SIZE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=3, output="map"
)


def opened(spec, *, labels=True, split="train", contract=CONTRACT, **options):
    return open_scenes(spec, contract, split=split, labels=labels, **options)


def test_images_and_label_maps_are_those_of_the_files(tmp_path):
    write_scenes(tmp_path, 3)
    data = opened(tmp_path)
    pixels, classes = draw_scene(1)
    assert len(data) == 3
    assert torch.equal(data.images([1])[0], torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(data.labels([1])[0], torch.from_numpy(classes))
    lazily = opened(tmp_path, cache_bytes=0)
    assert lazily.pixels is None
    assert torch.equal(lazily.images([2, 0]), data.images([2, 0]))
    assert torch.equal(lazily.labels([2, 0]), data.labels([2, 0]))


def test_a_divided_folder_gives_the_part_asked_for(tmp_path):
    write_split(tmp_path, train=4, test=2)
    assert len(opened(tmp_path)) == 4
    assert len(opened(tmp_path, split="test")) == 2
    assert len(opened(tmp_path / "test")) == 2


def test_a_palette_stands_for_indices_as_grey_does(tmp_path):
    write_scenes(tmp_path, 1)
    path = next((tmp_path / "labels").iterdir())
    with Image.open(path) as grey:
        coloured = Image.fromarray(np.array(grey))
    expected = opened(tmp_path).labels([0])
    coloured.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    coloured.save(path)
    data = opened(tmp_path)
    assert torch.equal(data.labels([0]), expected)
    assert data.palette is not None
    assert data.palette[:3].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_values_that_do_not_count_are_said_behind_the_folder(tmp_path):
    pixels, classes = draw_scene(0)
    classes[:2] = 11
    classes[2] = 255
    write_scene(tmp_path, "a", pixels, classes)
    with pytest.raises(ValueError, match=r"a\.png holds the value 11.*0 to 2.*FOLDER:ignore=11"):
        opened(tmp_path)
    labels = opened(f"{tmp_path}:ignore=11").labels([0])
    assert bool((labels[:, :3] == IGNORED).all())
    with pytest.raises(ValueError, match="values that do not count, as in :ignore=11"):
        opened(f"{tmp_path}:ignore=void")


def test_shares_are_those_of_the_pixels_that_count(tmp_path):
    classes = np.zeros(SIZE, dtype=np.uint8)
    classes[:8] = 1
    classes[8:16] = 255
    write_scene(tmp_path, "a", draw_scene(0)[0], classes)
    assert opened(tmp_path).class_shares().tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_scenes_of_another_size_are_scaled_with_their_labels(tmp_path):
    write_scenes(tmp_path, 2, size=(64, 96))
    data = opened(tmp_path)
    assert data.images([0]).shape == (1, 3, *SIZE)
    assert set(data.labels([0]).unique().tolist()) <= {0, 1, 2}
    assert data.notes == ("2 images were scaled to 32x48",)


def test_a_label_map_of_another_size_than_its_image_is_refused(tmp_path):
    pixels, _ = draw_scene(0)
    write_scene(tmp_path, "a", pixels, np.zeros((8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"a\.png is 8x8 pixels, its image 48x32"):
        opened(tmp_path)


def test_a_label_map_in_colour_is_refused(tmp_path):
    pixels, _ = draw_scene(0)
    write_scene(tmp_path, "a", pixels, pixels)
    with pytest.raises(ValueError, match=r"a\.png has Pillow's mode RGB.*8-bit PNG"):
        opened(tmp_path)


def test_an_image_without_a_label_map_is_named(tmp_path):
    write_scenes(tmp_path, 2)
    (tmp_path / "labels" / "scene001.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images .* no label map.*scene001\.png"):
        opened(tmp_path)
    assert len(opened(tmp_path, labels=False)) == 2


def test_a_damaged_image_is_named_or_left_out(tmp_path):
    write_scenes(tmp_path, 3)
    (tmp_path / "images" / "scene001.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImagesError, match=r"scene001\.png"):
        opened(tmp_path)
    data = opened(tmp_path, skip_bad=True)
    assert len(data) == 2
    assert torch.equal(data.labels([1])[0], torch.from_numpy(draw_scene(2)[1]))


def test_a_damaged_label_map_is_named(tmp_path):
    write_scenes(tmp_path, 1)
    (tmp_path / "labels" / "scene000.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"labels/scene000\.png cannot be read"):
        opened(tmp_path)


def test_what_is_a_folder_of_scenes_is_told_by_names_alone(tmp_path):
    assert not names_scenes(tmp_path)
    (tmp_path / "cats").mkdir()
    assert not names_scenes(tmp_path)
    write_scenes(tmp_path / "val", 1)
    assert names_scenes(tmp_path)
    assert names_scenes(f"{tmp_path}:ignore=11")


def test_any_folder_of_images_can_be_shown_without_labels(tmp_path):
    write_scenes(tmp_path, 2)
    assert len(opened(tmp_path / "images", labels=False)) == 2
    with pytest.raises(ValueError, match="has no images and labels"):
        opened(tmp_path / "images")


def test_a_new_network_takes_what_its_scenes_are_like(tmp_path):
    write_split(tmp_path)
    contract = scene_contract(tmp_path)
    assert contract.size == SIZE
    assert contract.names == ("sky", "ground", "box")
    assert contract.output == "map"
    pixels = opened(tmp_path).images(range(16)).double() / 255
    assert contract.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-4)
    (tmp_path / "classes.txt").unlink()
    assert scene_contract(tmp_path).classes == 3
    assert scene_contract(tmp_path, classes=5).classes == 5
