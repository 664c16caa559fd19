from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.reports.conftest import Files, WriteRun, samples, search_path, summary, whole_run
from understudy.reports.record import RunRecord, read_run
from understudy.run_folder import RunFolderError

RecordOf = Callable[[Files], RunRecord]


def test_every_file_is_read(record_of: RecordOf):
    record = record_of(whole_run())
    assert record.name == "run"
    assert record.summary is not None
    assert record.summary.per_class is not None
    assert record.summary.per_class["0"].count == 50
    assert record.metrics is not None
    assert len(record.metrics) == 200
    assert record.samples is not None
    assert record.samples.histogram_count == 4096
    assert record.search_path is not None
    assert record.search_path.iterations[-1] == 2000
    assert record.findings is not None
    assert record.findings[0].tag == "predicted"
    assert record.exports is not None
    assert record.exports[2].quantize_nodes == 11
    assert record.recipe is not None
    assert record.manifest is not None
    assert record.num_classes == 10


@pytest.mark.parametrize("name", list(whole_run()))
def test_any_file_may_be_absent(record_of: RecordOf, name: str):
    record_of(whole_run() | {name: None})


def test_fields_that_another_verb_adds_are_no_error(record_of: RecordOf):
    record = record_of({"summary.json": {"verb": "prune", "final_terms": {"a": 1.0}}})
    assert record.summary is not None
    assert record.summary.verb == "prune"
    assert record.summary.student_accuracy is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(RunFolderError, match=r"is not a RUN folder .*--out"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", r"summary.json is not JSON: .* in line 1; run the verb again"),
        ("summary.json", '{"student_accuracy": 93.6}', r"student_accuracy: .*less than or equal"),
        ("summary.json", '{"student_accuracy": NaN}', r"student_accuracy: .*got nan"),
        ("summary.json", "[]", r"the whole file: .*got \[\]"),
        ("findings.json", '[{"name": "x", "verdict": "meh"}]', r"0.verdict: .*got 'meh'"),
        ("exports.json", '[{"bytes": 3}]', r"0.form: Field required"),
        ("manifest.json", "7", r"the whole file: .*got 7"),
        ("metrics.jsonl", '{"step": 1}\n{"loss"\n', r"not JSON in line 2"),
        ("metrics.jsonl", '{"loss": 1}\n', r"line 1 has no whole number 'step'"),
        ("samples.npz", "PK not a zip", r"not a whole .npz archive"),
        ("samples.npz", "", r"not a whole .npz archive"),
    ],
)
def test_a_corrupt_file_is_one_clear_line(write_run: WriteRun, name: str, text: str, message: str):
    folder = write_run({"recipe.toml": ""})
    (folder / name).write_text(text)
    with pytest.raises(RunFolderError, match=message) as caught:
        read_run(folder)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_is_refused(write_run: WriteRun):
    folder = write_run({"summary.json": {}})
    (folder / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RunFolderError, match=r"recipe.toml is not UTF-8"):
        read_run(folder)


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
        ("named", np.full(6, 11), r"names 10 classes, search_path.npz has class 11"),
        ("named", np.full(6, -1), r"named must be a class"),
        ("sure", np.zeros((6, 5), np.float32), r"sure must be float \(6, 6\)"),
    ],
)
def test_a_way_that_does_not_fit_is_refused(
    record_of: RecordOf, name: str, array: np.ndarray, message: str
):
    with pytest.raises(RunFolderError, match=message):
        record_of(whole_run() | {"search_path.npz": search_path() | {name: array}})


def test_a_way_without_its_counts_is_refused(record_of: RecordOf):
    part = {"images": search_path()["images"]}
    with pytest.raises(RunFolderError, match=r"search_path.npz has no iterations, named, sure"):
        record_of(whole_run() | {"search_path.npz": part})


def test_names_and_answers_must_be_of_equally_many_classes(record_of: RecordOf):
    files = whole_run() | {"samples.npz": samples(classes=7)}
    with pytest.raises(RunFolderError, match=r"names 10 classes, samples.npz has answers for 7"):
        record_of(files)


def test_more_right_than_there_were_is_refused(record_of: RecordOf):
    with pytest.raises(RunFolderError, match=r"student_correct is 501 of only 500"):
        record_of({"summary.json": summary(student_correct=501)})


def test_a_line_cut_off_by_a_kill_is_left_out_and_told(write_run: WriteRun):
    folder = write_run({"metrics.jsonl": [{"step": 1, "loss": 2.0, "note": "text"}]})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    record = read_run(folder)
    assert record.metrics == ({"step": 1.0, "loss": 2.0},)
    assert record.notes == ("The last line of metrics.jsonl was cut off and is left out.",)


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
