"""The audit finds a planted fault by itself, and raises no alarm without one."""

import copy
import json

import pytest
import torch

from doublure.audits.worst_case_quantization import WorstCaseQuantization, find_worst_case
from doublure.core.protocols import InputContract
from doublure.core.quantization_findings import QuantizationFinding
from doublure.core.seeding import from_seed
from doublure.nets.network import Network
from doublure.networks import save
from tests import taught
from tests.command import command

DEFAULTS = {
    "bits": (4, 5, 6, 8),
    "mean_bits": 6.0,
    "policies": 200,
    "trials": 60,
    "alarm": 0.1,
    "failure": 0.25,
}
SMALL = WorstCaseQuantization(bits=(4, 5, 8), mean_bits=6, policies=8, trials=8)
GAIN = 64.0


def planted(network: Network) -> Network:
    """Return the same function, whose second layer has a channel far larger than the others."""
    made = copy.deepcopy(network)
    with torch.no_grad():
        norm = next(m for m in made.modules() if isinstance(m, torch.nn.BatchNorm2d))
        norm.weight[0] *= GAIN
        norm.bias[0] *= GAIN
        second = [m for m in made.modules() if isinstance(m, torch.nn.Conv2d)][1]
        second.weight[:, 0] /= GAIN
    return made


def found_in(network: Network, labels: torch.Tensor | None = None) -> QuantizationFinding:
    images = taught.images_and_labels("test")[0][:96]
    return find_worst_case(network, images, SMALL, from_seed(0), labels)


@pytest.fixture(scope="module")
def pair() -> tuple[QuantizationFinding, QuantizationFinding]:
    network, labels = taught.teacher(), taught.images_and_labels("test")[1][:96]
    return found_in(network, labels), found_in(planted(network), labels)


def test_a_planted_layer_is_named_unaided_and_a_plain_network_raises_no_alarm(pair):
    plain, fault = pair
    assert plain.verdict == "ok"
    assert plain.vulnerable == ()
    assert plain.repair == ""
    assert fault.verdict == "fail"
    assert fault.vulnerable == ("conv2",)
    assert fault.repair == "--equalise"
    inflated = {layer.name: layer.inflation for layer in fault.layers}
    assert max(inflated, key=inflated.__getitem__) == "conv2"


def test_in_float_the_pair_is_equal_and_at_the_same_mean_of_bits_it_is_not(pair):
    plain, fault = pair
    assert plain.accuracy["float"] == fault.accuracy["float"]
    assert plain.mean_bits == fault.mean_bits
    assert fault.accuracy["worst"] < plain.accuracy["worst"] - 0.1


def test_the_worst_policy_has_the_cost_of_the_random_ones(pair):
    for found in pair:
        assert sum(found.worst_policy.values()) == pytest.approx(found.mean_bits * 4)
    assert pair[1].worst >= pair[1].random_mean


def test_every_image_has_its_critical_bits(pair):
    for found in pair:
        assert sum(found.critical_bits.values()) == found.images
        assert len(found.witnesses) == 20


def test_the_same_seed_finds_the_same_and_the_network_stays_as_it_was():
    network = taught.teacher()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert found_in(network) == found_in(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network.training


def test_too_few_images_and_answers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="the audit needs 4 images or more, got 2"):
        find_worst_case(taught.teacher(), torch.rand(2, 1, 8, 8), SMALL, from_seed(0))

    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(1)) * torch.nan

    contract = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=3)
    with pytest.raises(ValueError, match="not all finite"):
        find_worst_case(Network(Broken(), contract), torch.rand(8, 1, 8, 8), SMALL, from_seed(0))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="bits must grow from 2 to 8"):
        WorstCaseQuantization(bits=(8, 4))
    with pytest.raises(ValueError, match="mean_bits must be within the bits"):
        WorstCaseQuantization(mean_bits=9)
    with pytest.raises(ValueError, match="alarm must be in"):
        WorstCaseQuantization(alarm=0.5)


def test_the_command_writes_a_page_and_prints_what_mends(tmp_path):
    body = planted(taught.teacher()).body
    save(Network(body, taught.CONTRACT, "builtin/convnet-8"), tmp_path / "net")
    words = f"audit quantization --model {tmp_path / 'net'} --out {tmp_path / 'out'}"
    options = "--transfer noise --count 32 --policies 5 --bits 4,6,8"
    told = command(*words.split(), *options.split())
    assert told.status == 0
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "<svg" in page
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["simulated"] is True
    assert told.out.startswith(found["verdict"])
    if found["repair"]:
        assert f"--model {tmp_path / 'net'} {found['repair']}" in " ".join(told.out.split())
    again = command(*words.split(), *options.split())
    assert again.status == 1
    assert "is not empty; choose another --out" in again.err
