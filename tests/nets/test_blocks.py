import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from doublure.nets.blocks import enclosing_block, find_counterparts, find_runs, segments
from doublure.nets.builtin import build


def test_nine_blocks_become_three_of_three():
    assert segments(9, 3) == ((0, 2), (3, 5), (6, 8))


@given(few=st.integers(1, 12), more=st.integers(0, 30))
def test_segments_cover_all_blocks_once_and_are_even(few, more):
    parts = segments(few + more, few)
    members = [i for start, end in parts for i in range(start, end + 1)]
    lengths = [end - start + 1 for start, end in parts]
    assert members == list(range(few + more))
    assert max(lengths) - min(lengths) <= 1


def test_more_segments_than_blocks_are_refused():
    with pytest.raises(ValueError, match="2 blocks cannot be divided into 3 segments"):
        segments(2, 3)


def test_the_runs_of_a_stage_are_blocks_of_one_class():
    assert find_runs(build("resnet20", classes=3).layer2) == ((("0",), ("1",), ("2",)),)
    # The unit that halves the image is of another class than those that follow.
    runs = find_runs(build("shufflenetv2", classes=3).layer1)
    assert runs == ((("0",),), (("1",), ("2",), ("3",)))
    assert find_runs(build("resnet20", classes=3).layer2[0]) == ()


def test_in_a_sequence_of_layers_a_block_is_a_layer_and_what_follows_and_a_pooling_ends_a_run():
    plain = nn.Sequential(
        *(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 1, 3), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(1, 1, 3)),
    )
    assert find_runs(plain) == ((("0", "1", "2"), ("3", "4")), (("6",),))
    found = find_counterparts(build("vgg8", classes=3), build("vgg13", classes=3))
    assert found.ends["block2.0"] == "block2.3"
    assert found.runs["block2"] == (1, 2)


def test_the_enclosing_block_is_the_outermost():
    network = build("mobilenetv2", classes=3)
    assert enclosing_block(network, "blocks.1.0.conv.3") == "blocks.1.0"
    assert enclosing_block(network, "conv1.0") == ""


def test_the_last_block_of_a_run_ends_its_container():
    found = find_counterparts(build("resnet20", classes=3), build("resnet56", classes=3))
    assert [found.ended_by(f"layer2.{i}") for i in range(3)] == ["", "", "layer2"]


def test_a_block_has_the_first_of_its_segment_as_counterpart_and_the_last_as_end():
    found = find_counterparts(build("resnet20", classes=3), build("resnet56", classes=3))
    assert found.modules["layer2.1.conv2"] == "layer2.3.conv2"
    assert found.ends["layer2.1"] == "layer2.5"
    assert found.runs == {f"layer{stage}": (3, 9) for stage in (1, 2, 3)}
    assert found.modules["linear"] == "linear"


def test_a_deeper_run_than_the_teachers_has_counterparts_by_name_alone():
    found = find_counterparts(build("resnet20", classes=3), build("resnet8", classes=3))
    assert not found.runs
    assert "layer1.0.conv1" not in found.modules
