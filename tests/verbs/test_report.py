from pathlib import Path

import pytest

from doublure.data.own_files import RunFolderError
from doublure.verbs.report import report


def test_the_page_is_rebuilt_in_the_folder_of_the_run(tmp_path: Path):
    (tmp_path / "summary.json").write_text('{"student_accuracy": 0.5, "accuracy_count": 1000}')
    path = report(tmp_path)
    assert path == tmp_path / "report.html"
    assert "The network is right on 50.0" in path.read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path):
    with pytest.raises(RunFolderError, match="is not a RUN folder"):
        report(tmp_path)
    assert not list(tmp_path.iterdir())
