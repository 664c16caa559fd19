import numpy as np
import pytest

from doublure.data.own_files import RunFolderError
from doublure.reports.page import write_report
from doublure.reports.picture_rows import PICTURE_ROWS, picture_rows_bytes, read_picture_rows

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 12, 3), dtype=np.uint8)
COLUMNS = ("image", "student", "truth")


def test_rows_come_back_as_they_were_written(tmp_path):
    path = tmp_path / PICTURE_ROWS
    assert read_picture_rows(path) is None
    path.write_bytes(picture_rows_bytes(COLUMNS, IMAGES))
    found = read_picture_rows(path)
    assert found is not None
    assert found.columns == COLUMNS
    assert np.array_equal(found.images, IMAGES)


def test_a_page_shows_every_picture_of_every_row(tmp_path):
    (tmp_path / PICTURE_ROWS).write_bytes(picture_rows_bytes(COLUMNS, IMAGES))
    (tmp_path / "summary.json").write_text("{}")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("data:image/") == 6
    assert 'alt="truth 2"' in page


@pytest.mark.parametrize(
    ("columns", "images"),
    [(("image",), IMAGES), (COLUMNS, IMAGES.astype(np.float32)), (COLUMNS, IMAGES[..., :1])],
)
def test_other_arrays_are_refused(columns, images, tmp_path):
    (tmp_path / PICTURE_ROWS).write_bytes(picture_rows_bytes(columns, images))
    with pytest.raises(RunFolderError, match=r"picture_rows.npz: images must be uint8 \(rows, "):
        read_picture_rows(tmp_path / PICTURE_ROWS)
