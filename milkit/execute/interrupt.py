"""Ctrl-C and SIGTERM as a wish that is never lost: a study ends at the next epoch, with a checkpoint.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a callback of the garbage collector, of
which JAX has one, the exception is printed and dropped, and the study would run on; inside others of JAX's the process
crashes. So the handler raises nothing: it notes the wish, which is asked for where it is safe to stop.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from milkit.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it, and a second Ctrl-C leaves no time to bring it back


class Wish:
    """What was asked for so far.

    Attributes:
        number: the signal that came, or None.
        taken: the signals that are listened to.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.taken: tuple[signal.Signals, ...] = ()

    def __call__(self) -> bool:
        """Whether the study should stop."""
        return self.number is not None

    def check(self) -> None:
        """Stop here if it was asked for.

        Raises:
            KeyboardInterrupt: it was.
        """
        if self():
            raise KeyboardInterrupt

    def arrived(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. The next signal is left to the system, which ends the process at once."""
        self.number = number
        for each in self.taken:
            signal.signal(each, signal.SIG_DFL)
        text = "\nstopping at the next safe point (after this epoch, if one is running); Ctrl-C again ends at once\n"
        with contextlib.suppress(OSError):  # not print: the signal may have come in the middle of one
            os.write(2, ((_SHOW_CURSOR if sys.stderr.isatty() else "") + text).encode())


_taken: list[Wish] = []


@contextlib.contextmanager
def interruptible() -> Iterator[Wish]:
    """Take Ctrl-C and SIGTERM while a study runs; the handlers that stood before are put back.

    In another thread than the main one nothing is taken, as Python allows no handler there. A signal that is ignored
    (`nohup`, a shell's background job) stays ignored. Inside another `interruptible` the wish is that one's.

    Raises:
        Interrupted: in place of any KeyboardInterrupt; knows the exit status.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Wish()
        return
    if _taken:
        yield _taken[0]
        return
    wish = Wish()
    before = {n: signal.getsignal(n) for n in SIGNALS}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    _taken.append(wish)
    wish.taken = tuple(before)
    for number in before:
        signal.signal(number, wish.arrived)
    try:
        yield wish
    except Interrupted:
        raise
    except KeyboardInterrupt as stop:
        raise Interrupted(str(stop), 128 + (wish.number or signal.SIGINT)) from None
    finally:
        _taken.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
