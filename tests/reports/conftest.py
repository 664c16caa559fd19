"""RUN folders as the pipeline writes them, invented but of realistic shape and size."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doublure.reports.page import write_report
from doublure.reports.record import RunRecord, read_run
from doublure.tasks.classification.task import ClassificationTask

Files = dict[str, Any]
WriteRun = Callable[..., Path]


def summary(classes: int = 10, **changes: Any) -> Files:
    """A finished distillation with labels; `changes` replace single fields."""
    names = [f"class {place}" for place in range(classes)] if classes != 10 else list("0123456789")
    rng = np.random.default_rng(0)
    per_class = {
        name: {"teacher": 0.97, "student": round(0.97 - 0.2 * float(rng.random()), 3), "count": 50}
        for name in names
    }
    return {
        "words": vars(ClassificationTask.words),
        "verb": "distill",
        "method": "shader-kd",
        "paper": "Raikwar, Mishra: Data-free knowledge distillation from shader images, 2022",
        "teacher_reference": "builtin/resnet20",
        "student_reference": "builtin/resnet8",
        "teacher_accuracy": 0.972,
        "student_accuracy": 0.936,
        "teacher_correct": 486,
        "student_correct": 468,
        "accuracy_count": 500,
        "per_class": per_class,
        "agreement": 0.914,
        "agreement_count": 2000,
        "agreement_on": "shader images of a disjoint range of seeds, as fed",
        "images_per_second": 4210.0,
        "seconds": 312.4,
        "steps": 2000,
        "batch_size": 256,
        "teacher_parameters": 272474,
        "student_parameters": 22706,
        "teacher_flops": 41290000,
        "student_flops": 3470000,
        "seed": 7,
        "class_names": names,
        "warnings": [],
    } | changes


def metrics(steps: int = 2000) -> list[Files]:
    """A falling loss with two terms; agreement and accuracy now and then."""
    rng = np.random.default_rng(1)
    rows: list[Files] = []
    for step in range(0, steps, 10):
        soft = 3.2 * np.exp(-step / 300) + 0.12 + 0.03 * rng.random()
        boundary = 0.5 * np.exp(-step / 500) + 0.02 * rng.random()
        row: Files = {
            "step": step,
            "loss": soft + boundary,
            "soft_targets": soft,
            "boundary_support": boundary,
            "learning_rate": 0.1 * (1 - step / steps),
            "images_per_second": 4200.0,
            "seconds": step * 0.15,
        }
        if step % 100 == 0:
            row["agreement"] = 0.92 - 0.8 * np.exp(-step / 350)
            row["accuracy"] = 0.94 - 0.83 * np.exp(-step / 400)
        rows.append(row)
    return rows


def samples(classes: int = 10, side: int = 32, channels: int = 3, count: int = 48) -> Files:
    """Smooth coloured waves, and answers that mostly agree."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = rng.normal(size=(3, count, channels, 1, 1)) * 4
    raw = 0.5 + 0.5 * np.sin(waves[0] * x + waves[1] * y * (1 + x) + waves[2])
    raw = (255 * raw.transpose(0, 2, 3, 1)).astype(np.uint8)
    logits = 2.5 * rng.normal(size=(count, classes))
    teacher = _softmax(logits)
    student = _softmax(logits + 0.8 * rng.normal(size=(count, classes)))
    weights = rng.dirichlet(np.full(classes, 1.2))
    return {
        "images": np.roll(raw, side // 4, axis=2)[:, :, ::-1],
        "raw": raw,
        "teacher": teacher.astype(np.float32),
        "student": student.astype(np.float32),
        "histogram": rng.multinomial(4096, weights),
        "histogram_count": np.int64(4096),
    }


def optimisation_path(count: int = 6, side: int = 32, channels: int = 3) -> Files:
    """Noise that becomes waves, at six points of 2000 iterations."""
    shown = samples(side=side, channels=channels, count=count)["raw"]
    noise = np.random.default_rng(3).integers(0, 256, shown.shape)
    mixed = [(1 - part) * noise + part * shown for part in (0, 0.05, 0.2, 0.6, 0.9, 1)]
    rising = np.linspace(0.1, 0.99, 6, dtype=np.float32)
    return {
        "images": np.stack(mixed).astype(np.uint8),
        "iterations": np.array([0, 20, 100, 400, 1000, 2000]),
        "named": np.arange(count) % 10,
        "sure": np.repeat(rising[:, None], count, axis=1),
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def findings() -> list[Files]:
    """A transfer-set score and a quantization audit."""
    return [
        {
            "name": "Transfer-set score",
            "verdict": "ok",
            "summary": "Predicted to keep 95 % of the teacher's accuracy (88 to 98 %).",
            "tag": "predicted",
            "measurements": {
                "predicted ratio": 0.951,
                "interval": [0.88, 0.98],
                "class balance": 0.87,
                "teacher entropy": 1.2345678,
                "raw stream": {"class balance": 0.61, "BatchNorm distance": 4.2},
            },
            "meanings": {"BatchNorm distance": ("Distance", "from the data", "low")},
        },
        {
            "name": "Worst-case quantization",
            "verdict": "warn",
            "summary": "One layer's range grows 6-fold under a targeted shift.",
            "tag": "proxy",
            "measurements": {"largest range growth": 6.02, "layer": "layer3.0.conv2"},
        },
    ]


def exports() -> list[Files]:
    """The float network and four forms of it."""
    rows = [
        ("torch", "student.safetensors", 94_512, 90_824, 1.92, None, 1.0, 0.936, None),
        ("onnx", "export/student.onnx", 97_303, 90_824, 0.41, 2.4e-6, 1.0, 0.936, None),
        ("int8-onnx", "export/student.int8.onnx", 38_112, 23_540, 0.22, 0.31, 0.988, 0.932, 11),
        ("pt2", "export/student.pt2", 142_880, 90_824, 1.71, 0.0, 1.0, 0.936, None),
    ]
    return [
        {
            "form": form,
            "path": path,
            "bytes": size,
            "weight_bytes": weights,
            "latency_ms": latency,
            "images_per_second": 1000 / latency,
            "max_difference": difference,
            "agreement": agreement,
            "accuracy": accuracy,
            "quantize_nodes": nodes,
            "note": "batch 1, one thread, median of 200" if form == "torch" else None,
        }
        for form, path, size, weights, latency, difference, agreement, accuracy, nodes in rows
    ]


def arms() -> list[Files]:
    """Three transfer sets, the last of them pure noise."""
    return [
        {"name": name, "accuracy": correct / 500, "correct": correct, "count": 500,
         "agreement": agreement, "seconds": seconds}
        for name, correct, agreement, seconds in (
            ("shaders, augmented", 468, 0.914, 61.0),
            ("dead leaves", 431, 0.87, 58.2),
            ("uniform noise", 97, 0.99, 41.5),
        )
    ]  # fmt: skip


RECIPE = """# Made by doublure distill
[teacher]
reference = "builtin/resnet20"

[source]
name = "shaders"
pool = 20000

[fit]
steps = 2000
batch_size = 256
lr = 0.1
"""
MANIFEST = {
    "versions": {"doublure": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
    "threads": 2,
    "hashes": {"student.safetensors": "9f2b" * 16},
    "host": "x86_64, 2 cores",
}


def whole_run(**summary_fields: Any) -> Files:
    """Every file of a RUN by its name; `summary_fields` replace single fields of the summary."""
    return {
        "summary.json": summary(**summary_fields),
        "metrics.jsonl": metrics(),
        "samples.npz": samples(),
        "optimisation_path.npz": optimisation_path(),
        "findings.json": findings(),
        "exports.json": exports(),
        "recipe.toml": RECIPE,
        "manifest.json": MANIFEST,
    }


def demo_run() -> Files:
    """Grey 8 x 8 images, several transfer sets, a warning."""
    fields = {"verb": "demo", "arms": arms(), "warnings": ["12 unreadable images were skipped."]}
    small = {"side": 8, "channels": 1}
    return whole_run(**fields) | {
        "samples.npz": samples(**small),
        "optimisation_path.npz": optimisation_path(**small),
    }


def unlabelled_run() -> Files:
    """A distillation without --eval: no accuracy anywhere."""
    forms = [form | {"accuracy": None} for form in exports()]
    rows = [{name: row[name] for name in row if name != "accuracy"} for row in metrics()]
    return whole_run(**UNLABELLED) | {"exports.json": forms, "metrics.jsonl": rows}


def many_classes_run() -> Files:
    """A hundred classes, images as large as photographs."""
    return whole_run() | {
        "summary.json": summary(classes=100),
        "samples.npz": samples(classes=100, side=112, count=64),
        "optimisation_path.npz": optimisation_path(side=112),
    }


def continual_run() -> Files:
    """A network that learned five classes more; two of the old ones suffered."""
    return whole_run(**CONTINUAL) | {"samples.npz": None, "optimisation_path.npz": None}


CONTINUAL: Files = {
    "verb": "continual",
    "method": "custom",
    "teacher_correct": 243,
    "teacher_accuracy": 0.972,
    "student_accuracy": 0.82,
    "student_correct": 410,
    "old_accuracy": 0.8,
    "old_correct": 200,
    "old_count": 250,
    "new_accuracy": 0.84,
    "new_correct": 210,
    "new_count": 250,
    "new_classes": 5,
    "forgetting": 0.172,
    "agreement": None,
}
UNLABELLED: Files = {
    "teacher_accuracy": None,
    "student_accuracy": None,
    "teacher_correct": None,
    "student_correct": None,
    "accuracy_count": None,
    "per_class": None,
}


RUNS: dict[str, Callable[[], Files]] = {
    "whole": whole_run,
    "demo": demo_run,
    "unlabelled": unlabelled_run,
    "continual": continual_run,
    "many classes": many_classes_run,
    "summary alone": lambda: {"summary.json": {}},
    "recipe alone": lambda: {"recipe.toml": ""},
}


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of every kind of RUN, written once."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: write_report(write_files(folder / name, RUNS[name]())) for name in RUNS}


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write the files of a RUN into a folder and return it; None leaves a file out."""

    def write(files: Files, name: str = "run") -> Path:
        return write_files(tmp_path / name, files)

    return write


@pytest.fixture
def record_of(write_run: WriteRun) -> Callable[[Files], RunRecord]:
    """The record of a RUN made of these files."""
    return lambda files: read_run(write_run(files))


def write_files(folder: Path, files: Files) -> Path:
    """Write each file in the form that its name says."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        if content is None:
            continue
        if name.endswith(".npz"):
            np.savez(folder / name, **content)
        elif name.endswith(".jsonl"):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
        elif name.endswith(".json"):
            (folder / name).write_text(json.dumps(content))
        else:
            (folder / name).write_text(content)
    return folder
