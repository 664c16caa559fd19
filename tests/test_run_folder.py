import json

import pytest
import torch

from understudy.run_folder import (
    FolderKeeper,
    Journal,
    RunFolder,
    RunFolderError,
    read_journal,
    write_json,
    write_whole,
)


def made(path) -> RunFolder:
    folder = RunFolder(path)
    folder.prepare(resume=False, overwrite=False)
    write_whole(folder.file("recipe.toml"), "seed = 0\n")
    return folder


def test_an_existing_run_is_refused_without_a_word_about_it(tmp_path):
    folder = made(tmp_path / "run")
    with pytest.raises(RunFolderError, match="exists; go on with --resume, replace it with --over"):
        folder.prepare(resume=False, overwrite=False)


def test_resume_goes_on_with_what_is_there_and_starts_where_nothing_is(tmp_path):
    assert made(tmp_path / "run").prepare(resume=True, overwrite=False) is True
    assert RunFolder(tmp_path / "new").prepare(resume=True, overwrite=False) is False


def test_overwrite_removes_a_run_but_never_another_folder(tmp_path):
    folder = made(tmp_path / "run")
    assert folder.prepare(resume=False, overwrite=True) is False
    assert not folder.file("recipe.toml").exists()
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_text("miaow")
    with pytest.raises(RunFolderError, match="is not a run; refusing to overwrite"):
        RunFolder(other).prepare(resume=False, overwrite=True)
    assert (other / "cat.jpg").exists()


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"seed": 1})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(RunFolderError, match=r"No space left; what was there before is intact"):
        write_json(path, {"seed": 2})
    assert json.loads(path.read_text()) == {"seed": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_keeper_gives_back_what_it_saved(tmp_path):
    keeper = FolderKeeper(made(tmp_path / "run"), 0)
    assert keeper.load() is None
    keeper.save({"step": 3, "weights": torch.arange(4.0)})
    state = keeper.load()
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(4.0))


def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path):
    keeper = FolderKeeper(made(tmp_path / "run"), 0)
    keeper.save({"weights": torch.arange(1000.0)})
    keeper.path.write_bytes(keeper.path.read_bytes()[:700])
    with pytest.raises(RunFolderError, match=r"is damaged .*start afresh with --overwrite"):
        keeper.load()


def test_a_journal_is_cut_back_to_the_checkpoint(tmp_path):
    folder = made(tmp_path / "run")
    journal = Journal(folder, 0)
    for step in (10, 20, 30):
        journal({"step": step, "loss": 1.0})
    journal.close()
    with folder.file("metrics.jsonl").open("a") as file:
        file.write('{"stage": 0, "st')
    Journal(folder, 0, after_step=20).close()
    assert [line["step"] for line in read_journal(folder.file("metrics.jsonl"))] == [10, 20]
