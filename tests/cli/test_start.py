"""What is loaded before anything is asked for, and what it costs."""

import subprocess
import sys

import pytest

import onelook

HEAVY = {"torch", "numpy", "sklearn", "scipy", "pandas", "PIL", "transformers", "matplotlib", "jinja2"}
HEAVY |= {"torchvision", "onnx", "onnxruntime", "huggingface_hub", "requests", "cyclopts", "rich", "pytest"}


def loaded_by(program: str) -> set[str]:
    """Roots of the modules that are loaded at the end of a program in a new process."""
    program += "\nimport sys; print('|'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.splitlines()[-1].split("|")}


def test_importing_onelook_loads_nothing_heavy() -> None:
    assert not loaded_by("import onelook") & HEAVY


def test_a_public_name_loads_what_it_needs_and_no_more() -> None:
    assert not loaded_by("from onelook import UserError, finish") & HEAVY
    loaded = loaded_by("import onelook; onelook.SIB")
    assert "torch" in loaded
    assert not loaded & {"sklearn", "scipy"}


def test_every_public_name_is_there_and_is_listed() -> None:
    names: dict[str, object] = {}
    exec("from onelook import *", names)
    for name in onelook.__all__:
        assert names[name] is getattr(onelook, name)
        assert name in dir(onelook)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'sib'"):
        onelook.sib  # noqa: B018
    with pytest.raises(ImportError):
        exec("from onelook import sib")


def test_the_version_is_told_without_loading_anything_heavy() -> None:
    program = "from onelook.cli import app; app(['--version'], result_action='return_value')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == f"{onelook.__version__}\n"
    assert not loaded_by(program) & (HEAVY - {"cyclopts", "rich"})


def test_the_help_of_the_command_line_loads_nothing_heavy() -> None:
    program = "from onelook.cli import app; app(['--help'], result_action='return_value')"
    loaded = loaded_by(program)
    assert "cyclopts" in loaded
    assert not loaded & (HEAVY - {"cyclopts", "rich"})
