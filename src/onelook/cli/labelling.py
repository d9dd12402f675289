"""`onelook label`, `suggest` and `doctor`: from a folder of images to labels."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from onelook.cli import console
from onelook.cli.console import run
from onelook.cli.options import Cache, Json, Precision, place_of, writable
from onelook.cli.watching import watched
from onelook.errors import SettingsError, quote_name, unknown_name
from onelook.labelling.doctor import examine
from onelook.labelling.export import Prediction, write_coco, write_csv, write_label_studio
from onelook.labelling.folder import SORTED_FOLDER, list_folder, require_folder
from onelook.labelling.label import LabelConfig, Labelled, label_folder, save_classifier, suggest_next, write_report
from onelook.labelling.sort import MODES, Sorted, require_outside, sort_images

FOLDER = "Images; those in sub-folders named like a class are the labelled examples, all others are to be labelled."
LABELS = "A CSV or Parquet file with the columns path and label, instead of sub-folders."
PATTERN = "Of file names with their label in them, such as '{label}_*', instead of sub-folders."
NETWORK = (
    "Where features come from: onelook (comes along; the default), a file of `onelook pretrain`, hf:NAME, or FILE.onnx."
)
CLASS_PRIORS = "How frequent the classes are among the images to label: unknown, balanced, or numbers (0.5/0.3/0.2)."
ALSO = "A folder that is a class although its name says otherwise, such as test. May be given again."
RATE = "The share of images of the known classes that may be set aside as unknown. 0: no image is."
SORT = (
    "Also put a copy of each image, or a link to it, into a folder for its label: copy or link. Sorting again replaces "
    "what sorting made and leaves what you changed there."
)
SAVE = "Also keep the classifier in this file, for `onelook predict` and `FewShotClassifier.load`."
FEATURES = (
    "A file of features that are there already, of any network: .npz, .safetensors, .csv or .parquet, with names."
)

Folder = Annotated[Path, typer.Argument(help=FOLDER)]
Labels = Annotated[Path | None, typer.Option(help=LABELS)]
Pattern = Annotated[str | None, typer.Option(help=PATTERN)]
Network = Annotated[str | None, typer.Option(help=NETWORK)]
Features = Annotated[Path | None, typer.Option(help=FEATURES)]
Also = Annotated[list[str] | None, typer.Option("--also-class", help=ALSO)]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing.")]


def label(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("onelook-labels"),
    labels: Labels = None,
    pattern: Pattern = None,
    also_class: Also = None,
    network: Network = None,
    features: Features = None,
    offline: Offline = False,
    class_priors: Annotated[str, typer.Option(help=CLASS_PRIORS)] = "unknown",
    unknown_rate: Annotated[float, typer.Option(min=0, max=0.5, help=RATE)] = 0.0,
    sort: Annotated[str | None, typer.Option(help=SORT)] = None,
    coco: Annotated[bool, typer.Option("--coco", help="Also write labels.coco.json.")] = False,
    label_studio: Annotated[bool, typer.Option("--label-studio", help="Also write label-studio.json.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    save: Annotated[Path | None, typer.Option(help=SAVE)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on labelling files as they arrive, until Ctrl-C.")] = False,
    precision: Precision = "auto",
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Label the images of a folder, from a few labelled examples in sub-folders that are named like the classes.

    Example: onelook label photographs --out labels
    """
    if sort is not None and sort not in MODES:
        raise unknown_name("mode", sort, MODES)
    place = place_of(cache, None, precision)
    require_folder(folder)
    if sort is not None:
        require_outside(out / SORTED_FOLDER, [folder])
    writable(out)
    if save is not None:
        writable(save.parent, save)
    if watch and features is not None:
        raise SettingsError("--watch is for files that arrive, of which --features knows nothing; drop one of the two.")
    config = replace(
        _config(folder, labels, pattern, also_class, network, features, offline),
        class_priors=class_priors,
        unknown_rate=unknown_rate,
    )
    for done in watched(config, place) if watch else [run(label_folder(config, place), "label")]:
        write_csv(out / "labels.csv", done.predictions)
        if coco:
            _write_coco(done, out / "labels.coco.json")
        if label_studio:
            write_label_studio(out / "label-studio.json", done.predictions)
        if report:
            run(write_report(done, out / "report.html"), "report")
        if save is not None:
            save_classifier(done, save)
        sorting = None
        if sort is not None:
            sorting = run(sort_images(done.predictions, out / SORTED_FOLDER, sort, done.config.folder), "sorting")
        _tell(done, out, as_json, sorting)


