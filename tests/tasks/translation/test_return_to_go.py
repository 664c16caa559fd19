import itertools

import pytest
import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch, Outputs
from doublure.objectives.divergence import Divergence, divergence_loss
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import Weighted, open_loss
from doublure.tasks.translation.contract import OWN_SENTENCES
from doublure.tasks.translation.return_to_go import (
    ReturnToGo,
    others_mean,
    returns_to_go,
    tokens_to_go,
)

DEFAULTS = {"temperature": 1.0, "per_token": True}

CLASSES, LENGTH = 3, 3
BOTH = Weighted(terms=((1.0, Divergence()), (1.0, ReturnToGo(per_token=False))))
SENTENCES = torch.tensor(list(itertools.product(range(CLASSES), repeat=LENGTH)))


def logits(seed, *shape):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def table(seed) -> Tensor:
    """A sequence model with logits of its own behind every prefix."""
    return logits(seed, sum(CLASSES**length for length in range(LENGTH)), CLASSES)


def behind(model: Tensor, sentences: Tensor = SENTENCES) -> Tensor:
    """Return the logits behind each prefix of the sentences."""
    places = []
    for length in range(LENGTH):
        first = sum(CLASSES**shorter for shorter in range(length))
        digits = CLASSES ** torch.arange(length - 1, -1, -1)
        places.append(first + (sentences[:, :length] * digits).sum(1))
    return model[torch.stack(places, dim=1)]


def log_of(model: Tensor, sentences: Tensor = SENTENCES) -> Tensor:
    """Return log probabilities of the tokens of the sentences."""
    log = behind(model, sentences).log_softmax(-1)
    return log.gather(-1, sentences[..., None])[..., 0]


def exact(student: Tensor, teacher: Tensor) -> Tensor:
    log_q, log_p = log_of(student).sum(1), log_of(teacher).sum(1)
    return (log_q.exp() * (log_q - log_p)).sum()


def tokens_of(form, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence behind every prefix of the sentences."""
    loss = divergence_loss(student.flatten(0, 1), teacher.flatten(0, 1), form, 0.5, 1.0)
    return loss.view(student.shape[:2])


def gradient(value: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(value, of)[0]


@pytest.fixture
def models() -> tuple[Tensor, Tensor]:
    return table(0).requires_grad_(), table(1)


def test_divergences_of_sentences_add_up_over_their_tokens(models):
    student, teacher = models
    for own, one, other in ((student, student, teacher), (teacher, teacher, student)):
        whole = exact(one, other)
        reached = log_of(own).sum(1).exp()
        tokens = tokens_of("reverse", behind(one), behind(other)).sum(1)
        torch.testing.assert_close((reached * tokens).sum(), whole)


def test_tokens_with_their_return_to_go_are_the_gradient_and_tokens_alone_are_not(models):
    student, teacher = models
    expected = gradient(exact(student, teacher), student)
    reached = log_of(student).sum(1).exp().detach()
    costs = tokens_of("reverse", behind(student), behind(teacher))
    alone = (reached[:, None] * costs).sum()
    later = returns_to_go(costs.detach(), torch.ones_like(costs, dtype=torch.bool))
    paid = (reached[:, None] * later * log_of(student)).sum()
    torch.testing.assert_close(gradient(alone + paid, student), expected, atol=1e-12, rtol=0)
    costs = tokens_of("reverse", behind(student), behind(teacher))
    tokens_only = gradient((reached[:, None] * costs).sum(), student)
    assert (tokens_only - expected).norm() > 1e-2


def test_teacher_sentences_with_forward_kl_are_the_other_gradient(models):
    student, teacher = models
    log_q, log_p = log_of(student).sum(1), log_of(teacher).sum(1)
    expected = gradient((log_p.exp() * (log_p - log_q)).sum(), student)
    tokens = tokens_of("forward", behind(student), behind(teacher)).sum(1)
    torch.testing.assert_close(gradient((log_p.exp() * tokens).sum(), student), expected)


def sampled_gradients(student: Tensor, teacher: Tensor, objective, count: int):
    """Return the gradients of small batches of the student's own sentences, as a run sees them."""
    rng = torch.Generator().manual_seed(0)
    shares = log_of(student).sum(1).exp().detach()
    for _ in range(count):
        sentences = SENTENCES[torch.multinomial(shares, 8, replacement=True, generator=rng)]
        mask = torch.ones_like(sentences, dtype=torch.bool)
        own = {OWN_SENTENCES: torch.ones(())}
        batch = Batch(views={}, labels=sentences, mask=mask, metrics=own)
        student_trace = Outputs(output=behind(student, sentences))
        teacher_trace = Outputs(output=behind(teacher, sentences))
        loss_fn = open_loss(objective, nn.Identity(), None, batch, rng)
        terms = loss_fn(student_trace, teacher_trace, batch)
        yield LENGTH * gradient(torch.stack(list(terms.values())).sum(), student)


def test_own_sentences_estimate_the_gradient_only_with_the_return_to_go(models):
    student, teacher = models
    expected = gradient(exact(student, teacher), student)
    drawn = torch.stack([*sampled_gradients(student, teacher, BOTH, 1500)])
    error = (drawn.mean(0) - expected) / (drawn.std(0) / len(drawn) ** 0.5).clamp(min=1e-9)
    assert error.abs().max() < 4  # of 39 numbers, in standard errors
    drawn = torch.stack([*sampled_gradients(student, teacher, Divergence(), 500)])
    error = (drawn.mean(0) - expected) / (drawn.std(0) / len(drawn) ** 0.5).clamp(min=1e-9)
    assert error.abs().max() > 8


def test_the_others_mean_leaves_a_sentence_itself_out():
    values = torch.tensor([[1.0, 5.0], [3.0, 9.0], [8.0, 7.0]])
    mask = torch.tensor([[True, True], [True, False], [True, False]])
    made = others_mean(values, mask)
    torch.testing.assert_close(made[:, 0], torch.tensor([5.5, 4.5, 2.0]))
    assert made[0, 1] == 0  # nobody else reaches it


def test_the_baseline_lowers_the_spread(models):
    student, teacher = models
    rng = torch.Generator().manual_seed(1)
    shares = log_of(student).sum(1).exp().detach()
    spread = {True: 0.0, False: 0.0}
    for baseline in spread:
        drawn = []
        for _ in range(300):
            picks = torch.multinomial(shares, 8, replacement=True, generator=rng)
            sentences = SENTENCES[picks]
            mask = torch.ones_like(sentences, dtype=torch.bool)
            ours, theirs = behind(student, sentences), behind(teacher, sentences)
            later = returns_to_go(tokens_of("reverse", ours, theirs).detach(), mask)
            if baseline:
                later = later - others_mean(later, mask)
            drawn.append(gradient((later * log_of(student, sentences)).sum(), student))
        spread[baseline] = torch.stack(drawn).var(0).sum().item()
    assert spread[True] < 0.9 * spread[False]


def test_padding_costs_nothing_and_passes_nothing_back():
    costs = torch.tensor([[1.0, 2.0, 4.0]])
    mask = torch.tensor([[True, True, False]])
    assert returns_to_go(costs, mask)[mask].tolist() == [2.0, 0.0]


def test_a_token_is_divided_by_those_behind_it():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert tokens_to_go(mask)[mask].tolist() == [2, 1, 1, 1, 1]


def stopping(end: Tensor, per_token: bool) -> Tensor:
    """Return the gradient in each sentence's first log probability of stopping there.

    Every token costs KL([1, 0], softmax) = ln 2; the first sentence is over after one, the second
    goes on for nine more.
    """
    ours = torch.zeros(2, 10, 2, dtype=torch.float64)
    ours[..., 0] = 30.0
    ours[:, 0] = end
    theirs = torch.zeros_like(ours)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, 1:] = False
    labels = torch.zeros(2, 10, dtype=torch.long)
    labels[0, 0] = 1
    metrics = {OWN_SENTENCES: torch.ones(())}
    batch = Batch(views={}, labels=labels, mask=mask, metrics=metrics)
    term = ReturnToGo(per_token=per_token)(Outputs(output=ours), Outputs(output=theirs), batch)
    return gradient(term["return_to_go"], end)


