"""Whatever stands in names, and whatever the terminal is: lines stay lines, and no stream breaks a command."""

import ast
import json
import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.images import class_image, classes, write_files
from helpers.processes import command
from onelook.cli import terminal
from onelook.data.tables import parse_path
from onelook.files import replacing

CLI = Path(terminal.__file__).parent


@given(st.text(st.characters()))
@example("\x1b[31mred\x1b]0;title\x07\u202e\u2028\udcff\r\n\x9b31m")
def test_what_is_cleaned_is_one_line_that_commands_no_terminal(text: str) -> None:
    found = terminal.clean(text)
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in found)
    assert found.encode().decode() == found
    assert len(found.splitlines()) <= 1
    assert terminal.clean(found) == found


def test_nothing_is_printed_past_the_functions_that_clean_it() -> None:
    found = {
        f"{path.name}:{node.lineno}"
        for path in CLI.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "error_console.print", "sys.stdout.write")
    }
    assert {name.split(":")[0] for name in found} == {"terminal.py"}, "Use `write`, `write_data` or `say`."


def start(
    *words: str, program: str = "from onelook.cli import main; main()", **more: object
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, check=False, stderr=subprocess.PIPE, timeout=300, **more)  # type: ignore[call-overload]


def test_a_reader_that_has_gone_ends_the_command_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = (
        "import sys; from onelook.cli.terminal import *; sys.exit(exit_code(lambda: (write('x'), Terminal().print(1))))"
    )
    ended = start(program=program, stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_command_that_is_told_to_end_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        with replacing(tmp_path / "file") as part:
            part.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(terminal, "call", work)
    with command() as process:
        assert process.wait() == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_cannot_be_written_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        ended = start("--help", stdout=full)
    assert ended.returncode == 2
    assert ended.stderr == b"onelook: Standard output could not be written (No space left on device).\n"


PROGRAM = """
import logging, sys, warnings
from onelook.artifacts import SMALL
from onelook.cli import main
from onelook.estimators import choosing
choosing.PHOTOGRAPHS = SMALL
codes = []
for line in open("commands", encoding="utf-8"):
    sys.argv = ["onelook", *line.rstrip().split("|")]
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
    warnings.warn("of another library")
    logging.getLogger("library").warning("of another library")
    print("=====", file=sys.stderr)
    print("=====", flush=True)
print(codes)
"""


def test_a_terminal_of_ascii_and_no_width_gets_every_name_and_a_pipe_the_table_as_it_is(tmp_path: Path) -> None:
    odd = {"Ä\x1b[31m.png": class_image(0, 70), "\udcff.png": class_image(1, 71), "bad\x07.png": b"words"}
    files = classes(2, 2) | odd | {"a.png": class_image(0, 50)}
    for k in range(2):
        files = {name.replace(f"class {k:02d}", f"\x1b]0;ü{k}\x07"): content for name, content in files.items()}
    write_files(tmp_path / "in", files)
    commands = (
        "doctor|in",
        "label|in|--save|m.safetensors",
        "suggest|in",
        "predict|m.safetensors|in",
        "label|in|--json",
    )
    (tmp_path / "commands").write_text("\n".join(commands), encoding="utf-8")
    environment = os.environ | {
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "COLUMNS": "0",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    environment |= {"ONELOOK_CACHE": str(tmp_path / "cache")}
    ended = start(program=PROGRAM, env=environment, cwd=tmp_path, stdout=subprocess.PIPE)
    parts = ended.stdout.split(b"=====\n")
    assert parts.pop() == b"[0, 0, 0, 0, 0]\n", ended.stderr.decode()
    doctor, label, suggest, predict, as_json = parts
    for text in (doctor, label, suggest, as_json, ended.stderr):
        assert text.isascii()
        assert not {7, 13, 27} & set(text)
    assert b"library" not in ended.stderr
    assert b"bad\\x07.png: it is not an image" in ended.stderr
    assert rb"\x1b]0;\xfc1\x07" in doctor
    assert len(suggest.splitlines()) == 4
    rows = predict.decode().splitlines()
    assert {parse_path(row.split('","')[0].strip('"')) for row in rows[1:]} == {
        name for name in files if "bad" not in name
    }
    assert {one["path"] for one in json.loads(as_json)["labels"]} == {"Ä\x1b[31m.png", "\udcff.png", "a.png"}
