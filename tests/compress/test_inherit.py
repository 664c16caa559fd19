import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from doublure.compress.inherit import Inherit, share_in_common
from doublure.core.protocols import InputContract, image_batch
from doublure.nets.blocks import find_counterparts
from doublure.nets.builtin import build
from doublure.nets.network import Network
from tests import tiny

CONTRACT = dataclasses.replace(tiny.CONTRACT, size=(8, 8))
BATCHES = [image_batch(torch.rand(16, 1, 8, 8, generator=tiny.rng(i))) for i in range(4)]
SETTINGS = Inherit(num_images=64)
REPAIRED = "repaired by least squares on 64 images"
OTHER = dataclasses.replace(CONTRACT, classes=5)


def network(name: str, seed: int = 0, contract: InputContract = CONTRACT) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = build(name, classes=contract.classes, channels=1, size=contract.size)
    return Network(body, contract)


def taught(name: str, seed: int = 0) -> Network:
    """Return a network whose BatchNorm statistics are those of some images."""
    made = network(name, seed).train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in BATCHES:
            made(batch.images)
    return made.eval()


def answers(made: nn.Module) -> Tensor:
    with torch.no_grad():
        answer: Tensor = made.eval()(torch.cat([batch.images for batch in BATCHES]))
    return answer


@pytest.mark.parametrize("name", ["resnet20", "wrn10-1", "vit-small", "shufflenetv2"])
def test_a_student_of_the_same_architecture_begins_as_its_teacher(name):
    teacher, student = taught(name), network(name, seed=1)
    done = SETTINGS(student, teacher, BATCHES, tiny.rng())
    assert tiny.same_weights(student.body, teacher.body)
    assert done.how == "the teacher's own weights"
    assert done.errors == {"logits": 0.0}
    assert done.notes == ()


def without_branches(teacher: Network, kept: set[str]) -> Network:
    """Return the teacher with all blocks but these answering what they are shown."""
    for name, module in teacher.body.named_modules():
        if name.endswith("bn2") and name.rpartition(".")[0] not in kept and "." in name:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return teacher


def test_a_teacher_whose_other_blocks_do_nothing_is_reproduced():
    teacher = without_branches(taught("resnet20"), {f"layer{i}.0" for i in (1, 2, 3)})
    student = network("resnet8", seed=1)
    done = SETTINGS(student, teacher, BATCHES, tiny.rng())
    assert torch.equal(answers(student), answers(teacher))
    assert done.how == "the teacher's own weights"


def test_shallower_students_answer_less_wrong_at_each_stage_than_dropped_blocks():
    teacher, student = taught("resnet20"), network("resnet8", seed=1)
    done = SETTINGS(student, teacher, BATCHES, tiny.rng())
    dropped = network("resnet8", seed=1)
    found = find_counterparts(dropped.body, teacher.body)
    ours, theirs = dropped.body.state_dict(), teacher.body.state_dict()
    for name in ours:
        path, _, leaf = name.rpartition(".")
        ours[name] = theirs[f"{found.modules[path]}.{leaf}"]
    dropped.body.load_state_dict(ours)
    wanted = answers(teacher)
    error, before = ((answers(x) - wanted).square().sum() for x in (student, dropped))
    assert error < before
    varies = (wanted - wanted.mean(0)).square().sum()
    assert done.errors["logits"] == pytest.approx(float(error / varies), rel=1e-3)
    assert list(done.errors) == ["layer1", "layer2", "layer3", "logits"]
    assert all(0 < error < 1 for error in done.errors.values())
    assert (
        done.how
        == "blocks 1 of 3 in each stage, channels all, repaired by least squares on 64 images"
    )


