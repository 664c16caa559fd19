"""The command line, run in this process: what it wrote and how it ended."""

import contextlib
import io
from dataclasses import dataclass

from doublure.cli import main


@dataclass(frozen=True)
class Told:
    """What one call of the command said."""

    status: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The one line of a failure; an error if there is none, or more than one."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n"), self.err
        return lines[0].removeprefix("error: ")


def command(*words: object) -> Told:
    """Run `doublure` with these words."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.status([str(word) for word in words])
    return Told(status, out.getvalue(), err.getvalue())
