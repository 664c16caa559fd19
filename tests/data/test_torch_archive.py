"""Files of torch.save, new and old: the tensors in them, and damage that is named."""

import contextlib
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from doublure.data.checkpoints import DAMAGE
from doublure.data.pickle_contents import Placeholder
from doublure.data.torch_archive import StoredTensor, read_archive, read_tensors

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool),
    *(torch.complex64, torch.complex128),
)


def saved(path: Path, content: object, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def tensors_in(path: Path) -> dict[str, Tensor]:
    content = read_archive(path)
    return read_tensors({n: each for n, each in content.items() if isinstance(each, StoredTensor)})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_number_format_comes_back(tmp_path, dtype, zipped):
    tensor = torch.arange(6.0).view(2, 3).to(dtype)
    read = tensors_in(saved(tmp_path / "w.pth", {"w": tensor}, zipped=zipped))["w"]
    assert read.dtype == dtype
    assert torch.equal(read.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("zipped", [True, False])
def test_views_empty_tensors_parameters_and_ties_come_back(tmp_path, zipped):
    whole = torch.arange(12.0).view(3, 4)
    content = {
        "whole": whole,
        "turned": whole.t(),
        "part": whole[1:, 2:],
        "repeated": torch.ones(1).expand(4, 5),
        "scalar": torch.tensor(2.0),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "tied": whole,
    }
    read = tensors_in(saved(tmp_path / "w.pth", content, zipped=zipped))
    assert all(torch.equal(read[name], tensor) for name, tensor in content.items())
    assert read["whole"].data_ptr() == read["tied"].data_ptr()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_reads_is_read_alike(tmp_path, zipped):
    content = {"a": [1, (2.5, "x"), None], "b": {"w": torch.ones(2)}, 3: b"bytes", "t": True}
    path = saved(tmp_path / "w.pth", content, zipped=zipped)
    read, known = read_archive(path), torch.load(path, weights_only=True)
    assert read.pop("b").keys() == known.pop("b").keys()
    assert read == known


def test_tensors_of_another_kind_are_placeholders(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.eye(2).to_sparse()})
    assert isinstance(read_archive(path)["w"], Placeholder)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, each in content.items():
            archive.writestr(name, each)
    return path


def test_numbers_of_a_big_endian_machine_are_turned(tmp_path):
    tensor = torch.tensor([1.0, 2.0])
    inside = members(saved(tmp_path / "w.pth", {"w": tensor}))
    inside["w/byteorder"] = b"big"
    inside["w/data/0"] = struct.pack(">2f", 1.0, 2.0)
    assert torch.equal(tensors_in(archive_of(tmp_path / "big.pth", inside))["w"], tensor)


def test_a_flipped_bit_is_found_by_the_checksum_and_its_place_is_named(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.tensor([0.25])})
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 0.25)) + 3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"'w/data/0' do not fit their checksum"):
        tensors_in(path)


def test_files_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    path = saved(tmp_path / "w.pth", {"w": torch.ones(2)})
    torch.serialization.set_crc32_options(True)
    assert torch.equal(tensors_in(path)["w"], torch.ones(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inside: inside.pop("w/data/0"), "'w/data/0' is missing"),
        (lambda inside: inside.update({"w/data/0": b"1234"}), "'w/data/0' has 4 bytes"),
        (lambda inside: inside.pop("w/data.pkl"), "without data.pkl"),
    ],
)
def test_parts_that_do_not_belong_together_are_named(tmp_path, change, message):
    inside = members(saved(tmp_path / "w.pth", {"w": torch.ones(2)}))
    change(inside)
    with pytest.raises(ValueError, match=message):
        tensors_in(archive_of(tmp_path / "changed.pth", inside))


def test_a_packed_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(50_000_000))
    with pytest.raises(ValueError, match="claim 50000000 bytes"):
        read_archive(tmp_path / "w.pth")


def test_the_old_layout_names_a_storage_that_ends_early(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.ones(100)}, zipped=False)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"storage \d+ ends early"):
        read_archive(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_flipped_byte_makes_more_than_the_file_holds(tmp_path, zipped):
    good = saved(tmp_path / "w.pth", {"w": torch.ones(3)}, zipped=zipped).read_bytes()
    for place in range(0, min(len(good), 700), 3):
        damaged = bytearray(good)
        damaged[place] ^= 0x55
        (tmp_path / "w.pth").write_bytes(damaged)
        with contextlib.suppress(DAMAGE):
            assert sum(each.numel() for each in tensors_in(tmp_path / "w.pth").values()) <= 1000
