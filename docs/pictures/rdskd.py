"""What generators show that were trained with one, two and all three of the losses."""

from drawing import context, digits_teacher, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.nets.generators import GeneratorPlan
from doublure.sources.collapse import CollapseCheck
from doublure.sources.rdskd import RDSKD

COLUMNS, STEPS, BATCH = 10, 150, 64


def main() -> None:
    teacher = digits_teacher()
    losses = {
        "sure": {"class_diversity": 0.0, "sample_diversity": 0.0},
        "and of all classes": {"sample_diversity": 0.0},
        "and unlike": {},
    }
    with picture("rdskd", 64 * len(losses), colours=64, scale=1.2) as figure:
        grid = figure.subplots(len(losses), COLUMNS)
        for row, (name, without) in zip(grid, losses.items(), strict=True):
            source = RDSKD(
                generator=GeneratorPlan(latent=100, width=16),
                generator_steps=STEPS,
                draws_per_step=1,
                generator_batch=BATCH,
                collapse=CollapseCheck(every=0),
                **without,
            )
            place = context(teacher.contract, COLUMNS, steps=STEPS)
            images = source.open(place, teacher, from_seed(0)).draw(0, None).images
            for axes, image in zip(row, images, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
