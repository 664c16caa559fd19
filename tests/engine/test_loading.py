"""From a reference to a network: architecture, weights, contract, and what a person must know."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from doublure.core import optional
from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from doublure.data.checkpoints import CheckpointError
from doublure.data.class_names import read_names
from doublure.data.student_file import ImageDescription, write_student
from doublure.nets import builtin
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.networks import load, resolve, save

TEACHER = InputContract(
    size=(16, 24),
    channels=1,
    mean=(0.1,),
    std=(0.3,),
    classes=2,
    names=("cat", "dog"),
    interpolation="bicubic",
    crop_pct=0.9,
)
NET = """
from torch import nn

def make_net(classes=4, channels=3):
    return nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(2, classes))

def fixed():
    return make_net(classes=6, channels=1)

def dictionary():
    class Net(nn.Module):
        def forward(self, images):
            return {"logits": images}
    return Net()
"""


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Weights of a resnet8 with 7 classes and one channel."""
    state = builtin.build("resnet8", classes=7, channels=1).state_dict()
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


@pytest.fixture
def net_file(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return str(tmp_path / "net.py")


def state_of(network: Network) -> dict[str, Tensor]:
    return dict(network.body.state_dict())


def assert_equal_states(first: Network, second: Network) -> None:
    assert state_of(first).keys() == state_of(second).keys()
    assert all(
        torch.equal(value, state_of(second)[name]) for name, value in state_of(first).items()
    )


def test_weights_tell_classes_and_channels(weights):
    loaded = resolve(NetworkRef(ref="builtin/resnet8", weights=weights))
    assert (loaded.network.contract.classes, loaded.network.contract.channels) == (7, 1)
    assert loaded.network.reference == "builtin/resnet8"
    assert not loaded.random
    expected = safetensors.torch.load_file(weights)
    assert all(
        torch.equal(value, expected[name]) for name, value in state_of(loaded.network).items()
    )


def test_normalisation_is_not_guessed_but_noted(weights):
    loaded = resolve(NetworkRef(ref="builtin/resnet8", weights=weights))
    assert (loaded.network.contract.mean, loaded.network.contract.std) == ((0.0,), (1.0,))
    assert [note.partition(" of ")[0] for note in loaded.notes] == [
        "nothing states the image size",
        "nothing states the normalisation",
    ]


def test_what_is_said_beside_the_reference_comes_first(weights):
    said: dict[str, Any] = {
        **{"size": (28, 28), "mean": (0.5,), "std": (0.25,), "names": tuple("abcdefg")},
        **{"interpolation": "bicubic", "crop_pct": 0.875},
    }
    loaded = resolve(NetworkRef(ref="builtin/resnet8", weights=weights, **said), like=TEACHER)
    contract = loaded.network.contract
    assert {name: getattr(contract, name) for name in said} == said
    assert contract.classes == 7
    assert loaded.notes == ()


def test_a_student_inherits_from_its_teacher():
    loaded = resolve("builtin/resnet8", like=TEACHER, rng=from_seed(0))
    assert loaded.network.contract == TEACHER
    assert loaded.random
    assert loaded.notes == ()
    assert loaded.network(torch.zeros(2, 1, 16, 24)).shape == (2, 2)


def test_a_network_without_weights_is_noted_unless_it_is_new():
    loaded = resolve(NetworkRef(ref="builtin/resnet8", classes=3), rng=from_seed(0))
    assert "was given no weights" in loaded.notes[-1]


def test_random_weights_follow_the_seed_alone():
    first, same, other = (
        load("builtin/resnet8", like=TEACHER, rng=from_seed(seed)) for seed in (0, 0, 1)
    )
    assert_equal_states(first, same)
    assert not torch.equal(state_of(first)["conv1.weight"], state_of(other)["conv1.weight"])


def test_without_a_generator_the_seed_is_zero():
    assert_equal_states(
        load("builtin/resnet8", like=TEACHER),
        load("builtin/resnet8", like=TEACHER, rng=from_seed(0)),
    )


def test_loading_leaves_every_generator_alone(weights):
    rng = from_seed(3)
    before = (torch.get_rng_state(), rng.get_state())
    load("builtin/resnet8", like=TEACHER, rng=rng)
    load(NetworkRef(ref="builtin/resnet8", weights=weights), rng=rng)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(rng.get_state(), before[1])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"ref": "builtin/resnet8"}, "the number of classes of builtin/resnet8 is unknown"),
        ({"ref": "builtin/resnet9", "classes": 3}, "unknown built-in network 'resnet9'"),
        ({"ref": "builtin/resnet9"}, "unknown built-in network 'resnet9'"),
        ({"ref": "resnet20"}, r"neither a network nor a path.*did you mean builtin/resnet20\?"),
        ({"ref": "net.py:CNN"}, r"a function of a file is written file:net\.py:CNN"),
        ({"ref": "runs/missing"}, "'runs/missing' is neither a network nor a path"),
        ({"ref": "python:Net"}, "was made in Python and cannot be made again"),
        ({"ref": "weights.pth"}, "is a file of weights"),
        ({"ref": "missing.pt2"}, r"no file missing\.pt2"),
        ({"ref": "builtin/resnet8", "weights": "missing.pth"}, r"no file missing\.pth"),
        ({"ref": "builtin/resnet8", "classes": 3, "mean": (0.5,)}, "one value per channel"),
    ],
)
def test_what_cannot_be_loaded_says_why(said, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(NetworkRef(**said))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"ref": "builtin/resnet8", "classes": 10}, "it has 7 classes, not 10"),
        ({"ref": "builtin/resnet8", "channels": 3}, "it has 1 channels, not 3"),
        ({"ref": "builtin/resnet14"}, "they fit builtin/resnet8 with 7 classes"),
        ({"ref": "builtin/vgg8"}, "they fit builtin/resnet8 with 7 classes"),
    ],
)
def test_weights_of_another_network_say_which(weights, said, message):
    with pytest.raises(ValueError, match=message):
        load(NetworkRef(weights=weights, **said))


