"""Make the pictures of the README from the demo pair: SVG, and PNG since browsers lack the font.

Where Chromium is there, one more is of `ckptdiff serve` in it, as PNG alone.

`--check` compares the SVG files that are there with what would be made. With two paths the
pictures are of that pair instead, into the folder `--out`, and with `--prompt` of its logits alone.
Those show rounding and seconds, which are each machine's own, so they are never checked. The
browser's is not either.

The README's are of SmolLM2, from its folder `hf` of Hugging Face and two made of it:

    ckptdiff convert hf smollm2 --to megatron --tp 3
    ckptdiff convert smollm2 smollm2-fault --to megatron --tp 3 --like hf --undo 'QKV-SWAP:\
        {"written":"order-qvk","tensors":{"decoder.layers.#.self_attention.linear_qkv.weight":"12"}}'
    for b in smollm2 smollm2-fault; do
        screenshots/make.py hf $b --prompt 'The capital of France is' --as $b
    done
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.conversion import destination

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
NARROW, WIDE = (80, 24), (120, 40)
TAKEN = 0.2  # seconds that the comparison is said to have taken, so that pictures do not change
FREE = 212_000_000_000  # bytes that disks are said to have free
SHOTS: tuple[tuple[str, tuple[int, int], tuple[str, ...]], ...] = (
    ("tensors-120x40", WIDE, ()),
    ("tensors-80x24", NARROW, ()),
    ("files-120x40", WIDE, ("vertical_line", "vertical_line")),
    ("detail-120x40", WIDE, ("enter",)),
    ("detail-80x24", NARROW, ("enter",)),
    ("findings-80x24", NARROW, ("f",)),
    ("findings-120x40", WIDE, ("f",)),
    ("help-80x24", NARROW, ("question_mark",)),
    ("convert-80x24", NARROW, ("g", "c", "k", "h")),
    ("convert-120x40", WIDE, ("g", "c")),
)
LOGITS = (("logits-120x40", WIDE),)


def stopwatch() -> Iterator[float]:
    """Yield what a clock says that is looked at when a comparison begins and when it has ended."""
    yield 0.0
    while True:
        yield TAKEN


async def picture(
    pair: Sequence[Path], size: tuple[int, int], keys: Sequence[str], prompt: str = ""
) -> str:
    """Return the screen as SVG after these keys, and once a prompt is computed if there is one."""
    from textual.widgets import Input

    from ckptdiff.tui.app import CkptDiffApp
    from ckptdiff.tui.screens.convert import ConvertScreen
    from ckptdiff.tui.screens.logits import LogitsScreen
    from ckptdiff.tui.screens.tensors import TensorsScreen
    from ckptdiff.tui.workers.engine import LocalEngine

    clock = stopwatch()
    app = CkptDiffApp(
        pair,
        engine=LocalEngine(1),
        settings_file=Path(os.environ["HOME"]) / "settings.json",
        clock=time.monotonic if prompt else lambda: next(clock),
    )
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        (screen,) = [screen for screen in app.screen_stack if isinstance(screen, TensorsScreen)]
        while screen.session.phase not in ("done", "failed") or screen.session.is_busy:
            await pilot.pause(0.02)
        if screen.session.phase == "failed":
            raise SystemExit(screen.session.error)
        await pilot.pause()
        await pilot.press(*keys)
        while isinstance(app.screen, ConvertScreen) and app.screen.plan is None:
            await pilot.pause(0.02)
        if prompt:
            assert isinstance(app.screen, LogitsScreen)
            app.screen.query_one(Input).value = prompt
            await pilot.press("enter")
            while (run := app.screen.prompt_run) is None or run.is_busy:
                await pilot.pause(0.02)
        await pilot.pause(0.5)  # the detail pane waits for the cursor to come to rest
        return app.export_screenshot(title="ckptdiff", simplify=True)


async def browser_picture(pair: Sequence[Path]) -> bytes:
    """Return the findings of a pair as a browser shows them, as PNG."""
    from tests.support.browser import chromium
    from tests.support.serving import Served

    async with Served(pair) as served, chromium() as browser:
        tab = await browser.open(served.url)
        await tab.wait_for("f findings")
        before = len(tab.text)
        await tab.press("f")
        await tab.wait_for("Evidence", since=before)
        await asyncio.sleep(1)  # until it is drawn
        return await tab.picture()


def png(svg: str) -> bytes:
    """Return the picture in a font that is there: the SVG asks the network for another."""
    import resvg_py

    svg = re.sub(r"@font-face\s*{[^}]*}", "", svg)
    svg = re.sub(
        r"font-family:\s*Fira Code[^;]*;", "font-family: DejaVu Sans Mono, monospace;", svg
    )
    return bytes(resvg_py.svg_to_bytes(svg_string=svg))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", nargs="*", type=Path, help="two checkpoints instead of the demo")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder to write to")
    parser.add_argument("--prompt", default="", help="of the pictures of logits, and no others")
    parser.add_argument("--as", dest="name", default="pair", help="what their names begin with")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if one differs")
    options = parser.parse_args()
    os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
    for name in ("NO_COLOR", "SSH_CONNECTION", "COLUMNS", "LINES"):
        os.environ.pop(name, None)
    # A pool made inside the running app needs what this starts.
    resource_tracker.ensure_running()
    destination.free_bytes = lambda out: FREE  # noqa: ARG005
    pair = [path.absolute() for path in options.pair]
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home  # paths are shown below `~`
        if not pair:
            from ckptdiff.demo import make_demo

            os.chdir(home)  # commands are shown with paths as they were given
            pair = list(make_demo(Path("ckpt")))
        shots = SHOTS
        if options.prompt:
            shots = tuple((f"{options.name}-{name}", size, ("p",)) for name, size in LOGITS)
        stale = []
        for name, size, keys in shots:
            svg = asyncio.run(picture(pair, size, keys, options.prompt))
            file = options.out / f"{name}.svg"
            if options.check:
                if not file.exists() or file.read_text(encoding="utf-8") != svg:
                    stale.append(file.name)
                continue
            file.write_text(svg, encoding="utf-8")
            file.with_suffix(".png").write_bytes(png(svg))
            print(file.with_suffix(".png"))
        if not (options.check or options.pair):
            sys.path.insert(0, str(HERE.parent))
            from tests.support.browser import CHROMIUM

            if CHROMIUM is not None:
                file = options.out / "serve-findings.png"
                file.write_bytes(asyncio.run(browser_picture(pair)))
                print(file)
    if stale:
        print(f"not what the program draws now: {', '.join(stale)}. Run {sys.argv[0]}.")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
