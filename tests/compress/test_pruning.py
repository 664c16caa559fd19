import pytest
import torch
import torch.nn.functional as F
from torch import nn

from doublure.compress.pruning import (
    Pruning,
    gate_gradients,
    importances,
    least_important,
    masked_output,
    mean_absolute_weights,
    shared_gradients,
    taylor_importance,
)
from doublure.core.protocols import Batch, InputContract, Outputs, image_batch
from doublure.core.seeding import from_seed
from doublure.exports.measure import count_flops
from doublure.nets import builtin
from doublure.nets.channels import trace_channels
from doublure.nets.network import Network, count_parameters
from doublure.networks import load, save
from tests import tiny

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=3)


def made(name: str, seed: int = 0) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = builtin.build(name, classes=3, channels=1, size=(8, 8))
        for layer in body.modules():  # statistics and affine weights of their own for every channel
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return Network(body, CONTRACT, f"builtin/{name}").eval()


def batches(count: int = 2, *, labels: bool = False) -> list[Batch]:
    drawn = []
    for i in range(count):
        rng = from_seed(i)
        images = torch.rand(8, 1, 8, 8, generator=rng)
        asked = torch.randint(3, (8,), generator=rng) if labels else None
        drawn.append(image_batch(images, labels=asked))
    return drawn


@pytest.fixture(scope="module")
def resnet() -> Network:
    return made("resnet8-0.5")


@pytest.fixture(scope="module")
def channels(resnet):
    return trace_channels(resnet)


def test_importance_of_a_linear_network_is_the_square_of_what_each_gate_carries():
    # y = sum_i g_i a_i; dL/dg_i = a_i dL/dy for each sample.
    carried = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    slope = torch.tensor([[2.0], [-1.0]])
    expected = torch.tensor([(4.0 + 9.0) / 2, (16.0 + 0.25) / 2], dtype=torch.float64)
    torch.testing.assert_close(taylor_importance(carried * slope), expected)


def test_shared_gates_sum_their_gradients_and_divide_by_their_number():
    gradients = torch.tensor([[1.0, 10.0, 3.0]])
    shared = shared_gradients(gradients, torch.tensor([0, 1, 0]), 2)
    assert shared.tolist() == [[2.0, 10.0]]


def test_the_kl_of_a_network_with_itself_gives_no_importance(resnet, channels):
    answered = [
        Batch(views=b.views, teacher=Outputs(output=resnet(b.images).detach())) for b in batches()
    ]
    scores = importances(resnet, channels, answered, "kl", tiny.rng())
    assert scores.max() < 1e-12
    fisher = importances(resnet, channels, answered, "fisher", tiny.rng())
    assert fisher.median() > 1e-5


def test_a_filter_of_zeros_has_no_importance():
    network = made("convnet-6")
    with torch.no_grad():
        for layer in (network.body.bn2.weight, network.body.bn2.bias):
            layer[3] = 0.0
    found = trace_channels(network)
    label = int(found.layers["bn2"][1][3])
    scores = importances(network, found, batches(), "fisher", tiny.rng())
    assert scores[found.prunable.index(label)] == 0.0
    assert scores.median() > 0


def test_gradients_of_gates_are_those_of_a_loop_over_samples(resnet, channels):
    gates = list(channels.gates[channels.prunable[0]])
    batch = batches(1, labels=True)[0]

    def loss(logits, some):
        return F.cross_entropy(logits, some.labels, reduction="none")

    together = gate_gradients(resnet, gates, batch, loss)
    for i in range(3):
        alone = image_batch(batch.images[i : i + 1], labels=batch.labels[i : i + 1])
        one = gate_gradients(resnet, gates, alone, loss)
        torch.testing.assert_close(together[i : i + 1], one, rtol=1e-3, atol=1e-6)


def test_channels_along_a_padded_shortcut_are_one_group(channels):
    # Stage 1 writes channel j of the stream, which stage 2 reads at j + 4, stage 3 at j + 12.
    first = channels.layers["bn1"][1]
    assert torch.equal(channels.layers["layer1.0.bn2"][1], first)
    assert torch.equal(channels.layers["layer2.0.bn2"][1][4:12], first)
    assert torch.equal(channels.layers["layer3.0.bn2"][1][12:20], first)
    assert torch.equal(channels.layers["linear"][0], channels.layers["layer3.0.bn2"][1])
    hidden = channels.layers["layer1.0.bn1"][1]
    assert not set(hidden.tolist()) & set(first.tolist())
    assert channels.filters[int(first[0])] == 4


