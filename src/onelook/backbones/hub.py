"""Models of the Hugging Face hub: their descriptions, and getting them.

A transfer that breaks off goes on where it stopped, and whole files are not fetched again. Files on this machine are
used without asking the hub.
"""

import contextlib
import importlib
import importlib.util
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from onelook.errors import DownloadError, SettingsError, UserError
from onelook.events import Notice, Progress
from onelook.files import storage_error

PREFIX = "hf:"
RECOMMENDED = "hf:facebook/dinov2-small"
_PATTERNS = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
]
_NEEDED = ("config.json", "preprocessor_config.json", "model.safetensors")


@dataclass(frozen=True)
class Description:
    """Facts that a person should know before a model is downloaded."""

    name: str
    licence: str
    megabytes: int
    preprocessing: str

    def __str__(self) -> str:
        return f"{self.name}, licence {self.licence}, {self.megabytes:,} MB; images: {self.preprocessing}"


KNOWN = {
    d.name: d
    for d in (
        Description("facebook/dinov2-small", "Apache-2.0", 88, "shorter side of 256, middle 224 × 224"),
        Description("openai/clip-vit-base-patch32", "MIT", 605, "shorter side of 224, middle 224 × 224"),
        Description("google/siglip-base-patch16-224", "Apache-2.0", 813, "stretched to 224 × 224"),
        Description("facebook/convnext-tiny-224", "Apache-2.0", 114, "shorter side of 256, middle 224 × 224"),
        Description("google/vit-base-patch16-224-in21k", "Apache-2.0", 346, "stretched to 224 × 224"),
    )
}
"""Models that suit photographs; `RECOMMENDED` is the smallest of them and good on most."""


def how_to_get(repository: str) -> str:
    """Say what brings a model of KNOWN to this machine; empty where it is here, with the package that loads it."""
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("huggingface_hub") is None:
        return "pip install 'onelook[transformers]'"
    return f"downloads {KNOWN[repository].megabytes} MB at first use" if _local(repository, None, None)[1] else ""


def split_name(name: str) -> tuple[str, str | None]:
    """Repository and revision of `hf:NAME` or `hf:NAME@REVISION`. Raises SettingsError."""
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    parts = repository.split("/")
    if len(parts) > 2 or not all(part and part.strip(".") and " " not in part for part in parts):
        raise SettingsError(f"{name!r} is no model of the hub: expected hf:OWNER/NAME, for example {RECOMMENDED}.")
    return repository, revision or None


def describe(name: str, endpoint: str | None = None) -> Description:
    """Describe a model: from the table, or else from the hub. Raises DownloadError."""
    repository, revision = split_name(name)
    if repository in KNOWN and revision is None:
        return KNOWN[repository]
    api = _hub().HfApi(endpoint=endpoint)
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:  # the errors of the hub and those of its transport have no common base
        raise _download_error(repository, error, endpoint) from error
    match = _hub().utils.filter_repo_objects
    files = match(info.siblings or [], allow_patterns=_PATTERNS, key=lambda file: file.rfilename)
    size = sum(file.size or 0 for file in files)
    licence = getattr(info.card_data, "license", None) or "not stated"
    return Description(repository, str(licence), max(1, round(size / 1e6)), "as its preprocessor_config.json says")


