"""Do small BatchNorm scales help, after how many updates, and is a learned normalisation as good?

Davis and Frank, arXiv:2110.13989, against the same network with scales of 1. In all arms scales,
shifts and biases do not decay; each arm has a rate of its own, chosen at the table's length with
one seed on images that neither train nor judge. Arms of a seed share weights and order of images.

    digits   builtin/digits: 300 to train, 997 to choose rates, 500 to judge; convnet-8, batch 32
    cifar10  averaged to 16 x 16, mirrored: 45,000, 5,000 and 10,000; resnet8, batch 64

    python benchmarks/batch_norm.py digits rates table normalisation curve widths
    DOUBLURE_DATA=... python benchmarks/batch_norm.py cifar10 rates table curve

Parts: `rates` chooses; `table` holds all arms against "standard"; `curve` holds a few against it
over the number of updates; `widths` does for other networks; `normalisation` compares a learned
mean and std with told ones, on images as they are and on 0.3 x + 0.4; `mechanism` is exact.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.protocols import InputContract, Rule
from doublure.core.seeding import child_seed, from_seed
from doublure.data.class_folders import find_split
from doublure.data.datasets import Dataset, open_data
from doublure.data.digits import digits
from doublure.engine.fit import FitSettings
from doublure.engine.optimizers import SGD
from doublure.engine.parameter_groups import undecayed_vectors
from doublure.engine.recipe import Stage
from doublure.engine.schedules import Cosine
from doublure.engine.stage_opening import open_stage
from doublure.nets.batchnorm_init import rescale_batchnorm_
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.hard_labels import HardLabels
from doublure.rules.learned_normalisation import LearnedNormalisation
from doublure.sources.augmentation import Augmentation, Augmented
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.evaluation import evaluate
from experiments import Table, clock, of_one_host
from real_data import cifar10_folder, scratch_folder
from significance import paired_test

MIRRORED = Augmentation(crop_area=(1.0, 1.0), turn=0.0, num_operations=0)
RATES = (0.03, 0.1, 0.3, 1.0)
GAIN, SHIFT = 0.3, 0.4


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How BatchNorm begins and learns.

    Args:
        scale: that the scales begin with.
        rate: factor on their learning rate; 0 holds them.
        head: factor on the weights of the last layer.
        learned: whether mean and std are learned.
    """

    name: str
    scale: float = 1.0
    rate: float = 1.0
    head: float = 1.0
    learned: bool = False


ARMS = (
    Arm(name="standard"),
    Arm(name="rate / 100", rate=0.01),
    Arm(name="scale 0.5, rate / 100", scale=0.5, rate=0.01),
    Arm(name="scale 0.1, rate / 100", scale=0.1, rate=0.01),
    Arm(name="scale 0.1", scale=0.1),
    Arm(name="scale 0.1, held", scale=0.1, rate=0.0),
    Arm(name="head x 0.1", head=0.1),
    Arm(name="revisited", scale=0.1, rate=0.01, learned=True),
)
STANDARD, *OTHERS = ARMS
REVISITED = ARMS[-1]
LEARNED = Arm(name="standard, learned normalisation", learned=True)
CURVE = ("standard", "scale 0.5, rate / 100", "revisited")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One data set and how networks are trained on it."""

    net: str
    batch_size: int
    steps: int
    seeds: int
    curve: tuple[tuple[int, int], ...]
    widths: tuple[str, ...] = ()
    mirrored: bool = False


SETTINGS = {
    "digits": Setting(
        net="convnet-8",
        batch_size=32,
        steps=1000,
        seeds=10,
        # Updates, and how many seeds.
        curve=((125, 5), (250, 5), (500, 5), (1000, 5), (2000, 5), (4000, 5), (16000, 2)),
        widths=("convnet-2", "convnet-32", "resnet8"),
    ),
    "cifar10": Setting(
        net="resnet8",
        batch_size=64,
        steps=1000,
        seeds=3,
        curve=((500, 3), (1000, 3), (2000, 2), (4000, 1), (8000, 1)),
        mirrored=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the parts of a data set lie, as files, and what a network takes of them."""

    folder: Path
    contract: InputContract

    def spec(self, part: str, *, changed: bool = False) -> str:
        return str(self.folder / f"{part}{'-changed' if changed else ''}.npz")

    def opened(self, part: str, *, changed: bool = False) -> Dataset:
        return open_data(self.spec(part, changed=changed), self.contract)


