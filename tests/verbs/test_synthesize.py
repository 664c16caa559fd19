import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from doublure.core.protocols import InputContract
from doublure.data.image_set import ImageSetError, read_image_set
from doublure.data.own_files import RunFolderError
from doublure.engine.run_folder import RunFolder
from doublure.nets.network import Network
from doublure.sources.deep_inversion import DeepInversion
from doublure.sources.image_optimisation import ImageOptimisation
from doublure.sources.knowledge_within import BatchNormStatistics
from doublure.sources.noise import Noise
from doublure.verbs.synthesize import OPTIMISATION_PICTURE, synthesize
from tests import tiny

VERB = "doublure.verbs.synthesize"
CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,), classes=3)
GREY = Noise(mean=(0.5,), std=(0.25,))
SMALL = {"count": 600, "size": 8, "channels": 1}


class Killed(BaseException):
    pass


def kill_at(images):
    def watch(steps, line):
        if line["step"] >= images:
            raise Killed

    return watch


def teacher(threshold: float = 1.0) -> Network:
    """A teacher that tells dark and bright noise from the rest, by deviations of its mean."""

    class Brightness(nn.Module):
        def forward(self, images):
            deviations = (images.mean((1, 2, 3)) - 0.5) / (0.25 / 8)
            usual = torch.full_like(deviations, threshold)
            return torch.stack([-deviations, usual, deviations], 1)

    return Network(Brightness(), replace(CONTRACT, mean=(0.0,), std=(1.0,)))


def test_a_set_says_what_made_it_and_holds_what_was_asked_for(tmp_path):
    told = synthesize("noise", out=tmp_path / "set", seed=3, **SMALL)
    made = read_image_set(tmp_path / "set")
    assert made.images.shape == (600, 8, 8, 1)
    assert (made.source, made.seed) == ("noise", 3)
    assert made.settings == {"kind": "noise", "distribution": "gaussian"}
    assert json.loads(json.dumps(told)) == told
    assert {path.name for path in made.folder.iterdir()} == {
        ".doublure",
        "images.npy",
        "set.json",
    }
    made.verify()


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path):
    one, two, other = (
        synthesize("leaves", out=tmp_path / str(i), seed=seed, count=20, size=8)["digest"]
        for i, seed in enumerate((0, 0, 1))
    )
    assert one == two != other


@pytest.mark.parametrize("images", [256, 512, 600])
def test_a_set_whose_writer_was_killed_goes_on_to_the_same_images(tmp_path, images):
    whole = synthesize("noise", out=tmp_path / "whole", **SMALL)
    with pytest.raises(Killed):
        synthesize("noise", out=tmp_path / "set", watch=kill_at(images), **SMALL)
    assert synthesize("noise", out=tmp_path / "set", resume=True, **SMALL) == {
        **whole,
        "folder": str(tmp_path / "set"),
    }


def test_a_balanced_set_goes_on_to_the_same_images_as_well(tmp_path):
    balanced = {"teacher": teacher(), "balance": True, "count": 90}
    whole = synthesize(GREY, out=tmp_path / "whole", **balanced)
    with pytest.raises(Killed):
        synthesize(GREY, out=tmp_path / "set", watch=kill_at(40), **balanced)
    again = synthesize(GREY, out=tmp_path / "set", resume=True, **balanced)
    assert again["digest"] == whole["digest"]


def counted(folder, network):
    images = torch.from_numpy(np.array(read_image_set(folder).images))
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    return network(images.permute(0, 3, 1, 2) / 255).argmax(-1).bincount(minlength=3).tolist()


def test_balance_keeps_as_many_images_of_each_class_and_none_twice(tmp_path):
    said = []
    balanced = {"teacher": teacher(), "balance": True, "count": 90, "say": said.append}
    told = synthesize(GREY, out=tmp_path / "set", **balanced)
    assert counted(tmp_path / "set", teacher()) == [30, 30, 30]
    assert told["settings"]["balanced_by"] == "python:Brightness"
    assert said == []


def test_where_the_source_hardly_shows_a_class_any_image_fills_the_set_and_that_is_said(tmp_path):
    said = []
    balanced = {"teacher": teacher(9.0), "balance": True, "count": 90, "say": said.append}
    synthesize(GREY, out=tmp_path / "set", **balanced)
    assert counted(tmp_path / "set", teacher(9.0)) == [0, 90, 0]
    assert said == ["60 of 90 images are of classes that were already complete: "
                    "the source has few of the others"]  # fmt: skip


