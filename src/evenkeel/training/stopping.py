"""Being asked to stop: by a signal, or by a file that reaches every node.

A trainer that is asked finishes its step, saves a checkpoint and ends, with exit status 75
(``run_record.TrainerExit.STOPPED``) or, after Ctrl-C, 130. The next start continues there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from evenkeel import run_lock
from evenkeel.run_paths import RunPaths

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
BY_FILE = 1
"""The flag of a stop request by file; signals are flagged by their numbers, which are larger."""
SAME_KEY_PRESS_S = 2.0
"""A terminal and a launcher both pass on one Ctrl-C; a second wish to stop comes later."""


@dataclass
class StopRequest:
    """Whether this rank was asked to stop, and by what."""

    paths: RunPaths | None
    flag: int = 0
    _interrupted_at: float = field(default=0.0, repr=False)

    def poll(self) -> int:
        """0, or the number of the signal, or ``BY_FILE``.

        Raises:
            RunLostError: another start of this run has taken over; it may write, this one not.
        """
        if self.paths is not None:
            run_lock.require_current(self.paths, os.environ)
            if not self.flag and self.paths.stop_request.exists():
                self.flag = BY_FILE
        return self.flag

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note the signal; a second, later Ctrl-C stops at once."""
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted_at and now - self._interrupted_at > SAME_KEY_PRESS_S:
                raise KeyboardInterrupt
            self._interrupted_at = self._interrupted_at or now
        self.flag = number


def describe(flag: int) -> str:
    """The flag in words."""
    return "a stop request" if flag == BY_FILE else signal.Signals(flag).name


@contextmanager
def listening(paths: RunPaths | None) -> Iterator[StopRequest]:
    """Take over the signals for the length of the block."""
    request = StopRequest(paths)
    before = {number: signal.signal(number, request.handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
