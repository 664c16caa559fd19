"""What a generator shows in the course of its game with a student."""

import torch
from drawing import context, digits_teacher, label, picture, plain, tile

from doublure.core.protocols import Batch
from doublure.core.seeding import from_seed
from doublure.engine.distill import open_distillation
from doublure.engine.fit import FitSettings, fit
from doublure.engine.optimizers import SGD
from doublure.engine.schedules import Cosine
from doublure.nets.generators import GeneratorPlan
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.logit_l1 import LogitL1
from doublure.sources.dfad import DFAD

COLUMNS, STEPS = 10, 400
SHOWN = (0, 100, 399)


def main() -> None:
    teacher = digits_teacher()
    student = load(NetworkRef(ref="builtin/convnet-8"), like=teacher.contract, rng=from_seed(0))
    settings = FitSettings(
        steps=STEPS, batch_size=64, optimizer=SGD(nesterov=False), schedule=Cosine(warmup=0.0)
    )
    stream, loss = open_distillation(
        student,
        teacher,
        DFAD(generator=GeneratorPlan(width=16)),
        LogitL1(),
        settings=settings,
        context=context(teacher.contract, 64, steps=STEPS),
        rng=from_seed(0),
    )
    rows: dict[str, torch.Tensor] = {}
    draw = stream.draw

    def seen(step: int, network: torch.nn.Module | None) -> Batch:
        batch = draw(step, network)
        if step in SHOWN:
            rows[f"step {step}"] = batch.images[:COLUMNS].clone()
        return batch

    stream.draw = seen  # type: ignore[method-assign]
    fit(student, stream, loss, settings=settings, rng=from_seed(0))
    with picture("dfad", 64 * len(rows), colours=64, scale=1.2) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, images) in zip(grid, rows.items(), strict=True):
            for axes, image in zip(row, images, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
