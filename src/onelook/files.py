"""Files that are either whole or not there."""

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from onelook.errors import StorageError


def cache_home() -> Path:
    """Folder of results that can be computed again: $ONELOOK_CACHE, or the user's cache folder."""
    return Path(os.environ.get("ONELOOK_CACHE") or platformdirs.user_cache_dir("onelook"))


SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Kinds of what is no regular file."""


def require_regular(path: Path) -> None:
    """Raise OSError unless `path` leads to a regular file: a pipe may wait for ever, a device have no end."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds a NUL character", str(path)) from error
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {SPECIAL.get(stat.S_IFMT(mode), 'no regular file')}", str(path))


def is_regular(path: Path) -> bool:
    """Whether `path` leads to a regular file; False for whatever no file can be called."""
    try:
        require_regular(path)
    except OSError:
        return False
    return True


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Content of a regular file, of at most `most` bytes. Raises OSError for any other, and does not open it."""
    require_regular(path)
    if most is not None and (size := path.stat().st_size) > most:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than the {most:,} that are read", str(path))
    return path.read_bytes()


def parse_json(text: str | bytes) -> Any:
    """`json.loads` that raises ValueError and nothing else, also for what is nested without end."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


MARKS = (
    b"nelook",  # pages, COCO, Label Studio
    b'"path","label","probability"',
    b'{"__metadata__":{"about":"',  # models, results of studies
    b"class_names.npy",
    b'"machine": "',  # records of benchmarks
)
"""Bytes that all files hold which a command writes for a person, and hardly any other."""
MARGIN = 4096
"""Bytes at both ends of a file among which a mark stands."""


@dataclass(frozen=True)
class Output:
    """Mark of an option that names what a command writes: a file, or a folder."""

    files: tuple[tuple[str, str], ...] | None = None
    """Names of files in the folder, each with the parameter that asks for it, or "" where it is always written.

    None: the option names a file."""
    beside: tuple[str, ...] = ()
    """Suffixes of files that are written beside that file, under its name."""

    def list_files(self, place: Path, given: Mapping[str, Any]) -> list[Path]:
        """Files that are written where an option names `place`. given: values of the parameters of the command."""
        if self.files is None:
            return [place, *(place.parent / f"{place.stem}{suffix}" for suffix in self.beside)]
        return [place / file for file, when in self.files if not when or given[when]]


def place_run(*files: str) -> Output:
    """Mark of an option for the folder of a run that always writes these files."""
    return Output(tuple((name, "") for name in files))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    If it does not, or the machine stops in the middle, `path` is as it was. A link stays, and the file that it leads to
    is replaced. Raises StorageError, with the reason, where the file cannot be written, or is no regular file.
    """
    temporary = None
    require_replaceable(path)
    try:
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # or a crash could leave the new name on an empty file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def require_replaceable(path: Path) -> None:
    """Raise StorageError where a folder, a pipe, a device or the like stands."""
    if path.is_dir():
        raise StorageError(f"{path} is a folder; give the name of a file in it.")
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is no regular file but a pipe, a device or the like; give the name of a file.")


def is_own(path: Path) -> bool:
    """Whether a file bears a mark of Onelook, near its beginning or its end, or is empty."""
    with path.open("rb") as file:
        text = file.read(MARGIN)
        file.seek(max(MARGIN, os.fstat(file.fileno()).st_size - MARGIN))
        text += b"\n" + file.read(MARGIN)
    return text == b"\n" or any(mark in text for mark in MARKS)


def write_atomically(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically. The same content gives the same bytes."""
    content = memoryview(safetensors.torch.save(tensors, header))
    end = 8 + int.from_bytes(content[:8], "little")
    words = json.loads(bytes(content[8:end]))
    if header:  # which the library writes in another order each time
        words["__metadata__"] = dict(sorted(header.items()))
    text = json.dumps(words, ensure_ascii=False, separators=(",", ":")).encode().ljust(end - 8)
    assert len(text) == end - 8, "the header was written otherwise than expected"
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines((content[:8], text, content[end:]))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, mapped from it, and its header. Raises SafetensorError, OSError."""
    require_regular(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:  # a name that safetensors cannot open
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        return tensors, json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict


@dataclass(frozen=True)
class Stored:
    """A finished result: tensors, and all else as JSON."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultStore:
    """Finished results in a folder, one file each, so that nothing is computed twice.

    A result is found again by its key, a JSON object of everything that the result depends on.
    """

    folder: Path

    def path(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{digest(_canonical(key).encode()).hex()[:16]}.safetensors"

    def find(self, key: dict[str, Any]) -> Stored | None:
        """The result of this key; None where there is none, or its file is damaged and has to be made again."""
        try:
            tensors, header = read_tensors(self.path(key))
            about = parse_json(header["about"])
            return Stored(tensors, about) if header["key"] == _canonical(key) and isinstance(about, dict) else None
        except (SafetensorError, OSError, KeyError, ValueError):
            return None

    def save(self, key: dict[str, Any], result: Stored) -> None:
        """Write atomically. Raises StorageError."""
        header = {"key": _canonical(key), "about": json.dumps(result.about)}
        write_tensors(self.path(key), result.tensors, header)

    def get_or(
        self, key: dict[str, Any], compute: Callable[[], Generator[Any, None, Stored]]
    ) -> Generator[Any, None, Stored]:
        """The stored result, or else that of `compute`, which is stored."""
        found = self.find(key)
        if found is None:
            found = yield from compute()
            self.save(key, found)
        return found


def _canonical(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def storage_error(path: Path, error: OSError) -> StorageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space, or choose another place" if full else "choose a place that can be written"
    return StorageError(f"{path} could not be written ({error.strerror or error}); {remedy}. What was there is intact.")


def digest(*parts: bytes | memoryview) -> bytes:
    """SHA-256 of the parts, unambiguous about where one ends."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(memoryview(part).nbytes.to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
