"""`onelook data`: the standard image sets."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from onelook.benchmark.tables import Table
from onelook.cli.console import print_json, print_table, run
from onelook.cli.options import Fields, Json, options
from onelook.cli.terminal import write
from onelook.data.datasets import BENCHMARKS, Status, status
from onelook.data.fetch import fetch
from onelook.data.verify import verify
from onelook.errors import DataError
from onelook.machine import Place

app = App(name="data", help="List, fetch and verify the standard image sets.")

Home = Annotated[Place, Fields(only=("home",))]
Name = Annotated[str, "A name of `onelook data list`."]


@app.command(name="list")
@options
def list_data(place: Home, *, as_json: Json = False) -> None:
    """List the standard image sets, their sizes, and where they are on this machine.

    Example: onelook data list --home /data/few-shot
    """
    states = {name: status(name, place.home) for name in BENCHMARKS}
    if as_json:
        print_json([_record(name, s) for name, s in states.items()])
        return
    rows = [("glyphs", "built in", "", "rendered when used", "fonts of matplotlib")]
    for name, s in states.items():
        counts = " / ".join(str(s.classes[split]) for split in ("train", "val", "test"))
        rows.append((name, counts, f"{s.images:,}", str(s.path or "–"), s.benchmark.licence))
    print_table(Table(("name", "classes: train / val / test", "images", "where", "licence"), tuple(rows)))


def _record(name: str, s: Status) -> dict[str, Any]:
    path = None if s.path is None else str(s.path)
    return {"name": name, "classes": s.classes, "images": s.images, "licence": s.benchmark.licence, "path": path}


@app.command(name="fetch")
@options
def fetch_data(
    name: Name,
    place: Home,
    *,
    source: Annotated[Path | None, Parameter(name="--from", help="A folder that holds the original images.")] = None,
) -> None:
    """Fetch a standard image set: from its official home, or from a folder that you have.

    mini-imagenet is made from the training images of ImageNet or from a copy of mini-ImageNet itself, in class folders
    (n01532829/...), also in train/, val/ and test/, or in one folder under the names of the published lists.

    Examples: onelook data fetch omniglot; onelook data fetch mini-imagenet --from /path/to/imagenet
    """
    write(str(run(fetch(name, place.home, source), f"fetching {name}")))


@app.command(name="verify")
@options
def verify_data(name: Name, place: Home, *, as_json: Json = False) -> None:
    """Count and check the images of a standard set.

    Example: onelook data verify cifar-fs
    """
    found = run(verify(name, place.home), f"verifying {name}")
    if as_json:
        counts = {"classes": found.classes, "images": found.images, "problems": found.problems}
        print_json({"name": name, "path": str(found.path), **counts})
    elif not found.problems:
        write(f"{found.path}: {name} as published, {sum(found.images.values()):,} images")
    if found.problems:
        raise DataError(f"{found.path} differs from the published {name}: {' '.join(found.problems)}")
