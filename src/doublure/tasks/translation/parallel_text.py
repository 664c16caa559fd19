"""Parallel text: sentences and their translations, line by line.

DATA of a translator is named by
    FOLDER               with `train.de` and `train.en`, and so on: the part asked for
    FOLDER/STEM          the two files STEM.de and STEM.en
and either with `:de-en` behind it, which says what is translated into what. A network knows its
languages, so that only the first training has to be told.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from doublure.tasks.translation.contract import PAD, TextContract
from doublure.tasks.translation.vocabulary import Tokenizer, learn_pieces

# What the parts of a set are called, the best name first.
_STEMS = {"train": ("train",), "test": ("test", "val", "valid", "dev")}
# Enough to have frequent words as one piece in about ten thousand sentences.
PIECES = 4000


@dataclass(frozen=True, kw_only=True)
class ParallelText:
    """Sentences with their translations, as text.

    Args:
        where: the two files without their language, for messages.
        notes: notes for the user.
    """

    where: str
    languages: tuple[str, str]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def digests(self) -> list[bytes]:
        """A hash of each source sentence."""
        return [blake2b(line.encode(), digest_size=8).digest() for line in self.sources]


def names_text(spec: str | Path) -> bool:
    """Return whether DATA is parallel text rather than images; nothing is read."""
    place, languages = _taken_apart(str(spec))
    if languages is not None:
        return True
    path = Path(place)
    if path.is_dir():
        return any(_stems(path, split) for split in _STEMS)
    return len(_suffixes(path)) == 2


def open_text(
    spec: str | Path,
    *,
    split: Literal["train", "test"] = "train",
    languages: tuple[str, str] | None = None,
) -> ParallelText:
    """Return the sentences of `spec`.

    Args:
        split: part of a folder with several.
        languages: the network's languages; None if `spec` must name them.

    Raises:
        ValueError: in one line: what is missing, and the remedy.
    """
    place, said = _taken_apart(str(spec))
    path = Path(place)
    if said is not None and languages is not None and said != languages:
        raise ValueError(
            f"{spec} asks for {'-'.join(said)}, but the network translates {'-'.join(languages)}"
        )
    languages = said or languages
    stem = _stem(path, split) if path.is_dir() else path
    if languages is None:
        found = _suffixes(stem) or ["SOURCE", "TARGET"]
        ways = f"{place}:{found[0]}-{found[-1]} or {place}:{found[-1]}-{found[0]}"
        raise ValueError(f"say what is translated into what: {ways}")
    sources, targets = (_lines(stem, language) for language in languages)
    if len(sources) != len(targets):
        raise ValueError(
            f"{stem}.{languages[0]} has {len(sources)} lines, {stem}.{languages[1]} has "
            f"{len(targets)}; line by line they must be translations of each other"
        )
    pairs = [pair for pair in zip(sources, targets, strict=True) if all(pair)]
    if not pairs:
        raise ValueError(f"{stem}.{languages[0]} holds no sentence")
    empty = len(sources) - len(pairs)
    return ParallelText(
        where=str(stem),
        languages=languages,
        sources=tuple(source for source, _ in pairs),
        targets=tuple(target for _, target in pairs),
        notes=(f"{stem}: {empty} pairs with an empty side were left out",) if empty else (),
    )


def contract_of(text: ParallelText, pieces: int = PIECES) -> TextContract:
    """Return the contract of a network for these sentences."""
    return TextContract(
        languages=text.languages,
        source=learn_pieces(text.sources, pieces),
        target=learn_pieces(text.targets, pieces),
    )


def source_tokens(lines: Sequence[str], contract: TextContract) -> list[list[int]]:
    """Return the tokens of sentences to translate."""
    tokenizer = Tokenizer(contract.source)
    return [tokenizer.tokens(line, contract.longest) for line in lines]


def target_tokens(lines: Sequence[str], contract: TextContract) -> list[list[int]]:
    """Return the tokens of translations."""
    tokenizer = Tokenizer(contract.target)
    return [tokenizer.tokens(line, contract.longest) for line in lines]


def padded(rows: Sequence[Sequence[int]]) -> Int64[Tensor, "batch length"]:
    """Return rows of tokens as one tensor, the shorter ones padded with `PAD`."""
    made = torch.full((len(rows), max(map(len, rows))), PAD)
    for row, tokens in zip(made, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return made


def by_length(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of all rows in batches of similar length, short ones first."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def place_of(spec: str) -> str:
    """Return the path in DATA, without its languages."""
    return _taken_apart(spec)[0]


def _taken_apart(spec: str) -> tuple[str, tuple[str, str] | None]:
    place, colon, said = spec.rpartition(":")
    one, dash, other = said.partition("-")
    if not (colon and one.isalnum() and dash and other.isalnum()):
        return spec, None
    return place, (one, other)


def _suffixes(stem: Path) -> list[str]:
    beside = stem.parent.glob(f"{stem.name}.*") if stem.parent.is_dir() else ()
    return sorted(file.suffix[1:] for file in beside if file.is_file() and file.stem == stem.name)


def _stems(folder: Path, split: str) -> list[Path]:
    """Return candidates for the requested part: two files of one name, of the preferred kind."""
    names = {file.stem for file in folder.iterdir() if file.is_file()}
    pairs = sorted(name for name in names if len(_suffixes(folder / name)) == 2)
    for best in _STEMS[split]:
        if best in pairs:
            return [folder / best]
        found = [folder / name for name in pairs if _begins(name, best)]
        if found:
            return found
    return []


def _begins(name: str, word: str) -> bool:
    return name.startswith(word) and not name[len(word) : len(word) + 1].isalpha()


def _stem(folder: Path, split: str) -> Path:
    found = _stems(folder, split)
    if not found:
        ways = " or ".join(f"{name}.de with {name}.en" for name in _STEMS[split][:2])
        raise ValueError(f"{folder} holds no parallel text to {split} on: two files as {ways}")
    if len(found) > 1:
        names = ", ".join(str(item) for item in found)
        raise ValueError(f"{folder} holds several sets to {split} on; name one: {names}")
    return found[0]


def _lines(stem: Path, language: str) -> list[str]:
    path = stem.with_name(f"{stem.name}.{language}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")]
