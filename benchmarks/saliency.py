"""Do heat maps depend on the baseline, the settings and the method, and does compression keep them?

Each arm is a network that is audited: correctly classified test images, six baselines, three seeds.
Beside its own maps stand those of its versions in 8, 4 and 3 bits and of a data-free student,
under the same masks. The planted set has a glyph that decides the class: there it is known where a
map should point.

    python benchmarks/saliency.py --data digits --arms teacher student planted
    DOUBLURE_DATA=... python benchmarks/saliency.py --data cifar10 --arms resnet20 student resnet56

An arm that is there is not run again; the maps of an arm that was interrupted are kept in --parts.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifar10 import public_teacher
from doublure.audits.saliency import MODEL, Configuration, MapMaker, SaliencyAudit
from doublure.audits.saliency_analysis import analyse, finding
from doublure.audits.saliency_run import PartFolder, choose_images, measure
from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.core.protocols import image_batch
from doublure.core.seeding import from_seed
from doublure.data.datasets import open_data
from doublure.nets.network import Network
from doublure.networks import load
from doublure.verbs.demo import BATCH, STUDENT, TEACHER, TEACHER_STEPS
from doublure.verbs.distill import distill
from doublure.verbs.train import train
from experiments import RESULTS, provenance, versions
from real_data import cifar10_folder

BITS = (8, 4, 3)
SETTINGS = SaliencyAudit(
    methods=("rise", "occlusion", "lime", "integrated-gradients", "gradient"), num_seeds=3
)
# Of the planted set: images of 16 pixels, glyphs of 5.
SIDE, GLYPH, PLANTED_STEPS = 16, 5, 400
GLYPHS = (
    ("..#..", "..#..", "#####", "..#..", "..#.."),
    ("#####", "#...#", "#...#", "#...#", "#####"),
    ("#...#", ".#.#.", "..#..", ".#.#.", "#...#"),
    ("#....", "#....", "#....", "#....", "#####"),
)
COLOURS = {"yellow": (1.0, 0.9, 0.1), "black": (0.0, 0.0, 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--student-steps", type=int, default=500)
    parser.add_argument("--parts", type=Path, help="folder that keeps networks and maps")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.parts or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        table = Results(given.data, {"images": given.images, "masks": given.masks})
        for arm in given.arms:
            if arm in table.rows:
                continue
            began = time.process_time()
            row = planted(folder, given.images) if arm == "planted" else audited(arm, given, folder)
            table.add(arm, row | {"cpu_seconds": time.process_time() - began})


class Results:
    """The results file: one row an arm, written as a whole each time."""

    def __init__(self, data: str, setting: dict[str, Any]) -> None:
        self.path = RESULTS / ("saliency.json" if data == "digits" else f"saliency_{data}.json")
        self.head = {"question": __doc__.splitlines()[0], "versions": versions()}
        self.head["setting"] = setting | {"data": data}
        self.rows: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            kept = json.loads(self.path.read_text(encoding="utf-8"))["rows"]
            self.rows = {row["arm"]: row for row in kept}

    def add(self, arm: str, row: dict[str, Any]) -> None:
        """Append a row with its provenance and print what it says."""
        self.rows[arm] = provenance() | {"arm": arm} | row
        whole = self.head | {"rows": list(self.rows.values())}
        self.path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        print(arm, row.get("verdict", row.get("pointing")), flush=True)


def audited(arm: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the audit of one network."""
    network, data = opened(arm, given.data, folder, given.student_steps)
    others = {}
    if arm in ("teacher", "resnet20"):
        others = quantized(network, data)
        student, _ = opened("student", given.data, folder, given.student_steps)
        others["student"] = student
    test = open_data(data, network.contract, split="test")
    assert test.labels is not None
    order = torch.randperm(len(test), generator=from_seed(0))[: 8 * given.images]
    shown = test.images(order).float() / 255
    chosen = choose_images(network, shown, test.labels[order], given.images)
    settings = replace(SETTINGS, num_masks=given.masks)
    parts = PartFolder(folder / f"{given.data}-{arm}")
    measured = measure(
        settings,
        network,
        others,
        chosen,
        0,
        parts,
        lambda i, n: print(f"{arm} {i}/{n}", flush=True),
    )
    found = analyse(measured, 0)
    with torch.no_grad():
        same = {
            name: int((other(chosen.images).argmax(1) == torch.tensor(chosen.targets)).sum())
            for name, other in others.items()
        }
    verdict = finding(found, settings)
    return {"verdict": verdict.summary, "same_class": same, **found}


