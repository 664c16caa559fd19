"""Digits 0 to 4, then 5 to 9 without the first: what keeps the old ones?

A ConvNet of width 16 learns 0 to 4, then 5 to 9 by each version at equal steps: plain fine-tuning,
learning without forgetting, rehearsal on images of each kind there is, and the oracle that may see
the old images; the last two also without the term that sets transfer images apart from new classes.
The joint network saw all ten classes with labels from the start. Old and new test
digits are scored apart, over all ten answers; the accuracy of a row is that on all of them.

    python benchmarks/continual.py --seeds 0 1 2
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doublure.data.datasets import Part, open_data
from doublure.data.digits import DigitsSplit, digits
from doublure.nets.network import Network
from doublure.networks import load
from doublure.tasks.classification.evaluation import evaluate
from doublure.verbs.continual import continual
from doublure.verbs.train import train
from experiments import Table, print_table, summarize

ORACLE = "old images without labels"
NET, STEPS, BATCH = "builtin/convnet-16", 600, 64
# What may stand in for the old digits.
KINDS = ("shaders", "leaves", "noise", "deep-inversion", "batch-norm-statistics")


def write_parts(folder: Path) -> None:
    """Write old, new and all digits, for training and for the test."""
    splits: tuple[DigitsSplit, ...] = ("train", "test")
    for split in splits:
        pixels, labels = digits(split)
        images, names = np.asarray(pixels), labels.numpy()
        chosen = {"old": names < 5, "new": names >= 5, "all": names >= 0}
        for part, mask in chosen.items():
            np.savez(folder / f"{part}_{split}.npz", x=images[mask], y=names[mask])


def arms() -> dict[str, dict[str, Any]]:
    """Return what `continual` is asked, by arm."""
    made: dict[str, dict[str, Any]] = {
        "plain": {"strategy": "plain"},
        "lwf": {"strategy": "lwf"},
    }
    made |= {kind: {"transfer": kind} for kind in KINDS}
    apart = {"continual.separation": "0"}
    for kind in ("shaders", "deep-inversion"):
        made[f"{kind}, no separation"] = {"transfer": kind, "set": apart}
        made[f"{kind}, labels over new classes"] = {
            "transfer": kind,
            "set": {**apart, "continual.over": "new"},
        }
    return made


def apart(network: Network, folder: Path) -> dict[str, Any]:
    """Return the accuracy on all test digits, on old and on new ones."""
    data = open_data(folder / "all_test.npz", network.contract)
    assert data.labels is not None
    found: dict[str, Any] = {}
    for name, chosen in (("old", data.labels < 5), ("new", data.labels >= 5)):
        part = Part(whole=data, places=chosen.nonzero()[:, 0])
        found[f"{name}_accuracy"] = evaluate(network, part).accuracy
    score = evaluate(network, data)
    return {"accuracy": score.accuracy, "correct": score.correct, "count": score.count, **found}


def main() -> None:
    known = arms()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--name", default="continual", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"network": NET, "batch_size": BATCH, "classes": "0 to 4, then 5 to 9"}
    table = Table(given.name, __doc__.splitlines()[0], setting)
    for seed in given.seeds:
        names = [*known, ORACLE, f"{ORACLE}, no separation", "joint"]
        if all(table.has(arm=name, seed=seed, at=f"{given.steps} steps") for name in names):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_parts(folder)
            shared: dict[str, Any] = {"batch_size": BATCH, "seed": seed, "steps": given.steps}
            old = str(folder / "old_train.npz")
            train(NET, old, out=folder / "old", precision="float32", **shared)
            for name in names:
                if table.has(arm=name, seed=seed, at=f"{given.steps} steps"):
                    continue
                out = folder / "run"
                if name == "joint":
                    data = str(folder / "all_train.npz")
                    told = train(NET, data, out=out, precision="float32", overwrite=True, **shared)
                else:
                    asked = known.get(name, {"transfer": old})
                    if name == f"{ORACLE}, no separation":
                        asked = {"transfer": old, "set": {"continual.separation": "0"}}
                    told = continual(
                        str(folder / "old"),
                        str(folder / "new_train.npz"),
                        out=out,
                        overwrite=True,
                        **asked,
                        **shared,
                    )
                row = {"at": f"{given.steps} steps", "arm": name, "seed": seed}
                row |= {"steps": given.steps, "seconds": told["seconds"]}
                row |= {"agreement": told["agreement"] or 0.0, **apart(load(str(out)), folder)}
                table.add(row, ("at", "arm"))
                print(
                    f"seed {seed} {name}: old {row['old_accuracy']:.1%}, "
                    f"new {row['new_accuracy']:.1%}, all {row['accuracy']:.1%}",
                    flush=True,
                )
    print_table(summarize(table.rows, ("at", "arm")))


if __name__ == "__main__":
    main()
