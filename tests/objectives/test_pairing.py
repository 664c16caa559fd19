import pytest
import torch
import torch.nn.functional as F
from torch import nn

from doublure.core.protocols import image_batch
from doublure.nets import builtin
from doublure.nets.adapters import conv_adapter
from doublure.nets.features import FeatureRecorder
from doublure.nets.stages import Layer
from doublure.objectives.pairing import (
    FEATURES,
    INNER,
    LAST,
    MIDDLE,
    STAGES,
    Layers,
    PairedLoss,
    pair_layers,
    pair_stages,
)

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BATCH = image_batch(IMAGES)


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return builtin.build(name, classes=10)


def names(pairing):
    return [(pair.student.name, pair.teacher.name) for pair in pairing.pairs]


def paired(student, teacher, layers, **more):
    return pair_layers(layers, built(student), built(teacher), BATCH, **more)


def test_one_family_is_paired_stage_by_stage():
    assert names(paired("resnet8", "resnet20", STAGES)) == [
        ("layer1", "layer1"),
        ("layer2", "layer2"),
        ("layer3", "layer3"),
    ]


def test_families_are_paired_by_size_and_end_with_their_ends():
    assert names(paired("resnet8", "vgg8", STAGES)) == [
        ("layer1", "block0"),
        ("layer2", "block1"),
        ("layer3", "block4"),
    ]
    assert names(paired("vgg8", "resnet8", STAGES)) == [
        ("block0", "layer1"),
        ("block1", "layer2"),
        ("block4", "layer3"),
    ]
    assert names(paired("mobilenetv2-0.5", "resnet8", STAGES))[-1] == ("conv2", "layer3")


def test_the_order_of_pairs_is_that_of_both_networks_and_none_is_used_twice():
    def end(name, side, depth):
        return Layer(name=name, shape=(4, side, side), depth=depth)

    few = [end("a", 32, 0.2), end("b", 4, 0.6), end("c", 2, 1.0)]
    many = [end(str(i), 64 >> i, (i + 1) / 6) for i in range(6)]
    pairs = pair_stages(few, many)
    assert [(p.student.name, p.teacher.name) for p in pairs] == [("a", "1"), ("b", "4"), ("c", "5")]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (MIDDLE, [("layer2", "block1")]),
        (LAST, [("layer3", "block4")]),
        (INNER, [("layer1", "block0"), ("layer2", "block1")]),
        (FEATURES, [("linear:input", "classifier:input")]),
    ],
)
def test_a_kind_of_layers_is_found(layers, expected):
    assert names(paired("resnet8", "vgg8", layers)) == expected


def test_named_layers_are_taken_as_they_are():
    layers = Layers(student=("layer1.0.bn2", "linear:input"), teacher=("block2", "classifier"))
    pairing = paired("resnet8", "vgg8", layers)
    assert [pair.teacher.shape for pair in pairing.pairs] == [(256, 8, 8), (10, 1, 1)]


def test_before_the_activation_another_tap_is_taken():
    pairing = paired("resnet8", "vgg8", LAST, before_activation=True)
    assert names(pairing) == [("layer3.0.relu:input", "block4")]


def test_of_a_pre_activation_network_the_next_batchnorm_is_tapped_on_either_side():
    for before in (True, False):
        pairing = paired("wrn16-1", "wrn16-2", STAGES, before_activation=before)
        expected = ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]
        assert names(pairing) == [(name, name) for name in expected]


@pytest.mark.parametrize("name", ["convnet-6", "vgg8", "wrn16-1", "resnet8"])
def test_stages_are_compared_after_their_activation_unless_told_otherwise(name):
    network = built(name).eval()
    for before in (True, False):
        pairing = pair_layers(STAGES, network, network, BATCH, before_activation=before)
        with FeatureRecorder(network, pairing.features.student) as recorder:
            outputs = recorder.record(IMAGES)
        for ours, theirs in pairing.maps(outputs, outputs):
            assert torch.equal(ours, theirs)
            assert bool(ours.lt(0).any()) == before


def test_the_table_names_what_is_compared_and_what_is_left_out():
    assert paired("resnet8", "vgg8", STAGES).notes == (
        "layers: student layer1 (16 x 32 x 32)  <- teacher block0 (64 x 32 x 32, activated)",
        "layers: student layer2 (32 x 16 x 16)  <- teacher block1 (128 x 16 x 16, activated)",
        "layers: student layer3 (64 x 8 x 8)    <- teacher block4 (512 x 4 x 4, activated)",
        "layers: the teacher's block2 (256 x 8 x 8) is not used",
    )


def test_layers_named_on_one_side_alone_are_refused():
    with pytest.raises(ValueError, match="2 of the student and 1 of the teacher are named"):
        Layers(student=("a", "b"), teacher=("a",))


def test_without_a_teacher_there_is_nothing_to_compare_with():
    with pytest.raises(ValueError, match="there is none; use distill"):
        pair_layers(STAGES, built("resnet8"), None, BATCH)


def test_a_criterion_adapts_the_student_to_the_teacher():
    student, teacher = built("resnet8"), built("vgg8")
    pairing = pair_layers(LAST, student, teacher, BATCH)
    adapter = conv_adapter(64, 512, torch.Generator().manual_seed(0))
    loss = PairedLoss(pairing, lambda pairs: {"gap": F.mse_loss(*pairs[0])}, [adapter])
    with (
        FeatureRecorder(student, loss.features.student) as ours,
        FeatureRecorder(teacher, loss.features.teacher) as its,
    ):
        terms = loss(ours.record(IMAGES), its.record(IMAGES), BATCH)
    terms["gap"].backward()
    assert {name for name, p in loss.named_parameters() if p.grad is not None} == {
        "adapters.0.0.weight",
        "adapters.0.1.weight",
        "adapters.0.1.bias",
    }
    assert student.layer3[0].conv2.weight.grad.abs().sum() > 0
    assert student.linear.weight.grad is None
