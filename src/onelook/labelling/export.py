"""Predicted labels as CSV, COCO and Label Studio files."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from onelook.data.confirmed import CONFIRMED
from onelook.data.images import Rejected, describe_error
from onelook.data.listing import LARGEST
from onelook.data.opening import open_image
from onelook.data.tables import count_answers, guard_cell, path_cell
from onelook.errors import DataError, plural
from onelook.files import read_regular, write_atomically


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    path: str
    """Name of the image in its listing, or an absolute path."""
    label: str
    """The most probable class, also where `unknown`; empty where it is less probable than was asked for."""
    probability: float
    runner_up: str = ""
    """The second most probable class; empty where there is one class only."""
    margin: float = 1.0
    """Difference between the probability and that of the runner-up."""
    unknown: bool = False
    """Whether the image seems to be of none of the classes."""
    best_guess: str = ""
    """The most probable class. Default: the label."""

    def __post_init__(self) -> None:
        if not self.best_guess:
            object.__setattr__(self, "best_guess", self.label)

    @property
    def is_undecided(self) -> bool:
        """Whether the image has no label, because none is sure enough."""
        return not self.label


def write_csv(path: Path, predictions: Iterable[Prediction]) -> None:
    """A table in UTF-8 with a line of columns and, for a person to write yes in, an empty column `confirmed`.

    `onelook label --labels` reads the rows that were confirmed; a table with such rows, or with labels that a person
    corrected, is not replaced. No cell begins a formula: a label that would is written with a ' before it, a path with
    a ./ (which is the same path). A path that is not UTF-8 is written as a `file:` address; in a label what is not
    UTF-8 becomes �. Raises DataError, StorageError.
    """
    require_no_answers(path)
    write_atomically(path, csv_text(predictions).encode())


def csv_text(predictions: Iterable[Prediction], confirmed: Collection[str] = ()) -> str:
    """The text of the table of `write_csv`, with yes in the column `confirmed` of these paths."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([*(field.name for field in dataclasses.fields(Prediction)), CONFIRMED])
    for one in predictions:
        label, runner_up, guess = (_utf8(guard_cell(x)) for x in (one.label, one.runner_up, one.best_guess))
        numbers = (float(one.probability), runner_up, float(one.margin))
        answer = "yes" if one.path in confirmed else ""
        writer.writerow([path_cell(one.path), label, *numbers, str(one.unknown).lower(), guess, answer])
    return text.getvalue()


def require_no_answers(path: Path) -> None:
    """Raise DataError where a table of `write_csv` holds rows that a person confirmed or corrected since."""
    if n_rows := count_answers(path):
        raise DataError(
            f"{path} holds {plural(n_rows, 'row')} that a person confirmed or corrected; give it to --labels with "
            f"another --out, or move it."
        )


def _utf8(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "replace") if any("\ud800" <= c <= "\udfff" for c in text) else text


def write_coco(
    path: Path, predictions: Iterable[Prediction], class_names: Sequence[str], root: Path = Path()
) -> tuple[Rejected, ...]:
    """A COCO data set (cocodataset.org, "Data format"): one annotation of the whole image, with its score.

    root: what the paths are relative to; the size of each image is read there. An unknown or undecided image has no
    annotation.
    Returns the images that were left out because they cannot be opened. Raises StorageError.
    """
    number = {name: k for k, name in enumerate(class_names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rejected = []
    for one in predictions:
        try:
            with open_image(read_regular(root / one.path, LARGEST)) as picture:
                width, height = picture.size
        except Exception as error:  # what Pillow raises on damaged bytes has no common base
            rejected.append(Rejected(one.path, describe_error(error)))
            continue
        images.append({"id": len(images) + 1, "file_name": one.path, "width": width, "height": height})
        if one.label and not one.unknown:
            box = {"bbox": [0, 0, width, height], "area": width * height, "segmentation": [], "iscrowd": 0}
            about = {"id": len(annotations) + 1, "image_id": len(images), "category_id": number[one.label]}
            annotations.append(about | box | {"score": float(one.probability)})
    content = {
        "info": {"description": "Labels predicted by Onelook"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name, "supercategory": ""} for name, k in number.items()],
    }
    write_atomically(path, _to_json(content))
    return tuple(rejected)


LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio names a file below its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""


def write_label_studio(
    path: Path, predictions: Iterable[Prediction], class_names: Iterable[str], address: str = LOCAL_FILES
) -> None:
    """Tasks with predictions to import into Label Studio (labelstud.io/guide/predictions), and its labelling interface.

    The interface is written beside the tasks, as .xml; without it Label Studio would refuse the predictions.
    address: what stands before each path to make an address of it. An image that is unknown or
    undecided is a task without a prediction.
    Raises StorageError.
    """
    tasks = []
    for one in predictions:
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [one.label]}}
        answer = {"model_version": "onelook", "score": float(one.probability), "result": [result]}
        image = address + quote(os.fsencode(one.path))
        task = {"data": {"image": image}, "meta": {"labelled_by": "Onelook"}}
        tasks.append(task | {"predictions": [answer] if one.label and not one.unknown else []})
    write_atomically(path, _to_json(tasks))
    choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in class_names)
    interface = (
        '<!-- Onelook --><View><Image name="image" value="$image"/>'
        f'<Choices name="label" toName="image" choice="single">{choices}</Choices></View>\n'
    )
    write_atomically(path.with_suffix(".xml"), interface.encode("utf-8", "xmlcharrefreplace"))


def _to_json(content: Any) -> bytes:
    """JSON in ASCII, so that names that are not UTF-8 survive."""
    return (json.dumps(content, indent=1) + "\n").encode()
