from collections.abc import Callable
from pathlib import Path

import pytest

from doublure.data.own_files import RunFolderError
from doublure.reports.record import RunRecord, read_run
from tests.reports.conftest import Files, WriteRun, samples, summary, whole_run

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
    assert record.optimisation_path is not None
    assert record.optimisation_path.iterations[-1] == 2000
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
