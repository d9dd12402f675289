"""What the pages say is what the code does."""

import ast
import importlib
import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pages import formats as formats
from pages import networks as networks
from pages import paper as paper
from pages import practice as practice
from pages import transductive as transductive
from pages.plots import plots

import onelook
from helpers.images import class_image, write_files
from helpers.terminal import commands, options, parse
from onelook.experiments import demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITTEN_LATER = {"docs/benchmarks.md", "docs/log.md", "docs/networks.md", "docs/practice.md", "docs/transductive.md"}
"""Made from results; a link to one may be there before it is."""


def blocks(page: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page) if kind == language]


def command_lines(page: str) -> list[str]:
    """The lines of command blocks that call onelook, with continued lines joined."""
    joined = "\n".join(blocks(page, "") + blocks(page, "sh") + blocks(page, "bash")).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("onelook ")]


def inline_commands(page: str) -> list[str]:
    return re.findall(r"`(onelook [^`]+)`", BLOCK.sub("", page))


PARSED = [(page, line) for page, text in PAGES.items() for line in command_lines(text)]
MENTIONED = [(page, line) for page, text in PAGES.items() for line in inline_commands(text)]


COMMANDS = dict(commands())
GROUPS = {path[:n] for path in COMMANDS for n in range(len(path) + 1)}


