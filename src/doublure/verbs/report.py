"""`report`: rebuild the page of a run from the files in its folder."""

from pathlib import Path

from doublure.reports.page import write_report
from doublure.reports.shrinking import is_shrink, write_shrinking_report


def report(run: str | Path) -> Path:
    """Write `report.html` into the folder of a run, atomically, and return its path."""
    folder = Path(run)
    return write_shrinking_report(folder) if is_shrink(folder) else write_report(folder)