def test_to_balance_needs_a_teacher(tmp_path):
    with pytest.raises(ValueError, match="balancing needs the classes of a teacher; use --teacher"):
        synthesize("noise", out=tmp_path / "set", balance=True, **SMALL)
    assert not (tmp_path / "set").exists()


def test_the_contract_of_a_teacher_says_size_and_channels(tmp_path):
    synthesize("flat", out=tmp_path / "set", count=4, teacher=teacher())
    assert read_image_set(tmp_path / "set").images.shape == (4, 8, 8, 1)


def test_fields_of_the_source_are_set_by_name_and_a_source_may_come_from_python(tmp_path):
    uniform = {"set": {"distribution": "uniform"}}
    one = synthesize("noise", out=tmp_path / "one", **SMALL, **uniform)
    two = synthesize(Noise(distribution="uniform"), out=tmp_path / "two", **SMALL)
    assert one["digest"] == two["digest"]


def test_labels_of_a_source_are_kept(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 8, 8), np.uint8), y=np.arange(9) % 3)
    synthesize(
        str(tmp_path / "x.npz"), out=tmp_path / "set", count=9, teacher=teacher(),
        set={"labels": "true", "held_out": "0"},
    )  # fmt: skip
    labels = read_image_set(tmp_path / "set").labels
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_what_stands_there_is_refused_unless_one_says_what_to_do_with_it(tmp_path):
    out = tmp_path / "set"
    first = synthesize("noise", out=out, **SMALL)
    with pytest.raises(
        RunFolderError, match="exists; resume it with --resume, replace it with --ov"
    ):
        synthesize("noise", out=out, **SMALL)
    with pytest.raises(RunFolderError, match="exclude each other"):
        synthesize("noise", out=out, resume=True, overwrite=True, **SMALL)
    said = []
    assert synthesize("noise", out=out, resume=True, say=said.append, **SMALL) == first
    assert said == [f"{out} is already finished"]
    for other, word in (({"count": 700}, "count"), ({"seed": 1}, "seed"), ({"size": 16}, "size")):
        with pytest.raises(RunFolderError, match=f"is finished with another {word}; replace"):
            synthesize("noise", out=out, resume=True, **SMALL | other)
    other = synthesize("noise", out=out, overwrite=True, seed=1, **SMALL)
    assert other["digest"] != first["digest"]


@pytest.mark.parametrize("way", ["resume", "overwrite"])
def test_a_folder_that_is_no_set_is_never_written_into(tmp_path, way):
    (tmp_path / "cat.jpg").write_text("miaow")
    with pytest.raises(RunFolderError, match="is not a SET that doublure wrote; refusing"):
        synthesize("noise", out=tmp_path, **{way: True}, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpg"]


def test_a_set_that_cannot_be_made_leaves_the_earlier_one(tmp_path):
    out = tmp_path / "set"
    first = synthesize("noise", out=out, **SMALL)
    with pytest.raises(ValueError, match="uniform noise has no mean and std"):
        synthesize(
            "noise", out=out, overwrite=True, set={"distribution": "uniform", "mean": "[0.5]"},
            **SMALL,
        )  # fmt: skip
    assert synthesize("noise", out=out, resume=True, **SMALL) == first


def test_to_go_on_with_another_seed_or_a_lost_state_is_refused(tmp_path):
    out = tmp_path / "set"
    with pytest.raises(Killed):
        synthesize("noise", out=out, watch=kill_at(256), **SMALL)
    with pytest.raises(ImageSetError, match="was begun with another seed"):
        synthesize("noise", out=out, resume=True, seed=1, **SMALL)
    (out / "stream-256.pt").write_bytes(b"torn")
    with pytest.raises(RunFolderError, match=r"stream-256.pt is missing or damaged .*--overwrite"):
        synthesize("noise", out=out, resume=True, **SMALL)


INVERTED = DeepInversion(
    total_variation=0.0, optimisation=ImageOptimisation(iterations=2, learning_rate=0.1, jitter=1)
)


def test_inverted_images_go_on_at_the_last_shard_with_their_labels(tmp_path):
    asked = {"count": 300, "teacher": Network(tiny.network(0), tiny.CONTRACT)}
    whole = synthesize(INVERTED, out=tmp_path / "whole", **asked)
    with pytest.raises(Killed):
        synthesize(INVERTED, out=tmp_path / "set", watch=kill_at(256), **asked)
    shards = []
    told = synthesize(
        INVERTED,
        out=tmp_path / "set",
        resume=True,
        watch=lambda _, line: shards.append(line["step"]),
        **asked,
    )
    assert shards == [300]
    assert told["digest"] == whole["digest"]
    labels = read_image_set(tmp_path / "set").labels
    assert np.bincount(labels).tolist() == [100, 100, 100]
    picture = (tmp_path / "set" / OPTIMISATION_PICTURE).read_bytes()
    assert picture == (tmp_path / "whole" / OPTIMISATION_PICTURE).read_bytes()


def test_the_way_of_searched_images_is_shown_beside_them_and_they_are_the_same_without(
    tmp_path, monkeypatch
):
    asked = {"count": 12, "teacher": Network(tiny.network(0), tiny.CONTRACT)}
    with_picture = synthesize(INVERTED, out=tmp_path / "set", **asked)
    seen = []
    monkeypatch.setattr(
        "doublure.verbs.synthesis_streams.optimisation_picture",
        lambda record, _: seen.append(record) or b"",
    )
    again = synthesize(INVERTED, out=tmp_path / "again", **asked)
    (record,) = seen
    assert record.images.shape == (3, 6, 8, 8, 1)  # after none, one, and both
    assert np.array_equal(record.images[-1], read_image_set(tmp_path / "set").images[:6])
    monkeypatch.setattr(f"{VERB}.OptimisingStream", nn.Module)
    without = synthesize(INVERTED, out=tmp_path / "without", **asked)
    assert with_picture["digest"] == again["digest"] == without["digest"]
    assert (tmp_path / "set" / OPTIMISATION_PICTURE).read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "without" / OPTIMISATION_PICTURE).exists()


