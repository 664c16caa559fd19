"""What a run was made with."""

import getpass
import hashlib
import json
import socket
from pathlib import Path

import pytest
import torch

from doublure.engine.manifest import hash_input, run_manifest


def manifest(*inputs: str) -> dict[str, object]:
    return run_manifest(seeds={"run": 7}, inputs=inputs, device=torch.device("cpu"))


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"abc")
    found = hash_input(tmp_path / "weights.pth")
    assert found == {"sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3}


def test_a_folder_is_hashed_by_names_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"12345")
    before = hash_input(tmp_path)
    assert (before["files"], before["bytes"]) == (1, 5)
    (tmp_path / "cat" / "1.png").write_bytes(b"123456")
    assert hash_input(tmp_path)["sha256_of_listing"] != before["sha256_of_listing"]


def test_inputs_go_by_the_name_the_user_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"abc")
    found = manifest("weights.pth", "builtin/resnet20")["inputs"]
    assert isinstance(found, dict)
    assert list(found) == ["weights.pth"]


def test_it_tells_nothing_of_whose_machine_it_is(tmp_path: Path) -> None:
    text = json.dumps(manifest())
    for secret in (socket.gethostname(), str(Path.cwd()), str(Path.home())):
        assert secret not in text
    assert f'"{getpass.getuser()}"' not in text


def test_it_says_versions_threads_and_seeds() -> None:
    found = json.loads(json.dumps(manifest()))
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert found["seeds"] == {"run": 7}
    assert found["determinism"]["deterministic_algorithms"] is True
    assert found["device"]["kind"] == "cpu"
