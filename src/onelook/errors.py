"""Errors that a person can act on.

    UserError                 anything the person can fix: exit code 2, HTTP 400
    ├── SettingsError         an unknown or impossible setting, a wrong argument (also a ValueError)
    ├── DataError             images, folders, archives, tables, tasks that cannot be drawn from them
    ├── ArtifactError         a checkpoint or result file that is damaged, missing or of another kind
    ├── DownloadError         a file that could not be fetched or has the wrong checksum
    ├── StorageError          a disk that is full or may not be written
    ├── UnreachableError      a store or a machine that does not answer, for the time being
    └── DivergedError         training that left the finite numbers

Every message is one sentence or two: what it is about, what was found, what was expected, what to do.
Anything that is not a `UserError` is a defect of Onelook and keeps its traceback.
"""

import difflib
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin


class UserError(Exception):
    """Base of all errors whose remedy is in the hands of the person who sees them.

    >>> try:
    ...     raise DataError("photographs holds no image.")
    ... except UserError as error:
    ...     print(error)
    photographs holds no image.
    """


class SettingsError(UserError, ValueError):
    """A setting that does not exist or cannot be honoured."""


class DataError(UserError):
    """Data that cannot be read, or cannot give what was asked of it."""


class ArtifactError(UserError):
    """A model or result file that cannot be used."""


class DownloadError(UserError):
    """A download that failed or whose checksum is wrong."""


class StorageError(UserError):
    """A file that could not be written; what was there before is intact."""


class UnreachableError(UserError):
    """A place of files that does not answer, after it was asked again; nothing is said of the files."""


class DivergedError(UserError):
    """Training met a loss or a gradient that is not finite, or a loss that exploded."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> SettingsError:
    """The error for a name that is not among `known`, with the nearest one as a suggestion."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
    return SettingsError(f"There is no {kind} named {_show(name)}; {hint}")


def _show(value: object) -> str:
    """A value as Python writes it, but not endlessly."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def quote_name(name: str) -> str:
    """A name as it may stand in a sentence: with escapes where it would break the line or cannot be printed."""
    return name if name.isprintable() else ascii(name)


def describe_cause(error: BaseException) -> str:
    """The words of another library's error as part of a sentence: one line, no full stop, not too long.

    >>> describe_cause(FileNotFoundError(2, "No such file or directory"))
    'no such file or directory'
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    words = " ".join(said.split()).rstrip(".") or type(error).__name__
    words = words[0].lower() + words[1:] if words[1:2].islower() else words
    return quote_name(words if len(words) <= 300 else f"{words[:300]}…")


def list_names(names: Iterable[object], most: int = 5) -> str:
    """Names for a sentence: the first of them, none longer than a line, or "none"."""
    shown = [str(name) for name in names]
    cut = [quote_name(name if len(name) <= 60 else f"{name[:60]}…") for name in shown[:most]]
    return ", ".join(cut) + (f" and {len(shown) - most:,} more" if len(shown) > most else "") or "none"


def plural(n: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def describe_seconds(seconds: float) -> str:
    """Duration for a person.

    >>> describe_seconds(98.0), describe_seconds(840.0), describe_seconds(9_000.0)
    ('100 s', '14 min', '2 h 30 min')
    """
    if seconds < 175:
        return f"{10 * max(round(seconds / 10), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "one of": lambda value, allowed: value in allowed,
}
KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda x: isinstance(x, bool)),
    int: ("a whole number", lambda x: isinstance(x, Integral) and not isinstance(x, bool)),
    float: ("a number", lambda x: isinstance(x, Real) and not isinstance(x, bool) and not math.isnan(x)),
    str: ("text", lambda x: isinstance(x, str)),
}


@dataclass(frozen=True)
class Bound:
    """A condition on a dataclass field, written where the field is: `Annotated[float, Bound(">", 0)]`."""

    relation: str
    """A key of `RELATIONS`."""
    limit: Any
    """A number, or for "one of" the values that are allowed."""

    def __str__(self) -> str:
        limits = self.limit if self.relation == "one of" else (self.limit,)
        return f"{self.relation} {', '.join(map(str, limits))}"


PositiveInt = Annotated[int, Bound(">=", 1)]
NonNegativeInt = Annotated[int, Bound(">=", 0)]
TwoOrMore = Annotated[int, Bound(">=", 2)]
PositiveFloat = Annotated[float, Bound(">", 0), Bound("<", math.inf)]
NonNegativeFloat = Annotated[float, Bound(">=", 0), Bound("<", math.inf)]
Fraction = Annotated[float, Bound(">=", 0), Bound("<=", 1)]


class Constraint(NamedTuple):
    """The demands that an annotation makes of a value."""

    kind: Any
    """A key of `KINDS`, or another type."""
    bounds: tuple[Bound, ...] = ()
    is_optional: bool = False
    """Whether the value may be None."""


def read_constraint(annotation: Any) -> Constraint:
    """The constraint that stands in an annotation, such as `Annotated[float, Bound(">", 0)] | None`."""
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType) and len(arguments) == 2 and type(None) in arguments:
        return read_constraint(arguments[arguments[0] is type(None)])._replace(is_optional=True)
    if get_origin(annotation) is Annotated:
        inner = read_constraint(arguments[0])
        return inner._replace(bounds=inner.bounds + tuple(one for one in arguments[1:] if isinstance(one, Bound)))
    if get_origin(annotation) is Literal:
        return Constraint(str, (Bound("one of", arguments),))
    return Constraint(annotation)


def check_value(what: str, annotation: Any, value: Any) -> None:
    """Raise SettingsError where the value is not of the annotated kind (one of `KINDS`) or breaks a `Bound`."""
    kind, bounds, is_optional = read_constraint(annotation)
    words, is_kind = KINDS.get(kind, ("", lambda _: True))
    if is_optional and value is None:
        return
    if not is_kind(value) or not all(RELATIONS[bound.relation](value, bound.limit) for bound in bounds):
        limits = " and ".join(str(bound) for bound in bounds if bound.limit != math.inf)
        wanted = limits if limits.startswith("one of") else f"{words} {limits}".rstrip()
        raise SettingsError(f"{what} must be {wanted}, but is {_show(value)}.")


def check_fields(settings: Any) -> None:
    """Raise SettingsError for the first field of a dataclass whose value its annotation rules out (`check_value`)."""
    for one in (each for each in fields(settings) if each.init):  # the others are computed from these
        check_value(f"{one.name} of {type(settings).__name__}", one.type, getattr(settings, one.name))


class Checked:
    """Base of configurations: a dataclass whose fields are checked against the bounds in their annotations.

    >>> @dataclass(frozen=True)
    ... class Walk(Checked):
    ...     n_steps: PositiveInt = 3
    >>> Walk(n_steps=0)
    Traceback (most recent call last):
    onelook.errors.SettingsError: n_steps of Walk must be a whole number >= 1, but is 0.
    """

    def __post_init__(self) -> None:
        check_fields(self)
