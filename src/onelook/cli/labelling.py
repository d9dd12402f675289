"""`onelook label`, `suggest`, `doctor` and `undo`: from a folder of images to labels."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from onelook import console, workflows
from onelook.cli.options import Cache, Json, Precision, place_of, writable
from onelook.console import run
from onelook.data.folders import list_folder
from onelook.doctor import examine
from onelook.errors import SettingsError
from onelook.outputs import carry_out, plan_folders, undo, write_coco, write_csv, write_label_studio
from onelook.suggest import expected_accuracy
from onelook.workflows import LabelConfig, Labelled, Place

FOLDER = "Images; those in sub-folders named like a class are the labelled examples, all others are to be labelled."
LABELS = "A CSV or Parquet file with the columns path and label, instead of sub-folders."
PATTERN = "Of file names with their label in them, such as '{label}_*', instead of sub-folders."
NETWORK = "Where features come from: onelook (comes along), a file of `onelook pretrain`, hf:NAME, or FILE.onnx."
PROPORTIONS = "How frequent the classes are among the images to label: unknown, balanced, or numbers (0.5/0.3/0.2)."
ALSO = "A folder that is a class although its name says otherwise, such as test. May be given again."
RATE = "The share of images of the known classes that may be set aside as unknown. 0: no image is."
SORT = "Also put the images into a folder for each label: copy, move or link. Shows what it would do, without --yes."
POLL = 2.0
"""Seconds between two looks at a folder that is watched."""

Folder = Annotated[Path, typer.Argument(help=FOLDER)]
Labels = Annotated[Path | None, typer.Option(help=LABELS)]
Pattern = Annotated[str | None, typer.Option(help=PATTERN)]
Network = Annotated[str, typer.Option(help=NETWORK)]
Also = Annotated[list[str] | None, typer.Option("--also-class", help=ALSO)]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing.")]


def label(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("onelook-labels"),
    labels: Labels = None, pattern: Pattern = None, also_class: Also = None,
    network: Network = "onelook", offline: Offline = False,
    proportions: Annotated[str, typer.Option(help=PROPORTIONS)] = "unknown",
    unknown_rate: Annotated[float, typer.Option(min=0, max=0.5, help=RATE)] = 0.0,
    sort: Annotated[str | None, typer.Option(help=SORT)] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do what --sort shows.")] = False,
    coco: Annotated[bool, typer.Option("--coco", help="Also write labels.coco.json.")] = False,
    label_studio: Annotated[bool, typer.Option("--label-studio", help="Also write label-studio.json.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    watch: Annotated[bool, typer.Option("--watch", help="Go on labelling files as they arrive, until Ctrl-C.")] = False,
    precision: Precision = "auto", cache: Cache = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Label the images of a folder, from a few labelled examples in sub-folders that are named like the classes.

    Example: onelook label photographs --out labels
    """
    place = place_of(cache, None, precision)
    writable(out)
    config = LabelConfig(folder, labels, pattern, tuple(also_class or ()), network, offline, proportions, unknown_rate)
    for done in _watched(config, place) if watch else [run(workflows.label_folder(config, place), "label")]:
        write_csv(out / "labels.csv", done.predictions)
        if coco:
            write_coco(out / "labels.coco.json", done.predictions, done.embeddings.class_names, folder)
        if label_studio:
            write_label_studio(out / "label-studio.json", done.predictions)
        if report:
            run(workflows.write_report(done, out / "report.html"), "report")
        _tell(done, out, as_json)
        if sort is not None:
            _sort(done, out / "images", sort, yes)