def main() -> None:
    parts = {
        "mechanism": mechanism,
        "rates": choose_rates,
        "table": compare_arms,
        "normalisation": compare_normalisations,
        "curve": draw_curve,
        "widths": compare_widths,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("parts", nargs="+", choices=parts)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = digits_data() if given.data == "digits" else cifar10_data()
    table = Table("batch_norm", __doc__.splitlines()[0], {})
    for part in given.parts:
        parts[part](table, given.data, data)
    for row in tests(table):
        if row["data"] == given.data:
            print(
                f"{row['data']} {row['part']} {row['net']} {row['steps']:6} {row['arm']:32} "
                f"{row['accuracy']:6.2%} {100 * row['mean']:+6.2f} ({100 * row['low']:+.2f} to "
                f"{100 * row['high']:+.2f}) p {row['p']:.3g} n={row['pairs']} {row['note']}"
            )


def digits_data() -> Data:
    """Return the digits, of whose training part most only choose."""
    (pixels, labels), (judged, truth) = digits("train"), digits("test")
    order = torch.randperm(len(pixels), generator=from_seed(child_seed(0, "split"))).numpy()
    few, rest = order[:300], order[300:]
    found = {
        "train": (pixels[few], labels[few]),
        "choice": (pixels[rest], labels[rest]),
        "test": (judged, truth),
    }
    return written("batch-norm-digits", found)


def cifar10_data() -> Data:
    """Return CIFAR-10 averaged to 16 x 16; every tenth training image only chooses."""
    folder = scratch_folder() / "batch-norm-cifar10"
    if (folder / "test.npz").exists():
        return opened(folder)
    whole = InputContract(size=(32, 32), channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, classes=10)
    read = {
        split: open_data(find_split(cifar10_folder(), split), whole, labels=True)
        for split in ("train", "test")
    }
    halves, labels = {}, {}
    for split, dataset in read.items():
        images = dataset.images(torch.arange(len(dataset))).float()
        pooled = nn.functional.avg_pool2d(images, 2).round().byte()
        halves[split], labels[split] = pooled.permute(0, 2, 3, 1).numpy(), dataset.labels
    # Files are in the order of their classes, so that each class gives a tenth.
    chosen = np.arange(len(halves["train"])) % 10 == 0
    found = {
        "train": (halves["train"][~chosen], labels["train"][~chosen]),
        "choice": (halves["train"][chosen], labels["train"][chosen]),
        "test": (halves["test"], labels["test"]),
    }
    return written("batch-norm-cifar10", found)


def written(name: str, parts: dict[str, tuple[np.ndarray, torch.Tensor]]) -> Data:
    """Write the parts, and each with its pixels changed, and return where."""
    folder = scratch_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    for part, (pixels, labels) in parts.items():
        changed = np.rint(GAIN * pixels + SHIFT * 255).astype(np.uint8)
        np.savez(folder / f"{part}-changed.npz", x=changed, y=labels.numpy())
        np.savez(folder / f"{part}.npz", x=pixels, y=labels.numpy())
    return opened(folder)


def opened(folder: Path) -> Data:
    with np.load(folder / "train.npz") as arrays:
        pixels = arrays["x"] / 255
    contract = InputContract(
        size=pixels.shape[1:3],
        channels=pixels.shape[3],
        mean=tuple(pixels.mean((0, 1, 2)).tolist()),
        std=tuple(pixels.std((0, 1, 2)).tolist()),
        classes=10,
    )
    return Data(folder=folder, contract=contract)


def beginning(arm: Arm, net: str, contract: InputContract, seed: int) -> Network:
    """Return the network before step 0; the draws depend on the seed alone."""
    rng = from_seed(child_seed(seed, "student"))
    network = load(NetworkRef(ref=f"builtin/{net}"), like=contract, rng=rng)
    rescale_batchnorm_(network, arm.scale)
    head = network.body.linear
    with torch.no_grad():
        head.weight.mul_(arm.head)
        head.bias.zero_()
    if arm.rate == 0:
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.weight.requires_grad_(False)
    return network


def trained(
    arm: Arm,
    name: str,
    data: Data,
    *,
    seed: int,
    steps: int,
    rate: float,
    net: str = "",
    changed: bool = False,
) -> tuple[Network, dict[str, Any]]:
    """Return a network and its row, without a score."""
    setting = SETTINGS[name]
    network = beginning(arm, net or setting.net, data.contract, seed)
    groups = undecayed_vectors(network, batchnorm_rate=arm.rate or 1.0)
    fit = FitSettings(
        steps=steps,
        batch_size=setting.batch_size,
        learning_rate=rate,
        optimizer=SGD(nesterov=False),
        weight_decay=1e-4,
        schedule=Cosine(warmup=0.0),
        groups=groups,
    )
    rules: tuple[Rule, ...] = (LearnedNormalisation(scale=arm.scale),) if arm.learned else ()
    shown = Surrogate(data=data.spec("train", changed=changed), labels=True, held_out=0.0)
    source = Augmented(source=shown, augmentation=MIRRORED) if setting.mirrored else shown
    stage = Stage(source=source, objective=HardLabels(), fit=fit, rules=rules)
    began = clock()
    made = open_stage(stage, None, network, from_seed(child_seed(seed, "stage", 0)))().network
    assert isinstance(made, Network)
    scales = [layer.weight for layer in made.modules() if isinstance(layer, _BatchNorm)]
    values = torch.cat([scale.detach() for scale in scales])
    row = {"data": name, "net": net or setting.net, "arm": arm.name, "seed": seed}
    row |= {"steps": steps, "rate": rate, "seconds": clock() - began}
    row |= {"scale_mean": float(values.mean()), "scale_sd": float(values.std())}
    row |= {"mean": list(made.contract.mean), "std": list(made.contract.std)}
    return made, row


def choose_rates(table: Table, name: str, data: Data) -> None:
    """Score every arm at every rate once, on images that judge nothing."""
    setting = SETTINGS[name]
    arms = ARMS if name == "digits" else [arm for arm in ARMS if arm.name in CURVE]
    for arm in arms:
        for rate in RATES:
            key = {"part": "rates", "data": name, "arm": arm.name, "rate": rate}
            if table.has(**key):
                continue
            made, row = trained(arm, name, data, seed=100, steps=setting.steps, rate=rate)
            score = evaluate(made, data.opened("choice"))
            keep(table, row | key | {"accuracy": score.accuracy})


def rate_of(table: Table, name: str, arm: str) -> float:
    """Return the rate that was chosen for an arm: the best, the smaller one of equals."""
    rows = [
        row for row in table.rows if (row["part"], row["data"], row["arm"]) == ("rates", name, arm)
    ]
    if not rows:
        raise SystemExit(f"no rate of {arm} was chosen on {name}; run the part rates first")
    best: float = max(rows, key=lambda row: (row["accuracy"], -row["rate"]))["rate"]
    return best


def compare(
    table: Table, part: str, name: str, data: Data, arm: Arm, seed: int, **how: Any
) -> None:
    """Add the row of one run, judged on the test images, unless it is there."""
    steps, net = how["steps"], how.get("net", SETTINGS[name].net)
    key = {"part": part, "data": name, "net": net, "arm": arm.name, "seed": seed, "steps": steps}
    if table.has(**key):
        return
    made, row = trained(arm, name, data, seed=seed, **how)
    score = evaluate(made, data.opened("test"))
    keep(table, row | key | {"accuracy": score.accuracy, "count": score.count})


def keep(table: Table, row: dict[str, Any]) -> None:
    table.add({"agreement": 0.0, **row}, ("part", "data", "net", "steps", "arm"))
    table.extend(("part", "data", "net", "steps", "arm"), tests=tests(table))
    told = f"{row['part']} {row['data']} {row['net']} {row['arm']} seed {row['seed']}"
    print(f"{told} {row['steps']} at {row['rate']}: {row['accuracy']:.2%}", flush=True)


def compare_arms(table: Table, name: str, data: Data) -> None:
    """All arms at one length, over the seeds, each at the rate chosen for it."""
    setting = SETTINGS[name]
    arms = ARMS if name == "digits" else [arm for arm in ARMS if arm.name in CURVE]
    for seed in range(setting.seeds):
        for arm in arms:
            rate = rate_of(table, name, arm.name)
            compare(table, "table", name, data, arm, seed, steps=setting.steps, rate=rate)


def draw_curve(table: Table, name: str, data: Data) -> None:
    """A few arms at many lengths."""
    arms = [arm for arm in ARMS if arm.name in CURVE]
    for steps, seeds in SETTINGS[name].curve:
        for seed in range(seeds):
            for arm in arms:
                rate = rate_of(table, name, arm.name)
                compare(table, "curve", name, data, arm, seed, steps=steps, rate=rate)


def compare_widths(table: Table, name: str, data: Data) -> None:
    """The published setting in other networks."""
    setting = SETTINGS[name]
    for net in setting.widths:
        for seed in range(3):
            for arm in (STANDARD, REVISITED):
                how = {"steps": setting.steps, "rate": rate_of(table, name, arm.name), "net": net}
                compare(table, "widths", name, data, arm, seed, **how)


def compare_normalisations(table: Table, name: str, data: Data) -> None:
    """Is a learned mean and std as good as a told one, also where the pixels have changed?"""
    setting = SETTINGS[name]
    rate = rate_of(table, name, STANDARD.name)
    table = Table("batch_norm_input", compare_normalisations.__doc__ or "", {})
    for seed in range(setting.seeds):
        for arm in (STANDARD, LEARNED):
            for changed in (False, True):
                label = f"{'learned' if arm.learned else 'told'}{', changed' if changed else ''}"
                key = {"part": "normalisation", "data": name, "arm": label, "seed": seed}
                if table.has(**key):
                    continue
                how = {"seed": seed, "steps": setting.steps, "rate": rate, "changed": changed}
                made, row = trained(arm, name, data, **how)
                here = evaluate(made, data.opened("test", changed=changed))
                other = evaluate(made, data.opened("test", changed=not changed))
                scores = {"accuracy": here.accuracy, "count": here.count}
                keep(table, row | key | scores | {"on_the_others": other.accuracy})


def mechanism(table: Table, name: str, data: Data) -> None:
    """Ratios to scale 1 at step 0, without eps and in float64: logits and gradients by kind."""
    images = data.opened("train").images(torch.arange(32)).double() / 255
    ours = {scale: at_step_0(name, data, images, scale) for scale in (1.0, 0.5, 0.1)}
    found = []
    for scale in (0.5, 0.1):
        ratios = {kind: (ours[scale][kind] / ours[1.0][kind]) for kind in ("logits", *_KINDS)}
        row = {"data": name, "net": SETTINGS[name].net, "scale": scale}
        row |= {kind: [float(r.min()), float(r.max())] for kind, r in ratios.items()}
        found.append(row)
        print(row)
    others = [row for row in table.head.get("mechanism", []) if row["data"] != name]
    table.extend(("part", "data", "net", "steps", "arm"), mechanism=[*others, *found])


_KINDS = ("convolutions and head", "gamma", "beta")


def at_step_0(name: str, data: Data, images: torch.Tensor, scale: float) -> dict[str, Any]:
    """Return the norms of logits, image by image, and of gradients of a linear loss, by layer."""
    network = beginning(replace(STANDARD, scale=scale), SETTINGS[name].net, data.contract, 0)
    network.double().train()
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.eps = 1e-14
    logits = network(images)
    direction = torch.randn(logits.shape, dtype=logits.dtype, generator=from_seed(1))
    (logits * direction).sum().backward()
    norms: dict[str, list[torch.Tensor]] = {kind: [] for kind in _KINDS}
    for layer in network.modules():
        scales = isinstance(layer, _BatchNorm)
        for part, parameter in layer.named_parameters(recurse=False):
            kind = ("gamma" if part == "weight" else "beta") if scales else _KINDS[0]
            if scales or part == "weight":  # the head's bias is no part of the claim
                assert parameter.grad is not None
                norms[kind].append(parameter.grad.norm())
    return {"logits": logits.detach().norm(dim=1)} | {k: torch.stack(n) for k, n in norms.items()}


def tests(table: Table) -> list[dict[str, Any]]:
    """Return every arm against the baseline of its part, paired by seed."""
    groups: dict[tuple[Any, ...], dict[str, dict[int, float]]] = {}
    for row in of_one_host(table.rows):
        if row["part"] != "rates":
            group = groups.setdefault(tuple(row[k] for k in ("data", "part", "net", "steps")), {})
            group.setdefault(row["arm"], {})[row["seed"]] = row["accuracy"]
    found = []
    for (data, part, net, steps), arms in groups.items():
        baseline = arms.get("told" if part == "normalisation" else STANDARD.name, {})
        for arm, scores in arms.items():
            seeds = sorted(scores.keys() & baseline.keys())
            if len(seeds) > 1 and scores is not baseline:
                test = paired_test([scores[s] for s in seeds], [baseline[s] for s in seeds])
                row = {"data": data, "part": part, "net": net, "steps": steps, "arm": arm}
                mean = sum(scores[s] for s in seeds) / len(seeds)
                found.append(row | {"accuracy": mean, **vars(test)})
    return found


if __name__ == "__main__":
    main()
