"""`distill --few`: a few real images beside what the recipe makes."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from doublure.core.protocols import InputContract, parts_of
from doublure.core.statistics import wilson_interval
from doublure.engine.method import MethodInputs
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.recipes import published
from doublure.sources.combined import Combined
from doublure.sources.few import Few, shown_few
from doublure.sources.noise import Noise
from doublure.sources.short_inversion import ShortInversion
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification import summary as summaries
from doublure.tasks.classification.held_out import answer_held_out
from doublure.verbs.distill import distill
from doublure.verbs.train import train
from tests import text, tiny
from tests.command import command

LARGE = dataclasses.replace(tiny.CONTRACT, size=(16, 16))
NET = NetworkRef(ref="builtin/convnet-4")
QUICK = {
    "steps": 4,
    "batch_size": 8,
    "device": "cpu",
    "precision": "float32",
    "audit": False,
    "set": {"replay.first": "1", "short-inversion.iterations": "1", "num_programs": "8"},
}


def written(path: Path, count: int, *, labelled: bool = True, classes: int = 3) -> str:
    x = np.random.default_rng(count).integers(0, 256, (count, 8, 8), np.uint8)
    np.savez(path, x=x, **({"y": np.arange(count) % classes} if labelled else {}))
    return str(path)


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    return written(tmp_path / "few.npz", 30)


@pytest.fixture
def bare(tmp_path: Path) -> str:
    return written(tmp_path / "bare.npz", 20, labelled=False)


def network(seed: int, contract: InputContract = LARGE) -> Network:
    return Network(tiny.network(seed), contract).eval()


def learn(out: Path, contract: InputContract = LARGE, **options):
    return distill(network(0, contract), network(1, contract), out=out, **QUICK | options)


def source_of(contract: InputContract = LARGE, **given):
    return published("auto", NET, NET, MethodInputs(contract=contract, **given)).stages[0].source


def test_they_are_starts_of_inversion_and_a_part_of_what_is_shown(labelled):
    few = Few(data=labelled)
    parts = [*parts_of(source_of(few=few))]
    (starts,) = [part.source for part in parts if isinstance(part, ShortInversion)]
    assert starts.sources[1] == shown_few(few, LARGE)
    mixes = [part for part in parts if isinstance(part, Combined)]
    assert mixes[0].sources[1] == few
    assert mixes[0].shares == (0.8, 0.2)


def test_without_them_nothing_changes(labelled):
    (mix,) = [
        part
        for part in parts_of(source_of(few=Few(data=labelled)))
        if isinstance(part, Combined) and part.sources[1] == Few(data=labelled)
    ]
    bare = source_of()
    assert not any(isinstance(part, Few) for part in parts_of(bare))
    (search,) = [part for part in parts_of(bare) if isinstance(part, ShortInversion)]
    (with_few,) = [part for part in parts_of(mix) if isinstance(part, ShortInversion)]
    assert dataclasses.replace(with_few, source=search.source) == search


def test_tiny_ones_move_by_a_pixel_and_stay_as_they_are_without_augmentation(labelled):
    few = Few(data=labelled)
    moved = source_of(tiny.CONTRACT, few=few)
    assert moved.sources[1] == shown_few(few, tiny.CONTRACT)
    bare = source_of(tiny.CONTRACT, few=few, without=frozenset({"augmentation"}))
    assert bare.sources[1] == few


def test_they_stand_beside_images_on_disk_and_beside_another_source(labelled, bare):
    few, disk = Few(data=labelled), Surrogate(data=bare)
    (mix,) = [p for p in parts_of(source_of(few=few, base=disk)) if isinstance(p, Combined)]
    assert mix.sources == (disk, few)
    parts = [*parts_of(source_of(few=few, base=Noise()))]
    assert any(isinstance(part, Noise) for part in parts)
    assert any(isinstance(part, ShortInversion) for part in parts)


def test_labelled_ones_measure_accuracy_with_count_and_interval(tmp_path, labelled):
    told = []
    summary = learn(tmp_path / "run", few=labelled, say=told.append)
    assert summary["accuracy_count"] == summary["agreement_count"] == 15
    assert summary["accuracy_on"] == "those of the few real images that judge"
    assert summary["student_interval"] == list(wilson_interval(summary["student_correct"], 15))
    assert " of 15, 95 % interval " in summaries.scored(summary, "student")
    assert "15 labelled images are held out for evaluation" in told
    (plan,) = [line for line in summary["plan"] if "real images" in line]
    assert plan == (
        "30 real images: 50% of them train, as 50% of the starts of optimisation and 20% of the "
        "other images; the others measure accuracy and agreement"
    )
    recipe = (tmp_path / "run" / "recipe.toml").read_text()
    assert plan in recipe
    assert 'kind = "few"' in recipe
    page = (tmp_path / "run" / "report.html").read_text()
    assert "on 15 labelled images (those of the few real images that judge)" in page
    assert "95 % interval" in page


def test_ones_without_labels_measure_agreement_alone(tmp_path, bare):
    summary = learn(tmp_path / "run", few=bare)
    assert summary["student_accuracy"] is None
    assert summary["student_interval"] is None
    assert summary["agreement_count"] == 10
    assert "those of the few that judge" in summary["agreement_on"]
    assert summary["plan"][-1].endswith("; the others measure agreement")


def test_all_of_them_teach_where_one_says_so(tmp_path, labelled, monkeypatch):
    monkeypatch.setattr(summaries, "answer_held_out", functools.partial(answer_held_out, count=8))
    given = QUICK["set"] | {"few.held_out": "0"}
    summary = learn(tmp_path / "run", few=labelled, set=given)
    assert summary["student_accuracy"] is None
    assert summary["agreement_on"].startswith("shader images of a fixed set")


def test_data_to_score_on_come_first_and_change_nothing(tmp_path, labelled, bare):
    other = written(tmp_path / "other.npz", 12)
    one = learn(tmp_path / "one", few=labelled)
    two = learn(tmp_path / "two", few=labelled, eval=other)
    assert (one["accuracy_count"], two["accuracy_count"]) == (15, 12)
    assert two["accuracy_on"] is None
    students = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("one", "two")]
    assert students[0] == students[1]


def test_a_run_with_them_is_run_again_from_its_recipe(tmp_path, labelled):
    train("builtin/convnet-4", labelled, out=tmp_path / "teacher", steps=2, batch_size=8)
    words = QUICK | {"set": {"pool_size": "64", "num_programs": "8"}}
    run, again = tmp_path / "run", tmp_path / "again"
    distill(str(tmp_path / "teacher"), "builtin/convnet-3", out=run, few=labelled, **words)
    summary = distill(recipe=run / "recipe.toml", out=again, audit=False)
    assert summary["accuracy_count"] == 15
    assert (run / "student.safetensors").read_bytes() == (
        again / "student.safetensors"
    ).read_bytes()
    assert labelled in (again / "manifest.json").read_text()


@pytest.mark.parametrize("method", ["shader-kd", "dfad", "fast-meta", "surrogate-kd"])
def test_a_method_that_cannot_show_them_says_so(tmp_path, labelled, method):
    with pytest.raises(ValueError, match="cannot use --few; remove it, or use"):
        learn(
            tmp_path / "run",
            few=labelled,
            method=method,
            transfer="noise" if method == "surrogate-kd" else None,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: written(path, 9), "has 9 images, but few needs 10 to 500; add images"),
        (
            lambda path: written(path, 501),
            "has 501 images, but few needs 10 to 500; use --transfer",
        ),
        (lambda path: written(path, 30, classes=4), "labels from 0 to 3, but the network has 3"),
        (lambda path: str(path.with_name("nowhere")), "there is no '"),
    ],
)
def test_images_that_do_not_serve_are_refused_before_anything_is_written(tmp_path, make, reason):
    with pytest.raises(ValueError, match=reason):
        learn(tmp_path / "run", few=make(tmp_path / "few.npz"))
    assert not (tmp_path / "run").exists()


def test_folders_that_are_no_class_of_the_network_are_refused(tmp_path):
    for i in range(12):
        folder = tmp_path / "few" / ("cat", "gnu")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"{i}.png")
    named = dataclasses.replace(LARGE, names=("cat", "dog", "cow"))
    with pytest.raises(ValueError, match="no class of the network is called gnu; it knows cat"):
        learn(tmp_path / "run", named, few=str(tmp_path / "few"))


def test_labels_of_a_transfer_set_do_not_go_with_them(tmp_path, labelled):
    with pytest.raises(ValueError, match="--few shows its own without; leave one out"):
        learn(tmp_path / "run", few=labelled, transfer=labelled, labels=True)


def test_unreadable_ones_are_left_out_where_one_says_so(tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"{i}.png")
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:40])
    with pytest.raises(ValueError, match="1 of 13 images"):
        learn(tmp_path / "run", few=str(folder))
    told = []
    learn(tmp_path / "run", few=str(folder), skip_bad=True, say=told.append)
    assert "--few: 1 unreadable images were skipped" in told


@text.needs_extra
def test_a_teacher_of_text_has_no_use_for_images(tmp_path, labelled):
    made = text.write_text(tmp_path / "set", 80)
    text.write_text(made, 20, stem="val", seed=1)
    out = tmp_path / "teacher"
    settings = {"student.pieces": "60"}
    train("builtin/translator-1-8", f"{made}:de-en", out=out, steps=1, batch_size=8, set=settings)
    told = command(
        *("distill", "--teacher", out, "--student", "builtin/translator-1-8"),
        *("--few", labelled, "--out", tmp_path / "run"),
    )
    assert told.status == 1
    assert (
        "--few does not apply to translation, whose network translates text; remove" in told.reason
    )
