"""How work is stopped from outside: Ctrl-C, a closed terminal, a scheduler that ends a job.

A loop with checkpoints ends the step it is in, saves, and then stops. A step that takes longer than
`PATIENCE` is given up: the checkpoint before it stands.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# Seconds for the step that is being taken.
PATIENCE = 5.0


class Stopped(KeyboardInterrupt):
    """The work was stopped by a signal.

    Args:
        number: of the signal.
        saved: what was saved last, for a person; "" where nothing is known.
    """

    def __init__(self, number: int, saved: str = "") -> None:
        super().__init__(saved)
        self.number, self.saved = number, saved

    @property
    def status(self) -> int:
        """The exit status that a shell expects."""
        return 128 + self.number


class StoppedVerb(BaseException):
    """A verb of the command was stopped; the command line gives it an exit status of its own."""

    def __init__(self, stop: Stopped) -> None:
        super().__init__(*stop.args)
        self.stop = stop


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Handle a signal where nothing need be saved."""
    raise Stopped(number)


def install_handlers() -> None:
    """Let every signal of `SIGNALS` stop the work; one that is ignored (nohup) stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop_at_once)


class StopRequest:
    """Whether a signal came; 0 as long as none did."""

    def __init__(self) -> None:
        self.number = 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; a second one, or a step that does not end, stops at once."""
        if self.number or number not in SIGNALS:
            raise Stopped(self.number or number)
        self.number = number
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Yield a request that is set by a signal, until the block ends.

    Outside of the main thread no signal can be heard, and none is.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    if hasattr(signal, "SIGALRM"):
        heard.append(signal.SIGALRM)
    before = {number: signal.signal(number, request.hear) for number in heard}
    try:
        yield request
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
