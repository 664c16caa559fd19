"""Sizes and speeds."""

import pytest
import torch
from torch import Tensor, nn

from doublure.exports import measure
from doublure.exports.measure import (
    Answer,
    Exported,
    LatencyRatio,
    Timing,
    count_flops,
    on_cpu,
    time_forms,
    time_pair,
)
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.network import Network
from doublure.nets.quantized import Grid, quantize_
from tests.exports.conftest import CONTRACT, images


def test_operations_by_hand() -> None:
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
    # Two per multiply-add: 6 x 6 places, 2 channels, 9 weights; then 72 x 3.
    assert count_flops(Network(body, CONTRACT)) == 2 * (36 * 2 * 9 + 72 * 3)


def test_forms_are_timed_in_turn_at_both_batch_sizes() -> None:
    calls: list[tuple[str, int]] = []

    def form(name: str) -> object:
        def answer(batch: Tensor) -> Tensor:
            calls.append((name, len(batch)))
            return batch

        return answer

    timing = Timing(batch_size=8, rounds=2, seconds=60.0)
    paces = time_forms({"a": form("a"), "b": form("b")}, images(3), timing)
    once = [("a", 1), ("b", 1)]
    assert calls[:6] == 3 * once  # a call to warm up, then the rounds
    assert calls[6:] == 3 * [("a", 8), ("b", 8)]
    assert all(pace.latency_ms > 0 and pace.images_per_second > 0 for pace in paces.values())


def test_time_that_is_up_still_gives_three_rounds() -> None:
    calls: list[int] = []

    def answer(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return batch

    time_forms({"a": answer}, images(1), Timing(batch_size=1, rounds=50, seconds=1e-9))
    assert len(calls) == 2 * (1 + 3)


def small() -> Network:
    return Network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)), CONTRACT)


def test_a_network_and_what_it_was_are_timed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = {
        "teacher": LatencyRatio(latency_ms=2.0, images_per_second=10.0),
        "student": LatencyRatio(latency_ms=1.0, images_per_second=15.0),
    }
    asked = []

    def time_forms(forms: dict[str, Answer], *rest: object) -> dict[str, LatencyRatio]:
        asked.append({name: answer(images(2)) for name, answer in forms.items()})
        return paces

    monkeypatch.setattr(measure, "time_forms", time_forms)
    teacher, student = small().eval(), small().eval()
    assert time_pair(teacher, student, images(3), Timing(batch_size=8)) == {
        "timed_in_batches_of": 8,
        "teacher_latency_ms": 2.0,
        "teacher_answers_per_second": 10.0,
        "student_latency_ms": 1.0,
        "student_answers_per_second": 15.0,
    }
    torch.testing.assert_close(asked[0]["teacher"], teacher(images(2)))
    torch.testing.assert_close(asked[0]["student"], student(images(2)))


def test_a_network_that_rounds_is_not_timed() -> None:
    teacher, student = small(), small()
    quantize_(student.body, {"2": Grid(weight_bits=8, activation_bits=8)})
    told = time_pair(teacher, student, images(3), Timing(rounds=3))
    assert len(told) == 5
    assert set(told.values()) == {None}


def test_how_a_network_lies_in_memory_does_not_change_what_is_timed() -> None:
    network = small().train()
    assert to_channels_last_(network)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    answer = on_cpu(network)(images(2))
    assert not answer.requires_grad
    assert network.training
    assert network.body[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(answer, network.eval()(images(2)))
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())


def test_a_timing_without_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be positive, got 0"):
        Timing(rounds=0)


def test_a_row_becomes_json_field_by_field() -> None:
    row = Exported(
        form="onnx",
        path="student.onnx",
        bytes=10,
        weight_bytes=8,
        latency_ms=1.0,
        images_per_second=2.0,
        max_difference=0.0,
        agreement=1.0,
    )
    assert row.to_json()["form"] == "onnx"
    assert row.to_json()["accuracy"] is None
    assert torch.tensor(row.to_json()["bytes"]) == 10