def test_a_saved_student_comes_back_as_it_was(tmp_path):
    student = load("builtin/resnet8", like=TEACHER, rng=from_seed(5))
    save(student, tmp_path / "run")
    for ref in (tmp_path / "run", tmp_path / "run" / "student.json"):
        loaded = resolve(str(ref))
        assert loaded.network.contract == TEACHER
        assert loaded.network.reference == "builtin/resnet8"
        assert (loaded.notes, loaded.random) == ((), False)
        assert_equal_states(loaded.network, student)


def test_saved_weights_load_into_the_plain_architecture(tmp_path):
    save(load("builtin/resnet8", like=TEACHER), tmp_path)
    state = safetensors.torch.load_file(tmp_path / "student.safetensors")
    builtin.build("resnet8", classes=2, channels=1).load_state_dict(state, strict=True)


def test_a_saved_student_can_be_corrected(tmp_path):
    save(load("builtin/resnet8", like=TEACHER), tmp_path)
    network = load(NetworkRef(ref=str(tmp_path), mean=(0.7,), names=("kitten", "puppy")))
    assert (network.contract.mean, network.contract.std) == ((0.7,), (0.3,))
    assert network.contract.names == ("kitten", "puppy")
    with pytest.raises(ValueError, match="it has 2 classes, not 5"):
        load(NetworkRef(ref=str(tmp_path), classes=5))


def test_a_run_folder_takes_other_weights(tmp_path):
    save(load("builtin/resnet8", like=TEACHER, rng=from_seed(0)), tmp_path / "a")
    other = load("builtin/resnet8", like=TEACHER, rng=from_seed(1))
    torch.save({"state_dict": state_of(other)}, tmp_path / "other.pth")
    network = load(NetworkRef(ref=str(tmp_path / "a"), weights=str(tmp_path / "other.pth")))
    assert_equal_states(network, other)
    assert network.contract == TEACHER


def test_a_folder_that_is_no_run_says_what_is_there(tmp_path):
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(CheckpointError, match=r"no student\.json, only recipe\.toml"):
        load(str(tmp_path))


