"""`onelook label`, `predict`, `suggest` and `doctor`: from a folder of images to labels."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from onelook.cli.clustering import label_by_ray
from onelook.cli.console import print_json, run
from onelook.cli.options import Fields, Json, options
from onelook.cli.terminal import open_page, say, write, write_data
from onelook.cli.watching import watch_folder
from onelook.cluster.session import Cluster
from onelook.errors import PositiveInt, SettingsError, quote_name, unknown_name
from onelook.files import Output, is_regular
from onelook.labelling.answer_log import LOG_NAME, LOG_SUFFIX
from onelook.labelling.doctor import examine
from onelook.labelling.export import Prediction, csv_text, require_no_answers, write_coco, write_csv, write_label_studio
from onelook.labelling.folder import SORTED_FOLDER, require_folder
from onelook.labelling.label import LabelConfig, Labelled, label_folder, list_images, save_classifier, suggest_images
from onelook.labelling.predict import PredictConfig, Predicted, predict_images
from onelook.labelling.report import write_report
from onelook.labelling.sort import MODES, Sorted, require_outside, sort_images
from onelook.machine import Place

LISTED = ("folder", "labels", "pattern", "also_classes", "not_classes")
"""Fields that say which images there are and how they are labelled."""
SORT = (
    "Also put a copy of each image, or a link to it, into a folder for its label: copy or link. Sorting again replaces "
    "what sorting made and leaves what you changed there."
)
WRITTEN = Output(
    (
        ("labels.csv", ""),
        ("report.html", "report"),
        ("labels.coco.json", "coco"),
        ("label-studio.json", "label_studio"),
        ("label-studio.xml", "label_studio"),
    )
)
Folder = Annotated[LabelConfig, Fields(without=("answers",), arguments=("folder",))]
Reviewed = Annotated[bool, "Use the answers of `onelook review`, of the folder of --out or of onelook-labels."]
RUN = Path("onelook-labels")
"""Folder of what is written, unless another is named."""
Storage = Annotated[Place, Fields(without=("home",))]


@options
def label(
    config: Folder,
    place: Storage,
    cluster: Cluster,
    *,
    out: Annotated[Path, "Folder of what is written.", WRITTEN] = RUN,
    sort: Annotated[str | None, SORT] = None,
    coco: Annotated[bool, "Also write labels.coco.json."] = False,
    label_studio: Annotated[bool, "Also write label-studio.json and .xml."] = False,
    report: Annotated[bool, "Write report.html."] = True,
    save: Annotated[Path | None, "File to save the classifier to, for `onelook predict`.", Output()] = None,
    watch: Annotated[bool, "Go on labelling files as they arrive, until Ctrl-C."] = False,
    show: Annotated[bool, Parameter(name="--open", help="Open report.html in the browser.", negative=())] = False,
    reviewed: Reviewed = True,
    as_json: Json = False,
) -> None:
    """Label the images of a folder, from a few labelled examples in its sub-folders.

    Example: onelook label photographs --out labels
    """
    if cluster.ray is not None:
        refused = {"--sort": sort, "--coco": coco, "--label-studio": label_studio, "--save": save, "--watch": watch}
        config = _with_answers(config, reviewed, out)
        label_by_ray(config, place, cluster, out, refused | {"--open": show}, as_json)
        return
    if sort is not None and sort not in MODES:
        raise unknown_name("mode", sort, MODES)
    if watch and config.features is not None:
        raise SettingsError("--watch is for files that arrive, of which --features knows nothing; drop one of the two.")
    if show and not report:
        raise SettingsError("--open opens the page that --no-report leaves out; drop one of the two.")
    require_folder(config.folder)
    if sort is not None:
        require_outside(out / SORTED_FOLDER, [config.folder])
    require_no_answers(out / "labels.csv")
    config = _with_answers(config, reviewed, out)
    for done in watch_folder(config, place) if watch else [run(label_folder(config, place), "label")]:
        page = out / "report.html" if report else None
        written = [*_write_page(done, page), *_write_tables(done, out, coco, label_studio)]
        if save is not None:
            save_classifier(done, save)
            written.append(save)
        sorting = None
        if sort is not None:
            sorting = run(sort_images(done.predictions, out / SORTED_FOLDER, sort, config.folder), "sorting")
        _report(done, out, as_json, written, sorting)
        if show and page in written:
            open_page(page)
            show = False  # once, also with --watch


def _with_answers(config: LabelConfig, reviewed: bool, *folders: Path) -> LabelConfig:
    """The configuration with the answers of a review, unless its labels name one already."""
    is_named = any(table.suffix == LOG_SUFFIX for table in config.labels)
    return replace(config, answers=None if is_named else _find_answers(reviewed, *folders))


def _find_answers(reviewed: bool, *folders: Path) -> Path | None:
    files = [folder / LOG_NAME for folder in (*folders, RUN)] if reviewed else []
    return next(filter(is_regular, files), None)


def _write_page(done: Labelled, page: Path | None) -> list[Path]:
    return [page] if page is not None and run(write_report(done, page), "report") else []


def _write_tables(done: Labelled, out: Path, coco: bool, label_studio: bool) -> list[Path]:
    write_csv(out / "labels.csv", done.predictions)
    written = [out / "labels.csv"]
    if coco:
        written.append(out / "labels.coco.json")
        _write_coco(done, written[-1])
    if label_studio:
        written += [out / "label-studio.json", out / "label-studio.xml"]
        write_label_studio(written[-2], done.predictions, done.embeddings.class_names)
    return written


def _write_coco(done: Labelled, path: Path) -> None:
    for one in write_coco(path, done.predictions, done.embeddings.class_names, done.config.folder):
        say(f"label: {quote_name(one.name)} is not in {path.name}: {one.reason}")  # damaged or gone since it was read


def _report(done: Labelled, out: Path, as_json: bool, written: list[Path], sorting: Sorted | None) -> None:
    guard = done.classifier.guard_
    if as_json:
        about = {"n_labelled_examples": len(done.labelled), "guard": guard, "sorting": sorting and asdict(sorting)}
        about |= {"network": done.choice and asdict(done.choice), "advice": done.advice or None}
        about["written"] = list(map(str, written))
        about |= {"passed_over": {one.kind.name: one.names for one in done.found.passed}}
        print_json(_make_record(done, out) | about | done.assessment.record())
        return
    _print_counts(done.predictions)
    lines = [guard, *done.assessment.summary(), *([done.advice] if done.advice else [])]
    if n := sum(one.is_undecided for one in done.predictions):
        are = "1 image is" if n == 1 else f"{n:,} images are"
        lines.append(f"{are} undecided, and counted here by the best guess, which labels.csv has.")
    lines += [f"Written: {quote_name(str(file))}" for file in written]
    write(*lines, *(sorting.summary() if sorting is not None else ()))


def _make_record(done: Labelled | Predicted, out: Path | None) -> dict[str, Any]:
    return {
        "out": out and str(out),
        "n_images": len(done.predictions),
        "n_undecided": sum(one.is_undecided for one in done.predictions),
        "unreadable": [vars(one) for one in done.rejected],
        "labels": [vars(one) for one in done.predictions],
    }


def _print_counts(predictions: Iterable[Prediction]) -> None:
    """Print how many images got each label."""
    for name, n in Counter("unknown" if p.unknown else p.label or "undecided" for p in predictions).most_common():
        write(f"{n:>7,}  {quote_name(name)}")


@options
def predict(
    config: Annotated[PredictConfig, Fields(without=("answers",), arguments=("classifier", "images"))],
    place: Storage,
    *,
    out: Annotated[Path | None, "CSV file to write, such as labels.csv. Default: standard output.", Output()] = None,
    reviewed: Reviewed = True,
    as_json: Json = False,
) -> None:
    """Label new images by a saved classifier, each image by itself.

    Example: onelook predict model.safetensors new-photographs --out labels.csv
    """
    if out is not None:
        require_no_answers(out)
    answers = _find_answers(reviewed, *([out.parent] if out is not None else []))
    done = run(predict_images(replace(config, answers=answers), place), "predict")
    if out is not None:
        write_csv(out, done.predictions)
    if as_json:
        print_json(_make_record(done, out))
    elif out is None:
        write_data(csv_text(done.predictions))
    else:
        _print_counts(done.predictions)
        write(f"Written: {quote_name(str(out))}")


@options
def suggest(
    config: Folder,
    place: Storage,
    *,
    number: Annotated[PositiveInt, Parameter(name=("--number", "-n"), help="Number of images.")] = 10,
    reviewed: Annotated[bool, "Use the answers of `onelook review` in onelook-labels."] = True,
    as_json: Json = False,
) -> None:
    """Suggest which images to label next, with the accuracy to expect from them.

    Example: onelook suggest photographs -n 20
    """
    done = run(label_folder(_with_answers(config, reviewed), place), "suggest")
    found = suggest_images(done, number)
    advice = [(done.predictions[one.index].path, one.why) for one in found.suggestions]
    now, then = done.assessment.estimate.accuracy, done.assessment.after(len(advice))
    if as_json:
        print_json(
            {
                "suggestions": [{"path": path, "why": why} for path, why in advice],
                "passed_over": [vars(one) for one in found.junk],
                "expected_accuracy": asdict(now),
                "expected_accuracy_then": asdict(then),
            }
        )
        return
    for path, why in advice:
        write(f"{quote_name(path)}: {why}")
    for one in found.junk:
        say(f"suggest: {quote_name(one.name)} was passed over: {one.reason}.")
    write(f"Expected accuracy now {now}; with these labelled {then}.")


@options
def doctor(
    config: Annotated[LabelConfig, Fields(LISTED, arguments=("folder",))],
    *,
    strict: Annotated[bool, "Exit with code 1 where anything was found."] = False,
    as_json: Json = False,
) -> int:
    """Find unreadable files, duplicates, conflicting labels and odd folders.

    Example: onelook doctor photographs --strict
    """
    found = list_images(config)
    diagnosis = run(examine(found.listing, found.passed), "doctor")
    if as_json:
        write_data(diagnosis.to_json() + "\n")
    else:
        listed = replace(found, passed=()).messages()  # the diagnosis names them
        write(*listed, *(diagnosis.messages() or ("Nothing is wrong with it.",)))
    passed_over = [one for one in found.skipped if not one.name.endswith(SORTED_FOLDER)]
    return int(strict and bool(passed_over or diagnosis.messages()))
