"""Does a file answer as its network does?"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from doublure.exports import verify as verifying
from doublure.exports.verify import VerificationError, answers_of, verify
from doublure.nets.network import Network
from tests import tiny
from tests.exports.conftest import CONTRACT


class Pairs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


ONES = {"logits": np.ones((10, 3), np.float32)}


def equal_top1(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return float((one["logits"].argmax(1) == other["logits"].argmax(1)).mean())


def test_a_float_file_agrees_up_to_the_order_of_its_sums(
    network: Network, float_file: Path, probe: Tensor
) -> None:
    found = verify("onnx", float_file, probe, answers_of(network, probe), equal_top1)
    assert found.max_difference < 1e-5
    assert found.agreement == 1.0


def test_an_eight_bit_file_is_off_by_its_rounding(
    network: Network, int8_file: Path, probe: Tensor
) -> None:
    found = verify("int8-onnx", int8_file, probe, answers_of(network, probe), equal_top1)
    assert 1e-4 < found.max_difference < 0.5
    assert found.agreement >= 0.9


def test_a_file_of_another_network_is_refused(float_file: Path, probe: Tensor) -> None:
    other = Network(tiny.network(5, width=16), CONTRACT).eval()
    pattern = (
        r"student.onnx does not answer as the network does: at batch size 1 .* allowed 0.0001$"
    )
    with pytest.raises(VerificationError, match=pattern):
        verify("onnx", float_file, probe, answers_of(other, probe), equal_top1)


def test_a_truncated_file_is_refused_in_one_line(
    network: Network, float_file: Path, probe: Tensor, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(float_file.read_bytes()[:500])
    with pytest.raises(VerificationError, match=r"torn\.onnx does not open") as caught:
        verify("onnx", torn, probe, answers_of(network, probe), equal_top1)
    assert "\n" not in str(caught.value)


def replayed(monkeypatch: pytest.MonkeyPatch, logits: np.ndarray) -> None:
    monkeypatch.setattr(verifying, "_replay", lambda *_: [(len(logits), {"logits": logits})])


def test_a_file_that_answers_nan_is_refused(monkeypatch: pytest.MonkeyPatch, probe: Tensor) -> None:
    replayed(monkeypatch, np.full((10, 3), np.nan, np.float32))
    for form in ("onnx", "int8-onnx"):
        with pytest.raises(VerificationError, match="of the logits is nan"):
            verify(form, Path("net.onnx"), probe, ONES, equal_top1)


def test_a_file_that_answers_in_another_shape_is_refused(
    monkeypatch: pytest.MonkeyPatch, probe: Tensor
) -> None:
    replayed(monkeypatch, np.zeros((10, 4), np.float32))
    with pytest.raises(VerificationError, match=r"logits of shape \(10, 4\), the network"):
        verify("onnx", Path("net.onnx"), probe, ONES, equal_top1)


def test_agreement_and_difference_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.array([[0.0, 4.0], [4.0, 0.0], [0.0, 4.0], [0.1, 0.0]], np.float32)
    answered = expected.copy()
    answered[3] = (0.0, 0.25)
    replayed(monkeypatch, answered)
    found = verify(
        "int8-onnx", Path("net.onnx"), torch.zeros(4, 1, 8, 8), {"logits": expected}, equal_top1
    )
    assert (found.max_difference, found.agreement) == (0.25, 0.75)


def test_a_network_that_answers_nan_is_refused_in_one_line(probe: Tensor) -> None:
    broken = Network(tiny.network(0), CONTRACT)
    with torch.no_grad():
        broken.body[-1].bias[1] = float("nan")
    with pytest.raises(ValueError, match="10 of 30 logits not finite; nothing was exported") as e:
        answers_of(broken, probe)
    assert "\n" not in str(e.value)


def test_a_network_whose_answers_hang_on_the_batch_is_refused_by_the_layer(probe: Tensor) -> None:
    body = tiny.network(0)
    body[1] = torch.nn.BatchNorm2d(body[1].num_features, track_running_stats=False)
    with pytest.raises(ValueError, match=r"BatchNorm '1' has no running .*nothing was exported"):
        answers_of(Network(body, CONTRACT), probe)


def test_several_outputs_are_named_by_their_places(probe: Tensor) -> None:
    outputs = answers_of(Network(Pairs(), CONTRACT), probe)
    assert list(outputs) == ["output_0", "output_1"]
