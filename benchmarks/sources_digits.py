"""Which source of images serves a student best that never saw a digit?

The demonstration's teacher and student on scikit-learn's digits, with a teacher of its own for each
seed. Every method has its own objective, optimizer and settings; batch size, initial weights and
judges are shared, and beside every method stands the same without the term that defines it. LCW
learns, for each seed anew, from as many shader images as there are training digits, before any
count begins.

Three tables: at equal steps of the student, at equal passes of the teacher (images shown to it, and
gradients that went back to them, the answers for the student included), at equal time of one
processor thread. For the latter two a run is as long as others before it say, and is run again
where it came to more than 3 % more or less; rows that are further from it say so. They go at the
pace that `Replay` has by itself: behind 20 first batches little would be left of them for a student
of inverted images.

    python benchmarks/sources_digits.py --at steps --seeds 0 1 2 3 4
    python benchmarks/sources_digits.py --at passes --seeds 0 1 2 3 4
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from doublure.core.protocols import InputContract
from doublure.data.datasets import Dataset, open_data
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipe_file import replace_fields
from doublure.sources.noise import Noise
from doublure.sources.surrogate import Surrogate
from doublure.verbs.demo import BATCH, DATA, STEPS, STUDENT, TEACHER, TEACHER_STEPS
from doublure.verbs.synthesize import synthesize
from doublure.verbs.train import train
from doublure.verbs.train_generator import train_generator
from experiments import Arm, Setting, Table
from methods import Gauge, Length, Scale, close, fill, is_there, method_arms, source

PASSES, SECONDS = 750_000, 45.0
# Of the student, in the first runs, which tell what steps cost.
GAUGED = 400
# Half of the published width: at a quarter of the side, generators would cost more than teachers.
WIDTH = 32
# One pace for all methods that keep what they make: a batch every 50 steps behind the first 20.
# Chosen by the training split of the digits, on seeds that are in no table.
LATE = "[0.6, 0.8]"
POOL = {"every": "50", "first": "20"}
# The same where time or passes are short: as `Replay` has it, and fast-meta's published warm-up.
SHORT_POOLS = {"": {"every": "50", "first": "4"}, "fast-meta": POOL}
# Steps of either stage of LCW, as in `lcw.py`.
LCW_STEPS = 800
LCW, SET, CODES = "generator", "shaders", ("generated", "normal", "interpolated")

# What is run where a run is as long as passes or time allow.
TIMED = (
    "noise",
    "noise + attack",
    "shaders",
    "DeepInversion",
    "DeepInversion without features",
    "Adaptive DeepInversion",
    "inceptionism",
    "inceptionism without prior",
    "BN statistics",
    "BN statistics and labels",
    "DFAD",
    "DFAD with frozen generator",
    "RDSKD",
    "RDSKD without diversity",
    "RDSKD without penalty",
    "LCW",
    "LCW with normal codes",
    "the shader images that LCW learned from",
    "fast-2",
    "fast-5",
    "fast-10",
    "fast-5 with fresh generator",
)

# Each method and the same without a term of it, or what it is held against.
HELD_AGAINST = (
    ("DeepInversion", "DeepInversion without features"),
    ("Adaptive DeepInversion", "DeepInversion"),
    ("inceptionism", "inceptionism without prior"),
    ("BN statistics", "inceptionism without prior"),
    ("BN statistics and labels", "inceptionism without prior"),
    ("fast-5", "fast-5 with fresh generator"),
    ("fast-5", "fast-5 without adversary"),
    ("fast-5", "fast-5 without history"),
    ("NAYER-10", "fast-10"),
    ("DFAD", "DFAD with frozen generator"),
    ("RDSKD", "RDSKD without diversity"),
    ("RDSKD", "RDSKD without diversity of images"),
    ("RDSKD", "RDSKD without penalty"),
    ("LCW", "LCW with normal codes"),
    ("LCW", "LCW with interpolated codes"),
    ("LCW", "the shader images that LCW learned from"),
    ("LCW", "noise"),
    ("the shader images that LCW learned from", "noise"),
    ("shaders", "noise"),
    ("noise + attack", "noise"),
    ("noise", "plain noise"),
)

SCALE = Scale(
    width=WIDTH,
    batch_size=BATCH,
    # As `deep_inversion.settings_for` has it below 16 pixels.
    inversion={
        "features": "1",
        "total_variation": "0.002",
        "optimisation.iterations": "250",
        "optimisation.learning_rate": "0.1",
        "optimisation.jitter": "1",
        "optimisation.clamp": "true",
    },
    competition=1.0,
    optimisation={"optimisation.iterations": "250", "optimisation.jitter": "1"},
    # As `knowledge_within.inceptionism_for` has it at 8 pixels.
    smoothness=0.00390625,
    # One published epoch of the generator: the paper's 20 are for students of 120,000 steps.
    game={"generator_steps": "120", "draws_per_step": "1"},
    views={"shift": "1", "flip": "0"},
    pools={"": POOL},
)


def arms(folder: Path, scale: Scale = SCALE) -> dict[str, Arm]:
    """Return every arm by name.

    Args:
        folder: where `shaders_learned` puts what the arms of LCW need.
    """
    generator = str(folder / LCW)
    learned = {codes: source("lcw", {"generator": generator, "codes": codes}) for codes in CODES}
    shown = Surrogate(data=str(folder / SET))
    made = [
        Arm(name="plain noise", base=Noise(), without=("matching", "balance", "attack")),
        Arm(name="noise", base=Noise(), without=("attack",)),
        Arm(name="noise + attack", base=Noise()),
        Arm(name="shaders", without=("attack",)),
        Arm(name="shaders + attack"),
        *method_arms(scale),
        Arm(name="LCW", base=learned["generated"], without=("attack",)),
        Arm(name="LCW with normal codes", base=learned["normal"], without=("attack",)),
        Arm(name="LCW with interpolated codes", base=learned["interpolated"], without=("attack",)),
        Arm(name="the shader images that LCW learned from", base=shown, without=("attack",)),
    ]
    made.append(falling_late(made))
    return {arm.name: arm for arm in made}


def shaders_learned(contract: InputContract, seed: int, folder: Path) -> None:
    """Write as many shader images as there are training digits, and a generator of such."""
    shape: dict[str, Any] = {"size": contract.size, "channels": contract.channels}
    count = len(open_data(DATA, contract, split="train"))
    synthesize("shaders", count=count, out=folder / SET, seed=seed, **shape)
    train_generator(
        "lcw", data=str(folder / SET), out=folder / LCW, steps=LCW_STEPS, seed=seed, device="cpu"
    )


def falling_late(known: list[Arm]) -> Arm:
    """Return DFAD with a generator whose rate falls late in the run.

    The published shares are of 25,000 turns; of the 300 here they leave 60 at the full rate.
    """
    stage = next(arm.stage for arm in known if arm.name == "DFAD")
    assert stage is not None
    late = replace_fields(stage.source, {"milestones": LATE})
    return Arm(name="DFAD falling late", stage=replace(stage, source=late))


def teacher_of(seed: int, folder: Path) -> tuple[Setting, Network, Dataset]:
    """Return what the arms of a seed share: setting, teacher, judges."""
    out = folder / "teacher"
    train(TEACHER, DATA, out=out, steps=TEACHER_STEPS, batch_size=BATCH, seed=seed, device="cpu")
    setting = Setting(
        teacher=NetworkRef(ref=str(out)), student=STUDENT, batch_size=BATCH, assignments={}
    )
    teacher = load(str(out))
    return setting, teacher, open_data(DATA, teacher.contract, split="test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", choices=("steps", "passes", "seconds"), default="steps")
    parser.add_argument("--arms", nargs="+", help="by name; all at equal steps, else most")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the student, at equal steps")
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--name", default="sources_digits", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = {"pair": f"{TEACHER} -> {STUDENT}", "batch_size": BATCH, "generator_width": WIDTH}
    short = {"fast-meta": POOL, "others": SHORT_POOLS[""]}
    told |= {"pool": POOL, "pools_at_equal_passes_or_time": short}
    table = Table(given.name, __doc__.splitlines()[0], told)
    known = arms(Path())
    chosen = given.arms or (list(known) if given.at == "steps" else TIMED)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        parser.error(f"no such arms: {', '.join(unknown)}; known: {', '.join(known)}")
    asked = Length(getattr(given, given.at), given.at)
    gauge = None if given.at == "steps" else Gauge(GAUGED)
    if gauge is not None:
        gauge.learn_from(table)
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run_seed(table, chosen, seed, Path(folder), asked, gauge)
    close(table, HELD_AGAINST)


def run_seed(
    table: Table,
    chosen: Sequence[str],
    seed: int,
    folder: Path,
    asked: Length,
    gauge: Gauge | None,
) -> None:
    """Add the rows of a seed that are not there yet."""
    known = arms(folder, SCALE if gauge is None else replace(SCALE, pools=SHORT_POOLS))
    missing = [known[name] for name in chosen if not is_there(table, name, seed, asked)]
    if missing:
        setting, teacher, test = teacher_of(seed, folder)
        if any("LCW" in arm.name for arm in missing):
            shaders_learned(teacher.contract, seed, folder)
        fill(table, missing, setting, (teacher, test), seed, asked, gauge)


if __name__ == "__main__":
    main()
