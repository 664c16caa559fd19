import os
import signal
import threading

import pytest

from doublure.core import interruption
from doublure.core.interruption import Stopped, stop_request


def test_a_signal_is_remembered_until_the_step_has_ended():
    before = signal.getsignal(signal.SIGTERM)
    with stop_request() as request:
        assert request.number == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_one_stops_at_once():
    with stop_request():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped) as stop:
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.value.status == 143


def test_a_step_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(interruption, "PATIENCE", 0.01)
    with stop_request():
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Stopped):
            threading.Event().wait(60)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_hears_nothing_and_disturbs_nothing():
    heard = []

    def work():
        with stop_request() as request:
            heard.append(request.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [0]
