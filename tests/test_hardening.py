"""What a user may rely on when something is wrong: one clear line, and nothing lost."""

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from doublure.data.own_files import RunFolderError
from doublure.verbs.distill import distill
from doublure.verbs.synthesize import synthesize
from doublure.verbs.train import train
from tests.command import command

SAID = ("--size", "8", "--mean", "0.4", "--std", "0.3")
STUDENT = ("--student", "builtin/convnet-3", "--steps", "4", "--batch-size", "8")
NOISE = (
    *("--method", "shader-kd", "--transfer", "noise"),
    *("--without", "attack", "--without", "balance"),
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A trained network of three classes of 8 x 8 grey images."""
    folder = tmp_path_factory.mktemp("teachers")
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", x=rng.integers(0, 256, (30, 8, 8), np.uint8), y=np.arange(30) % 3)
    train("builtin/convnet-4", str(folder / "x.npz"), out=folder / "run", steps=3, batch_size=10)
    return folder / "run"


@pytest.fixture(scope="module")
def weights(teacher) -> Path:
    return teacher / "student.safetensors"


@pytest.fixture(scope="module")
def finished(teacher) -> Path:
    """A finished run; `run` gives each test one of its own."""
    out = teacher.with_name("finished")
    assert distilled(teacher, out).status == 0
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def distilled(teacher, out, *more):
    return command("distill", "--teacher", teacher, *STUDENT, *NOISE, "--out", out, *more)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_cut(path, weights):
    path.write_bytes(weights.read_bytes()[:500])


def write_pickle(path, weights):
    class Call:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("executed")),)

    path.write_bytes(pickle.dumps({"weight": Call()}, protocol=2))


def write_nan(path, weights):
    state = load_file(weights)
    state["conv1.weight"][0] = float("nan")
    save_file(state, path)


@pytest.mark.parametrize(
    ("write", "name", "reason"),
    [
        (write_cut, "cut.safetensors", "it is truncated, damaged or no file of weights"),
        (write_pickle, "code.pth", "could run any code, so nothing of it was loaded; re-save"),
        (write_nan, "nan.safetensors", "of 'conv1.weight' are NaN or infinite"),
        (lambda path, _: path.write_bytes(b""), "empty.pth", "is empty: 0 bytes"),
        (lambda path, _: None, "absent.pth", "no file"),
        (shutil.copy, None, "does not fit builtin/vgg8"),
    ],
    ids=["truncated", "pickled", "nan", "empty", "absent", "another architecture"],
)
def test_weights_that_cannot_be_used_are_refused(tmp_path, weights, write, name, reason):
    path = tmp_path / (name or "other.safetensors")
    write(path, weights) if name else write(weights, path)
    network = "builtin/convnet-4" if name else "builtin/vgg8"
    said = ("--teacher", network, "--weights", path, *SAID)
    told = command("distill", *said, *STUDENT, *NOISE, "--out", tmp_path / "run")
    assert told.status == 1
    assert reason in told.reason
    assert str(path) in told.reason
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "executed").exists()


def test_a_wrong_number_of_classes_is_refused_with_the_right_one(tmp_path, weights):
    said = ("--teacher", "builtin/convnet-4", "--weights", weights, *SAID, "--classes", "5")
    told = command("distill", *said, *STUDENT, *NOISE, "--out", tmp_path / "run")
    assert told.status == 1
    assert told.reason.endswith("it has 3 classes, not 5: use --classes 3")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--set", "student.classes=7"), "the student has 7 classes, its teacher 3"),
        (("--set", "student.channels=3"), "the student has 3 channels, its teacher 1"),
        (("--set", "stages.0.fit.stepz=7"), "unknown key 'stepz'; did you mean 'steps'"),
        (("--set", "steps=many"), "stages.0.fit.steps: Input should be a valid integer"),
        (("--device", "cuda:99"), "cuda:99' is requested, but torch finds no CUDA device"),
        (("--device", "gpu"), "unknown device 'gpu'; use auto, cpu, cuda"),
        (("--lr", "-1"), "learning_rate must be positive, got -1"),
        (("--eval", "nowhere"), "there is no 'nowhere'; data are builtin/digits, a folder"),
        (("--eval", "builtin/digits"), "has labels from 0 to 9, but the network has 3 classes"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, teacher, more, reason):
    if "cuda" in str(more) and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    told = distilled(teacher, tmp_path / "run", *more)
    assert told.status == 1
    assert reason in told.reason
    assert not (tmp_path / "run").exists()


def test_a_student_in_python_must_answer_as_many_classes_as_its_teacher(tmp_path, teacher):
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
    with pytest.raises(ValueError, match=r"student returns \(5,\) numbers per image, but .* 3"):
        distill(str(teacher), student, out=tmp_path / "run", transfer="noise")


def test_a_student_in_python_must_take_the_channels_of_its_teacher(tmp_path, teacher):
    student = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 8), torch.nn.Flatten())
    with pytest.raises(ValueError, match="the student does not take an image of 1 x 8 x 8"):
        distill(str(teacher), student, out=tmp_path / "run", transfer="noise")


def test_a_teacher_in_python_with_a_nan_is_refused_before_training(tmp_path):
    from doublure.nets.network import Network
    from tests import tiny

    teacher = Network(tiny.network(0), tiny.CONTRACT)
    teacher.body[1].running_var[2] = torch.nan
    with pytest.raises(ValueError, match=r"teacher's '1.running_var' holds values that are NaN"):
        distill(teacher, "builtin/convnet-3", out=tmp_path / "run", transfer="noise")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of two images and two files that only look like images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"fine{i}.png")
        (folder / f"torn{i}.png").write_bytes((folder / f"fine{i}.png").read_bytes()[:40])
    return folder


def test_every_unreadable_image_is_listed_and_an_earlier_run_stays(run, teacher, images):
    before = contents(run)
    swapped = ("--transfer", images, "--method", "surrogate-kd", "--overwrite")
    told = command("distill", "--teacher", teacher, *STUDENT, "--out", run, *swapped)
    assert told.status == 1
    assert told.reason.startswith(f"2 of 4 images in {images} cannot be read: ")
    assert all(str(images / f"torn{i}.png") in told.reason for i in range(2))
    assert contents(run) == before


def test_unreadable_images_are_left_out_where_one_says_so(tmp_path, teacher, images):
    words = ("--transfer", images, "--method", "surrogate-kd", "--skip-bad")
    told = command("distill", "--teacher", teacher, *STUDENT, *words, "--out", tmp_path / "run")
    assert told.status == 0
    assert "skip_bad = true" in (tmp_path / "run" / "recipe.toml").read_text()


@pytest.mark.parametrize("verb", ["distill", "synthesize", "evaluate"])
def test_an_empty_folder_is_named(tmp_path, teacher, verb):
    empty = tmp_path / "empty"
    empty.mkdir()
    words = {
        "distill": ("--teacher", teacher, *STUDENT, "--transfer", empty),
        "synthesize": (empty, "--count", "3"),
        "evaluate": ("--model", teacher, "--data", empty),
    }[verb]
    out = () if verb == "evaluate" else ("--out", tmp_path / "out")
    told = command(verb, *words, *out)
    assert told.status == 1
    assert told.reason == f"{empty} holds no images (it is empty)"
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_of_a_recipe_is_named_with_the_nearest(tmp_path, run):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((run / "recipe.toml").read_text().replace("momentum", "momentun"))
    told = command("distill", "--recipe", recipe, "--out", tmp_path / "again")
    assert told.status == 1
    assert "unknown key 'momentun'; did you mean 'momentum'" in told.reason
    assert str(recipe) in told.reason


def test_a_damaged_checkpoint_stops_resume_and_nothing_is_touched(run, teacher):
    checkpoint = run / "checkpoint" / "stage0.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    before = {path: data for path, data in contents(run).items() if path.name != "log.txt"}
    told = distilled(teacher, run, "--resume")
    assert told.status == 1
    assert "stage0.pt is damaged" in told.reason
    assert told.reason.endswith("restart with --overwrite")
    after = {path: data for path, data in contents(run).items() if path.name != "log.txt"}
    assert after == before


def test_resume_with_other_options_names_them(run, teacher):
    told = distilled(teacher, run, "--resume", "--seed", "4", "--lr", "0.2")
    assert told.status == 1
    assert "differs from the one in the folder in stages.0.fit.learning_rate, seed;" in told.reason


def test_resume_with_a_teacher_that_has_learned_since_is_refused(run, finished, tmp_path, teacher):
    again = shutil.copytree(teacher, tmp_path / "teacher")
    state = load_file(again / "student.safetensors")
    state["linear.bias"] += 0.01
    save_file(state, tmp_path / "later.safetensors")
    recipe = (run / "recipe.toml").read_text()
    later = recipe.replace("[teacher]", f'[teacher]\nweights = "{tmp_path / "later.safetensors"}"')
    (run / "recipe.toml").write_text(later)
    told = command("distill", "--recipe", run / "recipe.toml", "--out", run, "--resume")
    assert told.status == 1
    assert "learned from a teacher with other weights; restore those" in told.reason


def test_where_there_is_no_egl_the_way_out_is_said(tmp_path, teacher, monkeypatch):
    import moderngl

    def no_context(**_):
        raise Exception("cannot detect OpenGL device")

    monkeypatch.setattr(moderngl, "create_context", no_context)
    monkeypatch.setattr(moderngl, "create_standalone_context", no_context)
    words = ("--method", "shader-kd", "--set", "shaders.backend=gl", "--without", "attack")
    told = command("distill", "--teacher", teacher, *STUDENT, *words, "--out", tmp_path / "run")
    assert told.status == 1
    assert "libegl1" in told.reason
    assert "torch" in told.reason


def test_tensorboard_that_is_not_installed_is_said_before_an_earlier_run_is_touched(
    run, teacher, monkeypatch
):
    before = contents(run)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    told = distilled(teacher, run, "--overwrite", "--tensorboard")
    assert told.status == 1
    assert told.reason.endswith("pip install tensorboard")
    assert contents(run) == before


def mount(*words: object) -> None:
    try:
        subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,ro,bind", folder)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits, and return the file that is in the way."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


POOLED = {
    "transfer": "noise",
    "method": "shader-kd",
    "without": ["attack"],
    "steps": 6,
    "batch_size": 8,
    "set": {"log_every": "1", "pool_size": "48", "chunk": "16"},
    "audit": False,
}


@pytest.fixture(scope="module")
def pooled(teacher) -> bytes:
    """The weights that a run on a roomy disk makes."""
    out = teacher.with_name("pooled")
    distill(str(teacher), "builtin/convnet-3", out=out, **POOLED)
    return (out / "student.safetensors").read_bytes()


@pytest.mark.parametrize("when", [1, 5], ids=["pool", "checkpoint"])
def test_a_full_disk_stops_a_run_which_then_goes_on_to_the_same_student(
    teacher, pooled, small_disk, when
):
    out = small_disk / "run"

    def watch(steps, line):
        if line["step"] == when:
            fill(small_disk)

    told = {"out": out, **POOLED}
    with pytest.raises(RunFolderError, match=r"No space left on device; .*--resume") as caught:
        distill(str(teacher), "builtin/convnet-3", watch=watch, checkpoint_seconds=0.0, **told)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("*.part"))
    (small_disk / "filler").unlink()
    distill(str(teacher), "builtin/convnet-3", resume=True, **told)
    assert (out / "student.safetensors").read_bytes() == pooled


def test_a_full_disk_stops_synthesis_which_then_goes_on_to_the_same_set(tmp_path, small_disk):
    whole = synthesize("noise", count=600, size=8, channels=1, out=tmp_path / "whole")

    def watch(steps, line):
        if line["step"] == 256:
            fill(small_disk)

    with pytest.raises((ValueError, OSError), match="No space left on device"):
        synthesize("noise", count=600, size=8, channels=1, out=small_disk / "set", watch=watch)
    (small_disk / "filler").unlink()
    made = synthesize("noise", count=600, size=8, channels=1, out=small_disk / "set", resume=True)
    assert made["digest"] == whole["digest"]


def test_a_full_disk_leaves_an_earlier_export_as_it_was(teacher, small_disk):
    out = small_disk / "out"
    words = ("export", "--model", teacher, "--format", "safetensors", "--calibration", "noise")
    assert command(*words, "--out", out).status == 0
    before = contents(out)
    fill(small_disk)
    told = command(*words, "--out", out)
    assert told.status == 1
    assert "No space left on device" in told.reason
    assert contents(out) == before


def test_what_cannot_be_written_is_said_and_stays_as_it_was(run, teacher):
    out = run
    before = contents(out)
    again = ("distill", "--teacher", teacher, *STUDENT, *NOISE, "--out")
    exporting = ("export", "--model", out, "--format", "pt2", "--calibration", "noise", "--out")
    calls = {
        "resume": (*again, out, "--resume"),
        "overwrite": (*again, out, "--overwrite"),
        "new": (*again, out / "new"),
        "export": (*exporting, out),
        "report": ("report", out),
        "synthesize": ("synthesize", "noise", "--count", 9, "--size", 8, "--out", out / "set"),
    }
    with read_only(out):
        told = {name: command(*words) for name, words in calls.items()}
        assert contents(out) == before
    assert {name: one.status for name, one in told.items()} == dict.fromkeys(calls, 1)
    assert [name for name in told if "Read-only file system" not in told[name].reason] == []
    assert [name for name in told if str(out) not in told[name].reason] == []
