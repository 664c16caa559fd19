import itertools

import pytest
import torch

from doublure.core.seeding import from_seed
from doublure.nets.network import Network
from doublure.tasks.translation.contract import BEGIN, END, MARKS, PAD, TextContract
from doublure.tasks.translation.decoding import beam_search, limits_of, prefix_of, translate
from tests import text

PIECES = (*MARKS, "a", "b")


@pytest.fixture
def network():
    """A translator of two letters, whose opinions are strong enough to differ by prefix."""
    contract = TextContract(languages=("x", "y"), source=PIECES, target=PIECES)
    made = text.network(contract, seed=3).eval()
    with torch.no_grad():
        made.body.target.weight.mul_(4)
    return made


SOURCE = torch.tensor([[4, 5, 4, 2], [5, 5, 2, 0], [4, 2, 0, 0]])


def log_probability(network, source, tokens):
    """Return log q of each sentence over the tokens that may be said, up to its end."""
    logits = network({"source": source, "prefix": prefix_of(tokens)}).float()
    logits[..., [PAD, BEGIN]] = -torch.inf
    log = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return torch.where(tokens == PAD, torch.zeros_like(log), log).sum(1)


def sentences(longest):
    """Return every sentence of at most so many tokens, its end included or cut off."""
    for length in range(longest + 1):
        for letters in itertools.product((3, 4, 5), repeat=length):
            if length < longest:
                yield [*letters, END] + [PAD] * (longest - length - 1)
            else:
                yield [*letters]


def test_what_precedes_each_token_begins_the_sentence():
    tokens = torch.tensor([[5, 4, 2], [5, 2, 0]])
    assert prefix_of(tokens).tolist() == [[1, 5, 4], [1, 5, 0]]


def test_greedy_takes_the_likeliest_token_each_time(network):
    made = translate(network, SOURCE, 6)
    again = torch.full((3, 1), BEGIN)
    for place in range(made.shape[1]):
        logits = network({"source": SOURCE, "prefix": again})[:, -1]
        logits[:, [PAD, BEGIN]] = -torch.inf
        over = (again == END).any(1)
        best = logits.argmax(-1).masked_fill(over, PAD)
        assert made[:, place].tolist() == best.tolist()
        again = torch.cat([again, best[:, None]], dim=1)


def test_samples_come_as_often_as_their_probability_says(network):
    every = torch.tensor([*sentences(3)])
    source = SOURCE[:1].expand(len(every), -1)
    expected = log_probability(network, source, every).exp()
    assert expected.sum().item() == pytest.approx(1, abs=1e-5)
    count = 4000
    drawn = translate(network, SOURCE[:1].expand(count, -1), 3, rng=from_seed(0))
    drawn = torch.nn.functional.pad(drawn, (0, 3 - drawn.shape[1]))
    share = (drawn[:, None] == every[None]).all(-1).double().mean(0)
    error = (share - expected) / (expected * (1 - expected) / count).sqrt().clamp(min=1e-4)
    assert error.abs().max() < 4


def test_samples_depend_on_the_seed_alone(network):
    one, again, other = (translate(network, SOURCE, 8, rng=from_seed(seed)) for seed in (0, 0, 1))
    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()


def test_a_low_temperature_is_greedy(network):
    cold = translate(network, SOURCE, 8, rng=from_seed(0), temperature=1e-4)
    assert cold.tolist() == translate(network, SOURCE, 8).tolist()


def test_a_beam_of_one_is_greedy(network):
    made = beam_search(network, SOURCE, 8, 1)
    greedy = translate(network, SOURCE, 8)
    assert made[:, : greedy.shape[1]].tolist() == greedy.tolist()


def test_a_beam_that_holds_everything_finds_the_best_sentence_there_is(network):
    every = torch.tensor([*sentences(3)])
    lengths = (every != PAD).sum(1)
    made = beam_search(network, SOURCE, 3, 40)
    made = torch.nn.functional.pad(made, (0, 3 - made.shape[1]))
    for row, source in zip(made, SOURCE, strict=True):
        score = log_probability(network, source.expand(len(every), -1), every) / lengths
        best = every[score.argmax()]
        assert row.tolist() == best.tolist()


def test_a_translation_may_have_twice_its_own_sentences_length_and_ten():
    assert limits_of(SOURCE, 64).tolist() == [[18], [16], [14]]
    assert limits_of(SOURCE, 15).tolist() == [[15], [15], [14]]


def test_a_translation_does_not_depend_on_its_batch(network):
    with torch.no_grad():
        network.body.target.weight[END] -= 4 * network.body.target.weight.abs().max()
    for search in (translate, lambda *given: beam_search(*given, 3)):
        together = search(network, SOURCE, 64)
        for row, source in zip(together, SOURCE, strict=True):
            source = source[source != PAD][None]
            (alone,) = search(network, source, 64)
            assert row[: len(alone)].tolist() == alone.tolist()
            assert (row[len(alone) :] == PAD).all()


def test_a_network_of_images_is_refused():
    network = Network(torch.nn.Linear(1, 1), text_contract())
    with pytest.raises(ValueError, match="Linear is no translator"):
        translate(network, SOURCE, 3)


def text_contract():
    return TextContract(languages=("x", "y"), source=PIECES, target=PIECES)
