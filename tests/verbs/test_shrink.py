import functools
import json
from dataclasses import replace

import numpy as np
import pytest

import doublure
from doublure.compress import shrinking_plan
from doublure.compress.shrinking_choice import Row
from doublure.compress.shrinking_plan import Costs, plan_candidates
from doublure.data.image_set import read_image_set
from doublure.data.own_files import RunFolderError
from doublure.engine.run_folder import SUMMARY
from doublure.exports import exporting
from doublure.exports.exporting import FILES
from doublure.exports.verify import Comparison
from doublure.nets.network import Network
from doublure.networks import load, save
from doublure.sources.flat import Flat
from doublure.sources.noise import Noise
from doublure.tasks.classification import held_out, summary
from doublure.verbs import candidates, comparing
from doublure.verbs.shrink import MEASURED, RECORD, shrink
from tests import tiny
from tests.command import command

MADE = ("int8", "pruned-30", "pruned-50", "pruned-70", "resnet8-0.25", "resnet8-0.25-pruned-50")


@pytest.fixture(scope="module")
def network() -> Network:
    return load("builtin/resnet14-0.25", like=tiny.CONTRACT)


@pytest.fixture(scope="module")
def teacher(network, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    save(network, folder)
    return str(folder)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Costs that do not hang on the machine, runs of two steps, files that are not reopened."""
    monkeypatch.setattr(comparing, "seconds_an_answer", lambda network: 1e-3)
    monkeypatch.setattr(comparing, "seconds_a_step", lambda network, device: 1e-3)
    monkeypatch.setattr(shrinking_plan, "plan_candidates", plan_of_known_costs)
    monkeypatch.setattr("doublure.verbs.shrink._MOST", 64)
    monkeypatch.setattr(comparing, "SETS", {"noise": Noise(), "flat": Flat()})
    monkeypatch.setattr(comparing, "SHADERS", Noise())
    monkeypatch.setattr(candidates, "SHADERS", Noise())
    monkeypatch.setattr(comparing, "_SIDE_BY_SIDE", comparing._BRIEF)
    few = functools.partial(held_out.answer_held_out, count=64)
    monkeypatch.setattr(summary, "answer_held_out", few)
    monkeypatch.setattr(
        exporting, "verify", lambda *_, **__: Comparison(max_difference=0.0, agreement=1.0)
    )
    monkeypatch.setattr(candidates, "inverts", lambda network: False)
    monkeypatch.setattr(candidates, "distill", of_two_steps(candidates.distill))


def plan_of_known_costs(known, target, budget, costs, **told):
    costs = Costs(spent=0.0, answer=costs.answer, image=0.05, step=costs.step, export=0.1)
    return plan_candidates(known, target, budget, costs, **told | {"milliseconds": 1.0})


def of_two_steps(verb):
    def made(*named, budget, **options):
        assert budget > 0
        options["set"] = dict(options.get("set", {})) | {"pool_size": "16", "num_programs": "4"}
        options["batch_size"] = 8
        return verb(*named, steps=2, **options)

    return made


@pytest.fixture
def unexported(monkeypatch):
    """Files of made-up contents and times, for what is asked of the order of things alone."""

    def rows(measurer, network, name, folder, forms, images):
        folder.mkdir(parents=True, exist_ok=True)
        made = []
        for form in forms:
            path = folder / FILES[form]
            path.write_bytes(b"0" * (100 if form == "onnx" else 30))
            row = Row(
                candidate=name,
                form=form,
                path=path.relative_to(measurer.root).as_posix(),
                bytes=path.stat().st_size,
                parameters=10,
                macs=10,
                agreement={"noise": 0.5},
            )
            made.append(row)
        return made

    def timed(measurer, rows):
        return [replace(row, latency_ms=1.0) for row in rows]

    monkeypatch.setattr(comparing.Measurer, "rows", rows)
    monkeypatch.setattr(comparing.Measurer, "with_latencies", timed)
    monkeypatch.setattr(candidates, "why_not_pruned", lambda network: "")
    monkeypatch.setattr(candidates, "make", lambda candidate, seconds, images, bench: bench.network)


@pytest.mark.slow
def test_every_candidate_is_a_run_of_its_own_and_one_file_is_recommended(teacher, tmp_path):
    out, lines = tmp_path / "small", []
    summary = shrink(
        teacher, target="0.4", budget=9000, out=out, eval=labelled(tmp_path), say=lines.append
    )
    files = {(row["candidate"], row["form"]) for row in summary["rows"]}
    both = {(name, form) for name in MADE[1:] for form in ("onnx", "int8-onnx")}
    assert files == {("int8", "int8-onnx"), *both}
    for name in MADE:
        assert (out / "candidates" / name / MEASURED).exists()
        assert (out / "candidates" / name / "recipe.toml").exists() == (name != "int8")
    for row in summary["rows"]:
        assert (out / row["path"]).stat().st_size == row["bytes"]
        assert set(row["agreement"]) == {"noise", "flat"}
        assert row["correct"] / 40 == row["accuracy"]
        assert row["latency_ms"] > 0
    pruned = {row["candidate"]: row["macs"] for row in summary["rows"]}
    assert pruned["pruned-70"] < pruned["pruned-30"] < summary["teacher"]["macs"]
    chosen = summary["recommendation"]
    assert chosen["meets"]
    assert (out / chosen["path"]).stat().st_size <= 0.4 * summary["teacher"]["bytes"]
    assert (summary["failed"], summary["left_out"]) == ([], [])
    assert json.loads((out / SUMMARY).read_text()) == summary
    plan = json.loads((out / RECORD).read_text())["plan"]
    assert {item["name"] for item in plan["candidates"]} == set(MADE)
    assert any("pruned-50: " in line for line in lines)
    page = (out / "report.html").read_text()
    assert chosen["reason"].split(":")[0] in page
    assert doublure.report(out).read_text() == page


def labelled(folder) -> str:
    path = folder / "labelled.npz"
    drawn = np.random.default_rng(0)
    np.savez(path, x=drawn.integers(0, 256, (40, 8, 8), dtype=np.uint8), y=np.arange(40) % 3)
    return str(path)


def test_a_pruned_network_and_its_int8_form_are_measured_beside_the_teacher(
    teacher, tmp_path, monkeypatch
):
    only(monkeypatch, "int8", "pruned-50")
    out = tmp_path / "small"
    summary = shrink(teacher, target="0.4", budget=900, out=out, eval=labelled(tmp_path))
    assert len(summary["rows"]) == 3
    for row in summary["rows"]:
        assert (out / row["path"]).stat().st_size == row["bytes"]
        assert row["correct"] / 40 == row["accuracy"]
        assert row["latency_ms"] > 0
    assert summary["rows"][1]["macs"] < summary["teacher"]["macs"]
    assert (out / "candidates" / "pruned-50" / "recipe.toml").exists()
    assert "Every file" in (out / "report.html").read_text()


@pytest.mark.usefixtures("unexported")
def test_images_of_the_teacher_s_statistics_are_made_once_and_handed_on(
    teacher, tmp_path, monkeypatch
):
    seen = []

    def make(candidate, seconds, images, bench):
        seen.append(images)
        return bench.network

    monkeypatch.setattr(candidates, "make", make)
    monkeypatch.setattr(candidates, "inverts", lambda network: True)
    monkeypatch.setattr(shrinking_plan, "_image_count", lambda costs, left: 64)
    out = tmp_path / "small"
    shrink(teacher, target="0.4", budget=9000, out=out)
    assert len(read_image_set(out / "checkpoint" / "images")) == 64
    assert {images.data for images in seen} == {str(out / "checkpoint" / "images")}


@pytest.mark.usefixtures("unexported")
def test_it_goes_on_with_the_candidate_it_was_killed_at(teacher, tmp_path, monkeypatch):
    asked = {"target": "0.4", "budget": 9000, "out": tmp_path / "small"}
    make, made = candidates.make, []

    def until_the_third(candidate, *others):
        made.append(candidate.name)
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(candidate, *others)

    monkeypatch.setattr(candidates, "make", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        shrink(teacher, **asked)
    before = json.loads((tmp_path / "small" / RECORD).read_text())
    kept = (tmp_path / "small" / "candidates" / made[1] / MEASURED).read_bytes()
    with pytest.raises(
        RunFolderError, match="resume it with --resume, replace it with --overwrite"
    ):
        shrink(teacher, **asked)
    with pytest.raises(RunFolderError, match="differ from those in the folder in target"):
        shrink(teacher, **asked | {"target": "0.3"}, resume=True)
    summary = shrink(teacher, **asked, resume=True)
    assert sorted(made) == sorted([*MADE, made[2]])
    assert json.loads((tmp_path / "small" / RECORD).read_text()) == before
    assert (tmp_path / "small" / "candidates" / made[1] / MEASURED).read_bytes() == kept
    assert {row["candidate"] for row in summary["rows"]} == set(MADE)


@pytest.mark.usefixtures("unexported")
def test_a_target_that_nothing_meets_is_said_plainly(teacher, tmp_path, monkeypatch):
    only(monkeypatch, "int8")
    summary = shrink(teacher, target="10B", budget=9000, out=tmp_path / "small")
    chosen = summary["recommendation"]
    assert not chosen["meets"]
    assert chosen["reason"].startswith("No file meets the target of 10B. teacher, int8 is nearest")
    page = (tmp_path / "small" / "report.html").read_text()
    assert "Nothing meets the target" in page
    assert "measure one with --eval before you rely on it" in page


def only(monkeypatch, *names):
    known = shrinking_plan.known_candidates

    def some(*told, **more):
        return [item for item in known(*told, **more) if item.name in names]

    monkeypatch.setattr(shrinking_plan, "known_candidates", some)


@pytest.mark.usefixtures("unexported")
def test_a_candidate_that_fails_is_told_of_and_the_others_are_made(teacher, tmp_path, monkeypatch):
    only(monkeypatch, "int8", "pruned-50")

    def diverge(*_, **__):
        raise ArithmeticError("the loss is not finite")

    make = candidates.make
    monkeypatch.setattr(
        candidates,
        "make",
        lambda candidate, *more: make(candidate, *more) if candidate.name == "int8" else diverge(),
    )
    lines = []
    summary = shrink(teacher, target="0.4", budget=900, out=tmp_path / "a", say=lines.append)
    assert summary["failed"] == [{"name": "pruned-50", "why": "the loss is not finite"}]
    assert [row["candidate"] for row in summary["rows"]] == ["int8"]
    assert "pruned-50 could not be made: the loss is not finite" in lines


def test_a_network_made_in_python_has_no_relatives_and_is_pruned(tmp_path, monkeypatch):
    only(monkeypatch, "int8", "pruned-50")
    network = Network(tiny.network(0), tiny.CONTRACT)
    summary = shrink(network, target=0.9, budget=900, out=tmp_path / "a")
    assert {row["candidate"] for row in summary["rows"]} == {"int8", "pruned-50"}
    (left_out,) = summary["left_out"]
    assert left_out["why"] == "no shallower relative of Sequential is known"


@pytest.mark.usefixtures("unexported")
def test_a_named_student_is_tried_as_well(teacher, tmp_path, monkeypatch):
    only(monkeypatch, "int8", "convnet-6")
    summary = shrink(
        teacher, student="builtin/convnet-6", target="9kB", budget=900, out=tmp_path / "a"
    )
    assert "convnet-6" in {row["candidate"] for row in summary["rows"]}


def test_what_is_asked_for_wrongly_is_refused_before_anything_is_written(teacher, tmp_path):
    out = tmp_path / "small"
    with pytest.raises(ValueError, match="budget must be at least 30s, got 20s"):
        shrink(teacher, target="0.3", budget=20, out=out)
    with pytest.raises(ValueError, match=r"as 0\.3, 2MB or 5ms; got '3'"):
        shrink(teacher, target=3, budget=60, out=out)
    with pytest.raises(ValueError, match="is neither a network nor a path"):
        shrink("nowhere", target="0.3", budget=60, out=out)
    assert not out.exists()


@pytest.mark.usefixtures("unexported")
def test_the_command_prints_a_table_or_one_object(teacher, tmp_path, monkeypatch):
    only(monkeypatch, "int8")
    words = ("shrink", "--teacher", teacher, "--target", "0.4", "--budget", "15m")
    told = command(*words, "--out", tmp_path / "a")
    assert told.status == 0, told.err
    assert [line.split()[0] for line in told.out.splitlines()[:2]] == ["teacher", "int8"]
    assert "int8.onnx" in told.out
    told = command(*words, "--out", tmp_path / "b", "--json")
    assert json.loads(told.out)["verb"] == "shrink"
    told = command(*words, "--out", tmp_path / "b", "--resume", "--overwrite")
    assert told.reason == "--resume and --overwrite exclude each other; choose one"
