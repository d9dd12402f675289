"""Every example in a docstring runs, and every name that a user meets has one."""

import doctest
import importlib
from pathlib import Path

import pytest

import onelook
from onelook import methods

SOURCE = Path(onelook.__file__).parent
WITH_EXAMPLES = [
    ".".join(["onelook", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELOOK_CACHE", str(tmp_path / "cache"))
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0  # what failed is printed above
    assert found.attempted > 0


def has_example(thing: object) -> bool:
    """Whether the docstring of a function or a class, or of a method of the class itself, holds an example."""
    return any(found.examples for found in doctest.DocTestFinder().find(thing))


def test_every_public_name_and_every_method_has_an_example() -> None:
    public = {name: getattr(onelook, name) for name in onelook.__all__}
    things = public | {method.__name__: method for method in methods.METHODS.values()}
    described = {name: thing for name, thing in things.items() if callable(thing)}
    assert {name for name, thing in described.items() if not has_example(thing)} == set()
