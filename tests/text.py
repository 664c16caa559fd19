"""A language small enough to learn in seconds, networks for it, and text in files."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from doublure.core.optional import reason_absent
from doublure.core.protocols import StreamContext
from doublure.nets.network import Network
from doublure.tasks.translation.contract import TextContract
from doublure.tasks.translation.networks import build_translator
from doublure.tasks.translation.parallel_text import contract_of, open_text

WORDS = {
    "eins": "one",
    "zwei": "two",
    "drei": "three",
    "vier": "four",
    "fünf": "five",
    "sechs": "six",
    "sieben": "seven",
    "acht": "eight",
}


# The libraries of the extra "text", and why one of them is not here.
ABSENT = next(filter(None, map(reason_absent, ("tokenizers", "sacrebleu"))), None)
needs_extra = pytest.mark.skipif(ABSENT is not None, reason=f"the extra 'text': {ABSENT}")


def write_text(folder: Path, count: int = 60, *, stem: str = "train", seed: int = 0) -> Path:
    """Write sentences of words in a row, and their translations word by word."""
    chosen = random.Random(seed)
    rows = [chosen.choices([*WORDS], k=chosen.randint(2, 6)) for _ in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    german = "".join(" ".join(row).capitalize() + ".\n" for row in rows)
    english = "".join(" ".join(WORDS[w] for w in row).capitalize() + ".\n" for row in rows)
    (folder / f"{stem}.de").write_text(german, encoding="utf-8")
    (folder / f"{stem}.en").write_text(english, encoding="utf-8")
    return folder


def contract(folder: Path, pieces: int = 60) -> TextContract:
    return contract_of(open_text(f"{folder}:de-en"), pieces)


def network(made_for: TextContract, seed: int = 0) -> Network[TextContract]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = build_translator("translator-1-8", len(made_for.source), len(made_for.target))
    return Network(body, made_for, "builtin/translator-1-8")


def context(made_for: TextContract, **changes: Any) -> StreamContext[TextContract]:
    fields = {"batch_size": 6, "steps": 8, "device": torch.device("cpu")}
    return StreamContext(contract=made_for, **(fields | changes))
