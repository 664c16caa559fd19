"""Names in a file meet those of an architecture, whatever wrappers put before and between."""

import pytest
from torch import nn

from doublure.nets import builtin
from doublure.nets.state_names import NameMatch, Shape, match_names, shapes_of

EXPECTED = {"conv.weight": (4, 3), "layer1.0.bn.weight": (4,), "layer1.0.bn.bias": (4,)}


def matched(given: dict[str, Shape]) -> NameMatch:
    return match_names(given, EXPECTED)


def between(tag: str) -> dict[str, Shape]:
    """Return the names with a wrapper around each module of each depth."""
    return {
        ".".join(
            [x for part in name.split(".")[:-1] for x in (part, tag)] + [name.split(".")[-1]]
        ): s
        for name, s in EXPECTED.items()
    }


PREFIXES = ["", "module.", "_orig_mod.module.", "module._orig_mod.", "model.", "net.", "backbone."]
PREFIXES += ["module.model.", "ema_model.", "student.encoder.", "_forward_module.model.", "conv."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_any_name_is_found(prefix):
    match = matched({prefix + name: shape for name, shape in EXPECTED.items()})
    assert match.names == {name: prefix + name for name in EXPECTED}
    assert not match.left


TAGS = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]


@pytest.mark.parametrize("tag", TAGS)
def test_wrappers_within_the_network_are_taken_off(tag):
    match = matched(between(tag))
    assert match.names == dict(zip(EXPECTED, between(tag), strict=True))


def test_a_wrapper_around_one_part_is_taken_off():
    given = {name.replace("layer1.", "layer1.module."): shape for name, shape in EXPECTED.items()}
    assert list(matched(given).names.values()) == list(given)


def test_an_architecture_that_calls_a_part_module_keeps_it():
    shapes = shapes_of(nn.ModuleDict({"module": nn.Linear(2, 3)}).state_dict())
    assert match_names(shapes, shapes).names == {name: name for name in shapes}
    wrapped = {f"module.{name}": shape for name, shape in shapes.items()}
    assert match_names(wrapped, shapes).names == {name: f"module.{name}" for name in shapes}


def test_a_prefix_that_the_architecture_has_and_the_file_lacks_is_put_back():
    expected = {f"backbone.{name}": shape for name, shape in EXPECTED.items()}
    assert match_names(EXPECTED, expected).names == {f"backbone.{name}": name for name in EXPECTED}


def test_what_stands_beside_the_network_is_foreign_and_what_belongs_to_it_is_not():
    given = {f"model.{name}": shape for name, shape in EXPECTED.items()}
    foreign = {"criterion.weight": (10,), "acc.total": (), "model.conv.total_ops": (1,)}
    own = {"model.layer1.1.bn.weight": (4,), "model.layer2.0.bn.weight": (4,)}
    match = matched({**given, **foreign, **own})
    assert match.foreign == tuple(foreign)
    assert set(match.left) == {*foreign, *own}


def test_two_networks_that_fit_are_rivals_and_an_average_is_none():
    both = {
        f"{who}.{name}": shape for who in ("teacher", "student") for name, shape in EXPECTED.items()
    }
    assert (matched(both).prefix, matched(both).rivals) == ("teacher.", ("student.",))
    both = {
        f"{who}.{name}": shape for who in ("ema_model", "model") for name, shape in EXPECTED.items()
    }
    assert (matched(both).prefix, matched(both).rivals) == ("model.", ())
    assert matched(both).average == "ema_model."


def test_of_two_networks_the_one_whose_shapes_fit_is_taken():
    both = {f"small.{name}": (1, *shape) for name, shape in EXPECTED.items()}
    both |= {f"large.{name}": shape for name, shape in EXPECTED.items()}
    assert (matched(both).prefix, matched(both).rivals) == ("large.", ())


def test_names_of_another_network_meet_nothing():
    assert not matched({"a.b": (1,)}).names


@pytest.mark.parametrize("name", ["resnet20", "vgg8", "vit-small", "mobilenetv2-0.5"])
@pytest.mark.parametrize("tag", TAGS)
def test_built_in_networks_lose_their_wrappers(name, tag):
    shapes = shapes_of(builtin.build(name, classes=10).state_dict())
    first = next(iter(shapes)).split(".")[0]
    wrapped = {
        key.replace(f"{first}.", f"{first}.{tag}.", 1): shape for key, shape in shapes.items()
    }
    assert match_names(wrapped, shapes).names == dict(zip(shapes, wrapped, strict=True))
