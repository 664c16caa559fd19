"""How far a ResNet-8 is from its ResNet-20 at each stage: blocks left out, and repaired."""

import torch
from drawing import FAINT, STUDENT, TEACHER, context, picture, residual_digits_teacher
from torch import Tensor, nn

from doublure.compress.inherit import Inherit, copy_weights_
from doublure.core.seeding import from_seed
from doublure.nets.blocks import find_counterparts
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.sources.matched import Matched
from doublure.sources.shaders import Shaders

STAGES = ("layer1", "layer2", "layer3", "linear")


def main() -> None:
    teacher = residual_digits_teacher()
    source = Matched(source=Shaders(num_programs=64))
    stream = source.open(context(teacher.contract, 128), teacher, from_seed(0))
    batches = [stream.draw(step, None) for step in range(4)]
    seen = stream.draw(4, None).images
    dropped, repaired = (student(teacher) for _ in range(2))
    copy_weights_(dropped.body, teacher.body, find_counterparts(dropped.body, teacher.body))
    Inherit()(repaired, teacher, batches, from_seed(0))
    with picture("inherit", 170) as figure:
        axes = figure.subplots()
        rows = torch.arange(len(STAGES))
        for shift, network, colour, name in (
            (-0.2, dropped, TEACHER, "blocks left out"),
            (0.2, repaired, STUDENT, "repaired"),
        ):
            axes.barh(rows + shift, errors(network, teacher, seen), 0.38, color=colour, label=name)
        axes.set_yticks(rows, ["stage 1", "stage 2", "stage 3", "logits"])
        axes.invert_yaxis()
        axes.set_xlabel("squared error, as a share of the teacher's variance")
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_xlim(0, 1.8)
        axes.legend(loc="center right")


def student(teacher: Network) -> Network:
    """Return a fresh ResNet-8."""
    made = load(NetworkRef(ref="builtin/resnet8"), like=teacher.contract, rng=from_seed(0))
    assert isinstance(made, Network)
    return made


def errors(network: nn.Module, teacher: nn.Module, images: Tensor) -> list[float]:
    """Return how far a network's stages are from its teacher's on images of a pass of their own."""
    with (
        FeatureRecorder(freeze(network), STAGES) as ours,
        FeatureRecorder(teacher, STAGES) as theirs,
        torch.no_grad(),
    ):
        mine, taught = ours.record(images).features, theirs.record(images).features
    found = []
    for stage in STAGES:
        wanted = taught[stage].transpose(0, 1).flatten(1)
        off = (mine[stage].transpose(0, 1).flatten(1) - wanted).square().sum()
        found.append(float(off / (wanted - wanted.mean(1, keepdim=True)).square().sum()))
    return found


if __name__ == "__main__":
    main()
