"""`onelook serve` as at the terminal: how it starts, how it ends, and what it refuses."""

import json
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from helpers.processes import command
from helpers.terminal import refused


def test_it_says_where_it_listens_serves_and_ends_well_by_ctrl_c(tmp_path: Path) -> None:
    with command("serve", "--out", tmp_path / "kept", "--port", "0") as process:
        line = process.stderr.readline()
        assert line.startswith("serve: http://127.0.0.1:")
        with urllib.request.urlopen(f"{line.split()[1]}/v1") as answer:
            assert json.load(answer)["default_network"] == "lite"
        process.signal(signal.SIGINT)
        rest = process.stderr.read()
        assert (process.wait(30), rest) == (0, "")
    assert (tmp_path / "kept").is_dir()


def test_what_cannot_be_listened_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port} of 127.0.0.1 cannot be listened on" in refused("serve", "--port", str(port))
    assert "a token is needed" in refused("serve", "--host", "0.0.0.0", "--port", "0")
    assert "16 to 256 characters" in refused("serve", "--token", "short", "--port", "0")
    assert "--port" in refused("serve", "--port", "70000")


def test_without_the_packages_of_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "onelook.server.service", raising=False)  # imported anew
    monkeypatch.setitem(sys.modules, "fastapi", None)
    said = refused("serve", "--out", tmp_path)
    assert said == 'A server needs the package fastapi; pip install "onelook[server]".'
