"""A server process: one socket, an application behind its guard, and clients that may not dawdle."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from onelook.errors import SettingsError
from onelook.server.guard import Guard
from onelook.server.settings import Limits, Listening

HEADER_SECONDS = 10.0
"""Seconds in which the line and the headers of a request must have arrived."""
HEADER_BYTES = 32 * 2**10
BACKLOG = 128
"""Connections that wait to be accepted."""
MORE_CONNECTIONS = 64
"""Connections beyond the requests under way, which wait for their next request."""


def open_socket(listening: Listening) -> socket.socket:
    """Open the socket of a server, which takes connections from then on.

    Raises SettingsError where its address is taken or is none of this machine.
    """
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise SettingsError(
            f"Port {listening.port} of {listening.host} cannot be listened on ({error.strerror or error}); "
            f"choose another with --port or --host."
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """Address of the pages of a server, such as http://127.0.0.1:8000."""
    host, port = bound.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_server(
    app: ASGIApp, listening: Listening, limits: Limits = Limits(), open_paths: frozenset[str] = frozenset()
) -> uvicorn.Server:
    """A server of an application behind the guard, for `run(sockets=[...])`; `should_exit` ends it."""

    class Protocol(_TimedProtocol):
        send_seconds = limits.send_seconds

    config = uvicorn.Config(
        Guard(app, listening, limits, open_paths),
        http=Protocol,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.requests + MORE_CONNECTIONS,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Errors of the server on standard error, without what happens all the time."""
    logger = logging.getLogger("uvicorn.error")
    handler, level = logging.StreamHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _TimedProtocol(H11Protocol):
    """A connection that is cut when the head of a request comes, or an answer is taken, too slowly."""

    send_seconds: float
    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for one in (self._head, self._reader):
            if one is not None:
                one.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = self._reader or self.loop.call_later(self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _watch_head(self) -> None:
        """Let the time run while a head is awaited; between requests the server has a timer of its own."""
        if self.conn.their_state is h11.IDLE:
            self._head = self._head or self.loop.call_later(HEADER_SECONDS, self.transport.abort)
        elif self._head is not None:
            self._head.cancel()
            self._head = None
