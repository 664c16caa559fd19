"""The first place that states a value decides it; what nobody states is noted, not guessed."""

import pytest

from doublure.core.protocols import InputContract
from doublure.nets.partial_contract import (
    EMPTY_CONTRACT,
    PartialContract,
    first_value,
    merge_contracts,
    partial_contract,
)
from doublure.nets.references import NetworkRef

TEACHER = InputContract(
    size=(64, 48),
    channels=3,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    classes=2,
    names=("cat", "dog"),
    interpolation="bicubic",
    crop_pct=0.9,
)


def test_the_first_place_that_speaks_is_heard():
    places = [EMPTY_CONTRACT, PartialContract(classes=3), PartialContract(classes=4, channels=1)]
    assert first_value(places, "classes") == 3
    assert first_value(places, "channels") == 1
    assert first_value(places, "size") is None


def test_a_contract_states_all_of_itself():
    contract, notes = merge_contracts(
        [EMPTY_CONTRACT, partial_contract(TEACHER)], (32, 32), 3, "builtin/resnet20"
    )
    assert contract == TEACHER
    assert notes == []


def test_names_said_alone_tell_the_number_of_classes():
    assert partial_contract(NetworkRef(ref="x", names=("a", "b", "c"))).classes == 3


def test_names_of_other_classes_are_not_inherited():
    contract, _ = merge_contracts(
        [PartialContract(classes=5), partial_contract(TEACHER)], (32, 32), 3, "x"
    )
    assert contract.classes == 5
    assert contract.names is None


def test_normalisation_of_other_channels_is_not_inherited():
    contract, notes = merge_contracts(
        [PartialContract(channels=1), partial_contract(TEACHER)], (32, 32), 1, "x"
    )
    assert (contract.mean, contract.std) == ((0.0,), (1.0,))
    assert "nothing states the normalisation of x" in notes[0]


def test_what_a_person_said_is_not_passed_over():
    said = PartialContract(mean=(0.5,))
    with pytest.raises(ValueError, match=r"mean must have one value per channel \(3\), got 1"):
        merge_contracts([said, partial_contract(TEACHER)], (32, 32), 3, "x")


def test_normalisation_is_never_guessed():
    contract, notes = merge_contracts(
        [PartialContract(classes=10)], (32, 32), 3, "builtin/resnet20"
    )
    assert (contract.mean, contract.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (contract.size, contract.interpolation, contract.crop_pct) == ((32, 32), "bilinear", 1.0)
    assert "nothing states the image size of builtin/resnet20: 32 x 32" in notes[0]
    assert "use --mean and --std" in notes[1]
