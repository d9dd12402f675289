"""`onelook review`: a page on this machine where a person labels images and the classifier learns meanwhile."""

import contextlib
import socket
import sys
import threading
import time
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from onelook.cli.labelling import RUN, Storage
from onelook.cli.options import Fields, options
from onelook.cli.serving import load_server
from onelook.cli.terminal import say, write
from onelook.errors import Bound, SettingsError, quote_name
from onelook.files import place_run
from onelook.labelling.label import LabelConfig
from onelook.machine import keep_freed_memory
from onelook.server.settings import Listening

PORT = 8020
"""Port that is tried first, so that a page that is still open finds its server again."""
Folder = Annotated[
    LabelConfig, Fields(without=("answers", "class_priors", "unknown_rate", "min_confidence"), arguments=("folder",))
]
Port = Annotated[int | None, f"Port to listen on; 0 takes a free one. Default: {PORT}, or a free one.", Bound(">=", 0)]


@options
def review(
    config: Folder,
    place: Storage,
    listening: Annotated[Listening, Fields(without=("port",))],
    *,
    out: Annotated[Path, "Folder of the answers, and of what is exported.", place_run()] = RUN,
    port: Port = None,
    open_page: Annotated[bool, "Open the page in the browser."] = True,
) -> None:
    """Label the images of a folder on a page in the browser, which learns from every answer.

    Needs no label to begin with. Every answer is saved at once; the images are only read. Ctrl-C ends it, and the same
    command goes on.

    Example: onelook review photographs
    """
    session, review, listen = (load_server(name) for name in ("session", "review", "listen"))
    keep_freed_memory()
    under_way = session.Session(config, place, out)
    bound = _bind(listen, listening, port)
    server = listen.make_server(review.make_app(under_way), listening)
    address = listen.address_of(bound) + ("/" if listening.token is None else f"/?token={listening.token}")
    say(f"review: {len(under_way.names):,} images of {quote_name(str(config.folder))}; Ctrl-C ends it")
    write(f"Review page: {address}")
    sys.stdout.flush()  # a program that waits for the address may read a pipe
    threading.Thread(target=_end_with, args=(server, under_way), daemon=True).start()
    if open_page:
        threading.Thread(target=_open_when_ready, args=(server, address), daemon=True).start()
    with listen.quiet_log(), contextlib.suppress(KeyboardInterrupt):  # its proper end
        server.run(sockets=[bound])
    write(f"Answers: {quote_name(str(under_way.log.path))}")


def _bind(listen: Any, listening: Listening, port: int | None) -> socket.socket:
    ports = (PORT, 0) if port is None else (port,)
    for one in ports[:-1]:
        with contextlib.suppress(SettingsError):
            return listen.open_socket(replace(listening, port=one))  # type: ignore[no-any-return]
    return listen.open_socket(replace(listening, port=ports[-1]))  # type: ignore[no-any-return]


def _end_with(server: Any, session: Any) -> None:
    """End the session with its server, which waits for requests that wait for news."""
    while not server.should_exit:
        time.sleep(0.1)
    session.end()


def _open_when_ready(server: Any, address: str) -> None:
    while not server.started and not server.should_exit:
        time.sleep(0.05)
    if server.started:
        webbrowser.open(address)
