"""Is the eight-bit ONNX file smaller, faster and as good as the float32 one it was made from?

Accuracy: public CIFAR-10 checkpoints on the JPEG test split, and two networks trained here on
scikit-learn's digits. Calibration images are real, drawn by the shader source, or noise, 512 of
them from three seeds. Weights have 7 bits, and beside them 8, at which kernels of x86 processors
without VNNI saturate; what rounding alone costs is told by the same file in float arithmetic, as
its operations stand there, not fused. Size and speed: also untrained networks, whose kernels run
no faster or slower for it. Times are ratios of medians, both sides interleaved in one process on
one thread.

    DOUBLURE_DATA=... python benchmarks/int8.py
    DOUBLURE_DATA=... python benchmarks/int8.py --speeds    # anew, in the rows that are there
"""

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.core.protocols import InputContract, Source, StreamContext
from doublure.core.seeding import from_seed
from doublure.data.datasets import Dataset, batches, open_data
from doublure.exports import int8_onnx
from doublure.exports.int8_onnx import Int8, export_int8_onnx
from doublure.exports.measure import Answer, Timing, time_forms
from doublure.exports.onnx import (
    count_quantize_nodes,
    count_weight_bytes,
    export_onnx,
    open_session,
)
from doublure.nets.builtin import build
from doublure.nets.network import Network, count_parameters
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders
from real_data import cifar10_folder, data_folder

RESULT = Path(__file__).parent / "results" / "int8.json"
SEEDS = (0, 1, 2)
TIMING = Timing(batch_size=64, rounds=15, seconds=6.0)
RGB = InputContract(
    size=(32, 32), channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), classes=10
)
GREY = InputContract(size=(8, 8), channels=1, mean=(0.3,), std=(0.38,), classes=10)
SOURCES: dict[str, Source] = {"shaders": Shaders(), "noise": Noise()}


def draw(kind: str, real: Dataset, contract: InputContract, seed: int) -> Iterator[Tensor]:
    """Yield calibration images: real ones at random places, or those of a source."""
    steps, batch_size = 8, 64
    if kind == "real":
        places = torch.randperm(len(real), generator=from_seed(seed))[: steps * batch_size]
        yield from (real.images(some).float() / 255 for some in places.split(batch_size))
        return
    context = StreamContext(
        contract=contract, device=torch.device("cpu"), batch_size=batch_size, steps=steps
    )
    stream = SOURCES[kind].open(context, None, from_seed(seed))
    yield from (stream.draw(step, None).images for step in range(steps))


def answer_of(path: Path, *, fused: bool = True) -> Answer:
    """Return how an ONNX file answers on one thread; not fused, int8 is float arithmetic."""
    session = open_session(path, 1, fused=fused)
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def predictions(answer: Answer, data: Dataset) -> Tensor:
    """Return the class that each image of `data` is given."""
    return torch.cat([answer(images.float() / 255).argmax(1) for images, _ in batches(data, 500)])


def sizes(floats: Path, rounded: Path) -> dict[str, Any]:
    """Return what the two files weigh."""
    models = {"float32": onnx.load(floats), "int8": onnx.load(rounded)}
    weights = {name: count_weight_bytes(model) for name, model in models.items()}
    return {
        "bytes": {"float32": floats.stat().st_size, "int8": rounded.stat().st_size},
        "bytes_ratio": rounded.stat().st_size / floats.stat().st_size,
        "weight_bytes_ratio": weights["int8"] / weights["float32"],
        "quantize_nodes": count_quantize_nodes(models["int8"]),
    }


def speeds(network: Network, floats: Path, rounded: Path) -> dict[str, float]:
    """Return how many times faster than float32 ONNX the others are."""

    def eager(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = network(images)
        return logits

    contract = network.contract
    probe = torch.rand(64, contract.channels, *contract.size, generator=from_seed(0))
    forms = {"float32": answer_of(floats), "int8": answer_of(rounded), "torch": eager}
    pace = time_forms(forms, probe, TIMING)
    base = pace["float32"]
    return {
        "int8_one_image": base.latency_ms / pace["int8"].latency_ms,
        "int8_in_batches": pace["int8"].images_per_second / base.images_per_second,
        "torch_one_image": base.latency_ms / pace["torch"].latency_ms,
        "torch_in_batches": pace["torch"].images_per_second / base.images_per_second,
    }


def untrained(name: str, folder: Path) -> dict[str, Any]:
    """Return sizes and speeds of a network that has not learned anything."""
    torch.manual_seed(0)
    network = Network(build(name, classes=10), RGB).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # As after training, no two constants are equal; the file would keep one of them.
            for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5)
    floats, rounded = folder / "float.onnx", folder / "int8.onnx"
    export_onnx(network, floats)
    export_int8_onnx(floats, rounded, [torch.rand(64, 3, 32, 32)], Int8())
    row = {"network": name, "parameters": count_parameters(network)}
    row |= sizes(floats, rounded) | {"speed": speeds(network, floats, rounded)}
    print(f"{name}: {row['bytes_ratio']:.3f} of the bytes, {row['speed']}")
    return row


