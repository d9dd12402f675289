"""Types and shapes of arguments and results, checked once a call.

jaxtyping's own decorator checks the arguments twice, by themselves and with the result, so that its messages tell these
apart; that is half of the time of the functions that it decorates. Here beartype alone has the word.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

AXES = jaxtyped("context")
"""Lengths of axes by their names, as long as one call lasts."""


CHECK = beartype(conf=BeartypeConf(violation_type=TypeCheckError))
"""A checker whose errors are those of jaxtyping and so a TypeError, as an unchecked function would raise."""


def check_once(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator of functions and dataclasses, in place of `jaxtyping.jaxtyped`."""

    def decorate(given: Any) -> Any:
        if isinstance(given, type):
            if is_dataclass(given):
                given.__init__ = decorate(given.__init__)  # type: ignore[misc]
            return given
        if inspect.isgeneratorfunction(given) or inspect.iscoroutinefunction(given):  # these go on after the call
            return jaxtyped(typechecker=typechecker)(given)
        checked = CHECK(given)
        if not any(map(_has_axes, given.__annotations__.values())):
            return checked

        @functools.wraps(given)
        def call(*args: Any, **more: Any) -> Any:
            with AXES:
                return checked(*args, **more)

        return call

    return decorate


def _has_axes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return isinstance(hint, str) or any(map(_has_axes, typing.get_args(hint)))
