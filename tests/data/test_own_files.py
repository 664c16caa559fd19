import os

import pytest

from doublure.data.own_files import (
    RunFolderError,
    claim,
    foreign_files,
    make_folder,
    open_own,
    own_names,
    part_of,
    remove,
    remove_previous,
    set_aside,
    whole_file,
)


def write(path, text="ours"):
    with whole_file(path) as file:
        file.write(text.encode())


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_a_file_that_somebody_else_wrote_is_never_replaced(tmp_path):
    (tmp_path / "log.txt").write_text("theirs")
    for attempt in (claim, write, lambda path: open_own(path, "a")):
        with pytest.raises(RunFolderError, match="is there, and doublure did not write it"):
            attempt(tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text() == "theirs"
    assert names(tmp_path) == ["log.txt"]


def test_what_was_written_here_is_listed_once_and_may_be_replaced(tmp_path):
    write(tmp_path / "a.json")
    write(tmp_path / "a.json", "again")
    assert own_names(tmp_path) == {"a.json"}
    assert (tmp_path / ".doublure").read_text() == '"a.json"\n'
    assert (tmp_path / "a.json").read_text() == "again"


def test_a_link_is_replaced_and_never_followed(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("theirs")
    folder = tmp_path / "run"
    make_folder(folder)
    for name in ("whole.txt", "log.txt"):
        claim(folder / name)
        (folder / name).symlink_to(outside)
    write(folder / "whole.txt")
    with pytest.raises(OSError, match="symbolic links"):
        open_own(folder / "log.txt", "a")
    assert outside.read_text() == "theirs"
    assert not (folder / "whole.txt").is_symlink()


def test_a_list_cannot_name_what_lies_elsewhere(tmp_path):
    (tmp_path / "thesis.tex").write_text("theirs")
    make_folder(tmp_path / "run")
    (tmp_path / "run" / ".doublure").write_text('"../thesis.tex"\n".."\n[1]\n{\n"a"\n"tor')
    assert own_names(tmp_path / "run") == {"a"}


def test_two_parts_of_one_file_have_names_nobody_can_foresee(tmp_path):
    assert part_of(tmp_path / "a") != part_of(tmp_path / "a")


def test_a_failed_write_leaves_no_part(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as file:
        file.write(bytes([1 // 0]))
    assert names(tmp_path) == [".doublure"]


def test_only_what_is_listed_is_removed(tmp_path):
    run = tmp_path / "run"
    make_folder(run / "checkpoint")
    write(run / "summary.json")
    write(run / "checkpoint" / "stage0.pt")
    (run / "checkpoint" / "notes.txt").write_text("theirs")
    part_of(run / "summary.json").write_text("left by a kill")
    assert [path.name for path in foreign_files(run)] == ["notes.txt"]
    remove(run)
    assert names(run) == [".doublure", "checkpoint"]
    assert names(run / "checkpoint") == [".doublure", "notes.txt"]


def test_of_a_link_to_a_folder_the_link_goes(tmp_path):
    outside = tmp_path / "photographs"
    outside.mkdir()
    (outside / "cat.jpg").write_text("miaow")
    make_folder(tmp_path / "run")
    claim(tmp_path / "run" / "link")
    (tmp_path / "run" / "link").symlink_to(outside)
    remove(tmp_path / "run")
    assert names(outside) == ["cat.jpg"]


def test_the_result_before_waits_until_the_new_one_is_complete(tmp_path):
    run = tmp_path / "run"
    make_folder(run)
    write(run / "recipe.toml", "first")
    write(run / "log.txt", "first")
    set_aside(run, "recipe.toml")
    assert names(run) == [".doublure", ".previous"]
    write(run / "recipe.toml", "second, which fails")
    set_aside(run, "recipe.toml")
    assert (run / ".previous" / "recipe.toml").read_text() == "first"
    assert not (run / "recipe.toml").exists()
    write(run / "recipe.toml", "third")
    remove_previous(run)
    assert names(run) == [".doublure", "recipe.toml"]


@pytest.mark.parametrize("instant", range(4))
def test_a_kill_while_room_is_made_loses_nothing(tmp_path, monkeypatch, instant):
    run = tmp_path / "run"
    make_folder(run)
    for name in ("recipe.toml", "log.txt", "student.json"):
        write(run / name, name)
    calls = iter(range(100))
    rename = os.rename

    def killed(source, target, **rest):
        if next(calls) == instant:
            raise KeyboardInterrupt
        return rename(source, target, **rest)

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", killed)
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            set_aside(run, "recipe.toml")
    set_aside(run, "recipe.toml")
    for name in ("recipe.toml", "log.txt", "student.json"):
        assert (run / ".previous" / name).read_text() == name