def opened(arm: str, data: str, folder: Path, steps: int) -> tuple[Network, str]:
    """Return a network of an arm in eval mode, trained where there is none yet, and its DATA."""
    if data == "cifar10":
        if arm != "student":
            return public_teacher(arm)[1].eval(), str(cifar10_folder())
        reference, _ = public_teacher("resnet20")
        student = trained_student(folder / "cifar10-student", reference, "builtin/resnet8", steps)
        return student, str(cifar10_folder())
    teacher = folder / "digits-teacher"
    if not (teacher / "summary.json").exists():
        train(
            TEACHER,
            "builtin/digits",
            out=teacher,
            steps=TEACHER_STEPS,
            batch_size=BATCH,
            overwrite=teacher.exists(),
        )
    if arm == "teacher":
        return load(str(teacher)).eval(), "builtin/digits"
    return trained_student(
        folder / "digits-student", str(teacher), STUDENT, steps
    ), "builtin/digits"


def trained_student(folder: Path, teacher: Any, student: str, steps: int) -> Network:
    """Return a student that was shown shader images alone."""
    if not (folder / "summary.json").exists():
        distill(
            teacher,
            student,
            out=folder,
            method="shader-kd",
            steps=steps,
            batch_size=BATCH,
            overwrite=folder.exists(),
        )
    return load(str(folder)).eval()


def quantized(network: Network, data: str) -> dict[str, Network]:
    """Return the network with its weights in few bits."""
    shown = open_data(data, network.contract).images(torch.arange(128)).float() / 255
    made = {}
    for bits in BITS:
        rounding = PostTrainingQuantization(weight_bits=bits, activation_bits=32)
        made[f"{bits} bits"] = rounding(network, [image_batch(shown)], from_seed(0)).eval()
    return made


def planted(folder: Path, count: int) -> dict[str, Any]:
    """Return how often the largest value of a map lies on the glyph, for each colour of glyph."""
    pointing: dict[str, Any] = {}
    accuracy = {}
    for name, colour in COLOURS.items():
        run = folder / f"planted-{name}"
        if not (run / "summary.json").exists():
            images, labels, _ = planted_images(2000, colour, seed=0)
            pixels = (255 * images).round().byte().permute(0, 2, 3, 1).numpy()
            data = folder / f"planted-{name}.npz"
            np.savez(data, x=pixels, y=labels.numpy())
            train(
                "builtin/convnet-16",
                str(data),
                out=run,
                steps=PLANTED_STEPS,
                batch_size=BATCH,
                overwrite=run.exists(),
            )
        network = load(str(run)).eval()
        images, labels, boxes = planted_images(400, colour, seed=1)
        with torch.no_grad():
            right = network(images).argmax(1) == labels
        accuracy[name] = float(right.float().mean())
        kept = right.nonzero()[:count, 0].tolist()
        pointing[name] = pointed(network, images, labels, boxes, kept)
    return {"accuracy": accuracy, "pointing": pointing, "num_images": count}


def pointed(
    network: Network, images: Tensor, labels: Tensor, boxes: Tensor, kept: list[int]
) -> dict[str, Mapping[str, float]]:
    """Return the share of images whose map is largest on the glyph, by method and baseline."""
    maker = MapMaker(SETTINGS, {MODEL: network}, seed=0)
    made: dict[str, Mapping[str, float]] = {}
    for method in SETTINGS.methods:
        hits = {}
        for baseline in SETTINGS.baselines:
            item = Configuration(method=method, baseline=baseline)
            hit = [
                bool(boxes[i].flatten()[maker.map(images[i], i, int(labels[i]), item).argmax()])
                for i in kept
            ]
            hits[baseline] = sum(hit) / len(hit)
        made[method] = hits
    return made


def planted_images(
    count: int, colour: tuple[float, float, float], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images of coloured noise with one glyph each, the classes, and the glyphs' places."""
    rng = from_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=rng)
    images = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
    images = 0.25 + 0.5 * images + 0.1 * torch.rand(images.shape, generator=rng)
    labels = torch.randint(len(GLYPHS), (count,), generator=rng)
    boxes = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    places = torch.randint(SIDE - GLYPH + 1, (count, 2), generator=rng)
    ink = torch.tensor(colour)[:, None]
    for image, label, box, (top, left) in zip(
        images, labels.tolist(), boxes, places.tolist(), strict=True
    ):
        shape = torch.tensor([[dot == "#" for dot in row] for row in GLYPHS[label]])
        image[:, top : top + GLYPH, left : left + GLYPH][:, shape] = ink
        box[top : top + GLYPH, left : left + GLYPH] = True
    return images, labels, boxes


if __name__ == "__main__":
    main()
