"""What a terminal sends reaches the app as keys, or not at all; no byte ends the app."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.events import Key

from ckptdiff.tui.driver import InputDecoder, TerminalDriver
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, environment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from textual.message import Message

REPORT = b"\x1b[M" + bytes([32 + 35, 32 + 100, 32 + 200])


def keys(parts: Iterable[bytes]) -> list[str]:
    """Return the keys that Textual's parser finds in what was read in these parts."""
    decoder, parser = InputDecoder(), XTermParser()
    messages: list[Message] = []
    for part in parts:
        messages += parser.feed(text) if (text := decoder.text(part)) else ()
    return [message.key for message in messages if isinstance(message, Key)]


def test_a_report_of_x10_is_no_key_wherever_reads_part_it() -> None:
    for report in (REPORT, b"\x1b[MQQQ", b"\x1b[M\x1b[M", b"\x1b[M\xff\xfe\xfd", b"\x1b[M \n\r"):
        whole = b"a" + report + b"b" + report + report + b"c"
        for first in range(len(whole) + 1):
            for second in range(first, len(whole) + 1):
                parts = whole[:first], whole[first:second], whole[second:]
                assert keys(parts) == ["a", "b", "c"], parts
        assert keys(whole[n : n + 1] for n in range(len(whole))) == ["a", "b", "c"]


def test_what_is_no_utf_8_is_left_out() -> None:
    assert keys([b"a\x80\xff\xc3", b"b\xe2\x82", b"c"]) == ["a", "b", "c"]
    assert keys([b"\xc3", b"\xa4"]) == ["ä"]


def test_the_escape_key_and_sequences_are_what_they_were() -> None:
    assert InputDecoder().text(b"\x1b") == "\x1b"
    assert keys([b"\x1b[A\x1b", b"[B\x1b[", b"C"]) == ["up", "down", "right"]


def test_after_a_rest_late_bytes_of_a_report_are_still_none_of_text() -> None:
    decoder = InputDecoder()
    assert decoder.text(b"a\x1b[MQ") == "a\x1b["
    decoder.rest()
    assert decoder.text(b"Q") == ""
    assert decoder.text(b"Qb") == "b"
    assert decoder.text(b"\x1b") == "\x1b"
    decoder.rest()
    assert decoder.text(b"[Mabc") == "[Mabc"  # Escape, and then keys


# The numbers of keys are what a terminal says they are.
NONSENSE = [
    b"\x1b[97;1:3u",
    b"\x1b[9999999999;1u",
    b"\x1b[48;0;0;0;0t\x1b[<0;1;1M",
    b"\x1b[55296;1u",
]


class Fed(TerminalDriver):
    """A driver that is fed by a test, and remembers keys."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._debug = False
        self._parser = XTermParser()

    def process_message(self, message: Message) -> None:
        if isinstance(message, Key):
            self.keys.append(message.key)


@pytest.mark.parametrize("text", NONSENSE)
def test_a_sequence_that_the_parser_cannot_take_is_skipped(text: bytes) -> None:
    driver = Fed()
    for part in ("a", text.decode(), "b", f"c{text.decode()}d"):
        driver._dispatch(part)
    assert driver.keys == ["a", "b", "c", "d"]


def test_a_terminal_that_can_no_longer_be_read_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    app: App[None] = App()

    def fail(_: TerminalDriver) -> None:
        raise OSError("gone")

    async def run() -> None:
        async with app.run_test() as pilot:
            driver = Fed()
            driver._app = app
            monkeypatch.setattr(TerminalDriver, "run_input_thread", fail)
            driver._run_input_thread()
            await pilot.pause()

    asyncio.run(run())
    assert app.return_code == 1


@pytest.mark.slow
def test_bytes_that_are_no_text_do_not_end_the_real_app(tmp_path: Path) -> None:
    process, ours = _started(tmp_path)
    noise = random.Random(5)
    _read(ours, b"Compare two checkpoints")
    sent = [REPORT, b"\x1b", b"[MQQ", b"Q", b"\x1b[", b"M\xff\xfe\xc3", *NONSENSE]
    sent += [bytes(noise.randrange(0x80, 0x100) for _ in range(30)), b"\xe2\x82"]
    for part in sent:
        os.write(ours, part)
    os.write(ours, b"\x11")  # ctrl+q
    seen = _read(ours, None)
    assert b"QQ" not in seen
    assert b"Traceback" not in seen
    assert process.wait(PATIENCE) == 0
    os.close(ours)


@pytest.mark.slow
@pytest.mark.parametrize("before", [[], ["env", "--ignore-signal=HUP"]])
def test_a_terminal_that_is_closed_without_a_signal_ends_the_real_app(
    before: list[str], tmp_path: Path
) -> None:
    process, ours = _started(tmp_path, before)
    _read(ours, b"Compare two checkpoints")
    os.close(ours)
    assert process.wait(PATIENCE) in (128 + signal.SIGHUP, 128 + signal.SIGTERM)


def _started(home: Path, before: list[str] | None = None) -> tuple[subprocess.Popen[bytes], int]:
    """Start the app on a terminal of its own; return it, and our end of the terminal."""
    ours, theirs = pty.openpty()
    folders = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(home))
    process = subprocess.Popen(
        [*(before or []), *PROGRAM],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm-256color", COLUMNS="80", LINES="24", **folders),
        start_new_session=True,
    )
    os.close(theirs)
    return process, ours


def _read(terminal: int, wanted: bytes | None) -> bytes:
    """Return what the app draws until this is in it, or until it ends."""
    seen = b""
    while wanted is None or wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], PATIENCE)
        assert ready, seen[-2000:]
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # the program has ended
            break
    return seen
