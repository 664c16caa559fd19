"""Networks as torch programs."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from doublure.data.programs import read_program
from doublure.engine.programs import DESCRIPTION, trace_program, write_program
from doublure.nets.network import Network
from tests import tiny
from tests.exports.conftest import CONTRACT, images


class AsksForItsLength(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)[:, :3]


class LooksAtItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] if x.sum() > 0 else x.flatten(1)[:, 3:6]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_program_answers_any_batch_size_as_the_network_does(network: Network, count: int) -> None:
    program = trace_program(network).module()
    with torch.no_grad():
        torch.testing.assert_close(program(images(count)), network(images(count)))


def test_a_network_that_asks_for_the_length_of_its_batch_keeps_it_free() -> None:
    program = trace_program(Network(AsksForItsLength(), CONTRACT)).module()
    assert program(images(5)).shape == (5, 3)


def test_a_network_that_looks_at_its_values_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^torch cannot trace the network.*$") as caught:
        trace_program(Network(LooksAtItsInput(), CONTRACT))
    assert "\n" not in str(caught.value)


def test_tracing_changes_neither_mode_nor_weights() -> None:
    made = Network(tiny.network(0), CONTRACT).train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    trace_program(made)
    assert made.training
    assert all(module.training for module in made.modules())
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_a_half_precision_network_leaves_as_float32() -> None:
    made = Network(tiny.network(0), CONTRACT).to(torch.bfloat16)
    program = trace_program(made).module()
    assert program(images(2)).dtype == torch.float32
    assert next(made.parameters()).dtype == torch.bfloat16


def test_the_file_is_read_by_the_careful_reader(
    network: Network, probe: Tensor, tmp_path: Path
) -> None:
    write_program(trace_program(network), network, tmp_path / "net.pt2")
    with torch.no_grad():
        answer = read_program(tmp_path / "net.pt2")(probe)
        torch.testing.assert_close(answer, network(probe))


def test_the_file_names_no_folder_of_this_machine(network: Network, tmp_path: Path) -> None:
    write_program(trace_program(network), network, tmp_path / "net.pt2")
    content = (tmp_path / "net.pt2").read_bytes()
    assert str(Path.cwd()).encode() not in content
    assert b"network.py" not in content


def test_the_contract_travels_with_the_program(network: Network, tmp_path: Path) -> None:
    write_program(trace_program(network), network, tmp_path / "net.pt2")
    extra = {DESCRIPTION: ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    assert json.loads(json.loads(extra[DESCRIPTION])["class_names"]) == ["null", "eins", "zwei"]


def test_the_same_network_gives_the_same_bytes(network: Network, tmp_path: Path) -> None:
    for name in ("one.pt2", "two.pt2"):
        write_program(trace_program(network), network, tmp_path / name)
    assert (tmp_path / "one.pt2").read_bytes() == (tmp_path / "two.pt2").read_bytes()
