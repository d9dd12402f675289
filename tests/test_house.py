"""The size of the package, and prose that stands alone, enforced on the source itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "onelook"
FILES = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}

MAX_LOOSE, MAX_FOLDERS, MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_FORMATTER_OFF = 11, 11, 320, 50, 30

HANGING = re.compile(
    r"(of|that|those|it|its|they|their|them|these|this|which|in|on|at|by|for|to|with|without|as|between|before|after|above"
    r"|below|among|about|under|until|from|into|over|he|she|what|whose|than|there|the same)\b",
    re.IGNORECASE,
)
"""First words that leave open what a docstring is about: prepositions and pronouns."""


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of the strings that begin a module, a class or a function, or follow a field or a constant."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        before: ast.stmt | None = None
        for i, statement in enumerate(body if isinstance(body, list) else ()):
            value = statement.value if isinstance(statement, ast.Expr) else None
            described = i == 0 or isinstance(before, ast.Assign | ast.AnnAssign)
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and described:
                yield statement.lineno, value.value
            before = statement


def hanging_docstrings(text: str) -> list[str]:
    found = ((line, string.strip()) for line, string in docstrings(ast.parse(text)))
    return [f"{line}: {string.splitlines()[0]}" for line, string in found if HANGING.match(string)]


def too_long(text: str) -> list[str]:
    n_lines = len(text.splitlines())
    found = [f"{n_lines} lines"] if n_lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            found += [f"{node.lineno}: {node.name} has {n_lines} lines"] if n_lines > MAX_FUNCTION_LINES else []
    return found


def test_what_lies_in_the_package_is_seen_at_a_glance() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= MAX_LOOSE
    assert len({name.split("/")[0] for name in FILES if "/" in name}) <= MAX_FOLDERS


def test_docstrings_begin_with_what_they_are_about() -> None:
    found = {name: hanging_docstrings(text) for name, text in FILES.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_files_and_functions_are_short() -> None:
    found = {name: too_long(text) for name, text in FILES.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_formatter_has_the_last_word_almost_everywhere() -> None:
    assert sum(text.count("fmt: skip") + text.count("fmt: off") for text in FILES.values()) <= MAX_FORMATTER_OFF


# The laws above can only fail on a defect in the source, so that their own sight is tested on defects made up here.


@pytest.mark.parametrize(
    ("text", "n_found"),
    [
        ('"""Of the channels."""', 1),
        ('def f():\n    """The same with features."""', 1),
        ('async def f():\n    """\n    Its mean.\n    """', 1),
        (
            'class A:\n    """Noun."""\n    x: int\n    """What it is."""\n    y = 1\n    """Those of scikit-learn."""',
            2,
        ),
        ('X = 1\n"""As many as there are."""', 1),
        ('"""Off the record, itself a noun; officially."""\nx("""Of""")\ny = """Of"""', 0),
    ],
)
def test_the_law_of_docstrings_sees_every_place_of_one(text: str, n_found: int) -> None:
    assert len(hanging_docstrings(text)) == n_found


def test_the_law_of_length_counts_lines_of_files_and_of_functions_at_any_depth() -> None:
    body = "\n".join(["class A:", "  def f(self):", "    async def g():", *["      x = 1"] * MAX_FUNCTION_LINES])
    assert too_long(body) == ["2: f has 52 lines", "3: g has 51 lines"]
    assert too_long("x = 1\n" * 321) == ["321 lines"]
    assert too_long("x = 1\n" * 320) == []
