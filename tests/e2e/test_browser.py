"""The screen in a real browser: headless Chromium."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

from ckptdiff.demo import make_demo
from tests.support.browser import CHROMIUM, NO_CHROMIUM, chromium
from tests.support.serving import Served, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.browser import Tab

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
    pytest.mark.slow,
]

# What the browser holds: the page's own `navigator.clipboard` writes alone.
CLIPBOARD = (
    'Object.getOwnPropertyDescriptor(Navigator.prototype, "clipboard").get.call(navigator)'
    ".readText()"
)
UNCOPIED = "document.getElementById('uncopied')"


async def copied(tab: Tab, beginning: str) -> str:
    """Return what the clipboard holds, as soon as it begins so."""
    # Reading wants it; of what is not named here, the browser takes away what it allows by itself.
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    await tab.do("Browser.grantPermissions", permissions=allowed)
    held = f"({CLIPBOARD}).then(text => text.startsWith({json.dumps(beginning)}) && text)"
    return str(await tab.come_true(held))


async def test_open_next_difference_finding_copy(tmp_path: Path) -> None:
    async with Served(make_demo(tmp_path / "demo")) as served, chromium() as browser:
        tab = await browser.open(served.url)
        await tab.wait_for("f findings")
        assert (await tab.size())[0] > 100

        before = len(tab.text)
        await tab.press("n")
        await tab.wait_for(name := "model.layers.2.self_attn.v_proj.weight", since=before)
        await tab.press("y")
        await tab.wait_for("to the browser's clipboard", since=before)
        assert await copied(tab, name) == name

        before = len(tab.text)
        await tab.press("f")
        await tab.wait_for("Evidence", since=before)
        await tab.press("y")
        command = await copied(tab, "ckptdiff convert ")
        assert "--undo 'QKV-SWAP:" in command

        # Nothing was asked of any other server, fonts included.
        assert {address.split("/")[2] for address in tab.asked if "://" in address} == {
            f"127.0.0.1:{served.port}"
        }
        # A picture, in many colours: a terminal that draws nothing packs into far less.
        picture = await tab.picture()
        assert struct.unpack(">II", picture[16:24]) == (1200, 800)
        assert len(picture) > 30_000


async def test_a_click_a_copy_that_is_refused_and_the_end(tmp_path: Path) -> None:
    async with Served(make_demo(tmp_path / "demo")) as served, chromium() as browser:
        tab = await browser.open(served.url)
        await tab.do(
            "Browser.setPermission",
            permission={"name": "clipboard-write"}, setting="denied", origin=served.url,
        )  # fmt: skip
        await tab.wait_for("QKV-SWAP")
        before = len(tab.text)
        await tab.click(20, 3)  # the first row
        await tab.press("y")
        await tab.wait_for("to the browser's clipboard", since=before)
        await tab.come_true(f"{UNCOPIED}.open")
        text = await tab.evaluate(f"{UNCOPIED}.querySelector('textarea').value")
        assert text == "model.embed_tokens.weight"
        await tab.press("escape")
        assert not await tab.evaluate(f"{UNCOPIED}.open")

        # Keys go to the terminal again.
        await tab.press("Q")
        await until(lambda: served.programs() == [])
        await tab.come_true("document.getElementById('ended').open")
        await tab.evaluate("document.querySelector('#ended button').click()")
        await until(lambda: len(served.programs()) == 1)
