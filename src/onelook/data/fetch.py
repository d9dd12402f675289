"""Get a benchmark: download or read the published files, rebuild them as `<name>.zip`, check it, put it in place.

CIFAR-100 comes in its binary form, because the Python form is a pickle, and no pickle is ever loaded.
"""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from onelook.data.datasets import data_home, find_benchmark, how_to_get, locate
from onelook.data.rebuild import cifar_members, folder_members, omniglot_members, write_archive
from onelook.data.verify import check
from onelook.errors import DataError, DownloadError
from onelook.events import Progress
from onelook.files import is_own, storage_error

CHUNK = 1 << 18
"""Bytes that are written and reported at a time."""
PATIENCE = 30
"""Seconds without an answer until a server is given up."""


@dataclass(frozen=True)
class Source:
    """A published file."""

    url: str
    md5: str
    """The hash that its publishers and torchvision state."""

    @property
    def file_name(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]


_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
SOURCES: dict[str, tuple[Source, ...]] = {
    "cifar-fs": (
        Source("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    ),
    "omniglot": (
        Source(f"{_OMNIGLOT}/images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
        Source(f"{_OMNIGLOT}/images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
    ),
}


def fetch(
    name: str, home: Path | None = None, source: Path | None = None, published: tuple[Source, ...] | None = None
) -> Generator[Progress, None, Path]:
    """Make `<home>/<name>.zip`; returns its path, at once where a sound one is there already.

    source: a folder of the user: the class folders of ImageNet or CUB, or the published archives of CIFAR-100
        and Omniglot, which are then not downloaded.
    published: in place of `SOURCES`, for tests and mirrors.

    Raises DownloadError, StorageError, or DataError for a source that lacks something. Nothing that was there is lost.
    """
    benchmark = find_benchmark(name)
    benchmark = find_benchmark(benchmark.stored_in or name)
    home = home or data_home()
    existing = locate(benchmark, home)
    if existing is not None and not (yield from check(benchmark, existing)).problems:
        return existing
    target = home / f"{benchmark.name}.zip"
    if target.is_file() and not is_own(target):
        raise DataError(f"{target} is not the published {benchmark.title}, and nothing that Onelook wrote; move it.")
    if benchmark.made_from:
        if source is None:
            raise DataError(f"{benchmark.title} cannot be downloaded: {how_to_get(benchmark)}.")
        return (yield from write_archive(benchmark, target, folder_members(benchmark, source)))
    files: list[Path] = []
    for item in published or SOURCES[benchmark.name]:
        files.append(_find_own(item, source) if source else (yield from download(item, home / "downloads")))
    is_cifar = benchmark.name == "cifar-fs"
    members = cifar_members(benchmark, files[0]) if is_cifar else omniglot_members(benchmark, files)
    yield from write_archive(benchmark, target, members)
    for file in files if source is None else ():
        file.unlink(missing_ok=True)
    return target


def download(source: Source, folder: Path) -> Generator[Progress, None, Path]:
    """The published file in `folder`, checked; goes on from `<file>.part` where an earlier attempt left one."""
    target, part = folder / source.file_name, folder / f"{source.file_name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and _md5(target) == source.md5:
            return target
        yield from _transfer(source.url, part)
        found = _md5(part)
        if found != source.md5:
            part.unlink()
            raise DownloadError(
                f"{source.file_name} from {source.url} has the MD5 {found} instead of {source.md5}, so it was removed; "
                "try again later or get the file elsewhere and name its folder with --from."
            )
        part.replace(target)
    except OSError as error:
        raise storage_error(target, error) from error
    return target


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def _transfer(url: str, part: Path) -> Generator[Progress, None, None]:
    """Append to `part` what is still missing of it, over as many connections as make progress."""
    while True:
        before = _size(part)
        try:
            yield from _receive(url, part)
            return
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if _size(part) > before:
                continue
            raise _download_error(url, part, _reason(url, error)) from error
        except requests.RequestException as error:
            raise _download_error(url, part, _reason(url, error)) from error


def _receive(url: str, part: Path) -> Generator[Progress, None, None]:
    start = _size(part)
    headers = {"Accept-Encoding": "identity"}  # or else the bytes on the way are not those of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is left to send; whether that is right the checksum tells
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        done = start if resumed else 0
        total = done + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                file.flush()
                done += len(chunk)
                yield Progress(f"downloading {part.stem}", done, max(done, total), "bytes")


def _download_error(url: str, part: Path, reason: str) -> DownloadError:
    saved = f"; {_size(part):,} bytes are saved and the same command goes on from there" if _size(part) else ""
    return DownloadError(f"{part.stem} could not be downloaded from {url}: {reason}{saved}.")


def _reason(url: str, error: requests.RequestException) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"the server was silent for {PATIENCE} seconds"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {urlsplit(url).hostname} could not be verified"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.ConnectionError):
        return f"there is no connection to {urlsplit(url).hostname}"
    return str(error)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _find_own(item: Source, folder: Path) -> Path:
    path = folder / item.file_name
    if not path.is_file():
        raise DataError(f"{folder} holds no file {item.file_name}; download it from {item.url} into that folder.")
    found = _md5(path)
    if found != item.md5:
        raise DataError(f"{path} has the MD5 {found} instead of {item.md5}; download it again from {item.url}.")
    return path