def test_a_search_is_followed_also_where_classes_are_balanced(tmp_path):
    asked = {"count": 9, "teacher": Network(tiny.network(0), tiny.CONTRACT), "balance": True}
    synthesize(INVERTED, out=tmp_path / "set", **asked)
    assert (tmp_path / "set" / OPTIMISATION_PICTURE).exists()


def test_settings_of_an_inversion_go_by_the_size_of_the_teachers_images(tmp_path):
    told = synthesize(
        "deep-inversion",
        out=tmp_path / "set",
        count=4,
        teacher=Network(tiny.network(0), tiny.CONTRACT),
        set={"iterations": "2"},
    )
    assert told["settings"]["features"] == 1.0
    assert told["settings"]["optimisation"]["iterations"] == 2


def test_images_without_labels_are_written_without(tmp_path):
    made = BatchNormStatistics(optimisation=ImageOptimisation(iterations=1))
    synthesize(made, out=tmp_path / "set", count=4, teacher=Network(tiny.network(0), tiny.CONTRACT))
    assert read_image_set(tmp_path / "set").labels is None


@pytest.mark.parametrize(("weight", "well"), [("0", True), ("1000", False)])
def test_how_many_images_the_teacher_calls_by_their_classes_is_told(tmp_path, weight, well):
    lines: list[str] = []
    asked = {"count": 9, "teacher": Network(tiny.network(0), tiny.CONTRACT), "say": lines.append}
    fields = {"iterations": "40", "features": weight, "total_variation": "0"}
    synthesize("deep-inversion", out=tmp_path / "set", set=fields, **asked)
    (told,) = (line for line in lines if "to their labels" in line)
    assert (int(told.removeprefix("the teacher assigns ").partition("%")[0]) > 50) == well
    assert ("--set features=W" in told) != well


def test_of_images_that_were_made_for_no_class_nothing_is_told(tmp_path):
    lines: list[str] = []
    synthesize("noise", out=tmp_path / "set", say=lines.append, **SMALL)
    assert lines == []


def test_a_set_is_never_written_onto_what_it_is_made_from(tmp_path):
    source = tmp_path / "set"
    synthesize("noise", out=source, **SMALL)
    for out in (source, tmp_path):
        with pytest.raises(RunFolderError, match=r"which the SET is made from|not a SET"):
            synthesize(str(source), out=out, overwrite=True, **SMALL)
    assert len(read_image_set(source)) == SMALL["count"]


def test_no_two_processes_write_one_set(tmp_path):
    out = tmp_path / "set"
    synthesize("noise", out=out, **SMALL)
    with contextlib.closing(RunFolder(out)) as other:
        other.take(afresh=False)
        with pytest.raises(RunFolderError, match="another process uses"):
            synthesize("noise", out=out, overwrite=True, **SMALL)
