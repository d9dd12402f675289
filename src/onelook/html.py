"""What the pages of Onelook share: templates with one style sheet, numbers as they are written, pictures as text."""

import base64
import importlib
from importlib.resources import files
from typing import Any

from onelook.errors import SettingsError


def engine() -> Any:
    """jinja2, which nothing but a page needs. Raises SettingsError where it is not installed."""
    try:
        return importlib.import_module("jinja2")
    except ImportError as error:
        raise SettingsError(
            'A page, such as a report, needs the package jinja2; pip install "onelook[report]".'
        ) from error


def filled(template: str, **content: Any) -> str:
    """A page of the package, with what it includes and the filters for numbers; all that is put in is escaped.

    Raises SettingsError without `engine`.
    """
    jinja2 = engine()
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda part: files("onelook").joinpath(part).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, short=short)
    return str(environment.get_template(template).render(**content))


def data_uri(content: bytes, kind: str) -> str:
    """kind: the media type, such as image/jpeg."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def number(value: float | int) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float | int) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def short(value: float | int) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
