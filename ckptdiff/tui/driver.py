"""How the app reads and takes the terminal: Textual's driver, which no byte can end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import termios
from codecs import getincrementaldecoder
from typing import Any

from rich.traceback import Traceback
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Key, Resize
from textual.geometry import Size

from ckptdiff.tui import guard

_READ = 4096  # bytes
_TICK = 0.1  # seconds after which a lone ESC is the key of this name
# ESC [ M and three bytes of any value: button, column, row.
_X10 = re.compile(rb"\x1b\[M...", re.DOTALL)
_X10_START = re.compile(rb"\x1b(?:\[(?:M.{0,2})?)?\Z", re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")
_NO_MOUSE = b"\x1b[M   "


class InputDecoder:
    """Decodes what a terminal sends. Bytes that are no UTF-8 are left out.

    A terminal that was rebuilt under the program reports the mouse in the form of X10, in bytes
    that are no text. Such a report becomes one that Textual's parser ignores.
    """

    def __init__(self) -> None:
        self._decode = getincrementaldecoder("utf-8")("ignore").decode
        self._start = b""  # of a report that may go on in the next bytes
        self._passed = 0  # how much of it has been returned: ESC may be a key of its own

    def text(self, data: bytes, *, final: bool = False) -> str:
        """Return the text of the next bytes."""
        data = _X10.sub(_NO_MOUSE, self._start + data)
        found = _X10_START.search(data)
        passed, end = self._passed, len(data)
        self._start, self._passed = b"", 0
        if found is not None:
            self._start = found[0]
            end = found.start() + min(len(found[0]), 2)
            self._passed = max(end, passed) - found.start()
        return self._decode(data[passed:end], final)

    def rest(self) -> None:
        """Note that nothing came for a while: ESC was a key, and late bytes of a report are none.

        Those are waited for, as what they may be taken for is keys.
        """
        if len(self._start) < len(b"\x1b[M"):
            self._start, self._passed = b"", 0
        else:
            self._passed = len(_NO_MOUSE)


class TerminalDriver(LinuxDriver):
    """Textual's driver for Linux, which neither a byte of the terminal nor SIGCONT confuses."""

    _loop: asyncio.AbstractEventLoop
    _is_on = False  # whether the terminal is the app's
    _attributes: list[Any] | None = None  # of the terminal while it is
    _parser: XTermParser

    def start_application_mode(self) -> None:
        self._loop = asyncio.get_running_loop()
        guard.note(drawing=True)
        super().start_application_mode()  # type: ignore[no-untyped-call]
        self._is_on = self._writer_thread is not None
        with contextlib.suppress(termios.error):
            self._attributes = termios.tcgetattr(self.fileno)

    def close(self) -> None:
        super().close()
        self._is_on = False
        guard.note(drawing=False)

    # ── signals ──────────────────────────────────────────────────────────────────────────────

    def _sigtstp_application(self, *_: object) -> None:
        # Not in the handler: it may have interrupted the main thread where that holds a lock.
        self._loop.call_soon_threadsafe(super()._sigtstp_application)

    def _sigcont_application(self, *_: object) -> None:
        """Go on after a SIGSTOP, after which a shell may have had the terminal."""
        guard.wake()
        if not self._auto_restart:
            return
        if self._is_on:
            self._loop.call_soon_threadsafe(self._take_again)
        else:
            self.resume_application_mode()

    def _take_again(self) -> None:
        """Set up the terminal again and draw all; the thread of the input may wait in a read."""
        if not self._is_on:
            return
        if self._attributes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.fileno, termios.TCSANOW, self._attributes)
        self.write("\x1b[?1049h\x1b[?25l\x1b[?1004h")  # the other screen, no cursor, focus
        self._enable_mouse_support()
        self._enable_bracketed_paste()
        self._disable_line_wrap()
        size = Size(*self._get_terminal_size())
        self._app.post_message(Resize(size, size))

    # ── input ────────────────────────────────────────────────────────────────────────────────

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except BaseException:  # noqa: BLE001 -- without input the app cannot go on
            self._app.call_later(self._app.exit, return_code=1, message=Traceback())

    def run_input_thread(self) -> None:
        """Read the terminal until the driver stops, and dispatch events."""
        decoder = InputDecoder()
        self._parser = XTermParser(self._debug)
        while not self.exit_event.is_set():
            ready, _, _ = select.select([self.fileno], [], [], _TICK)
            if ready:
                data = os.read(self.fileno, _READ)
                if not data:  # its other end is closed, and no signal came of that
                    signal.raise_signal(signal.SIGHUP)
                    signal.raise_signal(signal.SIGTERM)  # where that one is ignored
                    return
                self._dispatch(decoder.text(data))
            else:
                decoder.rest()
                self._dispatch("")
        if select.select([self.fileno], [], [], 0)[0]:
            self._dispatch(decoder.text(os.read(self.fileno, _READ), final=True))

    def _dispatch(self, text: str) -> None:
        """Dispatch the events of a text, and of keys that are known after a while only.

        What the parser cannot take, as a key of the number 9999999999, is skipped.
        """
        for character in (*text, ""):
            try:
                parser = self._parser
                events = [*(parser.feed(character) if character else parser.tick())]
            except Exception:  # noqa: BLE001 -- Textual's parser raises what `int` and `chr` do
                self._parser = XTermParser(self._debug)
                continue
            for event in events:
                # A key that is half of a character is no text.
                if not (isinstance(event, Key) and _HALF.search(event.character or "")):
                    self.process_message(event)
