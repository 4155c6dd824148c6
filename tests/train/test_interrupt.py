"""Tests train/interrupt.py with real signals; several processes: see test_distributed.py."""

import os
import signal
import threading

import pytest

from train.interrupt import Interrupt

pytestmark = pytest.mark.usefixtures("heeds_ctrl_c")


@pytest.fixture(autouse=True)
def _ctrl_c():
    """Python's own handler, even where pytest runs in the background and SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_sigterm_is_noted():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        assert not interrupt.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.reached(2)
    assert signal.getsignal(signal.SIGTERM) is before


def train(steps: list, interrupted_at: tuple[int, ...]) -> None:
    with Interrupt() as interrupt:
        for step in range(1, 4):
            steps.append(step)
            for _ in range(interrupted_at.count(step)):
                os.kill(os.getpid(), signal.SIGINT)
            if interrupt.reached(step):
                steps.append("saved")
                break


def test_ctrl_c_is_noted_and_raised_at_the_end():
    steps = []
    with pytest.raises(KeyboardInterrupt):
        train(steps, interrupted_at=(2,))
    assert steps == [1, 2, "saved"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_interrupts_at_once():
    steps = []
    with pytest.raises(KeyboardInterrupt):
        train(steps, interrupted_at=(2, 2))
    assert steps == [1, 2]


def fail() -> None:
    with Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("mine")


def test_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="mine"):
        fail()


def test_outside_the_main_thread_it_does_nothing():
    reached = []

    def work():
        with Interrupt() as interrupt:
            reached.append(interrupt.reached(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached == [False]
