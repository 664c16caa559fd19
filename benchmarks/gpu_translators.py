"""The entries of gpu.py's queue that translate: the large setting of translation.py, run by run.

A teacher of 6 + 6 layers, students of 2 + 2, German captions into English; rows and gaps go to
results/translation_large.json, as those of `translation.py --setting large` do.
"""

import random
from pathlib import Path

import translation
from translation import ARMS, Arm, Setting
from waiting import Bench, Entry, Made

SEEDS = (0, 1, 2)
TEACHER = "translators: teacher"
TOY = Setting(
    teacher="builtin/translator-1-8",
    student="builtin/translator-1-8",
    pieces=60,
    beams=2,
    teacher_steps=2,
    steps=2,
    later_steps=2,
    batch_size=8,
)
_WORDS = {
    "eins": "one",
    "zwei": "two",
    "drei": "three",
    "vier": "four",
    "sechs": "six",
    "sieben": "seven",
    "acht": "eight",
    "neun": "nine",
}


def entries() -> list[Entry]:
    """Return the teacher, every arm of every seed, and how far arms are from their rivals."""
    students = [_student(arm, seed) for seed in SEEDS for arm in ARMS]
    names = tuple(entry.name for entry in students)
    last = Entry(name="translators: gaps", work=_compare, needs=names)
    return [Entry(name=TEACHER, work=_teach), *students, last]


def write_toy_text(work: Path) -> None:
    """Write a corpus of eight words where the translators of `work` look for theirs."""
    folder = work / "translation" / "text"
    folder.mkdir(parents=True)
    chosen = random.Random(0)
    for stem, count in (("train", 80), (translation.TEST, 16)):
        rows = [chosen.choices([*_WORDS], k=chosen.randint(2, 6)) for _ in range(count)]
        told = {
            "de": [" ".join(row) for row in rows],
            "en": [" ".join(_WORDS[word] for word in row) for row in rows],
        }
        for language, lines in told.items():
            text = "".join(f"{line.capitalize()}.\n" for line in lines)
            (folder / f"{stem}.{language}").write_text(text, encoding="utf-8")


def _student(arm: Arm, seed: int) -> Entry:
    def work(bench: Bench) -> Made:
        return translation.measure_student(_translators(bench), _table(bench), arm, seed)

    needs = (TEACHER, *((_named(arm.after, seed),) if arm.after else ()))
    return Entry(name=_named(arm.name, seed), work=work, needs=needs)


def _named(arm: str, seed: int) -> str:
    return f"translators: {arm}, seed {seed}"


def _teach(bench: Bench) -> Made:
    return translation.measure_teacher(_translators(bench), _table(bench))


def _compare(bench: Bench) -> Made:
    gaps = translation.gaps(_translators(bench), SEEDS)
    _table(bench).extend(gaps=gaps)
    return {"gaps": gaps}


def _translators(bench: Bench) -> translation.Bench:
    work = bench.work / "translation"
    work.mkdir(parents=True, exist_ok=True)
    return translation.Bench(
        work=work,
        setting=TOY if bench.toy else translation.SETTINGS["large"],
        device="cpu" if bench.toy else "cuda",
        watch=bench.watch,
    )


def _table(bench: Bench) -> translation.Table:
    return translation.open_table("large", bench.results.parent)
