"""The layer table of docs/architecture.md, and other promises about imports, enforced on the source itself."""

import ast
import functools
import graphlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from helpers.images import class_image, classes, write_files

SOURCE = Path(__file__).parents[1] / "src" / "onelook"

LAYERS: list[tuple[str, ...]] = [
    ("errors",),  # of layer 0 of the table, but the rest of that layer raises errors
    ("events", "files", "tasks"),
    ("html", "machine", "ops"),
    ("backbones",),  # of layer 1, but some methods own their network
    ("methods",),
    ("data",),
    ("artifacts", "scoring"),
    ("train",),
    ("estimators",),
    ("benchmark", "labelling"),
    ("cluster",),
    ("experiments",),
    ("onelook",),  # __init__.py: the public names
    ("server",),
    ("cli",),
    ("__main__",),
]
"""Lowest first. A module imports modules of lower lines, and those of its own package."""

PROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {"pi_heif": "pi-heif", "PIL": "pillow", "sklearn": "scikit-learn"}
"""Of modules that are not called like what pip installs."""
WITHOUT = (
    "fastapi",
    "h11",
    "huggingface_hub",
    "jinja2",
    "markupsafe",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "ray",
    "starlette",
    "torchvision",
    "transformers",
    "uvicorn",
)

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {"torch.load", "torch.save"}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
ABOUT_EXTRAS = {"onelook.experiments.demo_page"} | {name for name in MODULES if name.startswith("onelook.server.")}
"""Modules that are of no use without the packages of an extra; nothing else may import one at its top."""


def top(module: str) -> str:
    """The line of LAYERS a module belongs to: its name below onelook, or onelook itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def layer(module: str) -> int:
    for height, names in enumerate(LAYERS):
        if top(module) in names:
            return height
    raise AssertionError(
        f"src/onelook/{top(module)} is in no layer. Say in the table of docs/architecture.md what it may import, "
        f"and add its name to LAYERS in tests/test_layers.py."
    )


def imported_modules(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """The modules of onelook that this one names in its imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "onelook")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "onelook":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


@functools.cache
def imports() -> dict[str, set[str]]:
    """Modules of onelook that each of them imports."""
    return {module: set(imported_modules(tree, set(MODULES))) for module, tree in MODULES.items()}


def offenders(find: Callable[[ast.AST], Collection[object]]) -> dict[str, Collection[object]]:
    """What is found in each module in which anything is."""
    return {module: found for module, tree in MODULES.items() if (found := find(tree))}


def too_high(module: str, imports: set[str]) -> list[str]:
    return sorted(one for one in imports if top(one) != top(module) and layer(one) >= layer(module))


def cycle(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def hidden_imports(tree: ast.AST) -> list[int]:
    """Lines of imports of onelook inside a function."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = []
    for function in functions:
        for node in ast.walk(function):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "onelook" for name in names):
                lines.append(node.lineno)
    return lines


def relative_imports(tree: ast.AST) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=! ]", one)[0].lower() for one in requirements}


def third_party(tree: ast.AST, at_the_top: bool = True) -> set[str]:
    """What pip has to install for the imports of a module; those by name, which come late, only if not at_the_top."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module" and not at_the_top:
            found |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    roots = {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"onelook", ""}
    return {DISTRIBUTIONS.get(root, root) for root in roots}


def is_weights_only(call: ast.Call) -> bool:
    return any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in call.keywords)


def unsafe_lines(tree: ast.AST) -> list[str]:
    """What runs code that a file or a string holds."""
    found = []
    # With weights_only, torch reads tensors and numbers, and nothing else.
    safe = {call.func for call in ast.walk(tree) if isinstance(call, ast.Call) and is_weights_only(call)}
    for node in ast.walk(tree):
        if node in safe:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if node.module and node.module.split(".")[0] in UNSAFE_MODULES else []
            found += [name for alias in node.names if (name := f"{node.module}.{alias.name}") in UNSAFE_ATTRIBUTES]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in UNSAFE_ATTRIBUTES:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            found.append(node.func.id)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append("allow_pickle")
    return found


def unlimited_opens(tree: ast.AST) -> list[int]:
    """Lines that let Pillow try every format, of which it gives some to other programs (EPS)."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"]
    return [call.lineno for call in calls if "formats" not in {word.arg for word in call.keywords}]


def test_a_module_imports_lower_layers_and_its_own_package_only() -> None:
    found = {module: above for module, its in imports().items() if (above := too_high(module, its))}
    assert found == {}, "These modules import what is no lower in LAYERS; move what they need down."


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycle(imports()) == []


def test_onelook_is_never_imported_inside_a_function() -> None:
    assert offenders(hidden_imports) == {}, "Move these imports to the top of the module."


def test_imports_are_absolute() -> None:
    assert offenders(relative_imports) == {}, "Write these imports as `from onelook`."


def test_nothing_is_unpickled_or_evaluated() -> None:
    assert offenders(unsafe_lines) == {}, "Models are safetensors and JSON, and settings are data."


def test_images_are_opened_in_known_formats_only() -> None:
    assert not offenders(unlimited_opens)


def test_what_a_module_imports_is_declared() -> None:
    core = distributions(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"].items()
    any_extra = set().union(*(distributions(own) for name, own in extras if name not in ("all", "dev")))
    assert offenders(lambda tree: third_party(tree, at_the_top=False) - core - any_extra) == {}
    assert offenders(lambda tree: third_party(tree) - core).keys() <= ABOUT_EXTRAS


def test_all_commands_are_there_and_folders_are_labelled_without_the_packages_of_any_extra(tmp_path: Path) -> None:
    write_files(tmp_path, classes(2, 2) | {"a.png": class_image(0, 50)})
    program = f"""
