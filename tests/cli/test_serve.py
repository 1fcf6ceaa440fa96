"""The screen in a browser: the server, with WebSockets in the place of tabs."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ckptdiff.cli import serve
from ckptdiff.cli.main import main
from ckptdiff.demo import make_demo
from ckptdiff.web.loopback import is_loopback
from ckptdiff.web.server import command_line
from tests.support.patience import PATIENCE
from tests.support.program import environment, group
from tests.support.serving import Served, until

if TYPE_CHECKING:
    from pathlib import Path

CHANGED = "2 of 39 tensors differ"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_what_only_this_machine_can_reach(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_used_port_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert capsys.readouterr() == (
        "",
        f"ckptdiff: port {port} is in use: choose another with --port\n",
    )


def test_no_other_address_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"ckptdiff: --host 0\.0\.0\.0: there is no login, .* --i-know\n", error)


def test_an_address_that_is_not_of_this_machine_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--host", "192.0.2.1", "--i-know"]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: there is no login.")
    assert error.startswith("ckptdiff: cannot listen at 192.0.2.1, port 8000: ")


def test_a_checkpoint_that_is_not_there_is_said_before_anything_is_served(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "nowhere"]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("ckptdiff: nowhere: there is no such file or folder")


def options(*paths: str) -> Any:
    from argparse import ArgumentParser

    parser = ArgumentParser()
    serve.add_options(parser)
    return parser.parse_args(["--jobs", "3", "--optimizer", "--", *paths])


def test_a_shell_passes_on_every_path_as_it_is(tmp_path: Path) -> None:
    """Quotes, spaces and what a shell would replace; options; the name of a command."""
    names = ["it's", 'a "b" $HOME `ls` \\ *', "-v", "ls"]
    command = command_line(serve.screen_arguments(options(*names)))
    words = shlex.split(command)
    assert words[4] == "ckptdiff"
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    shell = command.replace("-P -m ckptdiff", f"-c {shlex.quote(script)}")
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == (
        '["--jobs", "3", "--optimizer", "--", "it\'s", '
        '"a \\"b\\" $HOME `ls` \\\\ *", "-v", "./ls"]\n'
    )


def test_a_module_in_the_working_directory_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("print('taken in')")
    done = subprocess.run(
        command_line(["--version"]), shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert re.fullmatch(r"ckptdiff [0-9.]+\n", done.stdout)


async def seen(tab: aiohttp.ClientWebSocketResponse, words: str) -> bytes:
    """Return what a tab was sent, as soon as these words are in it."""
    got = b""
    while words.encode() not in got:
        got += await tab.receive_bytes(timeout=PATIENCE)
    return got


@pytest.mark.slow
async def test_each_tab_is_a_session_that_ends_with_it_and_all_end_with_the_server(
    tmp_path: Path,
) -> None:
    """Whatever the terminal and the locale of the server are, boxes and colours are drawn."""
    plain = environment(LC_ALL="C", TERM="linux", NO_COLOR="")
    async with Served(make_demo(tmp_path / "demo"), env=plain) as served:
        assert served.lines[1:] == [
            f"from another machine, first: ssh -L {served.port}:127.0.0.1:{served.port} "
            f"{serve._user()}@{socket.gethostname()}",
            f"no login: other users of {socket.gethostname()} can open it too",
        ]
        first, second = await served.tab(), await served.tab()
        got = await seen(first, CHANGED)
        assert "│".encode() in got
        assert b"38;2;" in got
        await seen(second, CHANGED)
        children = served.programs()
        assert len(children) == 2
        await first.close()
        await until(lambda: len(served.programs()) == 1)
        await second.send_json(["stdin", "n"])
        await second.receive_bytes(timeout=PATIENCE)

        # A program that dies closes its tab.
        third = await served.tab()
        await seen(third, CHANGED)
        (new,) = set(served.programs()) - set(children)
        os.kill(new, signal.SIGKILL)
        while not third.closed:
            await third.receive(timeout=PATIENCE)

        os.killpg(served.process.pid, signal.SIGINT)  # as ctrl+c in a terminal
        while not second.closed:
            await second.receive(timeout=PATIENCE)
        assert await asyncio.to_thread(served.process.wait, PATIENCE) == 0
        assert served.error() == "ckptdiff: stopped\n"
        await until(lambda: group(served.process.pid) == [])


@pytest.mark.slow
async def test_a_page_of_another_site_is_refused(tmp_path: Path) -> None:
    async with Served(()) as served, aiohttp.ClientSession() as session:
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": f"http://127.0.0.1:{served.port + 1}"},
            {"Origin": "null"},
            {"Host": f"evil.example:{served.port}", "Origin": f"http://evil.example:{served.port}"},
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{served.url}/ws", headers=headers)
            assert refused.value.status == 403
        async with session.get(served.url, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403
        async with session.get(served.url, headers={"Host": "localhost:9"}) as answer:
            assert answer.status == 200
            page = await answer.text()
        assert served.programs() == []
    assert "http" not in page.replace('location.protocol.replace("http"', "").replace(
        "pages of https", ""
    )


@pytest.mark.slow
async def test_a_killed_server_takes_its_sessions_along(tmp_path: Path) -> None:
    async with Served(make_demo(tmp_path / "demo")) as served:
        tab = await served.tab()
        await seen(tab, CHANGED)
        served.process.kill()
        await until(lambda: group(served.process.pid) == [])
