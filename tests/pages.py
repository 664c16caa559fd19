"""The pages of the documentation, taken apart and run as a reader would run them.

Blocks of a page run in order, in one folder, in a process without the test suite's type checks.
What is long on a page is made short here (`SMALLER`, `be_brief`); nothing else is changed.
"""

import contextlib
import functools
import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

SMALLER = (
    (re.compile(r"--(?:steps|budget) \S+"), "--steps 4"),
    (re.compile(r"--count \d+"), "--count 64"),
    (re.compile(r"builtin/(?:resnet|convnet-)\w+"), "builtin/convnet-4"),
    (re.compile(r"builtin/translator-\w+"), "builtin/translator-1-8"),
    (re.compile(r"\bsteps=\d+"), "steps=4"),
    (re.compile(r"\biterations=\d+"), "iterations=4"),
)
# A share of so few images says little, which nobody asks of it here.
IMAGES = 64

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[a-z ]+): (?P<reason>[^\n]*?) -->\n)?^```(?P<language>\w*)\n"
    r"(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FIGURE = re.compile(r"[\d.,]*\d")


class PageError(AssertionError):
    """A page says what is not so; the message says where."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page.

    Args:
        mark: of the comment in front of it: "not run", "fails", "needs" or "saved" (in the
            file that the reason names); "" without one.
        line: of the page, where its text begins.
    """

    language: str
    body: str
    mark: str
    reason: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        yield Block(
            language=found["language"],
            body=found["body"],
            mark=found["mark"] or "",
            reason=found["reason"] or "",
            line=text[: found.start("body")].count("\n") + 1,
        )


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


def furnish(folder: Path) -> None:
    """Put into a folder what the pages take for granted: a teacher, weights, images, names."""
    from doublure.nets import builtin
    from doublure.verbs.train import train
    from tests.scenes import write_split
    from tests.text import ABSENT, write_text

    train("builtin/convnet-4", "builtin/digits", out=folder / "teacher", steps=60, batch_size=64)
    torch.manual_seed(0)
    for name, width in (("teacher", 4), ("narrow", 3)):
        network = builtin.build(f"convnet-{width}", classes=10, channels=3, size=(32, 32))
        torch.save(network.state_dict(), folder / f"{name}.pth")
    (folder / "hostile.pth").write_bytes(b"\x80\x04cposix\nsystem\n(X\x04\x00\x00\x00truetR.")
    (folder / "names.txt").write_text("".join(f"class {i}\n" for i in range(10)))
    for stem, count in (("train", 80), ("val", 12)):
        write_text(folder / "captions", count, stem=stem)
    captions = str(folder / "captions:de-en")
    if ABSENT is None:
        train("builtin/translator-1-8", captions, out=folder / "translator", steps=4, batch_size=8)
    scenes = str(write_split(folder / "scenes", train=40))
    train("builtin/scene-unet-4", scenes, out=folder / "scene-teacher", steps=40, batch_size=4)
    (folder / "photographs").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "photographs" / f"{i}.png")


def be_brief() -> None:
    """Let runs of this process be judged on few images; called once, before anything runs."""
    from doublure.audits import transfer_reference
    from doublure.tasks.classification import held_out, summary

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    few = functools.partial(held_out.answer_held_out, count=IMAGES)
    summary.answer_held_out = few
    summary._SCORED = IMAGES
    transfer_reference._IMAGES = IMAGES
    transfer_reference._BATCH = 8


def run_page(page: Path, folder: Path, *, opengl: bool) -> None:
    """Run the blocks of a page in a folder.

    Raises:
        PageError: a command ended otherwise, or said something else, than the page shows.
    """
    os.chdir(folder)
    names: dict[str, object] = {"__name__": page.stem}
    sys.path.insert(0, str(folder))  # where a script of that folder would import from
    for block in blocks(page):
        if block.mark == "saved":  # first of all: a module is read once
            with (folder / block.reason).open("a", encoding="utf-8") as file:
                file.write(smaller(block.body) + "\n\n")
    for block in blocks(page):
        if block.mark in ("not run", "saved") or (block.mark == "needs" and not opengl):
            continue
        if block.language == "console":
            _run_commands(block, page)
        elif block.language == "python":
            code = "\n" * (block.line - 1) + smaller(block.body)
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, str(page), "exec"), names)


def _run_commands(block: Block, page: Path) -> None:
    from doublure.cli.main import status

    for command, shown in commands(block.body):
        where = f"{name_of(page)}, line {block.line}: $ {command}"
        words = shlex.split(command)
        if words[0] != "doublure":
            raise PageError(f"{where} cannot be run here; say <!-- not run: why -->")
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            code = status([*shlex.split(smaller(command))[1:], *_shorter(words)])
        if (code != 0) != (block.mark == "fails"):
            raise PageError(f"{where} ended with {code}: {told.getvalue()}")
        check_shown(told.getvalue(), [smaller(line) for line in shown], where)


def smaller(text: str) -> str:
    """Return commands or code with the lengths and networks of this suite."""
    for pattern, replacement in SMALLER:
        text = pattern.sub(replacement, text)
    return text


def _shorter(words: list[str]) -> list[str]:
    """Return the options by which a training, or a score, is made short."""
    if words[1] == "score" and "--count" not in words:
        return ["--count", str(IMAGES)]
    if words[1] not in ("distill", "train") or "--recipe" in words:
        return []
    drawn = words[1] == "distill" and not {"--transfer", "--method"} & set(words)
    return ["--batch-size", "16", *(["--set", "num_programs=8"] if drawn else [])]


def commands(body: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block with the lines that are shown under it."""
    joined = body.replace("\\\n", " ")
    for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield " ".join(command.split()), [line for line in shown if line.strip()]


def check_shown(told: str, shown: list[str], where: str) -> None:
    """Raise unless the lines shown begin lines that were told, in that order, but for figures."""
    lines = iter([_without_figures(line) for line in told.splitlines()])
    for line in shown:
        wanted = _without_figures(line)
        if not any(line.startswith(wanted) for line in lines):
            raise PageError(f"{where} does not say '{line}', but: {told}")


def _without_figures(line: str) -> str:
    return _FIGURE.sub("#", " ".join(line.split()))
