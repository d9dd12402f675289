"""Configurations are frozen dataclasses; a run keeps its own as JSON beside what it made."""

import dataclasses
from typing import Any

LATER = {"later": True}
"""Metadata of a field that was added to a configuration when runs of it were there already: see `description`. It is
to have repr=False, because the demo describes its runs by that."""


def description(config: Any) -> dict[str, Any]:
    """The configuration, a dataclass, as JSON. A field that came later and holds its default is left out, so that runs
    from before it was there keep their names and can be taken up."""
    plain: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if not (f.metadata.get("later") and value == f.default):
            plain[f.name] = description(value) if dataclasses.is_dataclass(value) else value
    return plain
