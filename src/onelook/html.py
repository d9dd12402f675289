"""Pages: templates with one style sheet, filters for numbers, and pictures as text."""

import base64
import functools
import importlib
from importlib.resources import files
from typing import Any

from onelook.errors import SettingsError


def load_engine() -> Any:
    """Import jinja2, which only pages need. Raises SettingsError where it is not installed."""
    try:
        return importlib.import_module("jinja2")
    except ImportError as error:
        raise SettingsError(
            'A page, such as a report, needs the package jinja2; pip install "onelook[report]".'
        ) from error


def render_template(template: str, **content: Any) -> str:
    """Render a template of the package, with escaping and the filters for numbers.

    Raises SettingsError without jinja2.
    """
    return str(_open_templates(load_engine()).get_template(template).render(**content))


@functools.cache
def _open_templates(jinja2: Any) -> Any:
    """Templates of the package, each of which is compiled once: that takes longer than most pages."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda part: files("onelook").joinpath(part).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, short=short)
    return environment


def data_uri(content: bytes, kind: str) -> str:
    """The content as an address; kind: its media type, such as image/jpeg."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def number(value: float | int) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float | int) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def short(value: float | int) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
