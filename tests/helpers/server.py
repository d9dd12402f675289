"""A real server in a thread, on a free port, and clients that speak to it as they like."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from onelook.server.listen import make_server, open_socket
from onelook.server.settings import Limits, Listening


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Running:
    """A server that is running."""

    port: int
    server: uvicorn.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request; a body that is neither bytes nor None goes as JSON."""
        headers = {} if headers is None else dict(headers)
        if not isinstance(body, bytes | None):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def send(self, content: bytes, wait: float = 10.0) -> bytes:
        """Send bytes as they are, and return what comes back until the server hangs up, or `wait` seconds have gone."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(content)
            return receive_all(connection)


def receive_all(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionError, TimeoutError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def running(
    app: ASGIApp, limits: Limits = Limits(), open_paths: frozenset[str] = frozenset(), **more: Any
) -> Iterator[Running]:
    """Serve an application behind its guard. more: fields of `Listening`."""
    listening = Listening(port=0, **more)
    bound = open_socket(listening)
    server = make_server(app, listening, limits, open_paths)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield Running(bound.getsockname()[1], server)
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()
        assert not thread.is_alive()
