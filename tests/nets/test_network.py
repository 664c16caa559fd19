import pytest
import torch
from torch import nn

from doublure.core.protocols import InputContract
from doublure.nets.network import Network, count_parameters, freeze

CONTRACT = InputContract(
    size=(4, 4), channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), classes=2
)


def network():
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 2)
    )
    return Network(body, CONTRACT)


def test_images_are_normalised_by_the_contract():
    seen = Network(nn.Identity(), CONTRACT)(torch.full((1, 3, 1, 1), 0.6))
    torch.testing.assert_close(seen.flatten(), torch.tensor([0.5, 0.8, 0.6]))


def test_an_image_of_the_mean_colour_becomes_zero():
    image = torch.tensor(CONTRACT.mean).view(1, 3, 1, 1)
    assert Network(nn.Identity(), CONTRACT)(image).eq(0).all()


def test_the_body_holds_exactly_the_checkpoints_keys():
    made = network()
    assert set(made.state_dict()) == {f"body.{key}" for key in made.body.state_dict()}


def test_mean_and_std_follow_the_network_to_its_dtype():
    made = network().double()
    assert made(torch.rand(2, 3, 4, 4, dtype=torch.float64)).dtype == torch.float64


def test_a_frozen_network_shares_its_storage():
    original = network()
    frozen = freeze(original)
    pairs = zip(original.state_dict().items(), frozen.state_dict().items(), strict=True)
    for (key, ours), (frozen_key, theirs) in pairs:
        assert key == frozen_key
        assert ours.data_ptr() == theirs.data_ptr(), key


def test_a_frozen_network_sees_what_the_original_learns():
    original = network()
    frozen = freeze(original)
    with torch.no_grad():
        original.body[4].bias.fill_(9.0)
    assert frozen.body[4].bias.eq(9.0).all()


def test_freezing_leaves_the_original_as_it_was():
    original = network().train()
    handle = original.body[0].register_forward_hook(lambda *_: None)
    freeze(original)
    assert all(layer.training for layer in original.modules())
    assert all(parameter.requires_grad for parameter in original.parameters())
    assert len(original.body[0]._forward_hooks) == 1
    handle.remove()


def test_a_frozen_network_answers_in_eval_mode_and_keeps_its_statistics():
    original = network().train()
    frozen = freeze(original)
    statistics = original.body[1].running_mean.clone()
    images = torch.rand(2, 3, 4, 4)
    answer = frozen(images)
    assert torch.equal(answer, frozen(images))
    assert torch.equal(original.body[1].running_mean, statistics)
    assert not any(layer.training for layer in frozen.modules())


def test_gradients_reach_the_inputs_of_a_frozen_network_and_nothing_else():
    frozen = freeze(network())
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    frozen(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_shared_weights_stay_shared_when_frozen():
    layer = nn.Linear(3, 3)
    frozen = freeze(nn.Sequential(layer, layer))
    assert frozen[0].weight is frozen[1].weight


def test_a_frozen_networks_contract_is_the_originals():
    original = Network(nn.Identity(), CONTRACT, reference="builtin/identity")
    frozen = freeze(original)
    assert frozen.contract == CONTRACT
    assert frozen.reference == "builtin/identity"


def test_parameters_are_counted_without_buffers_and_once():
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, nn.BatchNorm1d(3), layer)) == 12 + 6


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mean", (0.5,), r"mean must have one value per channel \(3\), got 1"),
        ("std", (0.2, 0.0, 0.5), "std must be positive"),
        ("size", (0, 4), "size must be positive"),
        ("classes", 0, "classes must be positive, got 0"),
        ("names", ("cat",), r"names must have one entry per class \(2\), got 1"),
    ],
)
def test_an_impossible_contract_is_refused(field, value, message):
    fields = {"size": (4, 4), "channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3, "classes": 2}
    with pytest.raises(ValueError, match=message):
        InputContract(**{**fields, field: value})
