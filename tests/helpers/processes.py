"""Real processes that do one piece of work together, and commands that torchrun starts."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from onelook.train import processes


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def do_together(count: int, work: Callable[..., Any], *args: Any) -> None:
    """Forked processes, which have imported torch already, join and do the work; all of them end well."""
    context, port = get_context("fork"), free_port()
    started = [context.Process(target=_join, args=(i, count, port, work, args)) for i in range(count)]
    for one in started:
        one.start()
    for one in started:
        one.join(300)
        one.kill()
    assert [one.exitcode for one in started] == [0] * count


def _join(index: int, count: int, port: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(index), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with processes.joined():
        work(*args)


def torchrun(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """`torchrun -m onelook` in two processes, in a folder."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    return subprocess.Popen(
        [*launcher, "-m", "onelook", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ONELOOK_CACHE": str(folder / "cache")},
    )
