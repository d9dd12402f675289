"""Real processes: commands by themselves, what does one piece of work together, and what torchrun starts."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from onelook import cli
from onelook.train import processes


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Command:
    """A command that runs in a process of its own."""

    pid: int
    stdout: IO[str]
    stderr: IO[str]
    code: int | None = None

    def wait(self, seconds: float = 60) -> int:
        """Exit code, or the negative number of the signal that ended it."""
        end = time.monotonic() + seconds
        while self.code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise TimeoutError("the command goes on")
            else:
                time.sleep(0.01)
        return self.code

    def signal(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)


@contextlib.contextmanager
def command(*words: str | Path, before: Callable[[], object] = lambda: None) -> Iterator[Command]:
    """`onelook` in a forked process, which need not load all that this one has loaded; it ends with the block.

    before: is called there first.
    """
    out, err = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        _be_command([str(word) for word in words], before, (out[1], err[1]))
    os.close(out[1])
    os.close(err[1])
    with os.fdopen(out[0], encoding="utf-8") as stdout, os.fdopen(err[0], encoding="utf-8") as stderr:
        running = Command(pid, stdout, stderr)
        try:
            yield running
        finally:
            running.signal(signal.SIGKILL)
            running.wait()


def _be_command(words: list[str], before: Callable[[], object], streams: tuple[int, int]) -> None:
    code: Any = 1
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
        sys.argv = ["onelook", *words]
        before()
        cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:  # as Python ends, but for what the tests have left to be done at the end of their own process
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


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
    if (threads := Path("/proc/self/task")).exists():
        assert not [name for name in threads.glob("*/comm") if "gloo" in name.read_text()], "threads outlive the group"


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
