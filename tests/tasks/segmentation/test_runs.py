"""Segmentation through the verbs, on drawn scenes."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import doublure
from doublure.core.protocols import InputContract
from doublure.nets.network import Network
from doublure.networks import load
from tests.command import command
from tests.scenes import SIZE, write_split


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("scenes"), train=40)


@pytest.fixture(scope="module")
def teacher(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "teacher"
    done = command(
        *("train", "--net", "builtin/scene-unet-4", "--data", scenes, "--eval", scenes),
        *("--steps", "60", "--out", out),
    )
    assert done.status == 0, done.err
    assert "mean IoU" in done.out
    return out


def test_a_network_learns_scenes_and_is_evaluated(teacher, scenes):
    done = command("evaluate", "--model", teacher, "--data", scenes, "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["count"] == 6
    assert set(found["per_class"]) == {"sky", "ground", "box"}
    assert found["scores"]["mean_iou"] > 0.5
    summary = json.loads((teacher / "summary.json").read_text())
    assert summary["student_scores"] == found["scores"]
    assert load(str(teacher)).contract.output == "map"


def test_a_student_learns_from_scenes_without_labels(teacher, scenes, tmp_path):
    done = command(
        *("distill", "--teacher", teacher, "--student", "builtin/scene-unet-2"),
        *("--transfer", scenes, "--eval", scenes, "--steps", "60", "--lr", "0.01"),
        *("--set", "log_every=5", "--out", tmp_path / "run"),
    )
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, last = (json.loads(line)["logit_l1"] for line in (lines[0], lines[-1]))
    assert last < 0.75 * first
    assert 0 < summary["agreement"] <= 1
    assert "kept apart by their hash" in summary["agreement_on"]
    assert set(summary["student_scores"]) == {"mean_iou", "pixel_accuracy"}
    assert "scenes with label maps" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    "named",
    [
        ("--method", "dfad"),
        ("--method", "dfad", "--set", "dfad.loss=log"),
        ("--method", "shader-kd"),
        ("--transfer", "noise"),
        ("--transfer", "noise", "--objective", "soft-targets"),
    ],
    ids=["dfad", "dfad, log", "shaders", "noise", "soft targets"],
)
def test_a_student_learns_without_any_scene(named, teacher, tmp_path):
    networks = ("--teacher", teacher, "--student", "builtin/scene-unet-2")
    done = command(
        *("distill", *networks, *named, "--steps", "7", "--batch-size", "4"),
        *("--out", tmp_path / "run"),
    )
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 <= summary["agreement"] <= 1
    assert summary["student_scores"] is None


def test_a_killed_game_is_resumed_with_the_same_bytes(teacher, tmp_path):
    given = {"method": "dfad", "steps": 8, "batch_size": 4, "checkpoint_seconds": 0.0}

    class KilledError(Exception):
        pass

    def kill(_steps, line):
        if line["step"] == 4:
            raise KilledError

    settings = {"set": {"log_every": "1"}}
    pair = (str(teacher), "builtin/scene-unet-2")
    doublure.distill(*pair, out=tmp_path / "whole", **given, **settings)
    with pytest.raises(KilledError):
        doublure.distill(*pair, out=tmp_path / "cut", watch=kill, **given, **settings)
    doublure.distill(*pair, out=tmp_path / "cut", resume=True, **given, **settings)
    weights = [(tmp_path / run / "student.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_student_inherits_from_its_teacher_unless_it_shall_not(teacher, scenes, tmp_path):
    def begun(*more):
        out = tmp_path / f"run{len(more)}"
        done = command(
            *("distill", "--teacher", teacher, "--student", "builtin/scene-unet-3", "--steps", "1"),
            *("--transfer", scenes, "--eval", scenes, "--out", out, *more),
        )
        assert done.status == 0, done.err
        return json.loads((out / "summary.json").read_text())

    inherited, fresh = begun(), begun("--from-scratch")
    assert "repaired by least squares" in inherited["beginning"]["how"]
    assert fresh["beginning"] is None
    assert inherited["agreement"] > fresh["agreement"]


NET = """
import torch
from torch import nn

