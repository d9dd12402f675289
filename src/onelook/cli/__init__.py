"""The command line: parse, call, print."""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from onelook import artifacts, html
from onelook.backbones import BACKBONES
from onelook.cli import console
from onelook.cli import practice as practice
from onelook.cli.benchmark import benchmark_app
from onelook.cli.console import run
from onelook.cli.labelling import doctor, label, suggest
from onelook.cli.options import (
    AVERAGE_FROM,
    END_TO_END,
    FINISHED,
    METHOD,
    NETWORK,
    SOURCES,
    TEACHER,
    Average,
    Cache,
    Data,
    Home,
    ImageSize,
    Json,
    Out,
    Precision,
    Query,
    Seed,
    Shot,
    Split,
    Way,
    place_of,
    writable,
)
from onelook.cli.predicting import predict
from onelook.data.datasets import BENCHMARKS, status
from onelook.data.fetch import fetch
from onelook.data.sampler import TaskSpec
from onelook.data.sources import open_data
from onelook.data.vectors import save_features
from onelook.data.verify import verify
from onelook.errors import DataError, SettingsError, unknown_name
from onelook.machine import keep_freed_memory
from onelook.methods import parameters_of
from onelook.train import jobs
from onelook.train.episodes import MetaTrainConfig
from onelook.train.loop import Optimisation
from onelook.train.mixed import MixedConfig
from onelook.train.pretraining import PretrainConfig
from onelook.train.recipes import parse_request

