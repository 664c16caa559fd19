"""Folders as people have them: what this library did not write is never removed."""

import pytest

from doublure.data.own_files import RunFolderError
from doublure.verbs.distill import distill
from doublure.verbs.train import train

TRAIN = {"net": "builtin/convnet-3", "data": "builtin/digits", "steps": 2, "batch_size": 16}


@pytest.fixture
def run(tmp_path):
    train(out=tmp_path / "run", **TRAIN)
    return tmp_path / "run"


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.t*")}


def test_a_project_with_a_recipe_in_it_is_no_run(run, tmp_path):
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    for name in ("thesis.tex", ".git/HEAD.txt", "notes.txt"):
        (project / name).write_text("precious")
    (project / "recipe.toml").write_bytes((run / "recipe.toml").read_bytes())
    before = tree(project)
    for way in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(RunFolderError, match="is not a run that doublure wrote"):
            train(None, None, recipe=project / "recipe.toml", out=project, **way)
    assert tree(project) == before


@pytest.mark.parametrize("place", ["notes.txt", "checkpoint/notes.txt"])
def test_a_file_put_into_a_run_stops_what_would_replace_it(run, place):
    (run / place).write_text("precious")
    before = (run / "student.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match=rf"also holds {place}, which doublure did not write"):
        train(out=run, overwrite=True, **TRAIN)
    assert (run / place).read_text() == "precious"
    assert (run / "student.safetensors").read_bytes() == before


def test_a_link_put_into_a_run_stops_it_too(run, tmp_path):
    (run / "link").symlink_to(tmp_path)
    with pytest.raises(RunFolderError, match="also holds link"):
        train(out=run, overwrite=True, **TRAIN)
    assert (run / "student.json").exists()


def test_a_run_is_replaced_whole(run):
    before = (run / "student.safetensors").read_bytes()
    said = []
    train(out=run, overwrite=True, seed=1, say=said.append, **TRAIN)
    assert (run / "student.safetensors").read_bytes() != before
    assert f"the earlier run waits in {run / '.previous'} until this one is complete" in said
    assert not (run / ".previous").exists()


def test_the_earlier_run_stays_until_the_new_one_is_complete(run):
    before = (run / "student.safetensors").read_bytes()

    def fail(steps, line):
        raise ZeroDivisionError

    for seed in (1, 2):
        with pytest.raises(ZeroDivisionError):
            train(out=run, overwrite=True, seed=seed, watch=fail, **TRAIN)
        assert (run / ".previous" / "student.safetensors").read_bytes() == before
    train(out=run, resume=True, seed=2, **TRAIN)
    assert not (run / ".previous").exists()
    assert (run / "student.safetensors").read_bytes() != before


@pytest.mark.parametrize("part", ["", "student.json"])
def test_a_run_is_never_written_onto_its_own_teacher(run, part):
    with pytest.raises(RunFolderError, match="which the run is made from; choose another --out"):
        distill(
            str(run / part), "builtin/convnet-3", out=run, transfer="noise", steps=2,
            overwrite=True,
        )  # fmt: skip
    assert (run / "student.json").exists()
