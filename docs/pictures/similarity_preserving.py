"""Which of fifty images look alike to the pixels, to an untrained network, and to a teacher."""

import torch
from drawing import context, digits_teacher, picture

from doublure.core.seeding import from_seed
from doublure.nets.features import FeatureRecorder
from doublure.nets.references import NetworkRef
from doublure.nets.stages import find_stages
from doublure.networks import load
from doublure.objectives.similarity_preserving import similarities
from doublure.sources.surrogate import Surrogate

COUNT = 50


def main() -> None:
    teacher = digits_teacher()
    student = load(NetworkRef(ref="builtin/convnet-4"), like=teacher.contract, rng=from_seed(1))
    source = Surrogate(data="builtin/digits", labels=True)
    batch = source.open(context(teacher.contract, COUNT), teacher, from_seed(0)).draw(0, None)
    assert batch.labels is not None
    images = batch.images[batch.labels.argsort(stable=True)]
    shown = {"pixels": similarities(images)}
    for name, network in (("untrained", student), ("teacher", teacher)):
        layer = find_stages(network, images).ends[-1].after_activation()
        with FeatureRecorder(network.eval(), (layer.name,)) as recorder, torch.no_grad():
            shown[name] = similarities(layer.as_map(recorder.record(images).features[layer.name]))
    with picture("similarity_preserving", 190) as figure:
        for axes, (name, matrix) in zip(figure.subplots(1, 3), shown.items(), strict=True):
            axes.imshow(matrix, cmap="viridis", vmin=0)
            axes.set_title(name, loc="center")
            axes.set_xticks([])
            axes.set_yticks([])


if __name__ == "__main__":
    main()
