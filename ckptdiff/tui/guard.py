"""A process that waits for the app's and puts the terminal right if that one dies.

Nothing can be done in a process that SIGKILL or a fault of memory ends. So the app runs in a child,
forked before anything large is imported; the parent waits, passes on signals and the exit code, and
stops when the child does, so that a shell sees one job.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_PASSED_ON = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGTSTP,
        signal.SIGCONT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)
_WAITED_FOR = _PASSED_ON | {signal.SIGCHLD}
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
)
# What the driver turns on, turned off: a frame half drawn, pasting, wrapping, resizes, all reports
# of the mouse, keys of kitty; then the screen of the shell, colours, the cursor, focus.
_RESTORE = (
    b"\x1b[?2026l\x1b[?2004l\x1b[?7h\x1b[?2048l"
    b"\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"
    b"\x1b[<u\x1b[?1049l\x1b[0m\x1b[?25h\x1b[?1004l"
)

_IN, _OUT = 0, 2  # what the driver reads and draws on; while it does, `sys.stderr` is Textual's

# Shared by the two processes; its byte is 1 while the terminal is the app's.
_drawing: mmap.mmap | None = None
_guard: int | None = None  # the process that waits for this one


def run_guarded(run: Callable[[], int]) -> int:
    """Run the app in a child of this process; both return its exit code.

    The parent returns 128 and the number of the signal that ended the child. Where there is no
    terminal to put right, or no process to be had, the app runs here.
    """
    global _drawing, _guard
    try:
        attributes = termios.tcgetattr(_IN)
        _drawing = mmap.mmap(-1, 1)
    except (termios.error, OSError):
        return run()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would not be told
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError:
        child = None
    if child:
        status = _wait(child)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _ended(status, attributes)
    if child == 0:
        _guard = parent
        _end_with_the_guard(parent, attributes)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return run()


def note(*, drawing: bool) -> None:
    """Note whether the terminal is the app's, to be put right if this process ends."""
    if _drawing is not None:
        _drawing[0] = drawing


def wake() -> None:
    """Wake the process that waits for this one, if it has stopped as this one had."""
    if _guard is not None and os.getppid() == _guard:
        os.kill(_guard, signal.SIGCONT)


def end_with_parent(parent: int | None = None) -> None:
    """Have the system send SIGTERM to this process when its parent ends."""
    import ctypes

    pr_set_pdeathsig = 1  # of linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:  # it has ended before that
        os.kill(os.getpid(), signal.SIGTERM)


def _end_with_the_guard(guard: int, attributes: list[Any]) -> None:
    """Die of a SIGTERM; if the guard is gone, put the terminal right first."""

    def ended(number: int, _: FrameType | None) -> None:
        if os.getppid() != guard:
            _put_right(attributes)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, ended)
    end_with_parent(guard)


def _wait(child: int) -> int:
    """Wait until the child ends; return its status."""
    while True:
        told = signal.sigwaitinfo(_WAITED_FOR)
        if told.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if pid and not os.WIFSTOPPED(status):
                return status
            if pid:
                os.kill(os.getpid(), signal.SIGSTOP)
        # The terminal's own signals reach the child too, since it is in the same group.
        elif (
            told.si_code <= 0
            and told.si_pid != child
            and (told.si_signo != signal.SIGCONT or _is_stopped(child))
        ):
            os.kill(child, told.si_signo)


def _is_stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "T"


def _ended(status: int, attributes: list[Any]) -> int:
    """Put the terminal right, say what ended the child, return the exit code."""
    code = os.waitstatus_to_exitcode(status)
    _put_right(attributes)
    if code >= 0:
        return code
    number = -code
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        name = f"signal {number}"
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(_OUT, f"ckptdiff: {_words(number, name)}\n".encode())
    return 128 + number


def _words(number: int, name: str) -> str:
    if number == signal.SIGKILL:
        return f"killed ({name}): by a user, or by the system when memory ran out"
    if number in _CRASHES:
        return f"crashed ({name}): this is a bug in ckptdiff, please report it"
    return f"ended ({name})"


def _put_right(attributes: list[Any]) -> None:
    """Give the terminal back as it was, if it is the app's."""
    if _drawing is None or not _drawing[0]:
        return
    _drawing[0] = 0
    # A shell that has taken the terminal already would have this process stopped.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with contextlib.suppress(termios.error, OSError):
        termios.tcsetattr(_IN, termios.TCSANOW, attributes)
        os.write(_OUT, _RESTORE)
        termios.tcflush(_IN, termios.TCIFLUSH)  # what the mouse has sent