def _watched(config: LabelConfig, place: Place) -> Iterator[Labelled]:
    """What there is, and all of it again whenever a file came, left or changed; features are kept."""
    before: object = None
    while True:
        found = list_folder(config.folder, config.labels, config.pattern, also_classes=config.also_classes)
        state = [(name, _stamp(config.folder / name)) for name in found.listing.names]
        if state != before:
            before = state
            yield run(workflows.label_folder(config, place), "label")
        time.sleep(POLL)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # it left between the two looks
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _tell(done: Labelled, out: Path, as_json: bool) -> None:
    expected = done.classifier.estimate_accuracy()
    if as_json:
        console.print_json({
            "out": str(out), "n_labelled_examples": len(done.labelled), "n_images": len(done.to_label),
            "guard": done.classifier.guard_, "unreadable": [vars(one) for one in done.rejected],
            "expected_accuracy": expected.accuracy, "low": expected.low, "high": expected.high,
            "labels": [vars(one) for one in done.predictions],
        })  # fmt: skip
        return
    for name, n in Counter("unknown" if p.unknown else p.label for p in done.predictions).most_common():
        print(f"{n:>7,}  {name}")
    print(f"{done.classifier.guard_}\nExpected accuracy {100 * expected.accuracy:.0f} %, between "
          f"{100 * expected.low:.0f} and {100 * expected.high:.0f}.\nWritten: {out / 'labels.csv'}")  # fmt: skip


def _sort(done: Labelled, target: Path, mode: str, yes: bool) -> None:
    plan = plan_folders(done.predictions, target, mode, done.config.folder)
    if not yes:
        print("\n".join([*plan.words(), "Nothing was done; --yes does it, and `onelook undo` takes it back."]))
        return
    filed = run(carry_out(plan), "sorting")
    print(f"{filed.n_done:,} images sorted into {target}; onelook undo {filed.journal} takes it back.")
    for one in filed.failed:
        print(f"  {one.name}: {one.reason}")


def undo_sorting(journal: Annotated[Path, typer.Argument(help="Named by `onelook label --sort`.")]) -> None:
    """Take back what `onelook label --sort` did.

    Example: onelook undo .onelook-0123456789abcdef.jsonl
    """
    undone = run(undo(journal), "undo")
    print(f"{undone.n_undone:,} images are where they were.")
    for one in undone.kept:
        print(f"  {one.name} was left as it is: {one.reason}")


def suggest(
    folder: Folder,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Of images.")] = 10,
    labels: Labels = None, pattern: Pattern = None, also_class: Also = None,
    network: Network = "onelook", offline: Offline = False,
    precision: Precision = "auto", cache: Cache = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Which images to label next, and what accuracy to expect from them.

    Example: onelook suggest photographs -n 20
    """
    config = LabelConfig(folder, labels, pattern, tuple(also_class or ()), network, offline)
    done = run(workflows.label_folder(config, place_of(cache, None, precision)), "suggest")
    advice = workflows.suggest_next(done, number)
    now, then = (expected_accuracy(torch.from_numpy(done.probabilities).float(), len(done.labelled), n)
                 for n in (0, len(advice)))  # fmt: skip
    if as_json:
        console.print_json({"suggestions": [{"path": path, "why": why} for path, why in advice],
                            "expected_accuracy": vars(now), "expected_accuracy_then": vars(then)})  # fmt: skip
        return
    for path, why in advice:
        print(f"{path}: {why}")
    print(f"Expected accuracy now {now}; with these labelled {then}.")


def doctor(
    folder: Folder, labels: Labels = None, pattern: Pattern = None, also_class: Also = None, as_json: Json = False
) -> None:
    """What is wrong with a folder of images: unreadable files, duplicates, conflicting labels, odd folders.

    Example: onelook doctor photographs
    """
    if not folder.is_dir():
        raise SettingsError(f"There is no folder {folder}; give the one that holds the images.")
    found = list_folder(folder, labels, pattern, also_classes=tuple(also_class or ()))
    diagnosis = run(examine(found.listing), "doctor")
    if as_json:
        print(diagnosis.to_json())
        return
    print("\n".join([*found.words(), *(diagnosis.words() or ("Nothing is wrong with it.",))]))
