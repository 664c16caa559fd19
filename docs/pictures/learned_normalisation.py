"""What a network takes for mean and std of its pixels while it learns them."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from drawing import FAINT, INK, STUDENT, TEACHER, picture

from doublure.core.seeding import child_seed, from_seed
from doublure.data.digits import digits
from doublure.data.natural import natural_contract
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.hard_labels import HardLabels
from doublure.rules.learned_normalisation import LearnedNormalisation
from doublure.sources.surrogate import Surrogate

DEVIATION = LearnedNormalisation().deviation


def learned(data: str) -> list[tuple[int, float, float]]:
    """Return steps, mean and std (times what the layer answers with) of a training."""
    told = natural_contract(data)
    rng = from_seed(child_seed(0, "student"))
    network = load(NetworkRef(ref="builtin/convnet-8"), like=told, rng=rng)
    stage = Stage(
        source=Surrogate(data=data, labels=True, held_out=0.0),
        objective=HardLabels(),
        fit=FitSettings(steps=60, batch_size=32, log_every=2),
        rules=(LearnedNormalisation(scale=1.0),),
    )
    curve = [(0, 0.0, 1.0)]

    def look(line: dict) -> None:
        mean, std = network.get_submodule("input_batchnorm").normalisation
        curve.append((line["step"], float(mean), DEVIATION * float(std)))

    open_stage(stage, None, network, from_seed(0))(logger=look)
    return curve


def main() -> None:
    pixels, labels = digits("train")
    with TemporaryDirectory() as folder, picture("learned_normalisation", 200) as figure:
        changed = Path(folder) / "changed.npz"
        np.savez(changed, x=np.rint(0.3 * pixels + 0.4 * 255).astype(np.uint8), y=labels.numpy())
        both = figure.subplots(1, 2)
        for data, name, colour in (
            ("builtin/digits", "x", STUDENT),
            (str(changed), "0.3 x + 0.4", TEACHER),
        ):
            steps, *curves = zip(*learned(data), strict=True)
            told = natural_contract(data)
            for axes, curve, (true,) in zip(both, curves, (told.mean, told.std), strict=True):
                axes.axhline(true, color=INK, linewidth=1)
                axes.plot(steps, curve, color=colour, label=name)
        for axes, title in zip(both, ("mean", "std"), strict=True):
            axes.set_title(title)
            axes.set_xlabel("updates")
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
        both[1].legend(loc="upper right")


if __name__ == "__main__":
    main()
