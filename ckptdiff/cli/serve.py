"""The command `serve`: the screen in a browser, on this machine or through ssh."""

from __future__ import annotations

import errno
import getpass
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.cli import screen
from ckptdiff.cli.arguments import JOBS_HELP, OPTIMIZER_HELP, positive
from ckptdiff.cli.fetching import add_download
from ckptdiff.errors import BadArgument
from ckptdiff.extras import load, require
from ckptdiff.text import operand, shell_line
from ckptdiff.web.loopback import is_loopback

if TYPE_CHECKING:
    import argparse

LOCAL, PORT = "127.0.0.1", 8000
EPILOG = """\
Each browser tab is a session of its own, which ends when the tab is closed: start conversions of
hours from the command line. There is no login. Other users of this machine can open the page too,
and read and write files as you; so can everybody who reaches another --host.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `serve` to a parser."""
    parser.description = "Show the screen in a browser, on this machine or through ssh."
    parser.epilog = EPILOG
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="one or two checkpoints"
    )
    parser.add_argument(
        "--port", type=port_number, default=PORT, metavar="N",
        help=f"default {PORT}; 0 takes one that is free",
    )  # fmt: skip
    parser.add_argument(
        "--host", default=LOCAL, metavar="ADDRESS",
        help=f"the address to listen at, default {LOCAL}; any other needs --i-know",
    )  # fmt: skip
    parser.add_argument(
        "--i-know", action="store_true", help="that whoever reaches the page acts as I do"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help=JOBS_HELP)
    parser.add_argument("--optimizer", action="store_true", help=OPTIMIZER_HELP)
    add_download(parser)


def port_number(text: str) -> int:
    """Return a port. Raises ValueError for other text."""
    if not 0 <= int(text) < 2**16:
        raise ValueError
    return int(text)


# Argparse names a type by this in its error.
port_number.__name__ = "port from 0 to 65535"


def run(options: argparse.Namespace) -> int:
    """Serve until ctrl+c; return 0. Raises a CkptDiffError."""
    require("serve")
    load("serve", "textual_serve")
    screen.check_paths(options.paths)
    with _listen(options) as listening:
        port = listening.getsockname()[1]
        for line in _announcement(options.host, port):
            print(line, flush=True)
        from ckptdiff.web import server

        arguments = screen_arguments(options)
        title = shell_line(["ckptdiff", *map(operand, options.paths)])
        server.serve(server.command_line(arguments), title, listening)
    print("ckptdiff: stopped", file=sys.stderr)
    return 0


def screen_arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments by which each tab's program opens the same checkpoints."""
    from ckptdiff.cli.main import COMMANDS

    flags = [] if options.jobs is None else ["--jobs", str(options.jobs)]
    flags += ["--optimizer"] if options.optimizer else []
    # A folder may have the name of a command.
    paths = [os.path.join(".", p) if p in COMMANDS else p for p in map(str, options.paths)]  # noqa: PTH118 -- a Path drops `./`
    return [*flags, "--", *paths]


def _listen(options: argparse.Namespace) -> socket.socket:
    """Return a socket that listens. Raises BadArgument."""
    host, port = options.host, options.port
    if not is_loopback(host):
        if not options.i_know:
            raise BadArgument(
                f"--host {host}: there is no login, and whoever reaches the page reads and writes "
                f"files as {_user()}; leave it at {LOCAL} and use ssh -L, or add --i-know"
            )
        print(
            f"warning: there is no login. Whoever reaches {host}:{port} reads and writes files "
            f"as {_user()}.",
            file=sys.stderr,
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadArgument(f"port {port} is in use: choose another with --port") from error
        why = error.strerror or str(error)
        raise BadArgument(f"cannot listen at {host}, port {port}: {why}") from error


def _announcement(host: str, port: int) -> list[str]:
    """Return what is printed before the start: the address, and the way to it through ssh."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 -- all addresses of this machine
        host = socket.gethostname()
    inside = f"[{host}]" if ":" in host else host
    lines = [f"open http://{inside}:{port} in a browser; ctrl+c ends this"]
    if is_loopback(host):
        remote = f"{_user()}@{socket.gethostname()}"
        lines += [
            f"from another machine, first: ssh -L {port}:{inside}:{port} {remote}",
            f"no login: other users of {socket.gethostname()} can open it too",
        ]
    return lines


def _user() -> str:
    """Return the user's name, or their number where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
