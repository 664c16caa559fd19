"""The verb `train`."""

from pathlib import Path

import pytest
from PIL import Image

from doublure.engine.optimizers import SGD, AdamW
from doublure.recipe_file import read
from tests.command import command


def test_unreadable_images_are_named_and_left_out_where_that_is_asked_for(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for shade in range(4):
            Image.new("L", (8, 8), 50 * shade + len(name)).save(
                tmp_path / "data" / name / f"{shade}.png"
            )
    (tmp_path / "data" / "cat" / "bad.png").write_bytes(b"nothing")
    words = f"train --net builtin/convnet-3 --data {tmp_path / 'data'} --steps 1 --batch-size 4"
    refused = command(*words.split(), "--out", tmp_path / "run")
    assert refused.status == 1
    assert "1 of 9 images" in refused.reason
    assert refused.reason.endswith("or leave them out with skip_bad (--skip-bad)")
    assert not (tmp_path / "run").exists()
    assert command(*words.split(), "--out", tmp_path / "run", "--skip-bad").status == 0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that learned hardly anything."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    words = "train --net builtin/convnet-3 --data builtin/digits --steps 1 --batch-size 4"
    assert command(*words.split(), "--device", "cpu", "--out", out).status == 0
    return out


def test_a_network_that_flattens_by_view_learns_and_teaches(tmp_path: Path):
    (tmp_path / "net.py").write_text(
        "import torch.nn as nn\n\n"
        "class LeNet(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 10)\n\n"
        "    def forward(self, x):\n"
        "        return self.linear(self.conv(x).relu().view(x.size(0), -1))\n"
    )
    few = "--steps 2 --batch-size 4 --device cpu"
    net = f"--net file:{tmp_path / 'net.py'}:LeNet --classes 10 --data builtin/digits"
    assert command(*f"train {net} {few}".split(), "--out", tmp_path / "lenet").status == 0
    taught = f"--teacher {tmp_path / 'lenet'} --allow-code {tmp_path / 'net.py'}"
    words = f"distill {taught} --student builtin/convnet-3 --transfer noise {few}"
    assert command(*words.split(), "--out", tmp_path / "run").status == 0


@pytest.mark.parametrize("verb", ["train", "distill"])
def test_a_transformer_learns_by_adamw_unless_another_is_asked_for(
    tmp_path: Path, teacher: Path, verb: str
):
    whom = {
        "train": "--net builtin/vit-small --data builtin/digits",
        "distill": f"--teacher {teacher} --student builtin/vit-small --transfer noise",
    }
    words = f"{verb} {whom[verb]} --steps 1 --batch-size 4 --device cpu"
    done = command(*words.split(), "--out", tmp_path / "run")
    assert done.status == 0
    assert "AdamW at 0.001 in place of SGD" in done.err
    (stage,) = read(tmp_path / "run" / "recipe.toml").stages
    assert (stage.fit.optimizer, stage.fit.learning_rate) == (AdamW(), 1e-3)
    words += " --set optimizer=sgd --lr 0.01"
    assert command(*words.split(), "--out", tmp_path / "other").status == 0
    (stage,) = read(tmp_path / "other" / "recipe.toml").stages
    assert (stage.fit.optimizer, stage.fit.learning_rate) == (SGD(), 0.01)
