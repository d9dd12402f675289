"""Templates of the pages: a person's sentences with slots, which the figures of the records fill."""

from pathlib import Path
from typing import Any

import jinja2
from pages.plots import Records

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)


def render(name: str, **figures: Any) -> str:
    return ENVIRONMENT.get_template(name).render(figures)


def plus_minus(record: dict[str, Any], name: str = "accuracy", interval: str = "ci95", form: str = ".2f") -> str:
    """Two figures of a record as they stand there: percent, or nats."""
    return f"{record[name]:{form}} ± {record[interval]:{form.lstrip('+')}}"


def signed(versus: dict[str, Any], form: str = ".2f") -> str:
    return plus_minus(versus, "difference", form=f"+{form}")


def made(records: Records) -> str:
    origins = sorted({f"commit {r['commit']}, {r['machine']}" for r in records})
    return f"Made at {'; '.join(origins)}."
