"""A method is four files by hand: what `docs/extending.md` says, done in a copy of the project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BY_HAND = {
    "src/doublure/objectives/log_probabilities.py": '''"""Log-probabilities: match the teacher's.

p = softmax(v), q = softmax(z) of logits v (teacher), z (student); C classes:

    L = (1/C) sum_c (log p_c - log q_c)^2
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.protocols import Batch, Outputs

CARD = Card(paper="", needs=("logits",))


def log_probability_loss(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Return the mean squared difference of each sample's log-probabilities."""
    gap = student_logits.log_softmax(-1) - teacher_logits.log_softmax(-1)
    return gap.square().mean(-1)


@dataclass(frozen=True, kw_only=True)
class LogProbabilities:
    """Objective: the teacher's log-probabilities, by their mean squared difference.

    Args:
        weight: of the term.
    """

    weight: float = 1.0

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = log_probability_loss(student.output.float(), teacher.output.float())
        return {"log_probabilities": self.weight * loss.mean()}
''',
    "tests/objectives/test_log_probabilities.py": """import torch

from doublure.objectives.log_probabilities import LogProbabilities, log_probability_loss

DEFAULTS = {"weight": 1.0}
EXAMPLES = (LogProbabilities(weight=0.5),)


def test_a_constant_on_all_logits_costs_nothing():
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert log_probability_loss(logits + 3, logits).abs().max() < 1e-12
""",
    "docs/methods/log-probabilities.md": """# log-probabilities

Match the teacher's log-probabilities by their mean squared difference.

![The loss against the gap of one logit](../pictures/log_probabilities.png){ width=520 }

<!-- card: log-probabilities -->
<!-- end -->

## Equation

```text
L = (1/C) Σ_c (log p_c − log q_c)²
```

## When to use it, and when not

* **Use it** where small probabilities matter as much as large ones.

## Settings

<!-- settings: log-probabilities -->
<!-- end -->

## Ten lines

```console
$ doublure distill --teacher teacher --student builtin/convnet-6 \\
    --transfer noise --objective log-probabilities --steps 2000 --out run
```

## Ours against the paper's

<!-- reported: log-probabilities -->
<!-- end -->

## Differences from the paper

There is none.
""",
    "docs/pictures/log_probabilities.py": '''"""The loss against the gap of one logit."""

import torch
from drawing import STUDENT, picture

from doublure.objectives.log_probabilities import log_probability_loss


def main() -> None:
    gaps = torch.linspace(-4, 4, 81)
    student = torch.stack([gaps, torch.zeros(81)], -1)
    with picture("log_probabilities", 210) as figure:
        axes = figure.subplots()
        axes.plot(gaps, log_probability_loss(student, torch.zeros(81, 2)), color=STUDENT)


if __name__ == "__main__":
    main()
''',
}
# The catalogue's line and, as of any module, its import.
LINES = {
    "    logit_l1,\n": "    log_probabilities,\n    logit_l1,\n",
    "    _objective(logit_l1.LogitL1),\n": "    _objective(logit_l1.LogitL1),\n"
    "    _objective(log_probabilities.LogProbabilities),\n",
}
MAKE_PAGES = (
    ("-m", "doublure.verbs.reference"),
    ("docs/generate_reference.py",),
    ("docs/figures.py",),
    ("docs/pictures/log_probabilities.py",),
)
WRITTEN = {
    "src/doublure/cli/reference.json",
    "docs/reference/cli.md",
    "docs/choose.md",
    "docs/methods/index.md",
    "docs/pictures/log_probabilities.png",
    "mkdocs.yml",
}
OF_ALL = ("house", "catalogue", "contracts", "recipe_defaults", "docs")
CHOSEN = "log_probabilities or log-probabilities or catalogue or true or fresh or site or known"


@pytest.fixture
def copy(tmp_path) -> Path:
    left_out = shutil.ignore_patterns(".*", "demo", "site", "__pycache__")
    return Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=left_out))


def run(folder: Path, *words: str) -> None:
    """Run Python in a copy of the project, by the code of that copy."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path in it."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_a_method_of_four_files_passes_what_all_methods_must(copy):
    before = contents(copy)
    for name, text in BY_HAND.items():
        (copy / name).write_text(text, encoding="utf-8")
    catalogue = copy / "src" / "doublure" / "catalogue.py"
    text = catalogue.read_text(encoding="utf-8")
    for line, lines in LINES.items():
        assert line in text
        text = text.replace(line, lines)
    catalogue.write_text(text, encoding="utf-8")

    for words in MAKE_PAGES:
        run(copy, *words)
    after = contents(copy)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {*BY_HAND, "src/doublure/catalogue.py", *WRITTEN}

    tests = [f"tests/test_{name}.py" for name in OF_ALL]
    tests.append("tests/objectives/test_log_probabilities.py")
    run(copy, "-m", "pytest", "-p", "no:cacheprovider", "-k", CHOSEN, *tests)
