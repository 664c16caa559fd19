import io
import os
import pty
import re
import subprocess
import sys

from doublure.cli import console
from doublure.cli.console import Lines, Pace, waiting


def line(step: int, seconds: float, **figures: float) -> dict:
    return {"step": step, "seconds": seconds, "images_per_second": 1234.5, "metrics": {}} | figures


def test_a_pace_says_how_far_how_fast_and_how_long_it_will_take():
    pace = Pace()
    assert pace(1000, line(100, 10.0, loss=0.12345)) == "100/1000  1,234/s  1m30s left  loss 0.123"
    assert pace(1000, line(200, 30.0)) == "200/1000  1,234/s  2m00s left"


def test_the_time_left_follows_the_latest_lines_and_a_new_run_starts_afresh():
    pace = Pace()
    pace(100, line(50, 1000.0))
    for step in range(51, 72):
        told = pace(100, line(step, 1000.0 + 2 * step))
    assert " 58s left" in told
    assert " 1h50m left" in pace(100, line(1, 66.7))


def test_without_a_terminal_there_is_a_line_now_and_then_and_one_at_the_end(monkeypatch):
    clock = iter([0.0, 3.0, 11.0, 15.0, 20.5, 20.6])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    lines = Lines()
    for step in (1, 2, 3, 4, 5):
        lines.watch(5, line(step, float(step)))
    assert [text.split()[0] for text in written.getvalue().splitlines()] == ["2/5", "5/5"]


def test_long_lines_are_not_cut_where_there_is_no_terminal(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    Lines().say("word " * 100)
    assert written.getvalue().count("\n") == 1


def test_a_quick_verb_says_nothing_and_a_slow_one_now_and_then(monkeypatch):
    clock = iter([0.0, 1.9, 2.1, 2.1, 5.0, 12.2, 12.2])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    with waiting() as tell:
        for text in ("early", "noise: [128] of 1,024 images", "soon after", "late"):
            tell(text)
    assert written.getvalue().splitlines() == ["noise: [128] of 1,024 images", "late"]


DRAW = """
from doublure.cli.console import progression
with progression() as shown:
    shown.say("teacher: [note]")
    for step in range(50, 10001, 50):
        shown.watch(10000, {"step": step, "seconds": step * 7.5, "images_per_second": 123456.7,
            "loss": 1.23e-5, "soft_targets": 1.23e-5, "facts": {"pool_images": 5e4}})
    raise SystemExit
"""


def test_on_a_terminal_the_bar_is_one_line_with_rate_and_time_left():
    main, other = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    script = [sys.executable, "-c", DRAW]
    with subprocess.Popen(script, stderr=other, stdout=subprocess.DEVNULL, env=environment):
        os.close(other)
        shown = b"".join(iter(lambda: _read(main), b""))
    os.close(main)
    rows = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()))
    assert "teacher: [note]" in rows
    bars = [row for row in rows if "left" in row]
    assert bars[-1].rstrip().endswith("10000/10000  123,457/s  0s left  loss 1.23e-05")
    assert max(map(len, rows)) <= 80
    assert not [row for row in rows if "…" in row]


WAIT = """
import time
from doublure.cli.console import waiting
with waiting(patience=0.2) as tell:
    tell("noise: [getting] ready")
    time.sleep(1.0)
"""


def test_on_a_terminal_the_words_appear_while_the_work_says_nothing():
    main, other = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    script = [sys.executable, "-c", WAIT]
    with subprocess.Popen(script, stderr=other, stdout=subprocess.DEVNULL, env=environment):
        os.close(other)
        shown = b"".join(iter(lambda: _read(main), b""))
    os.close(main)
    assert b"noise: [getting] ready" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
