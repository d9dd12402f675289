"""`onelook serve`: the service over HTTP, until Ctrl-C."""

import contextlib
import importlib
from typing import Annotated, Any

import torch

from onelook.cli.options import Fields, options
from onelook.cli.terminal import say
from onelook.errors import SettingsError
from onelook.machine import Place, keep_freed_memory
from onelook.server.settings import LabelStudioConfig, Listening, ServeConfig


@options
def serve(
    config: ServeConfig,
    listening: Listening,
    studio: LabelStudioConfig,
    place: Annotated[Place, Fields(only=("precision", "device"))],
) -> None:
    """Serve classifiers over HTTP, and be an ML backend of Label Studio.

    Example: onelook serve --out classifiers --port 8000
    """
    service, backend, listen = (load_server(name) for name in ("service", "label_studio", "listen"))
    keep_freed_memory()
    torch.set_num_threads(max(1, torch.get_num_threads() // config.threads))
    work = service.Service(config, place)
    app = service.create_app(work, backend.Backend(work, studio).routes())
    run_server(listen, app, listening, "serve")


def load_server(name: str) -> Any:
    """Import a module of the server, which needs the packages of an extra. Raises SettingsError without them."""
    try:
        return importlib.import_module(f"onelook.server.{name}")
    except ModuleNotFoundError as error:
        raise SettingsError(f'A server needs the package {error.name}; pip install "onelook[server]".') from error


def run_server(listen: Any, app: Any, listening: Listening, title: str) -> None:
    """Listen until Ctrl-C or SIGTERM, after saying where."""
    bound = listen.open_socket(listening)
    server = listen.make_server(app, listening, open_paths=frozenset({"/health"}))
    say(f"{title}: {listen.address_of(bound)} (Ctrl-C ends it)")
    with listen.quiet_log(), contextlib.suppress(KeyboardInterrupt):  # its proper end
        server.run(sockets=[bound])
