import numpy as np
import torch

from doublure.core.protocols import InputContract
from doublure.data.scenes import open_scenes
from doublure.nets.network import Network
from doublure.tasks.segmentation.pictures import coloured, colours, draw_rows
from tests.scenes import SIZE, draw_scene, write_scenes

CONTRACT = InputContract(
    size=SIZE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=3, output="map"
)


def test_columns_are_the_image_the_networks_maps_and_the_truth(tmp_path):
    data = open_scenes(write_scenes(tmp_path, 6), CONTRACT, split="test", labels=True)
    body = torch.nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        body.weight.zero_()
        body.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    columns, images = draw_rows({"student": Network(body, CONTRACT)}, data, count=2)
    assert columns == ("image", "student", "truth")
    assert images.shape == (2, 3, *SIZE, 3)
    pixels, classes = draw_scene(5)
    table = colours(3)
    assert np.array_equal(images[1, 0], pixels)
    assert (images[:, 1] == table[2]).all()
    assert np.array_equal(images[1, 2], table[classes])


def test_the_datas_own_palette_goes_first_and_what_does_not_count_is_black():
    palette = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.uint8)
    table = colours(2, palette)
    assert coloured(torch.tensor([[[0, 1, 255]]]), table).tolist() == [
        [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]
    ]
    assert not np.array_equal(table[2], palette[2])