def test_the_last_map_of_a_block_is_better_than_least_squares_without_the_relu():
    teacher, student = taught("resnet20"), network("resnet8", seed=1)
    Inherit(num_images=64, ridge=1e-6, rounds=20)(student, teacher, BATCHES, tiny.rng())
    images = torch.cat([batch.images for batch in BATCHES])
    body, other = student.body.double().eval(), teacher.body.double()
    x = (images.double() - 0.5) / 0.5
    with torch.no_grad():
        stem = torch.relu(body.bn1(body.conv1(x)))
        block = body.layer1[0]
        seen = torch.relu(block.bn1(block.conv1(stem)))
        target = other.layer1(torch.relu(other.bn1(other.conv1(x))))
        before = torch.relu(other.bn1(other.conv1(x)))
        for part in other.layer1[:2]:
            before = part(before)
        last = other.layer1[2]
        wanted = last.bn2(last.conv2(torch.relu(last.bn1(last.conv1(before))))) + before - stem
        rows = torch.nn.functional.unfold(seen, 3, padding=1).mT.flatten(0, 1)
        rows = torch.cat((rows, torch.ones(len(rows), 1)), 1)
        best = rows @ torch.linalg.lstsq(rows, wanted.movedim(1, -1).flatten(0, 2)).solution
        plain = torch.relu(best.unflatten(0, (64, 8, 8)).movedim(-1, 1) + stem)
    torch.testing.assert_close(target, torch.relu(wanted + stem))
    error, least = ((answer - target).square().sum() for answer in (block(stem), plain))
    assert 0.5 * least < error < least


def test_the_teacher_and_torchs_generator_stay_and_the_same_rng_writes_the_same(monkeypatch):
    monkeypatch.setattr("doublure.compress.solving._FEWEST", 64)
    teacher, student, again = taught("resnet20"), network("resnet8", 1), network("resnet8", 1)
    student.train()
    before, state = copy.deepcopy(teacher.state_dict()), torch.random.get_rng_state()
    one = Inherit(rows=1)(student, teacher, BATCHES, tiny.rng(3))
    assert Inherit(rows=1)(again, teacher, BATCHES, tiny.rng(3)) == one
    assert tiny.same_weights(student, again)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    other = network("resnet8", 1)
    Inherit(rows=1)(other, teacher, BATCHES, tiny.rng(4))
    assert not tiny.same_weights(student, other)


def test_what_the_teacher_answers_is_asked_in_parts_where_memory_is_short(monkeypatch):
    teacher, student, other = taught("resnet20"), network("resnet8", 1), network("resnet8", 1)
    SETTINGS(student, teacher, BATCHES, tiny.rng())
    monkeypatch.setattr("doublure.compress.solving._TARGET_BYTES", 1)
    monkeypatch.setattr("doublure.compress.solving._BLOCK_BYTES", 1)
    SETTINGS(other, teacher, BATCHES, tiny.rng())
    assert tiny.same_weights(student, other)


def test_other_classes_leave_the_classifier_new():
    teacher = taught("resnet20")
    student = network("resnet8", 1, OTHER)
    was = student.body.linear.weight.clone()
    done = SETTINGS(student, teacher, BATCHES, tiny.rng())
    assert torch.equal(student.body.linear.weight, was)
    assert "the classifier is initialised randomly: its classes are not the teacher's" in done.notes
    assert list(done.errors) == ["layer1", "layer2", "layer3"]


def test_an_untrained_teacher_is_refused():
    with pytest.raises(ValueError, match=r"the teacher is untrained.*--from-scratch"):
        SETTINGS(network("resnet8", 1), network("resnet20"), BATCHES, tiny.rng())


def test_a_teacher_that_answers_all_alike_is_refused():
    teacher = taught("resnet20")
    nn.init.zeros_(teacher.body.linear.weight)
    with pytest.raises(ValueError, match=r"output is the same for all images.*--from-scratch"):
        SETTINGS(network("resnet8", 1), teacher, BATCHES, tiny.rng())


def test_without_images_nothing_is_repaired():
    with pytest.raises(ValueError, match="got none; use --from-scratch"):
        SETTINGS(network("resnet8"), taught("resnet20"), [], tiny.rng())


@pytest.mark.parametrize("name", ["num_images", "ridge", "rows", "rounds"])
def test_settings_are_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        Inherit(**{name: 0})