def _config(
    folder: Path,
    labels: Path | None,
    pattern: str | None,
    also_class: list[str] | None,
    network: str | None,
    features: Path | None,
    offline: bool,
) -> LabelConfig:
    if network is not None and features is not None:
        raise SettingsError(
            "Features come from --network or from the file of --features, but both were given; drop one."
        )
    return LabelConfig(folder, labels, pattern, tuple(also_class or ()), network or "onelook", features, offline)


def _write_coco(done: Labelled, path: Path) -> None:
    left_out = write_coco(path, done.predictions, done.embeddings.class_names, done.config.folder)
    for one in left_out:  # it left or was damaged since its features were computed
        console.say(f"label: {quote_name(one.name)} is not in {path.name}: {one.reason}")


def _tell(done: Labelled, out: Path, as_json: bool, sorting: Sorted | None) -> None:
    if as_json:
        console.print_json(
            {
                "out": str(out),
                "n_labelled_examples": len(done.labelled),
                "n_images": len(done.to_label),
                "guard": done.classifier.guard_,
                "unreadable": [vars(one) for one in done.rejected],
                "labels": [vars(one) for one in done.predictions],
                "sorting": sorting and asdict(sorting),
            }
            | done.assessment.record()
        )
        return
    print_counts(done.predictions)
    print(
        "\n".join([done.classifier.guard_, *done.assessment.words(), f"Written: {quote_name(str(out / 'labels.csv'))}"])
    )
    if sorting is not None:
        print("\n".join(sorting.summary()))


def print_counts(predictions: Iterable[Prediction]) -> None:
    """How many images got each label."""
    for name, n in Counter("unknown" if p.unknown else p.label for p in predictions).most_common():
        print(f"{n:>7,}  {quote_name(name)}")


def suggest(
    folder: Folder,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Of images.")] = 10,
    labels: Labels = None,
    pattern: Pattern = None,
    also_class: Also = None,
    network: Network = None,
    features: Features = None,
    offline: Offline = False,
    precision: Precision = "auto",
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Which images to label next, and what accuracy to expect from them.

    Example: onelook suggest photographs -n 20
    """
    config = _config(folder, labels, pattern, also_class, network, features, offline)
    done = run(label_folder(config, place_of(cache, None, precision)), "suggest")
    advice = suggest_next(done, number)
    now, then = done.assessment.now, done.assessment.after(len(advice))
    if as_json:
        console.print_json(
            {
                "suggestions": [{"path": path, "why": why} for path, why in advice],
                "expected_accuracy": now.shares(),
                "expected_accuracy_then": then.shares(),
            }
        )
        return
    for path, why in advice:
        print(f"{quote_name(path)}: {why}")
    print(f"Expected accuracy now {now}; with these labelled {then}.")


def doctor(
    folder: Folder, labels: Labels = None, pattern: Pattern = None, also_class: Also = None, as_json: Json = False
) -> None:
    """What is wrong with a folder of images: unreadable files, duplicates, conflicting labels, odd folders.

    Example: onelook doctor photographs
    """
    found = list_folder(folder, labels, pattern, also_classes=tuple(also_class or ()))
    diagnosis = run(examine(found.listing), "doctor")
    if as_json:
        print(diagnosis.to_json())
        return
    print("\n".join([*found.words(), *(diagnosis.words() or ("Nothing is wrong with it.",))]))