def test_a_changed_student_is_rebuilt_by_its_plan(tmp_path):
    network = load("builtin/resnet8", like=TEACHER)
    network.plan = plan = ({"kind": "halve"},)
    save(network, tmp_path)
    with pytest.raises(
        ValueError,
        match="unknown kind of change 'halve'; known: ensemble, expanded, pruned, quantized",
    ):
        load(str(tmp_path))
    seen = []

    def rebuild(body: nn.Module, records: tuple[dict[str, Any], ...]) -> nn.Module:
        seen.append(records)
        return body

    assert load(str(tmp_path), rebuild=rebuild).plan == plan
    assert seen == [plan]


def test_a_file_runs_only_for_a_person_who_named_it(net_file):
    ref = NetworkRef(ref=f"file:{net_file}:make_net", classes=5)
    with pytest.raises(ValueError, match=r"would run the code in .*; if you trust it, use --allow"):
        load(ref)
    with pytest.raises(ValueError, match="would run the code"):
        load(ref, allow_code=["another.py"])
    for allowed in (True, [net_file], [Path(net_file)]):
        assert load(ref, allow_code=allowed).contract.classes == 5


def test_a_file_inside_a_student_runs_only_if_that_file_is_allowed(net_file, tmp_path):
    ref = NetworkRef(ref=f"file:{net_file}:make_net", size=(8, 8))
    student = load(ref, allow_code=True)
    save(student, tmp_path / "run")
    run = str(tmp_path / "run")
    for refused in (False, True):
        with pytest.raises(ValueError, match="--allow-code"):
            load(run, allow_code=refused)
    assert_equal_states(load(run, allow_code=[net_file]), student)


def test_a_file_that_draws_numbers_leaves_the_global_generator_alone(net_file):
    Path(net_file).write_text("import torch\ntorch.rand(3)\n" + NET)
    before = torch.get_rng_state()
    load(f"file:{net_file}:make_net", allow_code=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_tells_its_classes_and_channels_by_answering(net_file):
    network = load(f"file:{net_file}:fixed", allow_code=True)
    assert (network.contract.classes, network.contract.channels) == (6, 1)
    assert all(layer.training for layer in network.modules())


def test_a_file_that_answers_otherwise_is_refused(net_file):
    with pytest.raises(ValueError, match="returns 6 classes, not 2; give its function"):
        load(f"file:{net_file}:fixed", like=TEACHER, allow_code=True)
    with pytest.raises(ValueError, match="returns dict, not logits"):
        load(f"file:{net_file}:dictionary", allow_code=True)
    with pytest.raises(ValueError, match="does not take one float32 image of 3 x 2 x 2"):
        load(NetworkRef(ref=f"file:{net_file}:make_net", size=(2, 2)), allow_code=True)


def test_random_weights_of_a_file_follow_the_seed(net_file):
    first, same = (
        load(f"file:{net_file}:make_net", allow_code=True, rng=from_seed(2)) for _ in range(2)
    )
    assert_equal_states(first, same)


def exported(network: nn.Module, path: Path, *shape: int) -> str:
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network.eval(), (torch.ones(shape),), dynamic_shapes=batch)
    beside = {"class_names": '["cat", "dog"]', "interpolation": '"bicubic"', "crop_pct": "0.9"}
    torch.export.save(program, path, extra_files={"description.json": json.dumps(beside)})
    return str(path)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> tuple[Network, str]:
    network = load("builtin/convnet-6", like=TEACHER)
    path = tmp_path_factory.mktemp("program") / "student.pt2"
    return network, exported(network, path, 2, 1, 16, 24)


# torch's own deprecation, met when a traced module is copied.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_program_normalises_inside(program):
    network, path = program
    loaded = resolve(path)
    contract = loaded.network.contract
    assert (contract.size, contract.channels, contract.classes) == ((16, 24), 1, 2)
    assert (contract.mean, contract.std) == ((0.0,), (1.0,))
    assert (contract.names, contract.interpolation, contract.crop_pct) == (
        *(("cat", "dog"), "bicubic", 0.9),
    )
    assert loaded.notes == ()
    images = torch.rand(3, 1, 16, 24)
    torch.testing.assert_close(freeze(loaded.network)(images), network.eval()(images))