def test_stopping_pays_for_the_whole_rest_but_for_one_token_of_it_per_token():
    end = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    exact_pull, per_token = stopping(end, False), stopping(end, True)
    assert exact_pull[1] < 0  # descent makes it likelier
    torch.testing.assert_close(exact_pull, 9 * per_token)


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_only_the_students_own_sentences_have_a_return_to_go(own):
    labels = torch.tensor([[0, 1, 2], [1, 2, 0]])
    ours, theirs = logits(0, 2, 3, 4).requires_grad_(), logits(1, 2, 3, 4)
    metrics = {OWN_SENTENCES: torch.tensor(own)}
    batch = Batch(views={}, labels=labels, mask=torch.ones_like(labels).bool(), metrics=metrics)
    term = ReturnToGo()(Outputs(output=ours), Outputs(output=theirs), batch)["return_to_go"]
    assert (gradient(term, ours).abs().sum() > 0) == bool(own)


def test_without_sentences_it_says_what_it_needs():
    outputs = Outputs(output=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="use a teacher that translates"):
        ReturnToGo()(outputs, outputs, Batch(views={}))


def test_objectives_of_tokens_count_tokens_not_sentences():
    ours, theirs = logits(0, 2, 3, 5).float(), logits(1, 2, 3, 5).float()
    labels = torch.tensor([[1, 2, 3], [4, 0, 0]])
    batch = Batch(views={}, labels=labels, mask=labels != 0)
    for objective in (Divergence(), SoftTargets(temperature=2.0), HardLabels()):
        (made,) = objective(Outputs(output=ours), Outputs(output=theirs), batch).values()
        places = [(0, 0), (0, 1), (0, 2), (1, 0)]
        one_by_one = []
        for i, j in places:
            alone = Batch(views={}, labels=labels[i, j : j + 1])
            traces = [Outputs(output=x[i, j : j + 1]) for x in (ours, theirs)]
            one_by_one += objective(*traces, alone).values()
        torch.testing.assert_close(made, torch.stack(one_by_one).mean())
