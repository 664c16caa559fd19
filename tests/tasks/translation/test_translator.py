import pytest
import torch

from doublure.tasks.translation.contract import BEGIN
from doublure.tasks.translation.networks import build_translator, is_translator


@pytest.fixture
def body():
    torch.manual_seed(0)
    return build_translator("translator-2-16", 11, 13).eval()


def tokens(*shape, seed=0):
    return torch.randint(4, 11, shape, generator=torch.Generator().manual_seed(seed))


def test_one_token_after_another_gives_what_all_at_once_gives(body):
    source, prefix = tokens(3, 5), tokens(3, 6, seed=1)
    whole = body({"source": source, "prefix": prefix})
    cache = body.read(source)
    steps = [body.answer(prefix[:, i : i + 1], cache) for i in range(6)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)


def test_an_answer_knows_nothing_of_the_tokens_behind_it(body):
    source, prefix = tokens(1, 5), tokens(1, 6, seed=1)
    changed = prefix.clone()
    changed[0, 4] = 10 if prefix[0, 4] != 10 else 9
    one, other = (body({"source": source, "prefix": p}) for p in (prefix, changed))
    torch.testing.assert_close(one[:, :4], other[:, :4])
    assert (one[:, 4] - other[:, 4]).abs().max() > 1e-3


def test_padding_of_the_source_changes_nothing(body):
    source, prefix = tokens(2, 5), tokens(2, 3, seed=1)
    longer = torch.cat([source, torch.zeros(2, 3).long()], dim=1)
    torch.testing.assert_close(
        body({"source": longer, "prefix": prefix}), body({"source": source, "prefix": prefix})
    )


def test_places_matter(body):
    source = tokens(1, 5)
    prefix = torch.full((1, 1), BEGIN)
    turned = body({"source": source.flip(1), "prefix": prefix})
    assert (turned - body({"source": source, "prefix": prefix})).abs().max() > 1e-3


def test_a_cache_goes_on_with_the_rows_taken(body):
    source, prefix = tokens(3, 5), tokens(3, 2, seed=1)
    cache = body.read(source)
    body.answer(prefix, cache)
    rows = torch.tensor([2, 0, 0])
    cache.take(rows)
    later = tokens(3, 1, seed=2)
    whole = torch.cat([prefix[rows], later], dim=1)
    expected = body({"source": source[rows], "prefix": whole})[:, -1:]
    torch.testing.assert_close(body.answer(later, cache), expected)


def test_names_are_layers_and_width():
    assert is_translator("translator-6")
    assert is_translator("translator-2-128")
    assert not is_translator("resnet20")
    assert not is_translator("translator")
    body = build_translator("translator-3-32", 7, 9)
    assert len(body.encoder) == len(body.decoder) == 3
    assert body.target.weight.shape == (9, 32)
    with pytest.raises(ValueError, match="at least one layer"):
        build_translator("translator-0", 7, 9)
    with pytest.raises(ValueError, match="even width"):
        build_translator("translator-1-7", 7, 9)
