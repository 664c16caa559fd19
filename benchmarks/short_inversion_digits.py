"""Without BatchNorm statistics, are short inversions by labels alone worth more than their starts?

Teachers on scikit-learn's digits that have stored no statistics: a convolutional network with group
norm, and a vision transformer. A student with BatchNorm learns from 512 images, and a network of
another seed, which had no part in them, says how many it calls by their labels. Arms: the starts
themselves, matched shader images with labels assigned, and their short inversions.

    python benchmarks/short_inversion_digits.py --seeds 0 1 2 [--arms ...]
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.core.protocols import InputContract, StreamContext
from doublure.core.seeding import child_seed, from_seed
from doublure.data.digits import digits
from doublure.nets.convnet import ConvNet
from doublure.nets.network import Network, freeze
from doublure.nets.vit import VisionTransformer
from doublure.sources.inversion import labels_in_turn
from doublure.sources.short_inversion import ShortInversion, assign_labels, matched_shaders
from experiments import Table, print_table, summarize

NAME = "short_inversion_digits"
CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.3,), std=(0.38,), classes=10)
IMAGES, BATCH = 512, 128
TAUGHT, LEARNT = 400, 400  # steps of teachers and students
TEMPERATURE = 4.0
TEACHERS = ("group norm", "transformer")
ARMS: dict[str, ShortInversion | None] = {"starts": None, "short inversion": ShortInversion()}


def made(kind: str, seed: int) -> Network:
    """Return an untrained network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_seed(seed, kind))
        if kind == "transformer":
            size = {"size": CONTRACT.size, "channels": 1, "classes": 10}
            return Network(VisionTransformer(dim=48, depth=4, heads=3, **size), CONTRACT)
        network = Network(ConvNet(width=16, classes=10, channels=1), CONTRACT)
    if kind == "group norm":
        for name, layer in list(network.named_modules()):
            if isinstance(layer, nn.BatchNorm2d):
                parent, _, leaf = name.rpartition(".")
                group = nn.GroupNorm(layer.num_features // 8, layer.num_features)
                setattr(network.get_submodule(parent), leaf, group)
    return network


def taught(network: Network, images: Tensor, targets: Tensor, steps: int, seed: int) -> Network:
    """Train a network on labels, or on the probabilities of a teacher; return it frozen."""
    rng = from_seed(seed)
    adam = torch.optim.AdamW(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 5e-3, total_steps=steps)
    heat = 1.0 if targets.dim() == 1 else TEMPERATURE
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=rng)
        adam.zero_grad()
        F.cross_entropy(network.train()(images[rows]) / heat, targets[rows]).backward()
        adam.step()
        schedule.step()
    return freeze(network)


def split(name: str) -> tuple[Tensor, Tensor]:
    """Return digits in [0, 1] with their labels."""
    pixels, labels = digits(name)
    return torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 255, labels


@torch.no_grad()
def right(network: Network, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that a network calls by their labels."""
    return (network(images).argmax(-1) == labels).float().mean().item()


def shown(arm: str, teacher: Network, seed: int) -> tuple[Tensor, Tensor]:
    """Return the images of an arm and their labels."""
    settings = ARMS[arm]
    context = StreamContext(
        contract=CONTRACT, device=torch.device("cpu"), batch_size=BATCH, steps=IMAGES // BATCH
    )
    source = matched_shaders() if settings is None else settings
    stream = source.open(context, teacher, from_seed(seed))
    images, labels = [], []
    for step in range(context.steps):
        batch = stream.draw(step, None)
        images.append((batch.images * 255).round() / 255)
        if batch.labels is None:
            dealt = labels_in_turn(step * BATCH, BATCH, 10, from_seed(seed))
            with torch.no_grad():
                labels.append(assign_labels(teacher(batch.images).log_softmax(-1), dealt))
        else:
            labels.append(batch.labels)
    return torch.cat(images), torch.cat(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--name", default=NAME, help="of the results file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"images": IMAGES, "iterations": ShortInversion.iterations, "student_steps": LEARNT}
    table = Table(asked.name, __doc__.splitlines()[0], setting)
    train, test = split("train"), split("test")
    for seed in asked.seeds:
        judge = taught(made("batch norm", seed + 100), *train, TAUGHT, seed)
        for kind in TEACHERS:
            teacher = taught(made(kind, seed), *train, TAUGHT, seed)
            for arm in asked.arms:
                if table.has(at=kind, arm=arm, seed=seed):
                    continue
                begun = time.process_time()
                images, labels = shown(arm, teacher, seed)
                with torch.no_grad():
                    answers = (teacher(images) / TEMPERATURE).softmax(-1)
                student = taught(made("batch norm", seed + 200), images, answers, LEARNT, seed)
                with torch.no_grad():
                    ours, theirs = (n(test[0]).argmax(-1) for n in (student, teacher))
                row = {
                    "at": kind,
                    "arm": arm,
                    "seed": seed,
                    "accuracy": right(student, *test),
                    "agreement": (ours == theirs).float().mean().item(),
                    "teacher_accuracy": right(teacher, *test),
                    "judge_accuracy": right(judge, images, labels),
                    "steps": LEARNT,
                    "seconds": time.process_time() - begun,
                }
                table.add(row, ("at", "arm"))
                print(row, flush=True)
    print_table(summarize(table.rows, ("at", "arm")))


if __name__ == "__main__":
    main()
