"""Damage: what becomes of files on their way, what strangers put into them, and names that nobody would choose."""

import contextlib
import io
import json
import os
import socket
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

Damage = Callable[[bytes, Random], bytes]

MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"PK\x03\x04",
    b"PAR1",
    b"\x93NUMPY\x01\x00",
    b"\x80\x04\x95",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
)
"""First bytes of other formats; the third but last is that of a pickle."""


def cut(content: bytes, draw: Random) -> bytes:
    return content[: draw.randrange(max(len(content), 1))]


def cut_the_end(content: bytes, draw: Random) -> bytes:
    return content[: -draw.choice((1, 8, 100))]


def empty(content: bytes, draw: Random) -> bytes:
    del content, draw
    return b""


def flip_bits(content: bytes, draw: Random) -> bytes:
    found = bytearray(content)
    for _ in range(draw.choice((1, 20, 400)) if found else 0):
        found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    return bytes(found)


def flip_bits_of_the_head(content: bytes, draw: Random) -> bytes:
    return flip_bits(content[:200], draw) + content[200:]


def blank_a_part(content: bytes, draw: Random) -> bytes:
    start = draw.randrange(max(len(content), 1))
    n = min(draw.choice((16, 512)), len(content) - start)
    return content[:start] + bytes(n) + content[start + n :]


def take_another_head(content: bytes, draw: Random) -> bytes:
    magic = draw.choice(MAGIC)
    return magic + content[len(magic) :]


def declare_a_huge_size(content: bytes, draw: Random) -> bytes:
    start = 0 if draw.random() < 0.5 else draw.randrange(max(min(len(content), 300), 1))
    return content[:start] + b"\xff" * 7 + b"\x7f" + content[start + 8 :]


def append_noise(content: bytes, draw: Random) -> bytes:
    return content + draw.randbytes(300)


def write_as_utf16(content: bytes, draw: Random) -> bytes:
    return content.decode("latin-1").encode(draw.choice(("utf-16", "utf-16-le")))


def fill_with_noise(content: bytes, draw: Random) -> bytes:
    return draw.randbytes(min(len(content), 4000))


ANY_FILE: tuple[Damage, ...] = (
    cut,
    cut_the_end,
    empty,
    flip_bits,
    flip_bits_of_the_head,
    blank_a_part,
    take_another_head,
    declare_a_huge_size,
    append_noise,
    write_as_utf16,
    fill_with_noise,
)

# ------------------------------------------------------------------------------------------------------------- values

HOSTILE_NAMES = (
    "../../x",
    "-rf",
    "two\nlines",
    "\x1b[31mred\x1b]0;title\x07",
    "right\u202eto left",
    "n" * 255,
    "n" * 4000,
    "lone \udcff byte",
    "con",
    "\N{FOX FACE}\N{ZERO WIDTH JOINER}",
    "",
    " ",
    ".",
    "~",
    "/",
    "a[b]{c}%s%n",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
)
HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    {"": None},
    *HOSTILE_NAMES,
    "hf:nobody/nothing",
    "/etc/passwd",
    "crops:99999999",
)
HOSTILE_WORDS = (
    *(name for name in HOSTILE_NAMES if name not in ("/", "~")),
    "-1",
    "1e999",
    "nan",
    "-99999999999999999999",
    "0x10",
    "1,,2",
    "{label}" * 3,
    "(?P<label>(a+)+)$",
    "hf:../../x",
    "no.onnx",
    "sib:n_steps=-1",
    "auto",
)
"""Words at the command line; none is a folder of the whole machine, which would take long to read."""


