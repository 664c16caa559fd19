"""The loss of a training with small steps, and which steps they are."""

from drawing import FAINT, STUDENT, TEACHER, picture

from doublure.core.protocols import InputContract
from doublure.core.seeding import child_seed, from_seed
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.hard_labels import HardLabels
from doublure.rules.pooled_filters import PooledFilters
from doublure.sources.interleaved import Interleaved
from doublure.sources.surrogate import Surrogate

CONTRACT = InputContract(size=(32, 32), channels=1, mean=(0.3,), std=(0.37,), classes=10)


def main() -> None:
    rng = from_seed(child_seed(0, "student"))
    network = load(NetworkRef(ref="builtin/convnet-4"), like=CONTRACT, rng=rng)
    shown = Surrogate(data="builtin/digits", labels=True, held_out=0.0)
    stage = Stage(
        source=Interleaved(source=shown, share=0.4),
        objective=HardLabels(),
        fit=FitSettings(steps=100, batch_size=32, log_every=1),
        rules=(PooledFilters(),),
    )
    lines: list[dict] = []
    open_stage(stage, None, network, from_seed(0))(logger=lines.append)
    with picture("interleaved", 200) as figure:
        axes = figure.subplots()
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], color=STUDENT)
        small = [line["step"] for line in lines if line["metrics"]["small_steps"]]
        axes.vlines(small, -0.35, -0.1, color=TEACHER, linewidth=1.5, label="small steps")
        axes.set_xlabel("steps")
        axes.set_ylabel("loss")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="upper right")


if __name__ == "__main__":
    main()
