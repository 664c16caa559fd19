"""Does the audit of quantization find a planted fault by itself, and is it silent without one?

Three versions of a network with the same answers in float: `benign`, as it is; `planted`, in which
a few channels between two layers are made 64 times larger and the weights that read them 64 times
smaller (reverse equalisation, exact: a power of two); `twin`, the planted one equalised. Inputs of
layers have few bits with the range of each image, weights have 8. The policy gives few bits to the
layers that read the planted channels and 8 to the others; random policies cost as much.

The audit sees one half of the images, without labels. Accuracy is of the other half.

`alarms`: audits of networks with no planted fault, five architectures and ten seeds on digits.

    DOUBLURE_DATA=... python benchmarks/worst_case_quantization.py pairs --seeds 0 1 2
    python benchmarks/worst_case_quantization.py alarms
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cifar10 import public_teacher
from doublure.audits.bit_policies import draw_policies
from doublure.audits.worst_case_quantization import WorstCaseQuantization, find_worst_case
from doublure.compress.equalisation import Pair, equalise, find_pairs, pair_ranges, rescale_
from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.compress.sensitivity import LayerBits
from doublure.core.seeding import child, from_seed
from doublure.data.datasets import open_data
from doublure.nets.network import Network
from doublure.networks import load
from doublure.verbs.train import train
from experiments import RESULTS, clock, provenance, versions
from real_data import cifar10_folder

# Networks with the same bits everywhere but for the planted layers; random policies of that cost.
GAIN, LOW, HIGH, DRAWN = 64.0, 4, 8, 50
BITS = (LOW, 5, 6, HIGH)
PUBLIC, TRAINED = ("resnet20", "resnet56"), ("vgg8", "mobilenetv2-0.25")
BENIGN = ("convnet-8", "convnet-16", "vgg8", "wrn16-1", "mobilenetv2-0.25")
STEPS = 300
AUDIT = WorstCaseQuantization(bits=BITS, mean_bits=6.0, policies=40, trials=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=("pairs", "alarms"))
    parser.add_argument("--nets", nargs="+", default=[*PUBLIC, *TRAINED])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=400, help="of the test split")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = Results({"images": given.images, "gain": GAIN, "low": LOW, "digits_steps": STEPS})
    with tempfile.TemporaryDirectory() as scratch:
        for net in given.nets if "pairs" in given.parts else ():
            network = opened(net, 0, scratch)
            for seed in given.seeds:
                if not results.has("pairs", net, seed):
                    pairs(results, net, network, seed, given.images)
        for net in BENIGN if "alarms" in given.parts else ():
            for seed in range(10):
                if not results.has("alarms", net, seed):
                    alarm(results, net, opened(net, seed, scratch), seed)


class Results:
    """The results file: rows are added one by one, and not run again."""

    def __init__(self, setting: dict[str, Any]) -> None:
        self.path = RESULTS / "worst_case_quantization.json"
        self.head = {"question": __doc__.splitlines()[0], "versions": versions()}
        self.head["setting"] = setting
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            self.rows = json.loads(self.path.read_text(encoding="utf-8"))["rows"]

    def has(self, part: str, net: str, seed: int) -> bool:
        return any((r["part"], r["net"], r["seed"]) == (part, net, seed) for r in self.rows)

    def add(self, *rows: dict[str, Any]) -> None:
        self.rows += [provenance() | row for row in rows]
        whole = self.head | {"rows": self.rows}
        self.path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def opened(net: str, seed: int, scratch: str) -> Network:
    """Return a network: a public one on CIFAR-10, or one trained here on digits."""
    if net in PUBLIC:
        return public_teacher(net)[1].eval()
    out = f"{scratch}/{net}-{seed}"
    train(f"builtin/{net}", "builtin/digits", out=out, steps=STEPS, seed=seed)
    return load(out).eval()


def images_of(net: str, network: Network, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return test images in [0, 1] in an order of the seed's, and labels."""
    data = str(cifar10_folder()) if net in PUBLIC else "builtin/digits"
    test = open_data(data, network.contract, split="test", labels=True)
    assert test.labels is not None
    order = torch.randperm(len(test), generator=from_seed(seed))[:count]
    return test.images(order).float() / 255, test.labels[order]


def planted(network: Network, chosen: Sequence[Pair]) -> Network:
    """Return the same function, with a large channel between the layers of each pair."""
    made = copy.deepcopy(network)
    with torch.no_grad():
        for pair in chosen:
            ranges = pair_ranges(made.body, pair)[0]
            scales = torch.ones_like(ranges)
            scales[int(ranges.argmax())] = 1 / GAIN
            rescale_(made.body, pair, scales)
    return made


def pairs(results: Results, net: str, network: Network, seed: int, count: int) -> None:
    """Add the rows of the three versions of a network."""
    images, labels = images_of(net, network, count, seed)
    half = len(images) // 2
    rng = from_seed(seed)
    found = find_pairs(network, images)
    few = max(1, len(found) // 9)
    chosen = [found[i] for i in torch.randperm(len(found), generator=rng)[:few].tolist()]
    fault = planted(network, chosen)
    versions_of = {"benign": network, "planted": fault, "twin": equalise(fault, images)[0]}
    readers = {pair.second for pair in chosen}
    rows = []
    for version, made in versions_of.items():
        began = clock()
        stepping = LayerBits(
            made, images[:half], BITS, PostTrainingQuantization(ranges="dynamic"), weight_bits=8
        )
        layers = stepping.layers

        def accuracy(policy: Sequence[int], stepping: LayerBits = stepping) -> float:
            right = stepping.answers(policy, images[half:]).argmax(-1) == labels[half:]
            return right.double().mean().item()

        policy = tuple(LOW if name in readers else HIGH for name in layers)
        drawn = draw_policies(DRAWN, len(layers), BITS, sum(policy), child(rng, "random"))
        random = [accuracy(one) for one in drawn]
        audit = find_worst_case(made, images[:half], AUDIT, child(rng, "audit"))
        row = {
            "part": "pairs", "net": net, "seed": seed, "version": version,
            "planted_layers": sorted(readers), "mean_bits": sum(policy) / len(policy),
            "float": accuracy((32,) * len(layers)), "uniform_8": accuracy((HIGH,) * len(layers)),
            "policy": accuracy(policy), "random_mean": sum(random) / DRAWN,
            "random_least": min(random), "verdict": audit.verdict,
            "vulnerable": list(audit.vulnerable), "audit_worst": audit.worst,
            "repair": audit.repair, "cpu_seconds": clock() - began,
        }  # fmt: skip
        rows.append(row)
        lost = 100 * (row["float"] - row["policy"])
        print(
            f"{net} seed {seed} {version}: float {row['float']:.1%}, the policy loses {lost:.1f}, "
            f"random {100 * (row['float'] - row['random_mean']):.1f}; {audit.verdict}, "
            f"{len(readers & set(audit.vulnerable))} of {len(readers)} named",
            flush=True,
        )
    results.add(*rows)


def alarm(results: Results, net: str, network: Network, seed: int) -> None:
    """Add the row of the audit of a network that nothing was planted in."""
    images, labels = images_of(net, network, 256, seed)
    audit = find_worst_case(network, images, AUDIT, from_seed(seed), labels)
    row = {
        "part": "alarms", "net": net, "seed": seed, "verdict": audit.verdict,
        "vulnerable": list(audit.vulnerable), "audit_worst": audit.worst,
        "float": audit.accuracy["float"],
    }  # fmt: skip
    results.add(row)
    print(f"alarms {net} seed {seed}: {audit.verdict}, {audit.summary}", flush=True)


if __name__ == "__main__":
    main()