def change_json(value: Any, draw: Random) -> Any:
    """The value with one of its parts replaced, removed or doubled."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        if draw.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if draw.random() < 0.1:
            return value | {draw.choice(HOSTILE_NAMES): value[key]}
        return value | {key: change_json(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        i = draw.randrange(len(value))
        if draw.random() < 0.15:
            return [*value[:i], *value[i + 1 :]] if draw.random() < 0.5 else [*value, value[i]]
        return [*value[:i], change_json(value[i], draw), *value[i + 1 :]]
    return draw.choice(HOSTILE_VALUES)


def json_changed(content: bytes, draw: Random) -> bytes:
    return json.dumps(change_json(json.loads(content), draw)).encode()


def json_deep(content: bytes, draw: Random) -> bytes:
    del content
    return draw.choice((b"[", b'{"a":')) * 100_000


def json_of_long_numbers(content: bytes, draw: Random) -> bytes:
    del content, draw
    return b'[{"accuracy": ' + b"9" * 10_000 + b"}]"


def json_other(content: bytes, draw: Random) -> bytes:
    del content
    return json.dumps(draw.choice([*HOSTILE_VALUES, [{"accuracy": draw.choice(HOSTILE_VALUES)}]])).encode()


# ---------------------------------------------------------------------------------------------------------- safetensors


def _split_tensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _join_tensors(words: dict[str, Any], rest: bytes) -> bytes:
    head = json.dumps(words).encode()
    head = head.ljust(-(-len(head) // 8) * 8)
    return len(head).to_bytes(8, "little") + head + rest


def header_changed(content: bytes, draw: Random) -> bytes:
    words, rest = _split_tensors(content)
    return _join_tensors(change_json(words, draw), rest)


def description_changed(content: bytes, draw: Random) -> bytes:
    """The JSON in which a model or classifier describes itself, with one part changed."""
    words, rest = _split_tensors(content)
    told = words.get("__metadata__", {})
    key = "about" if "about" in told else draw.choice(sorted(told) or ["about"])
    try:
        told[key] = json.dumps(change_json(json.loads(told.get(key, "{}")), draw))
    except ValueError:
        told[key] = "no JSON"
    return _join_tensors(words | {"__metadata__": told}, rest)


def description_deep(content: bytes, draw: Random) -> bytes:
    words, rest = _split_tensors(content)
    told = words.get("__metadata__", {})
    return _join_tensors(words | {"__metadata__": told | {"about": json_deep(b"", draw).decode()}}, rest)


def tensors_changed(content: bytes, draw: Random) -> bytes:
    """Numbers that are not finite, or another type or shape of the same number of bytes."""
    words, rest = _split_tensors(content)
    names = sorted(set(words) - {"__metadata__"})
    if not names:
        return content
    one = words[draw.choice(names)]
    start, end = one["data_offsets"]
    what = draw.randrange(4)
    if what == 0:
        rest = rest[:start] + b"\xff" * (end - start) + rest[end:]
    elif what == 1:
        one["dtype"] = {"F32": "I32", "F64": "I64", "I64": "F64"}.get(one["dtype"], "U8")
    elif what == 2:
        one["shape"] = one["shape"][::-1]
    else:
        one["shape"] = [*one["shape"], 1]
    return _join_tensors(words, rest)


# ------------------------------------------------------------------------------------------------------------ archives


def _write_npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one of them
    return buffer.getvalue()


def array_changed(content: bytes, draw: Random) -> bytes:
    """One of the arrays in another type, order or shape, or with numbers that are none."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    name = draw.choice(sorted(arrays))
    x = arrays[name]
    is_number = x.dtype.kind in "fiu"
    changes: list[Callable[[], Any]] = [
        lambda: x.astype(object),
        lambda: x.astype("S"),
        lambda: x.astype("U"),
        lambda: x[:0],
        lambda: x[..., None],
        lambda: x[:-1],
        lambda: np.asfortranarray(x),
        lambda: np.zeros(x.shape, dtype="M8[s]"),
        lambda: np.zeros(x.shape, dtype=[("a", "f4"), ("b", "U3")]),
        lambda: np.array(7),
    ]
    if is_number:
        changes += [
            lambda: x.astype(">f4"),
            lambda: x.astype(np.float16),
            lambda: x.astype(np.complex64),
            lambda: x * np.float64("nan"),
            lambda: np.where(np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) == 1, np.inf, x),
            lambda: x > 0,
            lambda: x.astype(np.float64) + 1e300,
        ]
    return _write_npz(arrays | {name: draw.choice(changes)()})