app = typer.Typer(
    help="Learn a new classification task from one labelled example per class and the unlabelled examples to classify.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Standard image sets: which there are, getting them, checking them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(benchmark_app, name="benchmark")
app.command()(label)
app.command()(predict)
app.command()(suggest)
app.command()(doctor)


@app.command()
def demo(out: Out = Path("runs/demo"), seed: Seed = 0, precision: Precision = "auto", as_json: Json = False) -> None:
    """Learn to learn on the built-in glyphs; a table and a page show what the unlabelled images were worth.

    Example: onelook demo --out runs/demo
    """
    module = _demo_module()
    writable(out)
    place = place_of(out / "cache", None, precision)
    report = run(module.demo(module.DemoConfig(seed=seed), out, place), "demo")
    console.print_records(report.records, as_json)
    if not as_json:
        print(f"\nThe page: {(out / 'report.html').resolve()}   ({report.facts['seconds']} s)")


def _demo_module() -> Any:
    # By name and not at the top: it needs the packages of the extra `demo`, and the other commands do not.
    html.engine()
    try:
        return importlib.import_module("onelook.experiments.demo")
    except ModuleNotFoundError as error:
        raise SettingsError(f'The demo needs the package {error.name}; pip install "onelook[demo]".') from error


@data_app.command("list")
def list_data(home: Home = None, as_json: Json = False) -> None:
    """The standard image sets, their sizes, and which of them are here.

    Example: onelook data list --home /data/few-shot
    """
    states = [status(name, home) for name in BENCHMARKS]
    if as_json:
        rows = [
            {
                "name": s.benchmark.name,
                "classes": s.classes,
                "images": s.images,
                "licence": s.benchmark.licence,
                "path": str(s.path) if s.path else None,
            }
            for s in states
        ]
        console.print_json(rows)
        return
    view = Table("name", "classes: train / val / test", "images", "where", "licence")
    view.add_row("glyphs", "built in", "", "rendered when used", "fonts of matplotlib")
    for s in states:
        counts = " / ".join(str(s.classes[split]) for split in ("train", "val", "test"))
        view.add_row(s.benchmark.name, counts, f"{s.images:,}", str(s.path or "–"), s.benchmark.licence)
    Console().print(view)


@data_app.command("fetch")
def fetch_data(
    name: str,
    source: Annotated[Path | None, typer.Option("--from", help="A folder that holds the original images.")] = None,
    home: Home = None,
) -> None:
    """Get a standard image set: from its official home, or from a folder that you have.

    Examples: onelook data fetch omniglot; onelook data fetch mini-imagenet --from /path/to/imagenet
    """
    print(run(fetch(name, home, source), f"fetching {name}"))


@data_app.command("verify")
def verify_data(name: str, home: Home = None, as_json: Json = False) -> None:
    """Count and check the images of a standard set.

    Example: onelook data verify cifar-fs
    """
    found = run(verify(name, home), f"verifying {name}")
    if as_json:
        console.print_json(
            {
                "name": name,
                "path": str(found.path),
                "classes": found.classes,
                "images": found.images,
                "problems": found.problems,
            }
        )
    elif not found.problems:
        print(f"{found.path}: {name} as published, {sum(found.images.values()):,} images")
    if found.problems:
        raise DataError(f"{found.path} differs from the published {name}: {' '.join(found.problems)}")


@app.command()
def pretrain(
    data: Data = "glyphs",
    backbone: Annotated[str, typer.Option(help=f"One of {', '.join(BACKBONES)}.")] = "conv4-64",
    out: Out = Path("runs/backbone"),
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    learning_rate: Annotated[float, typer.Option(help="Of SGD, at its highest.")] = 0.2,
    weight_decay: Annotated[float, typer.Option(min=0)] = 5e-4,
    rotation_weight: Annotated[float, typer.Option(min=0, help="Of the loss that tells turned images; 0: none.")] = 0.0,
    rotations: Annotated[int, typer.Option(min=1, max=3, help="Turned copies of an image; the paper has 3.")] = 1,
    mixup: Annotated[float, typer.Option(min=0, help="Alpha of manifold mixup; S2M2 has 2; 0: none.")] = 0.0,
    mixup_probability: Annotated[float, typer.Option(min=0, max=1, help="That a step is mixed.")] = 1.0,
    teacher: Annotated[Path | None, typer.Option(help=TEACHER)] = None,
    teacher_weight: Annotated[float, typer.Option(min=0, max=1, help="Of its answers; the rest: of the labels.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Divides the scores that are compared with the teacher's.")] = 4.0,
    average_from: Annotated[float | None, typer.Option(help=AVERAGE_FROM)] = None,
    image_size: ImageSize = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train a feature network: a cosine classifier over the training classes.

    Example: onelook pretrain --data cifar-fs --backbone conv4-64 --epochs 60 --out runs/cifar-fs
    """
    place = place_of(None, home, precision)
    writable(out)
    optimisation = Optimisation(learning_rate=learning_rate, weight_decay=weight_decay, average_from=average_from)
    config = PretrainConfig(
        epochs,
        batch_size,
        open_data(data).augmentation,
        optimisation,
        place.precision,
        rotation_weight,
        seed=seed,
        rotations=rotations,
        mixup=mixup,
        mixup_probability=mixup_probability,
        teacher_weight=teacher_weight,
        temperature=temperature,
    )
    path = run(jobs.pretrain(data, backbone, config, out, place, image_size, teacher), "pretraining")
    console.print_artifact(artifacts.load(path, "backbone"), path, as_json)


@app.command()
def train(
    data: Data = "glyphs",
    backbone: Annotated[str, typer.Option(help=NETWORK)] = "conv4-64",
    method: Annotated[str, typer.Option(help=METHOD)] = "sib",
    way: Way = 5,
    shot: Shot = 1,
    query: Query = 15,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: that of the recipe.")] = None,
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help=END_TO_END)] = False,
    tasks_per_step: Annotated[int | None, typer.Option(min=1, help="Where a feature network is trained.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam, at its highest, likewise.")] = None,
    average: Average = "none",
    sources: Annotated[str | None, typer.Option(help=SOURCES)] = None,
    variants: Annotated[int, typer.Option(min=0, help="Of the features of each of --sources.")] = 0,
    image_size: ImageSize = None,
    out: Out = Path("runs/method"),
    precision: Precision = "auto",
    seed: Seed = 0,
    home: Home = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Meta-train a method on tasks of the training classes.

    Examples: onelook train --data cifar-fs --backbone runs/cifar-fs/model.safetensors --method sib --out runs/sib;
    onelook train --data omniglot --backbone conv4-64 --method prototypical --way 60 --query 5 --out runs/omniglot
    """
    place = place_of(cache, home, precision)
    request = parse_request(method)
    spec = TaskSpec(way, shot, query, seed=seed)
    writable(out)
    if sources is not None:
        mixed = MixedConfig(steps or MixedConfig.n_steps, tasks_per_step or MixedConfig.tasks_per_step, seed=seed)
        job = jobs.meta_train_mixed(sources.split(","), request, mixed, out, place, variants, average)
        path = run(job, "training")
        console.print_artifact(artifacts.load(path, "method"), path, as_json)
        return
    along = end_to_end or (not request.file and "backbone" in parameters_of(request.name))
    if average != "none" and (along or backbone in BACKBONES):
        raise SettingsError(
            "A feature network that is trained along is trained on single images; give --average to "
            "`onelook benchmark`."
        )
    if backbone in BACKBONES:
        optimisation = Optimisation("adam", 2e-3 if learning_rate is None else learning_rate, weight_decay=0.0)
        config = MetaTrainConfig(steps or 6000, tasks_per_step or 1, spec, optimisation)
        job = jobs.pretrain_by_episodes(data, backbone, request, config, out, place, image_size)
        path = run(job, "training")
        console.print_artifact(artifacts.load(path, "backbone"), path, as_json)
        return
    if not Path(backbone).exists() and "/" not in backbone and not backbone.endswith(".safetensors"):
        raise unknown_name("feature network", backbone, BACKBONES)
    if along:
        config = jobs.end_to_end(spec, steps, tasks_per_step, learning_rate)
        job = jobs.meta_train_images(data, Path(backbone), request, config, out, place)
    else:
        job = jobs.meta_train(data, Path(backbone), request, spec, out, place, steps, average)
    path = run(job, "training")
    console.print_artifact(artifacts.load(path, "method"), path, as_json)


@app.command()
def embed(
    backbone: Annotated[Path, typer.Option(help=FINISHED)],
    out: Annotated[Path, typer.Option(help="The .npz file to write: features, labels, class_names, path.")],
    data: Data = "glyphs",
    split: Split = "test",
    average: Average = "none",
    precision: Precision = "auto",
    home: Home = None,
    cache: Cache = None,
) -> None:
    """Write the features of images to a file that numpy reads.

    Example: onelook embed --data FOLDER --split all --backbone runs/mine/model.safetensors --out features.npz
    """
    network, _ = artifacts.load_backbone(backbone)
    writable(out.parent, out)
    place = place_of(cache, home, precision)
    job = open_data(data, place.home).embed(split, network, place, average=average)
    embeddings = run(job, "embedding")
    save_features(embeddings, out)
    print(f"{out}: {len(embeddings.labels):,} images, {embeddings.feature_size} features")


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(help="Result files, or one model.")],
    markdown: Annotated[bool, typer.Option(help="The table as Markdown text.")] = False,
    as_json: Json = False,
) -> None:
    """Show results as a table, or say what a model is.

    Examples: onelook show results.json; onelook show runs/sib/model.safetensors
    """
    if files[0].suffix == ".safetensors":
        kind = artifacts.kind_of(files[0])
        console.print_artifact(artifacts.load(files[0], kind), files[0], as_json)
        return
    records = [record for file in files for record in artifacts.load_results(file)]
    if markdown:
        print(console.results_table(records))
    else:
        console.print_records(records, as_json)


def main() -> None:
    keep_freed_memory()
    sys.exit(console.exit_code(app))