@pytest.mark.parametrize(
    "name", ["convnet-6", "resnet8-0.5", "resnet8x4", "vgg8", "wrn10-1", "mobilenetv2-0.25"]
)
def test_removed_channels_answer_as_shut_ones_do(name):
    network = made(name)
    found = trace_channels(network)
    scores = torch.rand(len(found.prunable), generator=from_seed(1))
    removed = least_important(found, scores, 0.4, 1)
    pruned = Pruning(ratio=0.4, importance="random")(network, None, from_seed(5))
    gone = sum(found.filters[label] for label in removed)
    assert gone / sum(found.filters[label] for label in found.prunable) > 0.3
    assert count_parameters(pruned) < 0.8 * count_parameters(network)
    assert count_flops(pruned) < 0.85 * count_flops(network)


def test_what_is_masked_and_what_is_removed_agree_to_the_last_digits(resnet):
    pruned = Pruning(ratio=0.3)(resnet, batches(), tiny.rng())
    found = trace_channels(resnet)
    scores = importances(resnet, found, batches(), "fisher", tiny.rng())
    gates = [g for label in least_important(found, scores, 0.3, 1) for g in found.gates[label]]
    images = torch.rand(6, 1, 8, 8, generator=from_seed(9))
    with torch.no_grad():
        torch.testing.assert_close(
            pruned(images), masked_output(resnet, gates, images), rtol=1e-5, atol=1e-5
        )


def test_a_group_with_few_filters_left_stays():
    network = made("convnet-6")
    found = trace_channels(network)
    removed = least_important(found, torch.zeros(len(found.prunable)), 0.9, 5)
    kept = found.without(removed)
    assert min(len(outputs) for name, (_, outputs) in kept.items() if name != "linear") >= 5


def test_a_share_below_one_group_is_refused(channels):
    with pytest.raises(ValueError, match=r"a ratio of 0\.001 of the filters is less than one"):
        least_important(channels, torch.zeros(len(channels.prunable)), 0.001, 1)


def test_the_least_important_go_first():
    found = trace_channels(made("convnet-6"))
    scores = torch.arange(len(found.prunable), dtype=torch.float32).flip(0)
    removed = least_important(found, scores, 0.25, 1)
    assert removed == found.prunable[::-1][: len(removed)]


def test_the_network_that_came_in_is_left_as_it_was(resnet):
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    resnet.train()
    Pruning()(resnet, batches(), tiny.rng())
    assert resnet.training
    resnet.eval()
    assert all(torch.equal(before[name], value) for name, value in resnet.state_dict().items())
    assert not any(module._forward_hooks for module in resnet.modules())


def test_the_same_seed_prunes_the_same(resnet):
    one, other = (Pruning()(resnet, batches(), tiny.rng()) for _ in range(2))
    assert tiny.same_weights(one, other)
    assert one.plan == other.plan


def test_a_pruned_network_is_read_back_without_a_pickle(resnet, tmp_path):
    once = Pruning(ratio=0.3)(resnet, batches(), tiny.rng())
    twice = Pruning(ratio=0.3)(once, batches(), tiny.rng())
    save(twice, tmp_path)
    again = load(str(tmp_path))
    assert again.plan == twice.plan
    assert tiny.same_weights(again, twice)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(again.eval()(images), twice.eval()(images))


def test_mean_absolute_weight_is_that_of_the_filters():
    network = made("convnet-6")
    found = trace_channels(network)
    scores = mean_absolute_weights(network, found)
    expected = network.body.conv1.weight.abs().mean((1, 2, 3))
    torch.testing.assert_close(scores[:6], expected)


def test_labels_are_asked_for_where_there_are_none(resnet):
    with pytest.raises(ValueError, match="loss='labels' needs labels"):
        Pruning(loss="labels")(resnet, batches(), tiny.rng())
    Pruning(loss="labels")(resnet, batches(labels=True), tiny.rng())


