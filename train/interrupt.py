"""Stops a run between two steps when the scheduler (SIGTERM) or the user (Ctrl-C) asks for it."""

import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interrupt:
    """A context in which SIGTERM and the first SIGINT are only noted, for the loop to act on.

    With `jax.distributed`, JAX itself listens for SIGTERM and tells the other processes; all stop
    at the same step. A second Ctrl-C interrupts at once. Leaving the context raises
    KeyboardInterrupt if Ctrl-C was noted (exit code 130, as always); a run that SIGTERM has stopped
    ends normally, exit code 0: schedulers count anything else as a failure.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # Python's rule for handlers
            signals = [signal.SIGINT]
            if not jax.distributed.is_initialized():
                signals.append(signal.SIGTERM)
            self._previous = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        if error is None and self._noted == signal.SIGINT:
            raise KeyboardInterrupt

    def reached(self, step: int) -> bool:
        """Whether to save and stop after this step; every process asks after every step.

        Args:
          step: steps done.

        Returns:
          True on all processes at one and the same step, once one of them was signalled.
        """
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if jax.distributed.is_initialized():
                os.kill(os.getpid(), signal.SIGTERM)  # JAX's listener tells the others
