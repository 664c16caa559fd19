import subprocess
import sys
import warnings

import pytest
import torch

from doublure.cli import main
from doublure.nets.builtin import build
from tests.command import command

VERBS = (
    *("distill", "train", "synthesize", "evaluate", "export", "inspect", "score", "report"),
    *("shrink", "methods", "doctor", "demo", "audit", "audit transfer"),
)
NORMALISATIONS = ("stated", "imagenet", "cifar10", "unit", "bytes")
HEAVY = ("torch", "numpy", "sklearn", "matplotlib", "jinja2", "onnx", "PIL")


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from doublure.cli import main\n"
        f"for words in {[[], *(verb.split() for verb in VERBS)]!r}:\n"
        "    assert main.status([*words, '--help']) == 0\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_80_columns_and_loses_no_word(verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    told = command(*verb.split(), "--help")
    assert told.status == 0
    assert max(map(len, told.out.splitlines())) <= 80
    assert "…" not in told.out


def test_audit_transfer_is_another_name_of_score():
    one, other = command("score", "--help").out, command("audit", "transfer", "--help").out
    assert other.replace("audit transfer", "score").split() == one.split()


def test_the_version_is_the_packages():
    told = command("--version")
    assert told.out.startswith("doublure ")
    assert (told.status, told.err) == (0, "")


def test_without_a_verb_the_help_is_shown_and_it_is_bad_usage():
    told = command()
    assert told.status == 2
    assert "Usage: doublure" in told.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("distil", "No such command 'distil'. Did you mean 'distill'?"),
        ("distill", "Missing option '--out'."),
        ("distill --out a", "missing --teacher and --student, or --recipe FILE"),
        ("distill --out a --teacher b", "missing --student, or --recipe FILE"),
        ("score --transfer noise", "missing --teacher, or --recipe FILE"),
        ("train --out a --net b", "missing --data, or --recipe FILE"),
        ("distill --out a --budget 1m --steps 2", "--steps and --budget exclude each other"),
        ("distill --out a --budget 20s", "budget must be at least 30s, got 20s"),
        ("distill --out a --sed 3", "No such option: --sed"),
        ("distill --out a --seed -1", "'--seed': expected a whole number from 0"),
        ("distill --out a --size 3x", "'--size': expected pixels, as 32 or 180x240; got '3x'"),
        ("distill --out a --mean a", "'--mean': expected numbers with commas"),
        ("distill --out a --budget 20", "'--budget': expected a time with s, m or h, as 20m"),
        (
            "distill --out a --budget 1e9h",
            "'--budget': '1e9h' is more than 60 days; give less time, or --steps",
        ),
        ("distill --out a --steps 0", "'--steps': Input should be greater than or equal to 1"),
        ("distill --out a --method shader-kb", "did you mean 'shader-kd'?"),
        ("distill --out a --transfer nois", "did you mean 'noise'?"),
        ("distill --out a --objective soft-target=2", "did you mean 'soft-targets'?"),
        ("distill --out a --without atack", "did you mean 'attack'?"),
        ("distill --out a --precision float16", "did you mean 'bfloat16'?"),
        ("distill --out a --set steps", "expected KEY=VALUE, got 'steps'"),
        ("distill --out a --recipe absent.toml", "'absent.toml' does not exist"),
        ("synthesize leafs --count 3 --out a", "did you mean 'leaves'?"),
        ("export --model a --out b --format onx", "did you mean 'onnx'?"),
        ("shrink --out a --teacher b --budget 60s", "Missing option '--target'."),
        ("shrink --out a --target 3 --teacher b --budget 60s", "as 0.3, 2MB or 5ms; got '3'"),
        ("shrink --out a --target 0.3 --teacher b --budget 20s", "at least 30s, got 20s"),
        ("audit transfr", "Did you mean 'transfer'?"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(words, reason):
    told = command(*words.split())
    assert told.status == 2
    assert told.out == ""
    assert reason in told.reason


def test_a_failure_is_one_line_and_status_1():
    told = command("inspect", "nowhere")
    assert told.status == 1
    assert told.reason.startswith("'nowhere' is neither a network nor a path; known forms: ")


def test_brackets_and_line_breaks_of_a_reason_survive_as_one_line(tmp_path):
    told = command("report", tmp_path / "[bold]x\ny")
    assert "[bold]x y is not a RUN folder" in told.reason


def test_a_failure_nobody_foresaw_says_how_to_see_more(monkeypatch):
    from doublure.verbs import methods

    monkeypatch.setattr(methods, "methods", lambda: {}["absent"])
    told = command("methods")
    assert told.status == 1
    assert told.reason == "KeyError: 'absent' (run again with --debug to see where)"


def test_an_interrupt_says_how_to_go_on(monkeypatch):
    from doublure.verbs import methods

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(methods, "methods", interrupt)
    told = command("methods")
    assert told.status == 130
    assert told.reason.startswith("interrupted; written files are intact")


def test_warnings_of_this_library_are_told_in_words_and_those_of_others_are_not(
    monkeypatch, capsys
):
    def warn() -> list[None]:
        path = methods.__file__
        warnings.warn_explicit("the generator is started afresh", RuntimeWarning, path, 1)
        warnings.warn_explicit("use another spelling", FutureWarning, "torch/somewhere.py", 1)
        return []

    from doublure.verbs import methods

    monkeypatch.setattr(methods, "methods", warn)
    monkeypatch.setattr(sys, "argv", ["doublure", "methods"])
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit):
            main.run()
    assert capsys.readouterr().err == "the generator is started afresh\n"


def test_inspect_shows_the_usual_normalisations_in_a_table(tmp_path):
    state = build("convnet-16", classes=2).state_dict()
    for name in ("bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"):
        state[name] += 1
    torch.save(state, tmp_path / "net.pth")
    words = f"inspect builtin/convnet-16 --weights {tmp_path}/net.pth --mean 0,0,0 --std 1,1,1"
    told = command(*words.split())
    assert told.status == 0
    lines = [line.split() for line in told.out.splitlines()]
    named = [words[0] for words in lines if words[:1] and words[0] in NORMALISATIONS]
    assert sorted(named) == sorted(NORMALISATIONS)
    assert all(len(line) < 80 for line in told.out.splitlines()[:-1])
    assert len({len(words) for words in lines if words[:1] and words[0] in NORMALISATIONS}) == 1
