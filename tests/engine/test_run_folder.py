import json

import pytest
import torch

from doublure.data.own_files import RunFolderError, part_of
from doublure.engine.run_folder import (
    FolderCheckpointer,
    MetricsFile,
    RunFolder,
    TensorBoard,
    read_metrics,
    write_json,
    write_whole,
)


def made(path) -> RunFolder:
    folder = RunFolder(path)
    assert folder.check(resume=False, overwrite=False) is False
    folder.begin(overwrite=False)
    write_whole(folder.file("recipe.toml"), "seed = 0\n")
    return folder


def test_an_existing_run_is_refused_unless_one_says_what_to_do_with_it(tmp_path):
    folder = made(tmp_path / "run")
    with pytest.raises(
        RunFolderError, match="exists; resume it with --resume, replace it with --o"
    ):
        folder.check(resume=False, overwrite=False)
    with pytest.raises(RunFolderError, match="exclude each other"):
        folder.check(resume=True, overwrite=True)


def test_no_two_processes_are_at_work_in_one_folder(tmp_path):
    folder = made(tmp_path / "run")
    second = RunFolder(folder.path)
    for resume in (True, False):
        with pytest.raises(RunFolderError, match=r"another process uses .*run; wait"):
            second.check(resume=resume, overwrite=not resume)
    folder.close()
    assert second.check(resume=True, overwrite=False) is True
    second.close()


def test_resume_goes_on_with_what_is_there_and_starts_where_nothing_is(tmp_path):
    assert made(tmp_path / "run").check(resume=True, overwrite=False) is True
    assert RunFolder(tmp_path / "new").check(resume=True, overwrite=False) is False


def test_a_run_that_was_killed_before_its_recipe_was_written_starts_again(tmp_path):
    folder = made(tmp_path / "run")
    part_of(folder.file("recipe.toml")).write_text("seed")
    folder.file("recipe.toml").unlink()
    assert folder.check(resume=True, overwrite=False) is False
    assert folder.check(resume=False, overwrite=True) is False


def test_to_look_whether_a_run_may_be_overwritten_removes_nothing(tmp_path):
    folder = made(tmp_path / "run")
    assert folder.check(resume=False, overwrite=True) is False
    assert folder.file("recipe.toml").exists()
    folder.begin(overwrite=True)
    names = sorted(item.name for item in folder.path.iterdir())
    assert names == [".doublure", ".previous", "checkpoint"]
    assert folder.earlier == folder.path / ".previous"
    assert (folder.earlier / "recipe.toml").read_text() == "seed = 0\n"
    folder.finish()
    assert folder.earlier is None


@pytest.mark.parametrize(
    "way", [{"resume": True}, {"overwrite": True}], ids=["resume", "overwrite"]
)
def test_a_folder_that_is_no_run_is_never_written_into(tmp_path, way):
    (tmp_path / "cat.jpg").write_text("miaow")
    with pytest.raises(RunFolderError, match="is not a run that doublure wrote; refusing"):
        RunFolder(tmp_path).check(**({"resume": False, "overwrite": False} | way))


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"seed": 1})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(RunFolderError, match=r"No space left; what was there before is intact"):
        write_json(path, {"seed": 2})
    assert json.loads(path.read_text()) == {"seed": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".doublure", "summary.json"]


STATE = {"step": 3, "weights": torch.arange(1000.0), "stream": {"drawn": 7}}


def test_a_keeper_gives_back_what_it_saved(tmp_path):
    checkpointer = FolderCheckpointer(made(tmp_path / "run"), 0)
    assert checkpointer.load() is None
    checkpointer.save(STATE)
    state = checkpointer.load()
    assert torch.equal(state["weights"], STATE["weights"])
    assert (state["step"], state["stream"]) == (3, {"drawn": 7})