@pytest.mark.parametrize("page", PAGES)
def test_what_an_example_imports_is_there(page: str) -> None:
    for code in blocks(PAGES[page], "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "onelook":
                module = importlib.import_module(str(node.module))
                assert [one.name for one in node.names if not hasattr(module, one.name)] == []


def test_the_readme_shows_commands_and_python() -> None:
    assert len(command_lines(README)) >= 4
    assert len(blocks(README, "python")) >= 1


def test_the_accuracies_of_the_readme_are_those_of_the_records() -> None:
    told = re.findall(r"\d+\.\d\d ± \d+\.\d\d", README)
    assert len(told) >= 4
    assert [one for one in told if f"| {one} |" not in PAGES["docs/paper.md"]] == []
    records = json.loads((ROOT / "benchmarks" / "demo.json").read_text(encoding="utf-8"))
    one_shot = [r["accuracy"] for r in records if r["n_shot"] == 1 and r["method"] in ("feature-averaging", "sib")]
    assert [accuracy for accuracy in one_shot if f"{accuracy:.2f} %" not in README] == []


@pytest.mark.parametrize(("page", "line"), PARSED)
def test_every_command_of_a_page_parses(page: str, line: str) -> None:
    assert parse(re.sub(r"\$\w+", "5", line)), page  # of a loop over numbers


@pytest.mark.parametrize(("page", "line"), MENTIONED)
def test_every_command_named_in_a_sentence_exists_with_its_options(page: str, line: str) -> None:
    words = line.split()[1:]
    if "|" in line:  # a list of commands, of all or of a group
        *group, first = words[: words.index("|")]
        names = [first, *(word for word in words[words.index("|") :] if word != "|")]
        known = {path[-1] for path in GROUPS if path and path[:-1] == tuple(group)}
        assert set(names) <= known, page
        return
    path = max((path for path in GROUPS if tuple(words[: len(path)]) == path), key=len)
    known = set(options(COMMANDS[path])) if path in COMMANDS else set()
    known |= {"--help", "--install-completion"}
    assert {word for word in words if word.startswith("--")} <= known, page


@pytest.mark.parametrize("line", [line for _, line in demo.COMMANDS])
def test_every_command_of_the_page_that_the_demo_writes_parses(line: str) -> None:
    assert parse(line)


def python_of_the_readme(word: str) -> str:
    return next(code for code in blocks(README, "python") if word in code)


def test_the_tasks_of_the_readme_have_the_answers_that_it_says() -> None:
    code = python_of_the_readme("logits")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    said = re.search(r"logits = .*# \((\d+), (\d+), (\d+)\)", code)
    assert said
    assert tuple(names["logits"].shape) == tuple(map(int, said.groups()))


def test_the_classifier_of_the_readme_labels_images(tmp_path: Path) -> None:
    files = write_files(tmp_path, {f"{k}-{i}.png": class_image(k, i) for k in range(2) for i in range(4)})
    paths, others = ([files / f"{k}-{i}.png" for k in range(2) for i in some] for some in ((0,), (1, 2, 3)))
    known: dict[str, Any] = {"paths": paths, "names": ["left", "right"], "other_paths": others}
    exec(compile(python_of_the_readme("ImageFeatures"), "README.md", "exec"), known)
    assert known["classifier"].transduction_.tolist() == ["left"] * 3 + ["right"] * 3


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_is_on_a_page(path: tuple[str, ...]) -> None:
    command, name = " ".join(("onelook", *path)), path[-1]
    lists = [line for _, line in MENTIONED if "|" in line]
    text = "\n".join(PAGES.values())
    assert re.search(rf"{command}\b", text) or any(re.search(rf"\b{name}\b", line) for line in lists)


@pytest.mark.parametrize("name", onelook.__all__)
def test_every_public_name_is_on_a_page(name: str) -> None:
    spans = [span for text in PAGES.values() for span in re.findall(r"`[^`\n]+`", text) + blocks(text, "python")]
    assert any(re.search(rf"\b{name}\b", span) for span in spans)


def test_every_link_between_the_pages_leads_somewhere() -> None:
    broken = []
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", BLOCK.sub("", text)):
            if "://" in target:
                continue
            path = (ROOT / page).parent / target
            if not path.exists() and path.resolve().relative_to(ROOT).as_posix() not in WRITTEN_LATER:
                broken.append(f"{page}: {target}")
    assert broken == []


def test_the_version_is_the_same_everywhere() -> None:
    newest = re.search(r"^## (\S+?),? ", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert newest
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert newest[1] == onelook.__version__ == project["version"]


def test_the_table_of_kinds_of_files_is_what_the_code_knows() -> None:
    page = PAGES["docs/labelling.md"]
    assert formats.table() in page, "run `make docs`"
    assert formats.insert(page) == page


def test_the_page_of_benchmarks_is_what_the_result_files_give() -> None:
    namespace = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs" / "benchmarks.md").read_text() == namespace["page"](), "run `make docs`"


def test_the_page_of_the_paper_and_its_plots_are_what_the_result_files_give() -> None:
    namespace = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    results = namespace["paper_results"]()
    assert (ROOT / "docs" / "paper.md").read_text() == paper.page(results), "run `make docs`"
    for name, svg in plots(results).items():
        assert (ROOT / "docs" / "plots" / f"{name}.svg").read_bytes() == svg, "run `make docs`"


def test_the_page_of_transductive_methods_and_its_plots_are_what_the_result_files_give() -> None:
    namespace = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    results = namespace["transductive_results"]()
    written = ROOT / "docs" / "transductive.md"
    if not results:
        assert not written.exists()
        return
    assert written.read_text() == namespace["transductive_page"](results), "run `make docs`"
    for name, svg in transductive.plots(results).items():
        assert (ROOT / "docs" / "plots" / f"{name}.svg").read_bytes() == svg, "run `make docs`"


def test_the_page_of_networks_is_what_the_result_files_give() -> None:
    namespace = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    results = namespace["networks_results"]()
    written = ROOT / "docs" / "networks.md"
    assert written.exists() == bool(results)
    assert not results or written.read_text() == networks.page(results), "run `make docs`"


def test_the_page_of_practice_is_what_the_result_files_give() -> None:
    namespace = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    results = namespace["practice_results"]()
    written = ROOT / "docs" / "practice.md"
    if not results:
        assert not written.exists()
        return
    assert written.read_text() == practice.page(results), "run `make docs`"
