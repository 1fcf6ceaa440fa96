"""A headless Chromium, driven by the DevTools protocol over a WebSocket of aiohttp's."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.support.patience import PATIENCE
from tests.support.serving import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NO_CHROMIUM = "needs chromium"
# The keys that a test presses beside letters: name, code and text, as DevTools wants them.
_KEYS = {"enter": ("Enter", 13, "\r"), "escape": ("Escape", 27, "")}
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")


class Tab:
    """One tab of a browser, at a page that shows a terminal."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.written = b""  # what the program wrote to the terminal
        self.asked: list[str] = []  # the address of each request
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            event = message.json()
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Network.webSocketFrameReceived":
                frame = event["params"]["response"]
                if frame["opcode"] == 2:
                    self.written += base64.b64decode(frame["payloadData"])
            elif event["method"] == "Network.requestWillBeSent":
                self.asked.append(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                self.asked.append(event["params"]["url"])

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol."""
        number = next(self._numbers)
        self._answers[number] = future = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await asyncio.wait_for(future, PATIENCE)
        assert "error" not in answer, answer
        return dict(answer["result"])

    async def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited if it is a promise."""
        done = await self.do(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def come_true(self, script: str) -> Any:
        """Return the value of a JavaScript expression as soon as it is one that counts as true."""
        async with asyncio.timeout(PATIENCE):
            while not (value := await self.evaluate(script)):
                await asyncio.sleep(0.02)
        return value

    async def press(self, *keys: str) -> None:
        for key in keys:
            name, code, text = _KEYS.get(key, (key, 0, key))
            event = {"key": name, "windowsVirtualKeyCode": code, "text": text}
            await self.do("Input.dispatchKeyEvent", type="keyDown", **event)
            await self.do("Input.dispatchKeyEvent", type="keyUp", **event)

    async def click(self, column: int, row: int) -> None:
        """Click on a cell of the terminal, counted from 0."""
        left, top, width, height = await self.evaluate(
            "(r => [r.x, r.y, r.width, r.height])"
            "(document.querySelector('.xterm-screen').getBoundingClientRect())"
        )
        columns, rows = await self.size()
        at = {"x": left + (column + 0.5) * width / columns, "y": top + (row + 0.5) * height / rows}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            await self.do("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    async def size(self) -> tuple[int, int]:
        """Return the columns and rows that the page asked the program for."""
        (found,) = [re.search(r"width=(\d+)&height=(\d+)", u) for u in self.asked if "/ws?" in u]
        assert found is not None
        return int(found[1]), int(found[2])

    @property
    def text(self) -> str:
        """What was written to the terminal from the start, without escape sequences."""
        return _ESCAPES.sub("", self.written.decode(errors="replace"))

    async def wait_for(self, words: str, *, since: int = 0) -> None:
        """Wait until the program has written these words, behind what `text` held up to there."""
        await until(lambda: words in self.text[since:], f"no {words!r} in {self.text[since:]!r}")

    async def picture(self) -> bytes:
        """Return what the tab shows, as PNG."""
        done = await self.do("Page.captureScreenshot", format="png")
        return base64.b64decode(done["data"])


class Browser:
    """A Chromium that listens at a port."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session, self._port = session, port

    async def open(self, url: str, width: int = 1200, height: int = 800) -> Tab:
        """Return a tab of this size, in pixels, as soon as it loads a page."""
        at = f"http://127.0.0.1:{self._port}/json/new?about:blank"
        async with self._session.put(at) as answer:
            where = (await answer.json())["webSocketDebuggerUrl"]
        tab = Tab(await self._session.ws_connect(where, max_msg_size=0))
        for domain in ("Network", "Page", "Runtime"):
            await tab.do(f"{domain}.enable")
        await tab.do(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        await tab.do("Page.navigate", url=url)
        return tab


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a Chromium with a profile of its own, and end it."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            CHROMIUM, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}",
            "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update",
            *(["--no-sandbox"] if os.getuid() == 0 else []),  # which root cannot have
        ]  # fmt: skip
        silent = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=silent, stderr=silent)
        try:
            port = Path(profile) / "DevToolsActivePort"
            await until(lambda: port.exists() and "\n" in port.read_text(), "no browser")
            async with aiohttp.ClientSession() as session:
                yield Browser(session, int(port.read_text().split()[0]))
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
