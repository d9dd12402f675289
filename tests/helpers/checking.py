"""Types and shapes of arguments and results, checked once a call.

jaxtyping's own decorator checks the arguments twice, by themselves and with the result, so that its messages tell these
apart; that is half of the time of the functions that it decorates. Here beartype alone has the word. Each function is
made ready when it is first called, as most tests call few, and once, although functions in functions are defined anew
in each call: it would take longer than what is in them.
"""

import functools
import inspect
import types
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
        checked = None

        @functools.wraps(given)
        def call(*args: Any, **more: Any) -> Any:
            nonlocal checked, has_axes
            if checked is None:
                has_axes = any(map(_has_axes, given.__annotations__.values()))
                checked = _check(given)
            if not has_axes:
                return checked(*args, **more)
            with AXES:
                return checked(*args, **more)

        has_axes = True
        return call

    return decorate


_inner: dict[tuple[types.CodeType, str], types.FunctionType] = {}
"""Checked functions that were defined in others, by their code and hints."""


def _check(given: types.FunctionType) -> Callable[..., Any]:
    if "<locals>" not in given.__qualname__:
        return CHECK(given)
    key = given.__code__, str(given.__annotations__)
    known = _inner.get(key)
    if known is None:
        made: Any = CHECK(given)
        if isinstance(made, types.FunctionType) and "__beartype_func" in (made.__kwdefaults__ or {}):
            _inner[key] = made
        return made  # type: ignore[no-any-return]
    checked = types.FunctionType(known.__code__, known.__globals__)
    checked.__kwdefaults__ = (known.__kwdefaults__ or {}) | {"__beartype_func": given}
    return functools.update_wrapper(checked, given)


def _has_axes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return isinstance(hint, str) or any(map(_has_axes, typing.get_args(hint)))
