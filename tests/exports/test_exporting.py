"""Every form of a network, verified, measured and listed."""

import errno
import functools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.core.protocols import image_batch
from doublure.core.seeding import from_seed
from doublure.data.arrays import array_images
from doublure.data.own_files import RunFolderError, part_of, whole_file
from doublure.exports import exporting
from doublure.exports.exporting import LIST, held_against
from doublure.exports.measure import Exported, LatencyRatio, Timing
from doublure.exports.verify import VerificationError
from doublure.nets.builtin import build
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.reports.record import read_run
from doublure.tasks import TASKS
from tests import tiny
from tests.exports.conftest import CONTRACT, images

export_network = functools.partial(
    exporting.export_network, tasks=TASKS, loader="doublure.networks"
)

SHORT = Timing(batch_size=4, rounds=3, seconds=0.1)


def names(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir()} - {".doublure"}


def test_the_list_holds_the_float_form_first_and_the_report_reads_it(
    network: Network, probe: Tensor, tmp_path: Path
) -> None:
    formats = ["int8-onnx", "onnx"]
    rows = export_network(network, tmp_path, formats, [images(32)], probe, timing=SHORT)
    assert [row.form for row in rows] == ["onnx", "int8-onnx"]
    assert names(tmp_path) == {"student.onnx", "student.int8.onnx", LIST}
    assert json.loads((tmp_path / LIST).read_text()) == [row.to_json() for row in rows]
    read = read_run(tmp_path).exports
    assert read is not None
    assert [form.bytes for form in read] == [
        (tmp_path / f"student{kind}.onnx").stat().st_size for kind in ("", ".int8")
    ]


def test_an_int8_row_counts_its_nodes_and_says_what_it_gained(
    network: Network, probe: Tensor, tmp_path: Path
) -> None:
    floats, rounded = export_network(
        network, tmp_path, ["int8-onnx"], [images(32)], probe, timing=SHORT
    )
    assert (floats.path, floats.quantize_nodes) == (None, None)
    assert names(tmp_path) == {"student.int8.onnx", LIST}
    assert rounded.quantize_nodes is not None
    assert rounded.quantize_nodes > 0
    ratio = f"{rounded.bytes / floats.bytes:.2f}"
    assert f"{ratio} of the bytes of float32 ONNX" in rounded.note


@pytest.mark.parametrize(("latency", "gains"), [(2.0, True), (3.9, False), (8.0, False)])
def test_a_gain_in_speed_is_claimed_only_beyond_the_noise(latency: float, gains: bool) -> None:
    fields = {"path": None, "weight_bytes": 1, "max_difference": 0.0, "agreement": 1.0}
    floats = Exported(form="onnx", bytes=100, latency_ms=4.0, images_per_second=10.0, **fields)
    rounded = Exported(
        form="int8-onnx",
        bytes=27,
        latency_ms=latency,
        images_per_second=10.0,
        quantize_nodes=4,
        **fields,
    )
    note = held_against(rounded, floats, "float32 ONNX").note
    assert note.startswith("no gain on this machine: ") != gains
    assert "0.27 of the bytes of float32 ONNX" in note


