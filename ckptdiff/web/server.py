"""Serve the screen to browsers: textual-serve, with a page that needs no network and no foreigners.

Each tab has a program of its own, which ends with it.
"""

from __future__ import annotations

import asyncio
import html
import shlex
import signal
import sys
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int
from yarl import URL

from ckptdiff.web.loopback import is_loopback

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

GRACE = 10  # seconds that a program has to end in after its tab was closed
# Nothing of the page may come from elsewhere, and no other page may show it in a frame.
_POLICY = (
    "default-src 'self' data: 'unsafe-inline'; connect-src 'self' ws: wss:; frame-ancestors 'none'"
)


def command_line(arguments: Sequence[str]) -> str:
    """Return what a shell runs as ckptdiff with these arguments, which it passes on as they are.

    -P: modules are not looked for in the working directory, which may hold anything.
    """
    return "exec " + shlex.join([sys.executable, "-P", "-m", "ckptdiff", *arguments])


def serve(command: str, title: str, listening: socket.socket) -> None:
    """Serve a command of the shell until ctrl+c, SIGTERM or SIGHUP. All sessions end with it."""
    host, port, *_ = listening.getsockname()
    server = ScreenServer(command, host=host, port=port, title=title)
    web.run_app(server.app(), sock=listening, print=None, access_log=None, shutdown_timeout=GRACE)


class TabProgram(AppService):
    """The program of one tab."""

    async def run(self) -> None:
        """Pass on what the program writes until the tab or the program ends; then end both."""
        try:
            await super().run()
        finally:
            await self.remote_close()
            await self.send_meta({"type": "quit"})
            assert self._process is not None
            try:
                # Read on: a program whose output nobody takes cannot end.
                await asyncio.wait_for(self._process.communicate(), GRACE)
            except TimeoutError:
                self._process.kill()


class ScreenServer(Server):
    """textual-serve with our page, for pages of this server alone."""

    def __init__(self, command: str, *, host: str, port: int, title: str) -> None:
        super().__init__(command, host=host, port=port, title=title)
        page = files("ckptdiff.web").joinpath("page.html").read_text(encoding="utf-8")
        self.page = page.replace("{{title}}", html.escape(title))
        self.sockets: set[web.WebSocketResponse] = set()

    async def app(self) -> web.Application:
        """Return the application: the routes of textual-serve, closed to foreign pages."""
        app = await self._make_app()
        app.middlewares.append(self._refuse_foreigners)
        return app

    @web.middleware
    async def _refuse_foreigners(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Refuse what a page of another site asks for, be it by a name that leads to this machine.

        Any page may open a WebSocket to any server that its browser reaches: only the server can
        tell. On the loopback address, the name in the request must be one of this machine.
        """
        asked = URL(f"http://{request.host}")
        origin = request.headers.get("Origin")
        if is_loopback(self.host) and not is_loopback(asked.host or ""):
            raise web.HTTPForbidden(text=f"{asked.host} is not this machine")
        if origin is not None and URL(origin).authority != asked.authority:
            raise web.HTTPForbidden(text="a page of another site asks for this")
        return await handler(request)

    async def on_startup(self, app: web.Application) -> None:  # noqa: ARG002
        """End with the terminal, if it is not said to go on. Nothing is printed."""
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.request_exit)

    async def on_shutdown(self, app: web.Application) -> None:  # noqa: ARG002
        """Close all tabs' connections, which ends their programs."""
        await asyncio.gather(*(socket.close() for socket in self.sockets))

    async def handle_index(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Return the page."""
        policy = {"Content-Security-Policy": _POLICY}
        return web.Response(text=self.page, content_type="text/html", headers=policy)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Start a program and run it for one tab, until either ends."""
        socket = web.WebSocketResponse(heartbeat=15)
        await socket.prepare(request)
        self.sockets.add(socket)
        session = TabProgram(
            self.command,
            write_bytes=socket.send_bytes,
            write_str=socket.send_str,
            close=_closing(socket),
            download_manager=self.download_manager,
        )
        size = (to_int(request.query.get(side, ""), usual) for side, usual in _USUAL.items())
        await session.start(*size)
        try:
            with suppress(ConnectionError):
                await self._process_messages(socket, session)
        finally:
            self.sockets.discard(socket)
            await session.stop()
        return socket


_USUAL = {"width": 80, "height": 24}


def _closing(socket: web.WebSocketResponse) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        await socket.close()

    return close
