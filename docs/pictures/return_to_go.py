"""How far the mean gradient over a student's own sentences is from the exact one."""

import itertools

import torch
from drawing import STUDENT, TEACHER, picture
from torch import Tensor

from doublure.core.protocols import Batch, Outputs
from doublure.core.seeding import from_seed
from doublure.objectives.divergence import Divergence
from doublure.tasks.translation.contract import OWN_SENTENCES
from doublure.tasks.translation.return_to_go import ReturnToGo

CLASSES, LENGTH, EACH, BATCHES = 3, 3, 8, 3000
SENTENCES = torch.tensor(list(itertools.product(range(CLASSES), repeat=LENGTH)))


def behind(model: Tensor, sentences: Tensor) -> Tensor:
    """Return the logits behind each prefix, of a model with a row for every prefix."""
    places = []
    for length in range(LENGTH):
        first = sum(CLASSES**shorter for shorter in range(length))
        digits = CLASSES ** torch.arange(length - 1, -1, -1)
        places.append(first + (sentences[:, :length] * digits).sum(1))
    return model[torch.stack(places, dim=1)]


def log_of(model: Tensor) -> Tensor:
    log = behind(model, SENTENCES).log_softmax(-1)
    return log.gather(-1, SENTENCES[..., None])[..., 0].sum(1)


def main() -> None:
    student = torch.randn(13, CLASSES, generator=from_seed(0)).requires_grad_()
    teacher = torch.randn(13, CLASSES, generator=from_seed(1))
    log_q, log_p = log_of(student), log_of(teacher)
    (exact,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), student)
    shares, rng = log_q.exp().detach(), from_seed(2)
    sums = {"every token alone": torch.zeros_like(exact), "with return to go": exact * 0}
    errors: dict[str, list[float]] = {name: [] for name in sums}
    for count in range(1, BATCHES + 1):
        chosen = SENTENCES[torch.multinomial(shares, EACH, replacement=True, generator=rng)]
        batch = Batch(
            views={},
            labels=chosen,
            mask=torch.ones_like(chosen, dtype=torch.bool),
            metrics={OWN_SENTENCES: torch.ones(())},
        )
        answers = Outputs(output=behind(student, chosen)), Outputs(output=behind(teacher, chosen))
        (token,) = Divergence()(*answers, batch).values()
        (later,) = ReturnToGo(per_token=False)(*answers, batch).values()
        for name, loss in zip(sums, (token, token + later), strict=True):
            sums[name] += torch.autograd.grad(LENGTH * loss, student, retain_graph=True)[0]
            errors[name].append(float((sums[name] / count - exact).norm() / exact.norm()))
    with picture("return_to_go", 190) as figure:
        axes = figure.subplots()
        for (name, error), colour in zip(errors.items(), (TEACHER, STUDENT), strict=True):
            axes.loglog(range(EACH, EACH * BATCHES + 1, EACH), error, color=colour, label=name)
        axes.set_xlabel("sentences")
        axes.set_ylabel("error / gradient")
        axes.legend()


if __name__ == "__main__":
    main()