import sys
sys.modules |= dict.fromkeys({WITHOUT})
from onelook.cli import app
app(["--help"], result_action="return_value")
words = "--network", "small", "--cache", "cache"
app(["label", ".", "--out", "labels", "--save", "model.safetensors", *words], result_action="return_value")
app(["predict", "model.safetensors", "a.png", "--cache", "cache"], result_action="return_value")
"""
    environment = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["labels.csv"]
    assert run.stdout.splitlines()[-1].startswith('"a.png","class 00",')
    assert run.stderr.splitlines()[-1].endswith('needs the package jinja2; pip install "onelook[report]".')


def test_the_table_of_the_architecture_page_is_the_one_enforced_here() -> None:
    page = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2] for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    written = [set(re.findall(r"`(\w+)`", row)) for row in reversed(rows)]
    lowest, *rest = (set(names) - {"onelook", "__main__"} for names in LAYERS)
    enforced = [names for names in rest if names]
    enforced[0] |= lowest
    assert written == enforced


# The laws above can only fail on a defect in the source, so that their own sight is tested on defects made up here.


def test_the_law_of_declared_packages_sees_every_form_of_import() -> None:
    tree = ast.parse("import os, PIL.Image\nfrom a.b import c\ndef f():\n    import d\nimportlib.import_module('e.f')")
    assert third_party(tree) == {"pillow", "a", "d"}
    assert third_party(tree, at_the_top=False) == {"pillow", "a", "d", "e"}
    assert distributions(["a>=1", "b[c]", "D_e==2"]) == {"a", "b", "d_e"}


def test_an_unknown_module_fails_with_a_sentence_telling_where_to_add_it() -> None:
    with pytest.raises(AssertionError, match=r"src/onelook/novelty is in no layer\..*LAYERS in tests/test_layers\.py"):
        layer("onelook.novelty.deep")


@pytest.mark.parametrize(
    ("module", "line", "forbidden"),
    [
        ("onelook.ops", "from onelook.methods import SIB", ["onelook.methods"]),
        ("onelook.ops", "import onelook.data.sampler", ["onelook.data.sampler"]),
        ("onelook.ops", "from onelook import tasks", []),
        ("onelook.ops", "from onelook import create", ["onelook"]),
        ("onelook.methods.sib", "from onelook.methods.base import Method", []),
        ("onelook.backbones.base", "from onelook import methods", ["onelook.methods"]),
        ("onelook.train", "def f():\n    from onelook.benchmark import Result", ["onelook.benchmark"]),
        ("onelook.cli", "import numpy, onelook", []),
    ],
)
def test_the_layer_law_sees_every_form_of_import(module: str, line: str, forbidden: list[str]) -> None:
    below = ("tasks", "methods", "methods.base", "backbones", "benchmark")
    known = {"onelook", *(f"onelook.{name}" for name in below)}
    assert too_high(module, set(imported_modules(ast.parse(line), known))) == forbidden


def test_the_other_laws_see_the_defects_they_are_about() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not cycle({"a": {"b", "c"}, "b": {"c"}})
    assert unlimited_opens(ast.parse("Image.open(a, formats=F)\nImage.open(b)")) == [2]
    assert hidden_imports(ast.parse("import onelook.ops\ndef f():\n    import numpy, onelook.ops")) == [3]
    assert hidden_imports(ast.parse("class A:\n    async def f(self):\n        from onelook import ops")) == [3]
    assert relative_imports(ast.parse("from onelook import ops\nfrom . import ops")) == [2]


@pytest.mark.parametrize(
    ("line", "unsafe"),
    [
        ("import pickle", True),
        ("from joblib import load", True),
        ("torch.load('x')", True),
        ("torch.load('x', weights_only=True)", False),
        ("torch.load('x', weights_only=False)", True),
        ("torch.load('x', weights_only=flag)", True),
        ("from torch import load", True),
        ("eval('1')", True),
        ("exec('x = 1')", True),
        ("np.load('x', allow_pickle=True)", True),
        ("np.load('x', allow_pickle=False)", False),
        ("model.eval()", False),
        ("re.compile('x')", False),
        ("safetensors.torch.load('x')", False),
    ],
)
def test_the_safety_law_tells_unsafe_from_safe(line: str, unsafe: bool) -> None:
    assert bool(unsafe_lines(ast.parse(line))) == unsafe