def array_with_a_huge_shape(content: bytes, draw: Random) -> bytes:
    """An archive whose member declares more numbers than any machine holds."""
    buffer = io.BytesIO()
    shape = draw.choice(("(999999999999, 64)", "(4, 99999999999)", "(-1, 4)", "(1,) * 9**9", "(2**62, 2**62)"))
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(buffer, "w") as archive, zipfile.ZipFile(io.BytesIO(content)) as old:
        for name in old.namelist():
            new = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(64)
            archive.writestr(name, new if name == "features.npy" else old.read(name))
    return buffer.getvalue()


def archive_that_swells(content: bytes, draw: Random) -> bytes:
    """Zeros that take a thousand times their space when they are read."""
    del content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (25000000, 1), }".ljust(117) + b"\n"
        with archive.open(draw.choice(("features.npy", "a/b.png")), "w", force_zip64=True) as file:
            file.write(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
            for _ in range(200):
                file.write(bytes(1_000_000))
    return buffer.getvalue()


def archive_of_hostile_names(content: bytes, draw: Random) -> bytes:
    """The members under other names, which lead out of the folder, say nothing, or are there twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, zipfile.ZipFile(io.BytesIO(content)) as old:
        for name in old.namelist():
            new = draw.choice([each for each in HOSTILE_NAMES if each.isascii() and each])
            archive.writestr(f"{new}/{name}" if draw.random() < 0.5 else name, old.read(name))
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------------------- tables

HOSTILE_TABLES = (
    "path,label",
    "path,label\n,,,,\n\n\n",
    "label\nred\n",
    "path,path,label\na,b,red\n",
    "path,label\none.png,red,blue,red\n",
    "path,label\none.png\n",
    'path,label\n"one.png,red\n',
    'path,label\n"one.png"x,red\n',
    "path,label\none\0.png,red\n",
    "path,label\n" + "x" * 200_000 + ",red\n",
    "path," + ",".join(f"c{i}" for i in range(200_000)) + "\n" + "1," * 200_000 + "\n",
    "path,label\none.png,red\none.png,blue\n",
    "path,label\n../../x,red\n/etc/passwd,blue\n",
    "path,label\n\ud800,red\n",
    "path,label\n\x1b[31m,\x1b[0m\n",
    "path,features\none.png,[1]\n",
    "path,a,b\none.png,1,\ntwo.png,x,2\n",
    "path,a,b\none.png,nan,inf\ntwo.png,1e999,2\n",
    "path\tlabel\none.png\tred\n",
    "path,label,probability,runner_up,confirmed\none.png,red,nan,blue,yes\ntwo.png,,x,,maybe\n",
    "path,label,probability,runner_up,confirmed,best_guess\none.png,red,1,,,\x1b\nred/a.png,blue,,,yes,\n",
    "sep=;\npath;label\none.png;red\n",
    "path,label\rone.png,red\r",
    "path,label\nfile:%00,red\n",
    "path,label\nfile:%zz,red\nfile:" + "%41" * 5000 + ",blue\n",
    "path,label\n" + "".join(f"one.png,c{i}\n" for i in range(2)),
    "path,label\n" + "".join(f"{i}.png,c{i}\n" for i in range(5000)),
    "path,label\n" + "".join(f"one.png,{name}\ntwo.png,red\n" for name in HOSTILE_NAMES[:3]),
)


def table_of_words(content: bytes, draw: Random) -> bytes:
    del content
    return draw.choice(HOSTILE_TABLES).encode("utf-8", "surrogatepass")


def parquet_of_words(content: bytes, draw: Random) -> bytes:
    """Columns of types that nobody expects of a table of images."""
    del content
    import pyarrow
    import pyarrow.parquet

    columns: list[Any] = [
        [None, None],
        [1, 2],
        [1.5, float("nan")],
        [b"one.png", b"\xff"],
        [["one.png"], []],
        [{"a": 1}, {"a": None}],
        ["one.png", "two.png"],
        ["one.png", ""],
        [[1.0, 2.0], [3.0]],
        [[1.0, None], [3.0, 4.0]],
        [True, False],
    ]
    names = draw.sample(("path", "label", "features", " Path ", "x", "", "path2"), 3)
    table = pyarrow.table({name: pyarrow.array(draw.choice(columns)) for name in names})
    if draw.random() < 0.2:
        table = table.slice(0, 0)
    if draw.random() < 0.2:
        table = table.rename_columns(["path"] * 3)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------ databases


@contextlib.contextmanager
def _opened(content: bytes, changed: list[bytes]) -> Iterator[sqlite3.Connection]:
    """A database of these bytes, and what has become of them when the block ends."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(content[:18] + b"\x01\x01" + content[20:])  # no write-ahead log, which none in memory has
        yield db
        db.commit()
        changed.append(db.serialize())


def entry_changed(content: bytes, draw: Random) -> bytes:
    """A row of the log of answers with a part of what it says in JSON changed."""
    changed: list[bytes] = []
    with _opened(content, changed) as db:
        number, words = draw.choice(db.execute("SELECT sequence, content FROM entries").fetchall())
        new = json.dumps(change_json(json.loads(words), draw))
        db.execute("UPDATE entries SET content = ? WHERE sequence = ?", (new, number))
    return changed[0]


DATABASE_CHANGES = (
    *(f"UPDATE entries SET {column} = x'ff00'" for column in ("time", "who", "action", "content")),
    *(f"UPDATE entries SET {column} = CAST(x'ff' AS TEXT)" for column in ("who", "content")),
    "UPDATE entries SET content = replace(printf('%100000d', 0), ' ', '[')",
    "UPDATE entries SET action = 'undo', content = '{\"of\": []}'",
    "UPDATE entries SET action = 'merge', content = '{\"id\": 1, \"into\": 1}' WHERE sequence > 3",
    "UPDATE entries SET sequence = -sequence",
    "UPDATE entries SET sequence = 9223372036854775807 WHERE sequence = 1",
    "DROP TABLE entries",
    "ALTER TABLE entries RENAME COLUMN who TO whom",
    "PRAGMA user_version = -7",
    "CREATE TRIGGER stop BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'no'); END",
    "ALTER TABLE entries RENAME TO more; CREATE VIEW entries AS SELECT * FROM more, more AS b",
)


def database_changed(content: bytes, draw: Random) -> bytes:
    """Columns of another type, rows in another order, and tables that are none."""
    changed: list[bytes] = []
    with _opened(content, changed) as db:
        db.executescript(draw.choice(DATABASE_CHANGES))
    return changed[0]


OF_KIND: dict[str, tuple[Damage, ...]] = {
    ".json": (json_changed, json_changed, json_deep, json_of_long_numbers, json_other),
    ".safetensors": (*(description_changed,) * 8, header_changed, header_changed, description_deep, tensors_changed),
    ".npz": (*(array_changed,) * 6, array_with_a_huge_shape, archive_that_swells, archive_of_hostile_names),
    ".zip": (archive_of_hostile_names, archive_that_swells),
    ".csv": (table_of_words,) * 6,
    ".tsv": (table_of_words,) * 2,
    ".parquet": (parquet_of_words,) * 5,
    ".sqlite": (*(entry_changed,) * 16, *(database_changed,) * 16),
}
"""Damage that knows the format, by the suffix of the file."""


def damages(suffix: str) -> tuple[Damage, ...]:
    return (*ANY_FILE, *OF_KIND.get(suffix, ()))


# ------------------------------------------------------------------------------------------------------- special files


def _make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _make_circle(path: Path) -> None:
    path.symlink_to(path.name)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "nothing": bool,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": _make_socket,
    "a link to itself": _make_circle,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to an empty device": lambda path: path.symlink_to("/dev/null"),
    "a file that may not be read": lambda path: (path.write_bytes(b"secret"), path.chmod(0)),
}
"""What may be where a file is expected."""


def replace_by(kind: str, path: Path) -> None:
    path.unlink(missing_ok=True)
    SPECIAL[kind](path)


def each_name() -> Iterator[str]:
    """Hostile names that a file can have."""
    for name in HOSTILE_NAMES:
        if "/" not in name and name not in ("", ".", "~") and len(name) < 256:
            yield name