def fetch(
    repository: str,
    revision: str | None = None,
    offline: bool = False,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Generator[Notice | Progress, None, Path]:
    """The folder of a model on this machine, downloaded after a Notice of what it is where it is not there yet.

    Raises DownloadError, StorageError.
    """
    folder, missing = _local(repository, revision, cache)
    if folder is not None and not missing:
        return folder
    if offline:
        found = f"{PREFIX}{repository} is not on this machine as a whole ({', '.join(missing)} missing)"
        raise DownloadError(f"{found}, and offline nothing is downloaded; run once without --offline.")
    about = describe(f"{repository}@{revision}" if revision else repository, endpoint)
    yield Notice(f"Downloading {about}.")
    yield from _download(about, revision, endpoint, cache)
    folder, missing = _local(repository, revision, cache)
    if folder is None or missing:
        found = f"{PREFIX}{repository} holds no {', '.join(missing)} at this revision"
        raise DownloadError(f"{found}; other formats are not loaded, so name another model or revision (@REVISION).")
    return folder


def _download(
    about: Description, revision: str | None, endpoint: str | None, cache: Path | None
) -> Generator[Progress, None, None]:
    hub = _hub()
    failures: list[Exception] = []

    class Silent(hub.utils.tqdm):  # type: ignore[misc,name-defined]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    def transfer() -> None:
        logging = hub.utils.logging
        level = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # it would print that it goes on after a break
        try:
            where = {"endpoint": endpoint, "cache_dir": cache}
            hub.snapshot_download(about.name, revision=revision, allow_patterns=_PATTERNS, tqdm_class=Silent, **where)
        except Exception as error:  # the errors of the hub and those of its transport have no common base
            failures.append(error)
        finally:
            logging.set_verbosity(level)

    # As a daemon, so that an interrupted command does not wait for the rest of it.
    thread = threading.Thread(target=transfer, daemon=True)
    thread.start()
    total = about.megabytes * 1_000_000
    blobs = Path(cache or hub.constants.HF_HUB_CACHE) / f"models--{about.name.replace('/', '--')}" / "blobs"
    while thread.is_alive():
        done = _size(blobs)
        yield Progress(f"downloading {about.name}", done, max(done, total), "bytes")
        thread.join(0.5)
    if failures:
        raise _download_error(about.name, failures[0], endpoint) from failures[0]


def _size(folder: Path) -> int:
    total = 0
    for file in folder.glob("*"):
        with contextlib.suppress(OSError):  # it has just been renamed
            total += file.stat().st_size
    return total


def _local(repository: str, revision: str | None, cache: Path | None) -> tuple[Path | None, list[str]]:
    """The folder of a model on this machine, and the files that it lacks."""
    folder, missing = None, []
    for name in _NEEDED:
        found = _find_cached(repository, name, revision, cache)
        if found is None and name == "preprocessor_config.json":
            found = _find_cached(repository, "processor_config.json", revision, cache)
        if found is None and name == "model.safetensors":
            index = _find_cached(repository, "model.safetensors.index.json", revision, cache)
            shards = sorted(index.parent.glob("model-*-of-*.safetensors")) if index else []
            found = index if shards and len(shards) == int(shards[0].stem.rpartition("-of-")[2]) else None
        if found is None:
            missing.append(name)
        else:
            folder = found.parent
    return folder, missing


def _find_cached(repository: str, name: str, revision: str | None, cache: Path | None) -> Path | None:
    found = _hub().try_to_load_from_cache(repository, name, cache_dir=cache, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _download_error(repository: str, error: Exception, endpoint: str | None) -> UserError:
    hub = _hub()
    host = urlsplit(endpoint or hub.constants.ENDPOINT).netloc
    if type(error).__name__ == "LocalEntryNotFoundError" and isinstance(error.__cause__, Exception):
        error = error.__cause__  # for which the hub looked on this machine
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OSError) and error.errno is not None and status is None and error.filename:
        return storage_error(Path(error.filename), error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        reason = "its owner asks for consent first, which is given on its page"
    elif "RepositoryNotFoundError" in kinds or status == 404:
        reason = f"{host} has no such model or revision, or it is private"
    elif status is not None:
        reason = f"{host} answered {status}"
    elif kinds & {"ConnectError", "ConnectionError", "TimeoutException", "Timeout", "OfflineModeIsEnabled"}:
        reason = f"there is no connection to {host}"
    else:
        reason = f"the transfer from {host} broke off ({type(error).__name__})"
    return DownloadError(
        f"{PREFIX}{repository} could not be downloaded: {reason}; whole files are saved, and "
        f"the same command goes on with the others."
    )


def _hub() -> Any:
    try:
        for part in ("constants", "utils"):  # which it loads only when asked
            importlib.import_module(f"huggingface_hub.{part}")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        remedy = "install it with pip install 'onelook[transformers]'"
        raise SettingsError(f"Models of the hub need huggingface_hub; {remedy}.") from error
