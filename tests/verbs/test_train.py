"""The verb `train`."""

from pathlib import Path

import pytest
from PIL import Image

from doublure.core.protocols import InputContract
from doublure.engine.method import MethodInputs
from doublure.engine.optimizers import SGD, AdamW
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipe_file import read
from doublure.recipes import published, with_batch_norm
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
    assert refused.reason.endswith("or skip them with skip_bad (--skip-bad)")
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
    assert "AdamW at 0.001 instead of SGD" in done.err
    (stage,) = read(tmp_path / "run" / "recipe.toml").stages
    assert (stage.fit.optimizer, stage.fit.learning_rate) == (AdamW(), 1e-3)
    words += " --set optimizer=sgd --lr 0.01"
    assert command(*words.split(), "--out", tmp_path / "other").status == 0
    (stage,) = read(tmp_path / "other" / "recipe.toml").stages
    assert (stage.fit.optimizer, stage.fit.learning_rate) == (SGD(), 0.01)


def test_batch_norm_revisited_learns_mean_and_std_and_exports_the_plain_architecture(
    tmp_path: Path,
):
    words = "train --net builtin/convnet-3 --data builtin/digits --steps 3 --batch-size 8"
    words += " --device cpu --batch-norm revisited"
    done = command(*words.split(), "--out", tmp_path / "run")
    assert done.status == 0, done.err
    assert "in 3 steps the smaller gradients" in done.err
    recipe = read(tmp_path / "run" / "recipe.toml")
    (stage,) = recipe.stages
    told = [(g.layers, g.parameters, g.rate, g.decay) for g in stage.fit.groups]
    assert ("batchnorm", "weight", 0.01, 0.0) in told
    assert ("batchnorm", "bias", 1.0, 0.0) in told
    made = load(NetworkRef(ref=str(tmp_path / "run")))
    assert made.contract.std[0] > 1  # about .37 / (.1 * .58), in place of the digits' own .37
    plain = load(NetworkRef(ref="builtin/convnet-3"), like=made.contract)
    assert made.state_dict().keys() == plain.state_dict().keys()
    export = f"export --model {tmp_path / 'run'} --format onnx --out {tmp_path / 'exported'}"
    assert command(*export.split()).status == 0
    again = command(
        *f"train --recipe {tmp_path / 'run' / 'recipe.toml'} --out {tmp_path / 'again'}".split()
    )
    assert again.status == 0
    assert load(NetworkRef(ref=str(tmp_path / "again"))).contract == made.contract


def test_batch_norm_standard_leaves_scales_at_one_and_decays_no_vector(tmp_path: Path):
    words = "train --net builtin/convnet-3 --data builtin/digits --steps 1 --batch-size 8"
    done = command(*words.split(), "--batch-norm", "standard", "--out", tmp_path / "run")
    assert done.status == 0
    (stage,) = read(tmp_path / "run" / "recipe.toml").stages
    assert {(group.rate, group.decay) for group in stage.fit.groups} == {(1.0, 0.0)}
    assert (stage.rules, stage.model_transform) == ((), None)


def test_the_pieces_of_batch_norm_are_set_one_by_one(tmp_path: Path):
    words = "train --net builtin/convnet-3 --data builtin/digits --steps 1 --batch-size 8"
    words += " --batch-norm revisited --set batch-norm-scale.scale=0.25"
    words += " --set stages.0.fit.groups.0.rate=0.1 --set learned-normalisation.scale=0.25"
    assert command(*words.split(), "--out", tmp_path / "run").status == 0
    (stage,) = read(tmp_path / "run" / "recipe.toml").stages
    assert stage.model_transform.transform.scale == 0.25
    assert stage.fit.groups[0].rate == 0.1


def test_batch_norm_revisited_spares_given_weights(tmp_path: Path, teacher: Path):
    few = "--steps 1 --batch-size 4 --device cpu --batch-norm revisited"
    words = f"train --net builtin/convnet-3 --data builtin/digits {few}"
    words += f" --init-from {teacher / 'student.safetensors'}"
    refused = command(*words.split(), "--out", tmp_path / "run")
    assert "leave --init-from away, or --set batch-norm-scale.scale=1" in refused.reason
    kept = command(*words.split(), "--set", "batch-norm-scale.scale=1", "--out", tmp_path / "run")
    assert kept.status == 0
    words = f"distill --teacher {teacher} --student builtin/convnet-3 --transfer noise {few}"
    words += " --method auto"
    scratch = command(*words.split(), "--from-scratch", "--out", tmp_path / "scratch")
    assert scratch.status == 0, scratch.err
    vit = f"train --net builtin/vit-small --data builtin/digits {few}"
    refused = command(*vit.split(), "--out", tmp_path / "vit")
    assert "no BatchNorm layer to rescale; the network normalises layers (13 La" in refused.reason


def test_a_student_that_inherits_is_refused_batch_norm_revisited():
    contract = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=3)
    inherits = MethodInputs(contract=contract)
    reference = NetworkRef(ref="builtin/convnet-3")
    recipe = published("auto", reference, reference, inherits)
    assert recipe.stages[0].init is not None
    student = load(reference, like=contract)
    with pytest.raises(ValueError, match="add --from-scratch, or leave --batch-norm out"):
        with_batch_norm(recipe, student, "revisited")
    assert with_batch_norm(recipe, student, "standard").stages[0].fit.groups
