"""What ends a run: the first signal between two documents, the second at once."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tl_entropy.runs.ends import Ends, Stopped, preempt, signals


def handlers():
    return signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_within_a_pass_the_first_waits_and_the_second_does_not(sent):
    ends, before = Ends(), handlers()
    ends.reading = True
    with signals(ends):
        os.kill(os.getpid(), sent)
        assert ends.asked == f"{sent.name}: what was read is saved; the same command goes on"
        with pytest.raises(KeyboardInterrupt, match=sent.name):
            os.kill(os.getpid(), sent)
    assert handlers() == before


def test_outside_of_a_pass_the_first_ends_it():
    ends, before = Ends(), handlers()
    with pytest.raises(Stopped, match="SIGTERM"), signals(ends):
        os.kill(os.getpid(), signal.SIGTERM)
    assert handlers() == before


def test_a_thread_leaves_signals_alone():
    found, before = [], handlers()

    def within():
        with signals(Ends()):
            found.append(handlers())

    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert found == [before]


def test_preemption_is_a_signal_within_its_time():
    ends = Ends()
    ends.reading = True
    with signals(ends):
        preempt(0.01)
        last = time.monotonic() + 10
        while not ends.asked and time.monotonic() < last:
            time.sleep(0.001)
    assert ends.asked.startswith("SIGTERM")
