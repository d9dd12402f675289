"""Options of commands, made from the fields of the configurations that the commands fill in."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

from cyclopts import Parameter, Token

from onelook import artifacts
from onelook.cli.outputs import check_outputs
from onelook.data.protocols import KNOWN
from onelook.errors import SettingsError, check_value
from onelook.files import Output

NAMES = {
    "also_classes": "also-class",
    "not_classes": "not-class",
    "also_names": "also-name",
    "n_total": "total",
    "networks": "network",
    "open_page": "open",
    "protocols": "protocol",
    "sets": "data",
    "shots": "shot",
    "totals": "total",
    "ways": "way",
}
"""Options that are not named like their field; that of a field n_x is --x."""
REPEATED = {"labels", "also_classes", "also_names", "not_classes"}
"""Tuples whose option is given once for each value; others take values divided by commas."""
HELPS = {
    "average": "Versions of an image averaged into its feature: mirror, crops:N, mirror+crops:N or none.",
    "backbone": "Feature network made by `onelook pretrain`.",
    "data": "glyphs, the name of a standard set (`onelook data list`), or a folder, zip or CSV.",
    "image-size": "Height and width of images in pixels. Default: what is usual for the data.",
    "methods": "Names of methods (docs/methods.md) with settings, or files of trained methods.",
    "out": "Folder of this run. An interrupted run in it is resumed.",
    "protocol": f"How queries are spread over the classes: {KNOWN}.",
    "seed": "Seed of everything random.",
    "shot": "Labelled examples per class.",
    "split": "Classes to use: train, val, test or all.",
    "tasks": "Tasks of each kind.",
}
"""Help of options whose field or parameter does not say it itself."""


@dataclass(frozen=True)
class Fields:
    """Choice among the fields of a configuration, and those of them that are arguments instead of options."""

    only: tuple[str, ...] = ()
    """Empty: all fields."""
    without: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Configuration:
    """Options for the fields of a dataclass, and the way back from their values to an instance."""

    kind: type
    which: Fields
    example: Any = None
    """Instance whose values are the defaults; None: the defaults of the class."""

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and defaults; the default of a nested configuration is another `_Configuration`."""
        for one in fields(self.kind):
            if not one.init or one.name in self.which.without or (self.which.only and one.name not in self.which.only):
                continue
            default = one.default
            if self.example is not None:
                default = getattr(self.example, one.name)
            elif one.default_factory is not MISSING:
                default = one.default_factory()
                default = default if is_dataclass(default) else None  # what a factory finds depends on the machine
            elif default is MISSING:
                default = inspect.Parameter.empty
            nested = is_dataclass(default)
            yield one.name, _Configuration(type(default), self.which, default) if nested else default

    def parameters(self) -> Iterator[inspect.Parameter]:
        hints, helps = get_type_hints(self.kind, include_extras=True), field_docs(self.kind)
        for name, default in self.items():
            if isinstance(default, _Configuration):
                yield from default.parameters()
            else:
                yield _parameter(name, hints[name], default, helps.get(name), name in self.which.arguments)

    def fill(self, given: dict[str, Any]) -> Any:
        values = {
            name: default.fill(given) if isinstance(default, _Configuration) else given[name]
            for name, default in self.items()
            if isinstance(default, _Configuration) or name in given
        }
        return self.kind(**values) if self.example is None else replace(self.example, **values)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace each parameter of a command whose type is a dataclass by options for the fields of that dataclass.

    The string under a field is the help of its option; a nested dataclass is replaced by its own fields. A name that
    occurs twice is one option, for both. `Annotated[Config, Fields(...)]` chooses among the fields. The parameters of a
    command before its `*` are arguments; `Annotated[int, "help", Bound(">=", 1)]` says what an option is and
    what it may be; a `Bound` of a field counts for its option as well. What a parameter or a field marked as `Output`
    names is checked before the command is called (`check_outputs`).
    """
    configurations: dict[str, _Configuration] = {}
    parameters: dict[str, inspect.Parameter] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, one in inspect.signature(command).parameters.items():
        kind, *more = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        if is_dataclass(kind):
            configurations[name] = _Configuration(cast(type, kind), *(more or [Fields()]))
            parameters |= {each.name: parameters.get(each.name, each) for each in configurations[name].parameters()}
        else:
            parameters[name] = _parameter(name, hints[name], one.default, None, one.kind is one.POSITIONAL_OR_KEYWORD)

    def call(*arguments: Any, **words: Any) -> Any:
        given = signature.bind(*arguments, **words).arguments
        for name, value in given.items():
            check_value(f"--{_name_option(name)}", signature.parameters[name].annotation, value)
        filled = {name: one.fill(given) for name, one in configurations.items()}
        values = {name: given.get(name, one.default) for name, one in signature.parameters.items()}
        check_outputs(outputs, values, {name: f"--{_name_option(name)}" for name in outputs})
        return command(**filled, **{name: value for name, value in given.items() if name in hints})

    signature = inspect.Signature(sorted(parameters.values(), key=lambda one: (one.kind, one.name in hints)))
    outputs = {name: mark for name, one in signature.parameters.items() if (mark := find_output(one.annotation))}
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    call.__doc__, call.__name__, call.__module__ = command.__doc__, command.__name__, command.__module__
    return call


def field_docs(kind: type) -> dict[str, str]:
    """The strings under the fields of a dataclass and of its bases."""
    found: dict[str, str] = {}
    for one in reversed([base for base in kind.__mro__ if is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body  # type: ignore[attr-defined]
        for before, after in pairwise(body):
            if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                found[ast.unparse(before.target)] = " ".join(ast.literal_eval(after.value).split())
    return found


def find_output(annotation: Any) -> Output | None:
    """The mark of what is written, where an annotation holds one."""
    return next((one for one in get_args(annotation) if isinstance(one, Output)), None)


def _name_option(name: str) -> str:
    return NAMES.get(name, name.removeprefix("n_")).replace("_", "-")


def _parameter(name: str, hint: Any, default: Any, text: str | None, is_argument: bool) -> inspect.Parameter:
    hint, *more = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    option = _name_option(name)
    text = next((one for one in more if isinstance(one, str)), text)
    settings: dict[str, Any] = {"help": text or HELPS.get(option), "allow_repeating": True}  # the last one counts
    if not is_argument:
        settings |= {"name": f"--{option}", "negative": f"--no-{option}" if default is True else ()}
    if get_origin(hint) is tuple and not is_argument and name not in REPEATED:
        settings |= {"converter": divide, "show_default": lambda values: ", ".join(map(str, values))}
        settings["help"] = f"{settings['help'] or ''} Divided by commas.".strip()
    if default is None:
        hint = hint | None
    if default is None or default is False or default in ((), (None,)):
        settings["show_default"] = False
    kind = inspect.Parameter.POSITIONAL_ONLY if is_argument else inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[hint, Parameter(**settings), *more]
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def divide(hint: Any, tokens: Sequence[Token]) -> tuple[Any, ...]:
    """Values that are divided by commas, such as 1,5."""
    kind = get_args(hint)[0]
    kind = (get_args(kind) or (kind,))[0]
    text = tokens[-1].value
    try:
        return tuple(kind(word.strip()) for word in text.split(","))
    except ValueError as error:
        numbers = "whole numbers" if kind is int else "numbers"
        raise SettingsError(f"{tokens[0].keyword} takes {numbers} divided by commas, but got {text!r}.") from error


Json = Annotated[bool, Parameter(name="--json", help="Print JSON on standard output, and nothing else there.")]


@dataclass(frozen=True)
class Records:
    """The file that a benchmark may write its result records to."""

    json: Annotated[Path | None, Output()] = None
    """JSON file to write the result records to."""

    def save(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write the records, if a file was named, and return them."""
        if self.json is not None:
            artifacts.save_results(records, self.json)
        return records


@dataclass(frozen=True)
class Features:
    """Where the features of a comparison come from: images and a network, or files."""

    data: str = "glyphs"
    split: str = "test"
    backbone: str | None = None
    """Feature network: a name, such as lite, or a file made by `onelook pretrain`."""
    embeddings: Path | None = None
    """An .npz file of features (N, D) and labels (N), instead of --data and --backbone."""
    train_embeddings: Path | None = None
    """An .npz file of features of other classes, for methods that learn."""

    def __post_init__(self) -> None:
        if (self.backbone is None) == (self.embeddings is None):
            raise SettingsError(
                "A comparison needs features: give --backbone NAME or FILE with --data, or --embeddings FILE."
            )
