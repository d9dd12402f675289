"""Types and shapes of arguments and results, checked once a call.

jaxtyping's own decorator checks the arguments twice, by themselves and with the result, so that its messages tell these
apart; that is half of the time of the functions that it decorates. Here beartype alone has the word. Each function is
made ready when it is first called, as most tests call few, and once, although functions in functions are defined anew
in each call: it would take longer than what is in them. Most hints are of tensors whose axes have names or lengths;
`_is_instance` compares these at once, and jaxtyping judges by all others.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, _array_types, _storage, jaxtyped

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


def _is_instance(hint: Any, given: object) -> bool:
    """`isinstance` for hints of jaxtyping."""
    fits = hint.__dict__.get("_fits", False)
    if fits is False:
        fits = hint._fits = _read(hint)
    if fits is None or getattr(_storage._treeflatten_storage, "value", False):
        return bool(hint.__instancecheck_str__(given) == "")
    return bool(fits(given))


def _read(hint: Any) -> Callable[[Any], bool] | None:
    """Whether something is as the hint says, as a function; None for a hint that is not simple."""
    kinds = _array_types._FixedDim, _array_types._NamedDim, _array_types._NamedVariadicDim
    anonymous = _array_types._anonymous_dim, _array_types._anonymous_variadic_dim
    dims: Any = getattr(hint, "dims", [None])
    if any(one not in anonymous and (type(one) not in kinds or one.broadcastable) for one in dims):
        return None
    names = hint.dtypes
    if not isinstance(hint.array_type, type) or hint._skip_instancecheck:
        return None
    if names is not _array_types._any_dtype and not all(isinstance(one, str) for one in names):
        return None
    if any(getattr(one, "treepath", False) for one in dims):
        return None
    axes = [getattr(one, "name", getattr(one, "size", None)) for one in dims]
    return _compare(hint, axes)


def _compare(hint: Any, axes: list[str | int | None]) -> Callable[[Any], bool]:
    """Whether something is a tensor of this kind, whose axes then have their lengths for the rest of the call.

    axes: name or length of each; None: any length.
    """
    kind, dtypes, n_axes, variadic = hint.array_type, hint.dtypes, len(axes), hint.index_variadic
    n_before, good = n_axes if variadic is None else variadic, set[Any]()
    n_after, rest = n_axes - n_before - 1, None if variadic is None else axes[variadic]
    places = [(i if i < n_before else i - n_axes, axis) for i, axis in enumerate(axes) if i != variadic]
    fixed = [(i, axis) for i, axis in places if type(axis) is int]
    named = [(i, axis) for i, axis in places if type(axis) is str]

    def fits(given: Any) -> bool:
        if type(given) is not kind and not isinstance(given, kind):
            return False
        if given.dtype not in good:
            if dtypes is not _array_types._any_dtype and _name(given.dtype) not in dtypes:
                return False
            good.add(given.dtype)
        shape = given.shape
        if len(shape) != n_axes and (variadic is None or len(shape) < n_axes - 1):
            return False
        stack = getattr(_storage._shape_storage, "memo_stack", None)
        lengths, others = stack[-1][:2] if stack else ({}, {})
        many = None
        if rest is not None:
            many, known = shape[n_before : len(shape) - n_after], others.get(rest)
            if known is not None and known[0]:  # its axes may be stretched
                return bool(hint.__instancecheck_str__(given) == "")
            if known is not None and known[1] != many:
                return False
        for i, length in fixed:
            if shape[i] != length:
                return False
        n_known = len(lengths)
        for i, name in named:
            if lengths.setdefault(name, shape[i]) != shape[i]:
                while len(lengths) > n_known:
                    lengths.popitem()
                return False
        if rest is not None:
            others[rest] = (False, many)
        return True

    return fits


def _name(dtype: Any) -> str:
    """The name of a number format as jaxtyping says it."""
    kind = getattr(dtype, "type", None)
    return kind.__name__ if isinstance(kind, type) else repr(dtype).rsplit(".", 1)[-1]


_array_types._MetaAbstractArray.__instancecheck__ = _is_instance


def _has_axes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return isinstance(hint, str) or any(map(_has_axes, typing.get_args(hint)))
