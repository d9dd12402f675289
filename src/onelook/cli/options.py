"""What several commands take, and how it is read."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from onelook.errors import SettingsError
from onelook.files import storage_error
from onelook.machine import Place
from onelook.methods import METHODS

DATA = "glyphs, the name of a standard set (`onelook data list`), or a folder, zip or CSV."
FINISHED = "A feature network made by `onelook pretrain`."
NETWORK = "A feature network made by `onelook pretrain`; or the name of a new one, trained along by episodes."
METHOD = f"One of {', '.join(METHODS)}; with settings: sib:n_steps=5:recipe=published."
SEVERAL = "Names with settings, or files of trained methods, divided by commas. Differences are to the first."
END_TO_END = "Train the feature network along, from where `pretrain` left it."
SOURCES = "For one method that serves all: DATA@FILE of a feature network, or synthetic:N, divided by commas."
NPZ = "An .npz file of features (N, D) and labels (N), instead of data and backbone."
HOME = "Where the standard sets are. Default: $ONELOOK_DATA, or the user's cache folder."
CACHE = "Where features are kept. Default: $ONELOOK_CACHE, or the user's cache folder."
AVERAGE = "What else of an image goes into its feature: mirror, crops:N (at random), mirror+crops:N, or none."
AVERAGE_FROM = "Share of the steps, such as 0.8, after which the weights are averaged. Default: never."
TEACHER = "A network made by `onelook pretrain` on the same data, from which this one learns too."
PRECISION = "float32, bfloat16, or auto: bfloat16 where the processor has it."

Data = Annotated[str, typer.Option(help=DATA)]
Split = Annotated[str, typer.Option(help="train, val, test or all.")]
Out = Annotated[Path, typer.Option(help="Folder of this run. An interrupted run in it is taken up.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random follows from it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
Home = Annotated[Path | None, typer.Option(help=HOME)]
Cache = Annotated[Path | None, typer.Option(help=CACHE)]
Precision = Annotated[str, typer.Option(help=PRECISION)]
Average = Annotated[str, typer.Option(help=AVERAGE)]
ImageSize = Annotated[int | None, typer.Option(min=16, max=256, help="Pixels. Default: what is usual for the data.")]
Way = Annotated[int, typer.Option(min=2, help="Classes of a task.")]
Shot = Annotated[int, typer.Option(min=1, help="Labelled examples a class.")]
Tasks = Annotated[int, typer.Option(min=2)]
Trained = Annotated[Path, typer.Option(help=FINISHED)]
JsonFile = Annotated[Path | None, typer.Option("--json", help="File to write the result records to.")]
Query = Annotated[int, typer.Option(min=1, help="Queries a class, on average.")]


def numbers(text: str, option: str = "--shot") -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(f"{option} takes whole numbers divided by commas, but got {text!r}.") from error


def writable(folder: Path, file: Path | None = None) -> None:
    """Makes the folder. Raises, before hours of work and not after them, where their result could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise storage_error(file or folder, error) from error
    if file is not None and file.is_dir():
        raise SettingsError(f"{file} is a folder; give the name of a file in it.")


def place_of(cache: Path | None, home: Path | None, precision: str) -> Place:
    if precision not in ("auto", "float32", "bfloat16"):
        raise SettingsError(f"--precision is auto, float32 or bfloat16, but got {precision!r}.")
    place = Place(home=home) if cache is None else Place(cache, home)
    return place if precision == "auto" else Place(place.cache, home, precision)