class Dense(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Conv2d(3, classes, 3, padding=1)

    def forward(self, images):
        return {"out": self.layer(images), "aux": images}

def make_net(classes):
    return Dense(classes)
"""


def test_a_network_of_a_file_is_known_to_segment_by_what_it_answers(scenes, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    net = f"file:{tmp_path / 'net.py'}:make_net"
    done = command(
        *("train", "--net", net, "--data", scenes, "--eval", scenes, "--steps", "2"),
        *("--out", tmp_path / "run"),
    )
    assert done.status == 0, done.err
    weights = tmp_path / "run" / "student.safetensors"
    done = command(
        *("evaluate", "--model", net, "--weights", weights, "--classes", "3", "--size", "32x48"),
        *("--data", scenes, "--json"),
    )
    assert done.status == 0, done.err
    assert json.loads(done.out)["count"] == 6


class Dense(nn.Module):
    """Answers as torchvision's dense networks do."""

    def __init__(self, classes=3):
        super().__init__()
        self.layer = nn.Conv2d(3, classes, 3, padding=1)

    def forward(self, images):
        return {"out": self.layer(images), "aux": self.layer(images)}


CONTRACT = InputContract(
    size=SIZE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=3, output="map"
)


def test_of_a_dict_the_map_called_out_is_taken(scenes, tmp_path):
    teacher = Network(Dense(), CONTRACT)
    assert torch.equal(
        teacher(torch.zeros(1, 3, *SIZE)),
        teacher.body(teacher.to_input(torch.zeros(1, 3, *SIZE)))["out"],
    )
    doublure.evaluate(teacher, str(scenes))
    doublure.distill(teacher, Dense(), out=tmp_path / "run", transfer=str(scenes), steps=2)


@pytest.mark.parametrize(
    ("network", "contract", "reason"),
    [
        (nn.Conv2d(3, 3, 3, stride=2), CONTRACT, "enlarge its logits to the image's size"),
        (nn.Conv2d(3, 4, 1), CONTRACT, "said to know 3 classes"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), CONTRACT, "said to know 3 classes"),
    ],
)
def test_a_network_that_answers_otherwise_is_refused(network, contract, reason, tmp_path):
    network(torch.zeros(1, 3, *SIZE))
    with pytest.raises(ValueError, match=reason):
        doublure.distill(Network(network, contract), Dense(), out=tmp_path / "run", steps=1)


@pytest.mark.parametrize(
    ("classes", "reason"),
    [(1, "give it two logits a pixel"), (4, "the student has 3 classes, its teacher 4")],
)
def test_one_class_and_other_numbers_of_classes_are_refused(classes, reason, tmp_path):
    teacher = Network(Dense(classes), replace(CONTRACT, classes=classes))
    student = Dense(1) if classes == 1 else Network(Dense(), CONTRACT)
    with pytest.raises(ValueError, match=reason):
        doublure.distill(teacher, student, out=tmp_path / "run", steps=1)


def test_a_new_network_needs_classes_and_a_size():
    with pytest.raises(ValueError, match="nothing states how many classes builtin/scene-unet-4"):
        load("builtin/scene-unet-4")


def test_a_network_is_pruned_and_opened_again(teacher, scenes, tmp_path):
    done = command(
        *("prune", "--model", teacher, "--ratio", "0.3", "--transfer", scenes, "--eval", scenes),
        *("--steps", "2", "--batch-size", "4", "--out", tmp_path / "pruned"),
    )
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "pruned" / "summary.json").read_text())
    assert summary["student_parameters"] < summary["teacher_parameters"]
    pruned = load(str(tmp_path / "pruned"))
    images = torch.rand(2, 3, *SIZE)
    assert pruned.eval()(images).shape == (2, 3, *SIZE)
    found = doublure.evaluate(str(tmp_path / "pruned"), str(scenes))
    assert found.to_json()["scores"] == summary["student_scores"]


def test_a_network_is_quantized_and_exported_with_its_scores(teacher, scenes, tmp_path):
    done = command(
        *("quantize", "--model", teacher, "--calibration", scenes, "--eval", scenes),
        *("--out", tmp_path / "small"),
    )
    assert done.status == 0, done.err
    for model in (teacher, tmp_path / "small"):
        done = command(
            *("export", "--model", model, "--format", "onnx,int8-onnx", "--eval", scenes),
            *("--calibration", scenes, "--out", tmp_path / "exported", "--json"),
        )
        assert done.status == 0, done.err
        rows = {row["form"]: row for row in json.loads(done.out)}
        own = doublure.evaluate(str(model), str(scenes)).to_json()["scores"]
        assert rows["onnx"]["scores"] == pytest.approx(own, abs=1e-3)
        assert set(rows["int8-onnx"]["scores"]) == {"mean_iou", "pixel_accuracy"}
        assert rows["int8-onnx"]["quantize_nodes"] > 0
