"""Folders on this machine and at addresses that fsspec knows, such as s3://bucket/photographs.

Credentials and endpoints are those of the environment, as the packages behind fsspec read them. Where fsspec lacks the
package of an object store (s3fs for s3://), that of pyarrow is used (S3, Google Cloud Storage, Azure).

Stores that are busy refuse for a while. Their packages ask again within seconds, where they do at all (of web addresses
none does); here it is done for half a minute more.
"""

import contextlib
import functools
import importlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from onelook.data.listing import LARGEST
from onelook.errors import DataError, StorageError, UnreachableError, UserError, describe_cause
from onelook.files import read_regular, write_atomically

Result = TypeVar("Result")

PAUSES = (2.0, 6.0, 18.0)
"""Seconds between the times that a store is asked for the same file."""
FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of one file, which would come again."""
ADVICE = "check the address and the credentials, or run the same command again when its store answers"
LOCAL = ("file", "local")
"""Protocols of the files of this machine."""
SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(/+)(?=[^/])")


def find_address(place: str | Path) -> str | None:
    """The address that is meant, also by a Path, which has lost a slash; None for a path of this machine.

    >>> find_address(Path("s3://bucket/photographs")), find_address("photographs")
    ('s3://bucket/photographs', None)
    """
    found = SCHEME.match(str(place))
    if found is None:
        return None
    has_no_host = found[1] in LOCAL or (found[1] == "hdfs" and len(found[2]) > 2)
    return f"{found[1]}://{'/' * has_no_host}{str(place)[found.end() :]}"


def settle(place: str | Path) -> str:
    """The address or absolute path of a place, which processes that began in other folders understand as well.

    >>> settle("file:///photographs"), settle("s3://bucket/photographs")
    ('/photographs', 's3://bucket/photographs')
    """
    address = find_address(place)
    if address is None:
        return str(Path(place).absolute())
    protocol, _, path = address.partition("://")
    return path if protocol in LOCAL else address


@dataclass(frozen=True)
class Store:
    """A folder, here or at an address. A file in it is either whole or not there."""

    place: str
    """Path or address."""

    @property
    def address(self) -> str | None:
        return find_address(self.place)

    def below(self, name: str) -> "Store":
        return Store(self._address_of(name))

    def _address_of(self, name: str) -> str:
        """Address of a file or folder below, or its path."""
        return f"{(self.address or self.place).rstrip('/')}/{name}"

    def list(self) -> dict[str, str]:
        """Names of all files below, in order, each with a mark that changes with its content. Raises DataError."""
        if self.address is None:
            files = sorted(path for path in Path(self.place).rglob("*") if path.is_file())
            return {path.relative_to(self.place).as_posix(): stamp_file(path) for path in files}
        try:
            root, found = _ask_again(self.address, _find)
        except FileNotFoundError:
            return {}
        except Exception as error:  # what the packages behind fsspec raise has no common base
            raise DataError(f"{self.address} cannot be listed ({describe_cause(error)}); {ADVICE}.") from error
        root = root.rstrip("/") + "/"
        facts = {name.removeprefix(root): one for name, one in found.items() if name.startswith(root)}
        return {name: _describe(facts[name]) for name in sorted(facts)}

    def measure(self, name: str) -> int:
        """Bytes of a file of this machine; 0 at an address. Raises OSError."""
        is_here = self.address is None and find_address(name) is None
        return (Path(self.place) / name).stat().st_size if is_here else 0

    def read(self, name: str) -> bytes:
        """Content of a file by its name in the folder, its path or its address.

        Raises an error of the file, most often OSError, and UnreachableError where the store does not answer.
        """
        address = find_address(name) or (self.address and self._address_of(name))
        if address is None:
            return read_regular(Path(self.place) / name, LARGEST)
        try:
            content: bytes = _ask_again(address, lambda system, path: system.cat_file(path))
        except Exception as error:  # what the packages behind fsspec raise has no common base
            if isinstance(error, UserError) or _is_final(error):
                raise
            raise UnreachableError(
                f"{address} cannot be read for the time being ({describe_cause(error)}); run the same command again "
                f"when its store answers: what is finished is kept."
            ) from error
        return content

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises StorageError."""
        try:
            if self.address is None:
                (Path(self.place) / name).unlink(missing_ok=True)
                return
            with contextlib.suppress(FileNotFoundError):
                _ask_again(self._address_of(name), lambda system, path: system.rm_file(path))
        except Exception as error:  # what the packages behind fsspec raise has no common base
            raise StorageError(f"{self.place}/{name} cannot be removed ({describe_cause(error)}); {ADVICE}.") from error

    def write(self, name: str, content: bytes) -> None:
        """Put a file in its place at once. Raises StorageError."""
        if self.address is None:
            write_atomically(Path(self.place) / name, content)
            return
        try:
            _ask_again(self._address_of(name), lambda system, path: system.pipe_file(path, content))
        except Exception as error:
            raise StorageError(
                f"{self.address}/{name} cannot be written ({describe_cause(error)}); {ADVICE}."
            ) from error