def test_what_two_networks_share_counts_layers_of_other_widths():
    narrow, wide = (build(name, classes=3, channels=1) for name in ("resnet8-0.5", "resnet14"))
    assert share_in_common(narrow, wide) == 1.0
    assert share_in_common(narrow, build("vgg8", classes=3, channels=1)) < 0.2


def test_a_teacher_whose_other_channels_are_dead_is_reproduced_by_a_narrower_student():
    teacher = taught("convnet-6")
    alive = ([0, 3], [1, 2, 7, 9], [0, 4, 5, 6, 11, 13, 17, 20])
    for stage, channels in enumerate(alive):
        norm = teacher.body.get_submodule(f"bn{stage + 1}")
        dead = torch.ones(norm.num_features, dtype=torch.bool)
        dead[list(channels)] = False
        with torch.no_grad():
            norm.weight[dead], norm.bias[dead] = 0.0, -1.0
    student = network("convnet-2", seed=1)
    done = SETTINGS(student, teacher, BATCHES, tiny.rng())
    torch.testing.assert_close(answers(student), answers(teacher), atol=1e-4, rtol=1e-4)
    assert done.errors["logits"] < 1e-9
    assert done.how.startswith("blocks all, channels 36%, repaired")


def test_a_wider_student_answers_as_its_teacher():
    teacher, student = taught("convnet-2"), network("convnet-3", seed=1)
    done = SETTINGS(student, teacher, BATCHES, tiny.rng())
    torch.testing.assert_close(answers(student), answers(teacher), atol=1e-5, rtol=1e-5)
    assert done.errors["logits"] == 0


@pytest.mark.parametrize(
    ("name", "of", "how"),
    [
        ("resnet8-0.5", "resnet20", "blocks 1 of 3 in each stage, channels 5"),
        ("vgg8", "vgg11", "blocks 1 of 1, 1 of 1, 1 of 2, 1 of 2, 1 of 2, channels all"),
        ("wrn10-1", "wrn16-1", "blocks 1 of 2 in each stage, channels all"),
        ("mobilenetv2-0.5", "mobilenetv2", "blocks all, channels "),
    ],
)
def test_students_of_a_family_are_repaired(name, of, how):
    teacher, student = taught(of), network(name, seed=1)
    dropped = network(name, seed=1)
    done = SETTINGS(student, teacher, BATCHES, tiny.rng())
    left_out = dataclasses.replace(SETTINGS, repair=False)(dropped, teacher, BATCHES, tiny.rng())
    wanted = answers(teacher)
    error, before = ((answers(x) - wanted).square().sum() for x in (student, dropped))
    assert error < before
    assert done.how.startswith(how)
    assert left_out.how == done.how.replace(
        "repaired by least squares on 64 images", "not repaired"
    )
    assert not left_out.errors


@pytest.mark.parametrize(("name", "of"), [("vgg8", "resnet8"), ("mobilenetv2-0.5", "resnet8")])
def test_a_student_of_another_family_is_solved_from_random_features(name, of):
    teacher, student = taught(of), network(name, seed=1)
    done = SETTINGS(student, teacher, BATCHES, tiny.rng())
    assert done.how == f"no layer of the teacher, {REPAIRED}"
    wanted = answers(teacher)
    error = (answers(student) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert error < 1
    assert done.errors["logits"] == pytest.approx(float(error), rel=1e-3)
    assert any("stages" in note for note in done.notes)
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())


def test_a_network_without_maps_inherits_from_its_wider_sister():
    def perceptron(width: int, seed: int) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            return Network(nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, 3)), CONTRACT)

    student = perceptron(8, 1)
    done = SETTINGS(student, perceptron(16, 0), BATCHES, tiny.rng())
    assert done.errors["logits"] < 1
    assert done.how.startswith("blocks all, channels 5")


def test_with_nothing_in_common_and_other_classes_it_is_refused():
    student = Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), OTHER)
    with pytest.raises(
        ValueError, match=r"nothing in common with its teacher, ConvNet; use --from"
    ):
        SETTINGS(student, taught("convnet-2"), BATCHES, tiny.rng())
