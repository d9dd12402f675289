"""`onelook demo` and `onelook show`: results that are made at once, and those in files."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from onelook import artifacts, html
from onelook.cli import console
from onelook.cli.options import Fields, Json, options
from onelook.cli.terminal import open_page, write
from onelook.errors import NonNegativeInt, SettingsError
from onelook.files import place_run
from onelook.machine import Place


@options
def demo(
    place: Annotated[Place, Fields(only=("precision", "device"))],
    *,
    out: Annotated[Path, place_run("results.json", "report.html")] = Path("runs/demo"),
    seed: NonNegativeInt = 0,
    show_page: Annotated[bool, Parameter(name="--open", help="Open the page in the browser.", negative=())] = False,
    as_json: Json = False,
) -> None:
    """Learn to learn on the built-in glyphs; show what the unlabelled images were worth.

    Example: onelook demo --out runs/demo
    """
    module = _load_demo()
    place = replace(place, cache=out / "cache", home=None)
    report = console.run(module.demo(module.DemoConfig(seed=seed), out, place), "demo")
    console.print_records(report.records, as_json)
    if not as_json:
        write("", f"The page: {(out / 'report.html').resolve()}   ({report.facts['seconds']} s)")
    if show_page:
        open_page(out / "report.html")


def _load_demo() -> Any:
    # By name and not at the top: it needs the packages of the extra `demo`, and its help does not.
    html.load_engine()
    try:
        return importlib.import_module("onelook.experiments.demo")
    except ModuleNotFoundError as error:
        raise SettingsError(f'The demo needs the package {error.name}; pip install "onelook[demo]".') from error


@options
def show(
    files: Annotated[tuple[Path, ...], "Result files, or one model."],
    *,
    markdown: Annotated[bool, "Print the table as Markdown."] = False,
    as_json: Json = False,
) -> None:
    """Show results as a table, or describe a model.

    Examples: onelook show results.json; onelook show runs/sib/model.safetensors
    """
    models = [file for file in files if file.suffix == ".safetensors"]
    if models:
        if len(files) > 1:
            raise SettingsError(f"{models[0]} is a model, which is described alone; give it without other files.")
        kind = artifacts.read_kind(files[0])
        console.print_artifact(artifacts.load(files[0], kind), files[0], as_json)
        return
    records = [record for file in files for record in artifacts.load_results(file)]
    if markdown:
        write(*console.results_table(records).markdown().splitlines())
    else:
        console.print_records(records, as_json)
