"""Child generators from one seed: a name gives the same stream, whatever was drawn before.

No numbers of the parent generator are consumed: a child's seed is a hash of the parent's initial
seed and the child's path, so the order of children does not matter.
"""

import hashlib

import torch


def child_seed(seed: int, *path: int | str) -> int:
    """Return a seed in [0, 2^63) for the child at `path`."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def child(
    rng: torch.Generator, *path: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a new generator for the child of `rng` at `path`, on `device`."""
    return from_seed(child_seed(rng.initial_seed(), *path), device=device)


def from_seed(seed: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator with this seed."""
    return torch.Generator(device=device).manual_seed(seed)


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's own generators, of the CPU and of `device`.

    torch.manual_seed also initialises other kinds of devices, which is slower than a small layer.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
