"""Networks that have learnt scikit-learn's digits within seconds, for tests of what they know."""

from functools import cache

import torch
import torch.nn.functional as F

from doublure.core.protocols import InputContract, StreamContext
from doublure.core.seeding import from_seed
from doublure.data.digits import digits
from doublure.nets.convnet import ConvNet
from doublure.nets.network import Network, freeze

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.3,), std=(0.35,), classes=10)


def context(batch_size: int, steps: int = 4) -> StreamContext:
    return StreamContext(
        contract=CONTRACT, device=torch.device("cpu"), batch_size=batch_size, steps=steps
    )


@cache
def images_and_labels(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits of a split as images in [0, 1], with their labels."""
    pixels, labels = digits(split)
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 255, labels


def untrained(seed: int, width: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(ConvNet(width=width, classes=10, channels=1), CONTRACT)


@cache
def teacher(seed: int = 0, *, width: int = 8, steps: int = 150) -> Network:
    """Return a network that knows the digits, frozen."""
    images, labels = images_and_labels("train")
    network, rng = untrained(seed, width), from_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,), generator=rng)
        optimizer.zero_grad()
        F.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return freeze(network)


def accuracy(network: torch.nn.Module) -> float:
    images, labels = images_and_labels("test")
    with torch.no_grad():
        return (network.eval()(images).argmax(-1) == labels).float().mean().item()


def student_of(
    taught_by: Network, images: torch.Tensor, *, seed: int = 0, width: int = 5, steps: int = 800
) -> Network:
    """Return a student that was shown these images, with the teacher's answers at T = 4."""
    student, rng = untrained(100 + seed, width), from_seed(seed)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.no_grad():
        answers = F.log_softmax(taught_by(images) / 4, -1)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,), generator=rng)
        said = F.log_softmax(student(images[rows]) / 4, -1)
        optimizer.zero_grad()
        F.kl_div(said, answers[rows], reduction="batchmean", log_target=True).mul(16).backward()
        optimizer.step()
        schedule.step()
    return student.eval()