def test_int8_of_a_network_that_rounds_is_held_against_one_that_does_not(
    network: Network, probe: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = PostTrainingQuantization()(network, [image_batch(images(32))], from_seed(0))
    paces = {
        "onnx": LatencyRatio(latency_ms=8.0, images_per_second=1.0),  # slow by its rounding
        "float32 ONNX without rounding": LatencyRatio(latency_ms=4.0, images_per_second=10.0),
        "int8-onnx": LatencyRatio(latency_ms=2.0, images_per_second=15.0),
    }
    monkeypatch.setattr(
        exporting, "time_forms", lambda forms, *_: {name: paces[name] for name in forms}
    )
    rows = export_network(rounds, tmp_path, ["onnx", "int8-onnx"], [images(32)], probe)
    assert [(row.form, row.latency_ms) for row in rows] == [("onnx", 8.0), ("int8-onnx", 2.0)]
    assert "of the bytes of float32 ONNX without rounding, 2.00 times its speed" in rows[1].note
    assert rows[1].note.endswith("1.50 times in batches")
    assert names(tmp_path) == {"student.onnx", "student.int8.onnx", LIST}


def test_accuracy_of_each_form_is_counted_on_labelled_images(
    network: Network, probe: Tensor, tmp_path: Path
) -> None:
    pixels = (images(20, seed=7) * 255).round()
    with torch.no_grad():
        labels = network(pixels / 255).argmax(1)
    labels[:5] = (labels[:5] + 1) % 3  # five of twenty are wrong by construction
    data = array_images(
        pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy(),
        CONTRACT,
        labels=labels,
        names=None,
        digest="",
        where="here",
        cache_bytes=0,
    )
    (row,) = export_network(network, tmp_path, ["onnx"], None, probe, labelled=data, timing=SHORT)
    assert row.accuracy == 0.75


def test_an_unknown_format_is_refused_with_the_nearest(
    network: Network, probe: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="unknown export format 'onx'; did you mean 'onnx'"):
        export_network(network, tmp_path / "out", ["onx"], None, probe)
    assert not (tmp_path / "out").exists()


def test_int8_without_calibration_is_refused(
    network: Network, probe: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="int8-onnx needs calibration images"):
        export_network(network, tmp_path / "out", ["int8-onnx"], None, probe)


def test_a_network_that_answers_nan_exports_nothing(probe: Tensor, tmp_path: Path) -> None:
    broken = Network(tiny.network(0), CONTRACT)
    with torch.no_grad():
        broken.body[-1].weight.fill_(float("inf"))
    with pytest.raises(ValueError, match="not finite; nothing was exported"):
        export_network(broken, tmp_path / "out", ["onnx"], None, probe)
    assert not (tmp_path / "out").exists()


def earlier(folder: Path) -> None:
    for name, content in (("student.onnx", b"good"), (LIST, b"[]")):
        with whole_file(folder / name) as file:
            file.write(content)


def test_a_file_that_fails_verification_leaves_the_earlier_one(
    network: Network, probe: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise VerificationError("student.onnx does not answer as the network does")

    monkeypatch.setattr("doublure.exports.exporting.verify", fail)
    with pytest.raises(VerificationError):
        export_network(network, tmp_path, ["onnx"], None, probe)
    assert names(tmp_path) == {"student.onnx", LIST}
    assert (tmp_path / "student.onnx").read_bytes() == b"good"


def test_a_full_disk_while_writing_leaves_the_earlier_files(
    network: Network, probe: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFolderError, match=r"student\.onnx: No space left on device"):
        export_network(network, tmp_path, ["onnx"], None, probe)
    assert names(tmp_path) == {"student.onnx", LIST}
    assert (tmp_path / "student.onnx").read_bytes() == b"good"


def test_a_full_disk_while_moving_leaves_the_earlier_files(
    network: Network, probe: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier(tmp_path)
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.parent == tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunFolderError, match="what was there before is intact"):
        export_network(network, tmp_path, ["onnx"], None, probe, timing=SHORT)
    assert names(tmp_path) == {"student.onnx", LIST}
    assert (tmp_path / "student.onnx").read_bytes() == b"good"


def test_what_a_killed_export_left_is_swept(
    network: Network, probe: Tensor, tmp_path: Path
) -> None:
    left = part_of(tmp_path / "exports")
    left.mkdir()
    (left / "student.onnx").write_bytes(b"half")
    export_network(network, tmp_path, ["onnx"], None, probe, timing=SHORT)
    assert names(tmp_path) == {"student.onnx", LIST}


@pytest.mark.slow
def test_all_forms_of_a_builtin_network_reopen_in_fresh_processes(tmp_path: Path) -> None:
    body = build("resnet8", classes=3, channels=1)
    made = Network(body, CONTRACT, reference="builtin/resnet8").eval()
    formats = ["onnx", "pt2", "safetensors", "int8-onnx"]
    rows = export_network(made, tmp_path, formats, [images(32)], images(5), timing=SHORT)
    assert [row.form for row in rows] == formats
    assert all(row.max_difference < 1e-5 and row.agreement == 1.0 for row in rows[:3])
    assert names(tmp_path) == {
        *("student.onnx", "student.pt2", "student.safetensors", "student.json"),
        *("student.int8.onnx", LIST),
    }


@pytest.mark.slow
def test_a_network_made_in_python_leaves_with_its_program(probe: Tensor, tmp_path: Path) -> None:
    made = Network(tiny.network(0), CONTRACT).eval()
    (row,) = export_network(made, tmp_path, ["safetensors"], None, probe, timing=SHORT)
    assert row.max_difference < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(load(str(tmp_path))(probe), made(probe))


@pytest.mark.slow
def test_a_network_of_the_users_own_code_is_rebuilt_by_it(tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))\n"
    )
    said = NetworkRef(ref=f"file:{code}:make", size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    made = load(said, allow_code=True)
    out = tmp_path / "out"
    (row,) = export_network(made, out, ["safetensors"], None, images(4), timing=SHORT)
    assert row.max_difference < 1e-5
    assert names(out) == {"student.safetensors", "student.json", LIST}
