import json
from pathlib import Path

import pytest
import torch

from doublure.compress.latency import LayerLatency, latency_changes, read_latencies
from doublure.compress.pruning import Pruning
from doublure.core.seeding import from_seed
from doublure.nets.channels import trace_channels
from tests.compress.test_pruning import batches, made

LAYER = LayerLatency((8, 16), (4, 8), ((1.0, 2.0), (3.0, 6.0)))


def test_between_what_was_measured_latency_is_bilinear():
    assert LAYER.at(8, 4) == 1.0
    assert LAYER.at(16, 8) == 6.0
    assert LAYER.at(8, 6) == 1.5
    assert LAYER.at(12, 6) == (1.5 + 4.5) / 2
    with pytest.raises(ValueError, match="measured from 4 to 8 outputs, but needed at 9"):
        LAYER.at(8, 9)


def table_of(network, seconds: dict[str, float]) -> dict[str, LayerLatency]:
    """Return a table in which a layer takes so many ms a product of inputs and outputs."""
    made = {}
    for name, each in seconds.items():
        layer = network.body.get_submodule(name)
        wide, high = layer.in_channels, layer.out_channels
        made[name] = LayerLatency((0, wide), (0, high), ((0.0, 0.0), (0.0, each * wide * high)))
    return made


def test_a_filter_costs_what_its_layer_and_the_one_that_reads_it_lose():
    network = made("resnet8-0.5")
    channels = trace_channels(network)
    changes = latency_changes(
        table_of(network, {"layer1.0.conv1": 1.0, "layer1.0.conv2": 10.0}), channels
    )
    first, second = (channels.layers[f"layer1.0.conv{n}"] for n in (1, 2))
    inner = set(first[1].tolist())  # written by one, read by the other
    for label, change in zip(channels.prunable, changes.tolist(), strict=True):
        if label in inner:
            lost = len(first[0]) * 1.0 + len(second[1]) * 10.0
            assert change == pytest.approx(-lost)
    outer = set(channels.prunable) - inner - set(first[0].tolist()) - set(second[1].tolist())
    order = list(channels.prunable)
    assert outer
    assert all(changes[order.index(label)] == 0 for label in outer)


def write(path: Path, table: dict[str, LayerLatency]) -> str:
    rows = {name: vars(layer) for name, layer in table.items()}
    path.write_text(json.dumps(rows))
    return str(path)


def test_what_costs_time_goes_first_where_time_outweighs_all(tmp_path):
    network = made("resnet8-0.5")
    slow = "layer2.0.conv1"
    file = write(tmp_path / "table.json", table_of(network, {slow: 1.0}))
    time = {}
    for weight, latency in ((0.0, None), (1e6, file)):
        pruning = Pruning(ratio=0.3, latency=latency, latency_weight=weight)
        smaller = pruning(network, batches(), from_seed(0))
        layer = smaller.body.get_submodule(slow)
        time[weight] = layer.in_channels * layer.out_channels
    assert time[1e6] < 0.25 * time[0.0]


def test_a_weight_too_small_to_matter_leaves_the_network_as_without(tmp_path):
    network = made("resnet8-0.5")
    file = write(tmp_path / "table.json", table_of(network, {"layer2.0.conv1": 1.0}))
    plain = Pruning(ratio=0.2)(network, batches(), from_seed(0))
    timed = Pruning(ratio=0.2, latency=file, latency_weight=1e-30)(network, batches(), from_seed(0))
    ours, theirs = plain.state_dict(), timed.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the latency table"),
        ("{}", "must have an object for each layer"),
        ('{"conv1": {"inputs": [1], "outputs": [2, 1], "ms": [[1, 2]]}}', "increasing order"),
        ('{"conv1": {"inputs": [1], "outputs": [1, 2], "ms": [[1]]}}', "a row for each"),
        ('{"conv1": {"inputs": [1]}}', "conv1 must have inputs and outputs"),
        ('{"conv9": {"inputs": [1], "outputs": [4], "ms": [[1]]}}', "did you mean"),
        ('{"conv1": {"inputs": [1], "outputs": [99], "ms": [[1]]}}', "conv1: latency is measured"),
    ],
)
def test_what_is_no_table_for_this_network_is_refused(tmp_path, text, message):
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        latency_changes(read_latencies(file), trace_channels(made("resnet8-0.5")))


def test_a_table_and_its_weight_go_together():
    for fields in ({"latency": "t.json"}, {"latency_weight": 1.0}, {"latency_weight": -1.0}):
        with pytest.raises(ValueError, match="are used together"):
            Pruning(**fields)
