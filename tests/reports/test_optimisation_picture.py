import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from doublure.reports.optimisation_picture import optimisation_picture
from doublure.reports.shown_images import OptimisationRecord
from tests.reports.conftest import optimisation_path


def record(side: int, channels: int = 3, value: int | None = None) -> OptimisationRecord:
    made = OptimisationRecord(**optimisation_path(side=side, channels=channels))
    return made if value is None else replace(made, images=np.full_like(made.images, value))


def pixels(optimisation: OptimisationRecord, names: list[str] | None = None) -> np.ndarray:
    return np.asarray(
        Image.open(io.BytesIO(optimisation_picture(optimisation, names))).convert("RGB")
    )


@pytest.mark.parametrize(("side", "shown"), [(8, 96), (32, 96), (40, 80), (224, 96)])
def test_every_image_is_shown_at_a_size_to_be_looked_at(side, shown):
    images = record(side, value=1).images
    green = np.zeros_like(images)
    green[..., 1] = 200
    points, count = images.shape[:2]
    drawn = pixels(replace(record(side), images=green))
    assert (drawn == (0, 200, 0)).all(-1).sum() == points * count * shown**2


def test_grey_images_are_shown_in_grey_on_white():
    drawn = pixels(record(8, channels=1, value=100))
    assert (drawn[0] == 255).all()
    assert (drawn == 100).all(-1).sum() == 36 * 96**2


def test_each_row_shows_one_image_and_each_column_one_point_of_its_way():
    optimisation = record(8)
    images = np.zeros_like(optimisation.images)
    images[2, 1] = (255, 0, 0)
    drawn = pixels(replace(optimisation, images=images))
    rows, columns = np.nonzero((drawn == (255, 0, 0)).all(-1))
    black_rows, black_columns = np.nonzero((drawn == 0).all(-1))
    # The second row of tiles, the third column of them.
    assert rows.min() > black_rows.min() + 96
    assert rows.max() < black_rows.min() + 3 * 96
    assert columns.min() > black_columns.min() + 2 * 96
    assert columns.max() < black_columns.min() + 4 * 96


def test_equal_records_give_equal_bytes_and_a_name_that_no_font_has_is_no_matter():
    names = ["a class of a very long name indeed", "\U0001f9a2", "$x_1$", *map(str, range(3, 10))]
    optimisation = replace(record(8), named=np.array([0, 1, 2, 3, 11, 0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert optimisation_picture(optimisation, names) == optimisation_picture(
            optimisation, names
        )
    wide, narrow = (pixels(optimisation, given).shape[1] for given in (names, None))
    assert wide > narrow
