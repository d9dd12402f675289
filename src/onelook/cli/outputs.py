"""Files that a command writes, declared beside its options and checked before it begins.

A command never replaces a file that it reads, that Onelook did not write, or that is no regular file. Every option that
names what is written bears the mark `Output`; all other paths and words of a command are what it reads.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onelook.errors import SettingsError, quote_name
from onelook.files import Output, is_own, require_replaceable, storage_error


def check_outputs(outputs: Mapping[str, Output], values: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Raise SettingsError or StorageError where a command could not write, or would lose something if it did.

    outputs: marks of parameters; values: of all parameters; options: what a person calls them.
    """
    sources = [one for name, value in values.items() if name not in outputs for one in _list_files(value)]
    claimed: dict[str, Path] = {}
    for name, mark in outputs.items():
        place = values[name]
        if place is None:
            continue
        option = options[name]
        if mark.files is not None:
            require_writable(place)
        for file in mark.list_files(place, values):
            require_replaceable(file)
            if mark.files is None:
                require_writable(file.parent, file)
            _require_no_loss(option, file, sources)
            if claimed.setdefault(os.path.realpath(file).casefold(), file) is not file:
                raise SettingsError(f"{option} names {_quote(file)}, which another option writes; give another name.")


def require_writable(folder: Path, file: Path | None = None) -> None:
    """Raise StorageError, before hours of work and not after them, where their result could not be written."""
    try:
        above = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise storage_error(file or folder, error) from error


def _require_no_loss(option: str, file: Path, sources: list[Path]) -> None:
    if not file.exists():
        return
    if any(file.samefile(source) for source in sources):
        raise SettingsError(f"{option} would replace {_quote(file)}, which is read; give another place.")
    try:
        is_ours = is_own(file)
    except OSError as error:
        raise storage_error(file, error) from error
    if not is_ours:
        raise SettingsError(
            f"{option} would replace {_quote(file)}, which Onelook did not write; move it, or give another place."
        )


def _quote(path: Path) -> str:
    return quote_name(str(path))


def _list_files(value: Any) -> Iterator[Path]:
    """Files that the value of an option may name: a path, or a word such as sib:steps=3 or DATA@FILE."""
    words = value if isinstance(value, tuple) else (value,)
    for word in words:
        names = [word] if isinstance(word, Path) else []
        if isinstance(word, str):
            names = [Path(one) for part in re.split("[,@]", word) for one in (part, part.split(":")[0]) if one]
        yield from (name for name in names if _is_there(name))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a word that is no name of a file
        return False
