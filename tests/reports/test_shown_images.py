from collections.abc import Callable

import numpy as np
import pytest

from doublure.data.own_files import RunFolderError
from doublure.reports.record import RunRecord, read_run
from tests.reports.conftest import Files, WriteRun, optimisation_path, samples, whole_run

RecordOf = Callable[[Files], RunRecord]


def test_a_truncated_archive_is_refused(write_run: WriteRun):
    folder = write_run(whole_run())
    whole = (folder / "samples.npz").read_bytes()
    (folder / "samples.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFolderError, match=r"samples.npz is not a whole .npz archive"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("images", np.zeros((2, 4, 4, 3), np.float32), r"images must be uint8"),
        ("images", np.zeros((2, 4, 4, 2), np.uint8), r"1 or 3 channels"),
        ("teacher", np.zeros((48,), np.float32), r"teacher must be float"),
        ("student", np.zeros((3, 10), np.float32), r"arrays differ in length"),
        ("histogram", np.zeros((10,), np.float32), r"histogram must be one row of integers"),
        ("histogram", np.zeros((11,), np.int64), r"arrays differ in classes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    record_of: RecordOf, name: str, array: np.ndarray, message: str
):
    with pytest.raises(RunFolderError, match=message):
        record_of(whole_run() | {"samples.npz": samples() | {name: array}})


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("images", np.zeros((6, 4, 4, 3), np.uint8), r"images must be uint8 \(points, images"),
        ("images", np.zeros((6, 6, 4, 4, 3), np.float32), r"images must be uint8"),
        ("iterations", np.arange(5), r"iterations must be integers \(6,\)"),
        ("named", np.full(6, 11), r"names 10 classes, optimisation_path.npz has class 11"),
        ("named", np.full(6, -1), r"named must be a class"),
        ("sure", np.zeros((6, 5), np.float32), r"sure must be float \(6, 6\)"),
    ],
)
def test_a_way_that_does_not_fit_is_refused(
    record_of: RecordOf, name: str, array: np.ndarray, message: str
):
    with pytest.raises(RunFolderError, match=message):
        record_of(whole_run() | {"optimisation_path.npz": optimisation_path() | {name: array}})


def test_a_way_without_its_counts_is_refused(record_of: RecordOf):
    part = {"images": optimisation_path()["images"]}
    with pytest.raises(
        RunFolderError, match=r"optimisation_path.npz has no iterations, named, sure"
    ):
        record_of(whole_run() | {"optimisation_path.npz": part})


def test_an_object_array_is_never_unpickled(write_run: WriteRun):
    folder = write_run({"summary.json": {}})
    np.savez(folder / "samples.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunFolderError, match=r"samples.npz cannot be read: .*allow_pickle"):
        read_run(folder)


def test_a_flipped_bit_is_noticed(write_run: WriteRun):
    folder = write_run(whole_run())
    whole = bytearray((folder / "samples.npz").read_bytes())
    whole[len(whole) // 2] ^= 1
    (folder / "samples.npz").write_bytes(whole)
    with pytest.raises(RunFolderError, match=r"samples.npz cannot be read: Bad CRC-32"):
        read_run(folder)