def test_of_several_processes_the_first_writes_the_streams_of_all(tmp_path):
    folder = made(tmp_path / "run")

    def checkpointer(rank, gather=lambda _: None):
        return FolderCheckpointer(folder, 0, steps=5, rank=rank, world=2, gather=gather)

    checkpointer(1).save(STATE)
    assert checkpointer(1).load() is None
    checkpointer(0, lambda mine: [mine, {"drawn": 8}]).save(STATE)
    assert [checkpointer(rank).load()["stream"]["drawn"] for rank in (0, 1)] == [7, 8]
    with pytest.raises(RunFolderError, match="is of 2 processes, not of 1; resume with as many"):
        FolderCheckpointer(folder, 0).load()


def test_a_checkpoint_is_given_back_to_its_own_teacher_only(tmp_path):
    folder = made(tmp_path / "run")
    FolderCheckpointer(folder, 0, taught_by="one").save(STATE)
    assert FolderCheckpointer(folder, 0, taught_by="one").load()["step"] == 3
    with pytest.raises(RunFolderError, match="learned from a teacher with other weights"):
        FolderCheckpointer(folder, 0, taught_by="another").load()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_that_was_cut_short_is_named_with_the_way_out(tmp_path, share):
    checkpointer = FolderCheckpointer(made(tmp_path / "run"), 0)
    checkpointer.save(STATE)
    whole = checkpointer.path.read_bytes()
    checkpointer.path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RunFolderError, match=r"stage0.pt is damaged \(.*restart with --over"):
        checkpointer.load()


def test_a_single_changed_bit_of_a_checkpoint_is_noticed(tmp_path):
    checkpointer = FolderCheckpointer(made(tmp_path / "run"), 0)
    checkpointer.save(STATE)
    whole = bytearray(checkpointer.path.read_bytes())
    whole[whole.find(STATE["weights"].numpy().tobytes()) + 500] ^= 1
    checkpointer.path.write_bytes(whole)
    with pytest.raises(RunFolderError, match=r"is damaged \(.* has changed since it was written"):
        checkpointer.load()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_it(tmp_path, monkeypatch):
    checkpointer = FolderCheckpointer(made(tmp_path / "run"), 0)
    checkpointer.save(STATE)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(
        RunFolderError, match=r"the checkpoint .*: No space left; the one before it"
    ):
        checkpointer.save({**STATE, "step": 4})
    assert checkpointer.load()["step"] == 3
    names = sorted(item.name for item in checkpointer.path.parent.iterdir())
    assert names == [".doublure", "stage0.pt"]


def test_a_journal_is_cut_back_to_the_checkpoint(tmp_path):
    folder = made(tmp_path / "run")
    logger = MetricsFile(folder, 0)
    for step in (10, 20, 30):
        logger({"step": step, "loss": 1.0})
    logger.close()
    with folder.file("metrics.jsonl").open("a") as file:
        file.write('{"stage": 0, "st')
    MetricsFile(folder, 0, after_step=20).close()
    assert [line["step"] for line in read_metrics(folder.file("metrics.jsonl"))] == [10, 20]


def test_the_journal_of_a_finished_stage_leaves_the_lines_of_the_next(tmp_path):
    folder = made(tmp_path / "run")
    for stage in (0, 1):
        with MetricsFile(folder, stage) as logger:
            for step in (10, 20):
                logger({"step": step})
    MetricsFile(folder, 0, after_step=20).close()
    MetricsFile(folder, 1, after_step=10).close()
    lines = read_metrics(folder.file("metrics.jsonl"))
    assert [(line["stage"], line["step"]) for line in lines] == [(0, 10), (0, 20), (1, 10)]


def test_the_journal_is_written_for_tensorboard_and_cut_back_as_well(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = made(tmp_path / "run")
    for first, after in ((1.0, 0), (2.0, 10)):
        with TensorBoard(folder, 0, after_step=after) as board:
            for step in (after + 10, after + 20):
                board({"step": step, "loss": first, "metrics": {"pool": 0.5}})
    events = EventAccumulator(str(folder.file("tensorboard") / "stage0")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 1.0), (20, 2.0), (30, 2.0)]
    assert "metrics/pool" in events.Tags()["scalars"]
