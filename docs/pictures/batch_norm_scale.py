"""BatchNorm scales of a digits network, before and after a training."""

import torch
from drawing import FAINT, INK, STUDENT, picture
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.seeding import child_seed, from_seed
from doublure.data.natural import natural_contract
from doublure.engine.fit import FitSettings
from doublure.engine.parameter_groups import undecayed_vectors
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.batchnorm_init import rescale_batchnorm_
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.hard_labels import HardLabels
from doublure.sources.surrogate import Surrogate

# Scale at the beginning, and how much slower it learns.
ARMS = ((1.0, 1), (1.0, 100), (0.1, 1), (0.1, 100))


def scales(scale: float, slower: int) -> list[float]:
    """Return the scales that a training ends with."""
    contract = natural_contract("builtin/digits")
    rng = from_seed(child_seed(0, "student"))
    network = load(NetworkRef(ref="builtin/convnet-8"), like=contract, rng=rng)
    rescale_batchnorm_(network, scale)
    groups = undecayed_vectors(network, batchnorm_rate=1 / slower)
    stage = Stage(
        source=Surrogate(data="builtin/digits", labels=True, held_out=0.0),
        objective=HardLabels(),
        fit=FitSettings(steps=1000, batch_size=32, groups=groups),
    )
    made = open_stage(stage, None, network, from_seed(0))().network
    found = [m.weight.detach() for m in made.modules() if isinstance(m, _BatchNorm)]
    return torch.cat(found).tolist()


def main() -> None:
    with picture("batch_norm_scale", 200) as figure:
        for axes, (scale, slower) in zip(figure.subplots(1, 4), ARMS, strict=True):
            found = scales(scale, slower)
            axes.hist(found, bins=24, range=(0.0, max(found)), color=STUDENT)
            axes.axvline(scale, color=INK, linewidth=1)
            axes.set_title(f"{scale:g}, rate / {slower}")
            axes.set_xlim(0, 1.1 * max(found))
            axes.set_yticks([])
            axes.grid(axis="x", color=FAINT, linewidth=0.6)


if __name__ == "__main__":
    main()
