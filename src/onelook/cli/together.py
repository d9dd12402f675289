"""`torchrun -m onelook pretrain` and `train`: one command in several processes, of which the first one speaks."""

import io
import os
import signal
import sys
import time
from types import FrameType

from cyclopts import App

from onelook.cli import terminal
from onelook.errors import SettingsError

SHARED = ("pretrain", "train")
"""Commands that several processes do together."""
PATIENCE = 2.0
"""Seconds in which torchrun ends a process after another one has failed."""


def is_one_of_several() -> bool:
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def call(app: App) -> int:
    """Run the command of the shell as one of several processes, and return its exit code."""
    signal.signal(signal.SIGTERM, _end)
    if os.environ["RANK"] == "0":
        return _call(app)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process finishes its step and saves it
    sys.stdout, terminal.error_console.file = io.StringIO(), (said := io.StringIO())
    if (code := _call(app)) == 2:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PATIENCE)  # torchrun ends this process meanwhile where the first one says the same
        terminal.error_console.file = sys.stderr
        terminal.say(f"process {os.environ['RANK']}: {said.getvalue().splitlines()[-1]}")
    return code


def _call(app: App) -> int:
    return terminal.call(app) if sys.argv[1:2] in ([name] for name in SHARED) else terminal.exit_code(_refuse)


def _refuse() -> None:
    raise SettingsError(f"torchrun starts `onelook {'` and `onelook '.join(SHARED)}` only; run others without it.")


def _end(number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM, which torchrun sends as soon as another process has failed, and when it is to end itself."""
    del number, frame
    raise KeyboardInterrupt("torchrun ends it")