def trained(
    name: str,
    network: Network,
    train: Dataset,
    test: Dataset,
    trials: list[tuple[str, Int8]],
    folder: Path,
) -> dict[str, Any]:
    """Return sizes, speeds and accuracies of a network that has learned something."""
    floats, rounded = folder / "float.onnx", folder / "int8.onnx"
    export_onnx(network, floats)
    if not trials:
        export_int8_onnx(floats, rounded, draw("shaders", train, network.contract, 0), Int8())
        return {"network": name, "speed": speeds(network, floats, rounded)}
    assert test.labels is not None
    expected = predictions(answer_of(floats), test)
    accuracy = float((expected == test.labels).float().mean())
    row: dict[str, Any] = {
        "network": name,
        "parameters": count_parameters(network),
        "test_images": len(test),
        "float32_accuracy": accuracy,
        "calibrated": [],
    }
    for kind, settings in trials:
        points, agreements = [], []
        for seed in SEEDS:
            images = draw(kind, train, network.contract, seed)
            export_int8_onnx(floats, rounded, images, settings)
            found = predictions(answer_of(rounded), test)
            points.append(100 * (float((found == test.labels).float().mean()) - accuracy))
            agreements.append(float((found == expected).float().mean()))
        unfused = predictions(answer_of(rounded, fused=False), test)
        row["calibrated"].append(
            {
                "images": kind,
                "settings": asdict(settings),
                "accuracy_points": points,
                "mean_points": statistics.mean(points),
                "spread_points": statistics.stdev(points),
                "agreement": statistics.mean(agreements),
                "last_agreement": agreements[-1],
                "last_agreement_by_rounding": float((unfused == expected).float().mean()),
            }
        )
        bits = 7 if settings.reduce_range else 8
        print(
            f"{name} ({accuracy:.2%}), {kind} {settings.method}, weights of {bits} bits: "
            f"{statistics.mean(points):+.2f} points, agreement {statistics.mean(agreements):.2%}",
            flush=True,
        )
    export_int8_onnx(floats, rounded, draw("shaders", train, network.contract, 0), Int8())
    row |= sizes(floats, rounded) | {"speed": speeds(network, floats, rounded)}
    print(f"{name}: {row['bytes_ratio']:.3f} of the bytes, {row['speed']}", flush=True)
    return row


def learn_digits(name: str, train: Dataset, epochs: int) -> Network:
    """Return a built-in network trained on digits."""
    torch.manual_seed(0)
    network = Network(build(name, classes=10, channels=1, size=(8, 8)), GREY).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    steps = epochs * (len(train) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng = from_seed(0)
    assert train.labels is not None
    for _ in range(steps):
        places = torch.randint(len(train), (64,), generator=rng)
        images = train.images(places).float() / 255
        loss = F.cross_entropy(network(images), train.labels[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def checkpoint(name: str, file: str) -> Network:
    """Return a public CIFAR-10 network."""
    weights = str(data_folder() / "cifar10-resnet" / file)
    said = {"mean": RGB.mean, "std": RGB.std, "size": RGB.size, "classes": 10}
    return load(NetworkRef(ref=f"builtin/{name}", weights=weights, **said)).eval()


def measure(accuracies: bool) -> list[dict[str, Any]]:
    """Return the row of every network; without accuracies, its name and speeds alone."""
    rows = []
    minmax, percentile, eight = Int8(), Int8(method="percentile"), Int8(reduce_range=False)
    everywhere = [("real", minmax), ("shaders", minmax), ("noise", minmax), ("shaders", eight)]
    with_percentile = [*everywhere, ("real", percentile)]
    if not accuracies:
        everywhere = with_percentile = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts = [open_data(cifar10_folder(), RGB, split=part) for part in ("train", "test")]
        for name, file, trials in (
            ("resnet20", "resnet20-12fca82f.th", with_percentile),
            ("resnet56", "resnet56-4bfd9763.th", everywhere),
        ):
            rows.append(trained(name, checkpoint(name, file), *parts, trials, folder))
        parts = [open_data("builtin/digits", GREY, split=part) for part in ("train", "test")]
        for name, epochs in (("convnet-16", 40), ("vit-small", 12)):
            network = learn_digits(name, parts[0], epochs if accuracies else 1)
            rows.append(trained(name, network, *parts, everywhere, folder))
        with mock.patch.object(int8_onnx, "_FLOAT_ONLY", frozenset()):
            full = "vit-small, its residual stream rounded too"
            rows.append(trained(full, network, *parts, everywhere, folder))
        rows += [
            untrained(name, folder)
            for name in ("vgg8", "wrn16-2", "mobilenetv2", "mobilenetv2-0.5", "shufflenetv2")
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speeds", action="store_true", help="anew, in the rows that are there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(not given.speeds)
    if given.speeds:
        known = json.loads(RESULT.read_text())
        speed_of = {row["network"]: row["speed"] for row in rows}
        rows = [row | {"speed": speed_of[row["network"]]} for row in known["rows"]]
    packages = ("torch", "numpy", "onnx", "onnxruntime")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    result = {
        "question": __doc__.splitlines()[0],
        "seeds": SEEDS,
        "threads": 1,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "vnni": torch.cpu._is_vnni_supported(),
        "timing": asdict(TIMING),
        "versions": versions,
        "rows": rows,
    }
    if given.speeds and (known["processor"], known["vnni"]) != (
        result["processor"],
        result["vnni"],
    ):
        raise SystemExit("the rows are of another processor; measure everything anew")
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
