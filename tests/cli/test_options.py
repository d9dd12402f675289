"""Options made from configurations: what a person writes is what the command gets."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from cyclopts import App, CycloptsError

from helpers.terminal import options as help_of
from onelook.cli.options import Fields, options
from onelook.errors import Bound, NonNegativeInt, SettingsError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    """Rate of learning."""


@dataclass(frozen=True)
class Base:
    folder: Path
    """Folder of images."""
    n_shot: int = 1
    """Labelled examples
    per class."""


@dataclass(frozen=True)
class Outer(Base):
    ways: tuple[int, ...] = (5,)
    totals: tuple[int | None, ...] = (None,)
    also_classes: tuple[str, ...] = ()
    report: bool = True
    coco: bool = False
    inner: Inner = field(default_factory=lambda: Inner(0.3))
    cache: Path = field(default_factory=lambda: Path("/of/this/machine"))
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.n_shot > 9:
            raise SettingsError("Too many shots.")


@dataclass(frozen=True)
class Other:
    seed: int = 7
    hidden: str = "as it is"


OUTER = Outer(Path("x"))


def make(chosen: Fields = Fields(arguments=("folder",))) -> tuple[App, list[Any]]:
    """A command of one argument, and what it was called with."""
    called: list[Any] = []
    app = App(name="program")

    @app.default
    @options
    def command(
        outer: Annotated[Outer, chosen],
        other: Annotated[Other, Fields(without=("hidden",))],
        *,
        number: Annotated[int, "Number of images.", Bound(">=", 1)] = 3,
    ) -> None:
        """Do it."""
        called.append((outer, other, number))

    return app, called


def call(*words: str) -> Any:
    app, called = make()
    app(list(words), exit_on_error=False, print_error=False, result_action="return_value")
    (found,) = called
    return found


def test_without_options_the_configurations_are_as_they_are() -> None:
    assert call("x") == (OUTER, Other(), 3)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (("--shot", "4"), {"n_shot": 4}),
        (("--shot", "4", "--shot", "5"), {"n_shot": 5}),
        (("--way", "3, 4"), {"ways": (3, 4)}),
        (("--way", "3", "--way", "4"), {"ways": (4,)}),
        (("--total", "6,9"), {"totals": (6, 9)}),
        (("--also-class", "a,b", "--also-class", "c"), {"also_classes": ("a,b", "c")}),
        (("--no-report", "--coco"), {"report": False, "coco": True}),
        (("--rate", "2"), {"inner": Inner(2.0)}),
        (("--cache", "here"), {"cache": Path("here")}),
    ],
)
def test_an_option_sets_its_field_also_of_a_nested_configuration(words: tuple[str, ...], change: Any) -> None:
    assert call("x", *words) == (replace(OUTER, **change), Other(), 3)


def test_a_name_that_occurs_twice_is_one_option_for_both() -> None:
    assert call("x", "--seed", "5", "--number", "8") == (replace(OUTER, seed=5), Other(seed=5), 8)


def test_help_is_the_string_under_the_field_also_of_a_base() -> None:
    helps = help_of(make()[0])
    assert helps["--shot"] == "Labelled examples per class."
    assert helps["--rate"] == "Rate of learning."
    assert helps["--number"] == "Number of images."
    assert "--folder" not in helps
    assert "--hidden" not in helps
    assert set(help_of(make(Fields(only=("folder", "n_shot")))[0])) == {"--folder", "--shot", "--seed", "--number"}


@pytest.mark.parametrize("words", [(), ("x", "y"), ("x", "--seed", "one"), ("x", "--no-coco"), ("x", "--folder", "y")])
def test_the_parser_refuses_what_no_field_takes(words: tuple[str, ...]) -> None:
    with pytest.raises(CycloptsError):
        call(*words)


@pytest.mark.parametrize(("option", "least"), [("--seed", 0), ("--number", 1)])
def test_a_bound_of_a_field_or_parameter_is_refused_by_the_name_of_the_option(option: str, least: int) -> None:
    call("x", option, str(least))
    with pytest.raises(SettingsError, match=f"^{option} must be a whole number >= {least}, but is {least - 1}.$"):
        call("x", option, str(least - 1))


def test_what_a_configuration_refuses_is_its_own_error() -> None:
    with pytest.raises(SettingsError, match="Too many shots"):
        call("x", "--shot", "10")


def test_numbers_that_are_none_are_named_with_their_option() -> None:
    with pytest.raises(CycloptsError) as caught:
        call("x", "--way", "3,x")
    assert str(caught.value.__cause__) == "--way takes whole numbers divided by commas, but got '3,x'."