def test_a_kl_at_the_start_is_refused_with_the_way_out(resnet):
    zero = made("convnet-6")
    with torch.no_grad():
        zero.body.linear.weight.zero_()
    with pytest.raises(ValueError, match="every importance is 0: the KL has no gradient"):
        Pruning(loss="kl")(zero, batches(), tiny.rng())


def test_what_is_not_followed_stays_and_the_rest_goes():
    network = made("shufflenetv2")
    found = trace_channels(network)
    unit, down = found.layers["layer1.1.conv1"], found.layers["layer1.0.conv4"]
    assert not set(unit[1].tolist()) & found.fixed  # between the split and the shuffle
    assert not set(down[1].tolist()) & found.fixed
    assert set(unit[0].tolist()) <= found.fixed  # what the split hands out
    assert set(found.layers["layer1.0.conv5"][1].tolist()) <= found.fixed  # what is shuffled
    with pytest.warns(UserWarning, match="filters stay: they meet channels that are laid out anew"):
        pruned = Pruning(ratio=0.5, importance="random")(network, None, tiny.rng())
    assert count_parameters(pruned) < 0.7 * count_parameters(network)
    assert pruned.body.conv1.out_channels < 24


def test_where_nothing_can_go_the_refusal_says_what_holds_it():
    with pytest.raises(ValueError, match=r"nothing to prune: .* they meet .* in 'patch_embed'"):
        Pruning()(made("vit-small"), batches(), tiny.rng())


class Odd(nn.Module):
    """A layer that is called twice, weights of no layer, a normalisation over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.inner, self.outer = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)
        self.scale, self.norm = nn.Parameter(torch.rand(6, 1, 1)), nn.GroupNorm(2, 6)
        self.last, self.head = nn.Conv2d(6, 5, 3), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(F.relu(self.twice(self.stem(x))))
        x = self.norm(x + self.scale * self.outer(F.relu(self.inner(x))))
        return self.head(self.last(F.silu(x)).sum((2, 3)))


def test_odd_layers_hold_their_own_channels_alone():
    network = Network(Odd().eval(), CONTRACT)
    found = trace_channels(network)
    assert sum(found.filters[label] for label in found.prunable) == 8 + 5
    assert found.held == {
        "'twice', which is called more than once": 12,  # the stem's as well
        "weights outside of a layer": 6,
    }
    with pytest.warns(UserWarning, match=r"^18 of 31 filters stay: they meet 'twice'"):
        pruned = Pruning(ratio=0.5)(network, batches(), tiny.rng())
    assert pruned.body.inner.out_channels + pruned.body.last.out_channels == 7  # 6 of 13 went


class Mnist(nn.Module):
    """As in many a tutorial: flattened maps, dropout, logarithms of probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(8 * 4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x) / 2))), 2)
        x = F.dropout(torch.flatten(x, 1), 0.25, self.training)
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)


def test_a_network_that_ends_in_a_softmax_loses_channels_but_no_class():
    network = Network(Mnist().eval(), CONTRACT)
    pruned = Pruning(ratio=0.4)(network, batches(), tiny.rng())
    assert pruned.body.conv2.out_channels < 8
    assert pruned.body.fc1.in_features == 4 * pruned.body.conv2.out_channels
    answers = pruned(torch.rand(2, 1, 8, 8))
    assert answers.shape == (2, 3)
    torch.testing.assert_close(answers.exp().sum(1), torch.ones(2))


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).mean((2, 3))
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_traced_is_refused():
    with pytest.raises(ValueError, match="cannot prune Deciding: torch cannot trace it"):
        trace_channels(Network(Deciding(), CONTRACT))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, bias=False), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)).view(-1, 8))


def test_a_forward_that_counts_its_channels_is_refused():
    with pytest.raises(ValueError, match="its forward depends on the number of channels"):
        Pruning(ratio=0.5)(Network(Counting(), CONTRACT), batches(), tiny.rng())


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_a_share_outside_of_0_1_is_refused(ratio):
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\)"):
        Pruning(ratio=ratio)
