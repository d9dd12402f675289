"""`onelook predict`: new images by a classifier that `onelook label` kept."""

from pathlib import Path
from typing import Annotated

import typer

from onelook.cli import console
from onelook.cli.console import run
from onelook.cli.labelling import RATE, Offline, print_counts
from onelook.cli.options import Cache, Json, Precision, place_of, writable
from onelook.errors import quote_name
from onelook.labelling.export import csv_text, write_csv
from onelook.labelling.predict import PredictConfig, predict_images

CLASSIFIER = "A file of `onelook label --save`."
IMAGES = "A folder, of which all images are meant, whatever its sub-folders are called; or several images and folders."
OUT = "The CSV file to write, such as labels.csv. Default: standard output."
NETWORK = "Where the feature network lies that the classifier was made with, if no longer where it lay."


def predict(
    classifier: Annotated[Path, typer.Argument(help=CLASSIFIER)],
    images: Annotated[list[Path], typer.Argument(help=IMAGES)],
    out: Annotated[Path | None, typer.Option(help=OUT)] = None,
    unknown_rate: Annotated[float, typer.Option(min=0, max=0.5, help=RATE)] = 0.0,
    network: Annotated[str | None, typer.Option(help=NETWORK)] = None,
    offline: Offline = False,
    precision: Precision = "auto",
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Label new images by a classifier that was kept, each image by itself.

    Example: onelook predict model.safetensors new-photographs --out labels.csv
    """
    place = place_of(cache, None, precision)
    if out is not None:
        writable(out.parent, out)
    config = PredictConfig(classifier, tuple(images), unknown_rate, network, offline)
    done = run(predict_images(config, place), "predict")
    if out is not None:
        write_csv(out, done.predictions)
    if as_json:
        console.print_json(
            {
                "out": out and str(out),
                "n_images": len(done.predictions),
                "unreadable": [vars(one) for one in done.rejected],
                "labels": [vars(one) for one in done.predictions],
            }
        )
    elif out is None:
        print(csv_text(done.predictions), end="")
    else:
        print_counts(done.predictions)
        print(f"Written: {quote_name(str(out))}")