def _ask_again(address: str, do: Callable[[Any, str], Result]) -> Result:
    """Call `do` with the file system and the path of an address, and again where the store fails."""
    for pause in PAUSES:
        try:
            return do(*_open(address))
        except Exception as error:  # what the packages behind fsspec raise has no common base
            if isinstance(error, UserError) or _is_final(error):
                raise
        time.sleep(pause)
    return do(*_open(address))


def _find(system: Any, root: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The path of a folder and the facts of all files below it, by their paths.

    The search that comes with fsspec takes a folder for empty that the store refuses to list, and is not used.
    """
    searching = next(kind for kind in type(system).__mro__ if {"find", "_find"} & set(vars(kind)))
    if not searching.__module__.startswith("fsspec."):
        return root, system.find(root, detail=True)
    found, folders, seen = dict[str, dict[str, Any]](), [root], {root}
    for folder in folders:
        try:
            below = {one["name"].rstrip("/"): one for one in system.ls(folder, detail=True)}
        except FileNotFoundError:  # or nothing has been written to it yet
            continue
        found |= {name: one for name, one in below.items() if one["type"] != "directory"}
        folders += sorted(below.keys() - found.keys() - seen)
        seen |= below.keys()
    return root, found


def _is_final(error: Exception) -> bool:
    """Whether an error is about the file: it is not there, or not for these credentials, which have not expired."""
    said = str(error)
    status = getattr(error, "status", None)  # of an answer of HTTP, as aiohttp says it
    is_refused = isinstance(error, FINAL) or status in (401, 403, 404, 410)
    is_refused = is_refused or "ACCESS_DENIED" in said or "NO_SUCH_BUCKET" in said  # pyarrow's words
    return is_refused and "expired" not in said.lower()


def stamp_file(path: Path) -> str:
    """Size and time of change of a file; empty where it cannot be read."""
    try:
        facts = path.stat()
    except OSError:
        return ""
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _describe(facts: dict[str, Any]) -> str:
    when = next((facts[key] for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified") if facts.get(key)), "")
    return f"{facts.get('size')} {when}"


@functools.lru_cache(maxsize=64)
def _connect(protocol: str) -> Any:
    """The file system of pyarrow for a protocol that fsspec has no package for; None where there is none either."""
    # A file of S3 is then put by one request, and not in parts.
    uri = f"{protocol}://any?allow_delayed_open=true" if protocol == "s3" else f"{protocol}://any"
    try:
        system = importlib.import_module("pyarrow.fs").FileSystem.from_uri(uri)[0]
        return importlib.import_module("fsspec.implementations.arrow").ArrowFSWrapper(system)
    except (ImportError, ValueError, OSError):  # pyarrow's own errors are among these
        return None


def _open(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    protocol, _, path = address.partition("://")
    try:
        found: tuple[Any, str] = importlib.import_module("fsspec.core").url_to_fs(address)
        return found
    except ImportError as error:
        system = _connect(protocol)
        if system is None:
            raise UnreachableError(f"{address} cannot be reached: {describe_cause(error)}.") from error
        return system, path
    except ValueError as error:
        raise DataError(f"{address} is at no place that fsspec knows ({describe_cause(error)}).") from error