@pytest.mark.parametrize("said", [{"classes": 3}, {"channels": 3}, {"size": (8, 8)}])
def test_a_program_cannot_be_made_another(program, said):
    with pytest.raises(ValueError, match=r"was exported with .*; leave it out"):
        load(NetworkRef(ref=program[1], **said))


def test_a_program_brings_its_own_weights(program, weights):
    with pytest.raises(ValueError, match="has its own weights; remove --weights"):
        load(NetworkRef(ref=program[1], weights=weights))


def test_the_weights_of_a_program_fit_its_architecture(program):
    network, path = program
    again = load(NetworkRef(ref="builtin/convnet-6", weights=path, mean=(0.1,), std=(0.3,)))
    assert_equal_states(again, network)


def test_a_student_made_in_python_is_loaded_as_its_program(program, tmp_path):
    network, path = program
    made = Network(network.body, TEACHER, "python:Net")
    save(made, tmp_path)
    with pytest.raises(CheckpointError, match="names no architecture: its network was made in"):
        load(str(tmp_path))
    (tmp_path / "student.pt2").write_bytes(Path(path).read_bytes())
    images = torch.rand(3, 1, 16, 24)
    torch.testing.assert_close(load(str(tmp_path))(images), network.eval()(images))


def test_a_student_cannot_name_another_student(tmp_path):
    state = state_of(load("builtin/resnet8", like=TEACHER))
    write_student(tmp_path, state, "classification", ImageDescription.of(TEACHER, "runs/other"))
    with pytest.raises(ValueError, match="'runs/other' is no architecture"):
        load(str(tmp_path))


def test_names_are_read_one_a_line(tmp_path):
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\n  Schäfer \n3\n\n", encoding="utf-8")
    assert read_names(tmp_path / "names.txt") == ("tench, Tinca tinca", "Schäfer", "3")


def test_names_saved_with_a_byte_order_mark_and_windows_lines_are_the_same_names(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert read_names(tmp_path / "names.txt") == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 is empty"),
        (b"cat\n\ndog", "line 2 is empty"),
        (b"cat\ndog\ncat", "names 'cat' twice"),
        (b"\xff\xfe", "cannot read class names"),
    ],
)
def test_names_that_make_no_sense_are_refused(tmp_path, content, message):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / "names.txt")


def test_names_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read class names"):
        read_names(tmp_path / "names.txt")


@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "resnet56-4bfd9763.th"])
def test_public_cifar_checkpoints_load_unchanged(real_data, name):
    file = real_data / "cifar10-resnet" / name
    loaded = resolve(NetworkRef(ref=f"builtin/{name.partition('-')[0]}", weights=str(file)))
    published = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    state = state_of(loaded.network)
    assert all(torch.equal(state[key.removeprefix("module.")], published[key]) for key in published)
    assert loaded.network.contract.classes == 10


@pytest.mark.skipif(
    optional.reason_absent("timm") is not None, reason=f"timm: {optional.reason_absent('timm')}"
)
def test_a_hub_speaks_for_weights_that_were_downloaded_before(tmp_path):
    timm = optional.require("timm")
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    ref = NetworkRef(ref="timm/test_resnet.r160_in1k", weights=str(tmp_path / "weights.pth"))
    loaded = resolve(ref)
    assert (loaded.network.contract.size, loaded.network.contract.classes) == ((160, 160), 1000)
    assert loaded.notes == ()
    student = load("timm/test_resnet", like=TEACHER)
    assert student.contract == TEACHER
    save(student, tmp_path / "run")
    assert_equal_states(load(str(tmp_path / "run")), student)
    with pytest.raises(ValueError, match="weights for 1000 classes, not 7"):
        load(NetworkRef(ref="timm/test_resnet", classes=7))
    with pytest.raises(ValueError, match="has no classifier"):
        load("timm/vit_small_patch14_dinov2.lvd142m")
