"""Predicted labels as CSV, COCO and Label Studio files."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from PIL import Image

from onelook.data.images import FORMATS, Rejected, reason_of
from onelook.data.tables import guard_cell, parse_path, path_cell, strip_guard
from onelook.errors import DataError
from onelook.files import write_atomically


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    path: str
    """As the listing names it, or absolute."""
    label: str
    """The most probable class, also where `unknown`."""
    probability: float
    runner_up: str = ""
    """The second most probable class; empty where there is one class only."""
    margin: float = 1.0
    """The probability less that of the runner-up."""
    unknown: bool = False
    """Whether the image seems to be of none of the classes."""


def write_csv(path: Path, predictions: Iterable[Prediction]) -> None:
    """A table in UTF-8 with a line of columns; `read_csv` gives the same predictions. Raises StorageError.

    No cell begins a formula: a label that would is written with a ' before it, a path with a ./ (which is the same
    path). A path that is not UTF-8 is written as a `file:` address; in a label what is not UTF-8 becomes �. Line
    breaks are kept, in quotes.
    """
    write_atomically(path, csv_text(predictions).encode())


def csv_text(predictions: Iterable[Prediction]) -> str:
    """What `write_csv` writes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for one in predictions:
        numbers = float(one.probability), float(one.margin)
        label, runner_up = (_utf8(guard_cell(name)) for name in (one.label, one.runner_up))
        writer.writerow([path_cell(one.path), label, numbers[0], runner_up, numbers[1], str(one.unknown).lower()])
    return text.getvalue()


COLUMNS = [field.name for field in dataclasses.fields(Prediction)]


def _utf8(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "replace") if any("\ud800" <= c <= "\udfff" for c in text) else text


def read_csv(path: Path) -> tuple[Prediction, ...]:
    """What `write_csv` wrote. Raises DataError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return tuple(
            Prediction(
                parse_path(row["path"]),
                strip_guard(row["label"]),
                float(row["probability"]),
                strip_guard(row["runner_up"]),
                float(row["margin"]),
                row["unknown"] == "true",
            )
            for row in rows
        )
    except (OSError, csv.Error, UnicodeDecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a table of predictions ({reason_of(error)}); write it again.") from error


def write_coco(
    path: Path, predictions: Iterable[Prediction], class_names: Sequence[str], root: Path = Path()
) -> tuple[Rejected, ...]:
    """A COCO data set (cocodataset.org, "Data format"): one annotation of the whole image, with its score.

    root: what the paths are relative to; the size of each image is read there. An unknown image has no annotation.
    Returns the images that were left out because they cannot be opened. Raises StorageError.
    """
    number = {name: k for k, name in enumerate(class_names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rejected = []
    for one in predictions:
        try:
            with Image.open(root / one.path, formats=FORMATS) as image:
                width, height = image.size
        except Exception as error:  # what Pillow raises on damaged bytes has no common base
            rejected.append(Rejected(one.path, reason_of(error)))
            continue
        images.append({"id": len(images) + 1, "file_name": one.path, "width": width, "height": height})
        if not one.unknown:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": number[one.label],
                    "bbox": [0, 0, width, height],
                    "area": width * height,
                    "segmentation": [],
                    "iscrowd": 0,
                    "score": float(one.probability),
                }
            )
    categories = [{"id": k, "name": name, "supercategory": ""} for name, k in number.items()]
    content = {
        "info": {"description": "Labels predicted by Onelook"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    write_atomically(path, _json(content))
    return tuple(rejected)


LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names a file below its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""


def write_label_studio(
    path: Path, predictions: Iterable[Prediction], address: str = LOCAL_FILES, version: str = "onelook"
) -> None:
    """Tasks with predictions to import into Label Studio (labelstud.io/guide/predictions), for `label_studio_config`.

    address: what stands before each path to make an address of it. An unknown image is a task without a prediction.
    Raises StorageError.
    """
    tasks = []
    for one in predictions:
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [one.label]}}
        score = float(one.probability)
        said = [] if one.unknown else [{"model_version": version, "score": score, "result": [result]}]
        tasks.append({"data": {"image": address + quote(os.fsencode(one.path))}, "predictions": said})
    write_atomically(path, _json(tasks))


def label_studio_config(class_names: Iterable[str]) -> str:
    """The labelling interface that the predictions fit."""
    choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in class_names)
    return (
        '<View><Image name="image" value="$image"/>'
        f'<Choices name="label" toName="image" choice="single">{choices}</Choices></View>'
    )


def _json(content: Any) -> bytes:
    """In ASCII, so that names that are not UTF-8 survive."""
    return (json.dumps(content, indent=1) + "\n").encode()
