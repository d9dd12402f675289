"""The command line: parse, call, print."""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from onelook import artifacts, console, workflows
from onelook.backbones import BACKBONES
from onelook.console import run
from onelook.data.benchmarks import BENCHMARKS, status
from onelook.data.fetch import fetch
from onelook.data.sampler import TaskSpec
from onelook.data.sources import augmentation_of
from onelook.data.verify import verify
from onelook.errors import DataError, SettingsError, unknown_name
from onelook.experiments.table import ROWS, TableConfig, markdown, table
from onelook.files import storage_error
from onelook.memory import keep_freed_memory
from onelook.methods import METHODS, parameters_of
from onelook.train import MetaTrainConfig, Optimisation, PretrainConfig
from onelook.train.recipes import parse_request
from onelook.workflows import Comparison, Place

if TYPE_CHECKING:
    from typer import Context
else:
    Context = typer.Context.__base__  # what typer gives, which is none of its own kind

app = typer.Typer(
    help="Learn a new classification task from one labelled example per class and the unlabelled examples to classify.",
    no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False,
)  # fmt: skip
data_app = typer.Typer(help="Standard image sets: which there are, getting them, checking them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
benchmark_app = typer.Typer(invoke_without_command=True)
app.add_typer(benchmark_app, name="benchmark")

DATA = "glyphs, the name of a standard set (`onelook data list`), or a folder, zip or CSV."
FINISHED = "A feature network made by `onelook pretrain`."
NETWORK = "A feature network made by `onelook pretrain`; or the name of a new one, trained along by episodes."
METHOD = f"One of {', '.join(METHODS)}; with settings: sib:n_steps=5:recipe=published."
SEVERAL = "Names with settings, or files of trained methods, divided by commas. Differences are to the first."
END_TO_END = "Train the feature network along, from where `pretrain` left it."
ROWS_FOLDER = "Folder of the rows. Those that are done in it are not made again."
PAPER = Path("runs/paper")
NPZ = "An .npz file of features (N, D) and labels (N), instead of data and backbone."
HOME = "Where the standard sets are. Default: $ONELOOK_DATA, or the user's cache folder."
CACHE = "Where features are kept. Default: $ONELOOK_CACHE, or the user's cache folder."
PRECISION = "float32, bfloat16, or auto: bfloat16 where the processor has it."

Data = Annotated[str, typer.Option(help=DATA)]
Split = Annotated[str, typer.Option(help="train, val, test or all.")]
Out = Annotated[Path, typer.Option(help="Folder of this run. An interrupted run in it is taken up.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random follows from it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
Home = Annotated[Path | None, typer.Option(help=HOME)]
Cache = Annotated[Path | None, typer.Option(help=CACHE)]
Precision = Annotated[str, typer.Option(help=PRECISION)]
ImageSize = Annotated[int | None, typer.Option(min=16, max=256, help="Pixels. Default: what is usual for the data.")]
Way = Annotated[int, typer.Option(min=2, help="Classes of a task.")]
Shot = Annotated[int, typer.Option(min=1, help="Labelled examples a class.")]
Query = Annotated[int, typer.Option(min=1, help="Queries a class, on average.")]


@app.command()
def demo(out: Out = Path("runs/demo"), seed: Seed = 0, precision: Precision = "auto", as_json: Json = False) -> None:
    """Learn to learn on the built-in glyphs; a table and a page show what the unlabelled images were worth.

    Example: onelook demo --out runs/demo
    """
    module = _demo_module()
    _writable(out)
    place = _place(out / "cache", None, precision)
    report = run(module.demo(module.DemoConfig(seed=seed), out, place), "demo")
    console.print_records(report.records, as_json)
    if not as_json:
        print(f"\nThe page: {(out / 'report.html').resolve()}   ({report.facts['seconds']} s)")


def _demo_module() -> Any:
    # By name and not at the top: it needs the packages of the extra `demo`, and the other commands do not.
    try:
        return importlib.import_module("onelook.demo")
    except ModuleNotFoundError as error:
        raise SettingsError(f'The demo needs the package {error.name}; pip install "onelook[demo]".') from error


@data_app.command("list")
def list_data(home: Home = None, as_json: Json = False) -> None:
    """The standard image sets, their sizes, and which of them are here.

    Example: onelook data list --home /data/few-shot
    """
    states = [status(name, home) for name in BENCHMARKS]
    if as_json:
        rows = [{"name": s.benchmark.name, "classes": s.classes, "images": s.images, "licence": s.benchmark.licence,
                 "path": str(s.path) if s.path else None} for s in states]  # fmt: skip
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
        console.print_json({"name": name, "path": str(found.path), "classes": found.classes, "images": found.images,
                            "problems": found.problems})  # fmt: skip
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
    image_size: ImageSize = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train a feature network: a cosine classifier over the training classes.

    Example: onelook pretrain --data cifar-fs --backbone conv4-64 --epochs 60 --out runs/cifar-fs
    """
    place = _place(None, home, precision)
    _writable(out)
    config = PretrainConfig(
        epochs, batch_size, augmentation_of(data), Optimisation(learning_rate=learning_rate, weight_decay=weight_decay),
        place.precision, rotation_weight, seed=seed, rotations=rotations,
    )  # fmt: skip
    path = run(workflows.pretrain(data, backbone, config, out, place, image_size), "pretraining")
    console.print_artifact(artifacts.load(path, "backbone"), path, as_json)


@app.command()
def train(
    data: Data = "glyphs",
    backbone: Annotated[str, typer.Option(help=NETWORK)] = "conv4-64",
    method: Annotated[str, typer.Option(help=METHOD)] = "sib",
    way: Way = 5, shot: Shot = 1, query: Query = 15,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: that of the recipe.")] = None,
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help=END_TO_END)] = False,
    tasks_per_step: Annotated[int | None, typer.Option(min=1, help="Where a feature network is trained.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam, at its highest, likewise.")] = None,
    image_size: ImageSize = None,
    out: Out = Path("runs/method"),
    precision: Precision = "auto", seed: Seed = 0, home: Home = None, cache: Cache = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Meta-train a method on tasks of the training classes.

    Examples: onelook train --data cifar-fs --backbone runs/cifar-fs/model.safetensors --method sib --out runs/sib;
    onelook train --data omniglot --backbone conv4-64 --method prototypical --way 60 --query 5 --out runs/omniglot
    """
    place = _place(cache, home, precision)
    request = parse_request(method)
    spec = TaskSpec(way, shot, query, seed=seed)
    _writable(out)
    if backbone in BACKBONES:
        optimisation = Optimisation("adam", 2e-3 if learning_rate is None else learning_rate, weight_decay=0.0)
        config = MetaTrainConfig(steps or 6000, tasks_per_step or 1, spec, optimisation)
        job = workflows.pretrain_by_episodes(data, backbone, request, config, out, place, image_size)
        path = run(job, "training")
        console.print_artifact(artifacts.load(path, "backbone"), path, as_json)
        return
    if not Path(backbone).exists() and "/" not in backbone and not backbone.endswith(".safetensors"):
        raise unknown_name("feature network", backbone, BACKBONES)
    if end_to_end or (not request.file and "backbone" in parameters_of(request.name)):
        config = workflows.end_to_end(spec, steps, tasks_per_step, learning_rate)
        job = workflows.meta_train_images(data, Path(backbone), request, config, out, place)
    else:
        job = workflows.meta_train(data, Path(backbone), request, spec, out, place, steps)
    path = run(job, "training")
    console.print_artifact(artifacts.load(path, "method"), path, as_json)


@app.command()
def embed(
    backbone: Annotated[Path, typer.Option(help=FINISHED)],
    out: Annotated[Path, typer.Option(help="The .npz file to write: features, labels, class_names.")],
    data: Data = "glyphs",
    split: Split = "test",
    precision: Precision = "auto", home: Home = None, cache: Cache = None,
) -> None:  # fmt: skip
    """Write the features of images to a file that numpy reads.

    Example: onelook embed --data FOLDER --split all --backbone runs/mine/model.safetensors --out features.npz
    """
    network, _ = artifacts.load_backbone(backbone)
    _writable(out.parent, out)
    embeddings = run(workflows.features(data, split, network, _place(cache, home, precision)), "embedding")
    workflows.save_features(embeddings, out)
    print(f"{out}: {len(embeddings.labels):,} images, {embeddings.feature_size} features")


@benchmark_app.callback()
def benchmark(
    context: Context,
    methods: Annotated[str, typer.Option(help=SEVERAL)] = "feature-averaging,sib,prototypical",
    data: Data = "glyphs",
    split: Split = "test",
    backbone: Annotated[Path | None, typer.Option(help=FINISHED)] = None,
    embeddings: Annotated[Path | None, typer.Option(help=NPZ)] = None,
    train_embeddings: Annotated[Path | None, typer.Option(help="The same of other classes, to learn from.")] = None,
    way: Way = 5,
    shot: Annotated[str, typer.Option(help="One or more numbers, divided by commas.")] = "1,5",
    query: Query = 15,
    tasks: Annotated[int, typer.Option(min=2)] = 2000,
    protocol: Annotated[str, typer.Option(help="balanced, dirichlet:A, or several with commas.")] = "balanced",
    seed: Seed = 0,
    json: Annotated[Path | None, typer.Option("--json", help="File to write the result records to.")] = None,
    precision: Precision = "auto", home: Home = None, cache: Cache = None,
) -> None:  # fmt: skip
    """Compare methods on the same tasks. Those that learn are trained on the training classes first.

    Example: onelook benchmark --data cifar-fs --backbone runs/cifar-fs/model.safetensors
    --methods feature-averaging,sib --shot 1,5 --tasks 2000 --json results.json
    """
    if context.invoked_subcommand is not None:
        _nothing_before(context, context.invoked_subcommand)
        return
    requests = tuple(parse_request(text.strip()) for text in methods.split(","))
    specs = tuple(TaskSpec(way, n, query, p.strip(), seed) for p in protocol.split(",") for n in _numbers(shot))
    comparison = Comparison(requests, specs, tasks)
    place = _place(cache, home, precision)
    if json is not None:
        _writable(json.parent, json)
    if embeddings is not None:
        job = workflows.benchmark_embeddings(comparison, embeddings, train_embeddings, place)
    elif backbone is not None:
        job = workflows.benchmark(comparison, data, split, backbone, place)
    else:
        raise SettingsError("A comparison needs features: give --backbone FILE with --data, or --embeddings FILE.")
    records = run(job, "benchmark")
    if json is not None:
        artifacts.save_results(records, json)
    console.print_records(records, as_json=False)


@benchmark_app.command("paper")
def benchmark_paper(
    backbone: Annotated[Path, typer.Option(help=FINISHED)],
    rotation_backbone: Annotated[Path | None, typer.Option(help="The same with --rotation-weight.")] = None,
    data: Data = "cifar-fs",
    split: Split = "test",
    rows: Annotated[str, typer.Option(help=f"Some of {', '.join(ROWS)}.")] = ",".join(ROWS),
    tasks: Annotated[int, typer.Option(min=2)] = 2000,
    out: Annotated[Path, typer.Option(help=ROWS_FOLDER)] = PAPER,
    seed: Seed = 0,
    json: Annotated[Path | None, typer.Option("--json", help="File to write the result records to.")] = None,
    precision: Precision = "auto", home: Home = None, cache: Cache = None,
) -> None:  # fmt: skip
    """The comparison of the paper: SIB and its baselines on the same tasks, beginning with the same feature network.

    Example: onelook benchmark paper --backbone runs/cifar-fs/model.safetensors --rows sib,sib-0,r2d2
    """
    place = _place(cache, home, precision)
    _writable(out)
    if json is not None:
        _writable(json.parent, json)
    chosen = tuple(key.strip() for key in rows.split(","))
    config = TableConfig(backbone, rotation_backbone, data, split, chosen, n_tasks=tasks, seed=seed)
    records = run(table(config, out, place), "paper")
    if json is not None:
        artifacts.save_results(records, json)
    console.print_markdown(markdown(records))


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


def _nothing_before(context: Context, word: str) -> None:
    """Raises SettingsError for an option that would be left out, because it is not one of the command of that word."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            raise SettingsError(f"Options of `{context.command_path} {word}` come after the word {word}, but "
                                f"{parameter.opts[0]} is before it.")  # fmt: skip


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(f"--shot takes whole numbers divided by commas, but got {text!r}.") from error


def _writable(folder: Path, file: Path | None = None) -> None:
    """Makes the folder. Raises, before hours of work and not after them, where their result could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise storage_error(file or folder, error) from error
    if file is not None and file.is_dir():
        raise SettingsError(f"{file} is a folder; give the name of a file in it.")


def _place(cache: Path | None, home: Path | None, precision: str) -> Place:
    if precision not in ("auto", "float32", "bfloat16"):
        raise SettingsError(f"--precision is auto, float32 or bfloat16, but got {precision!r}.")
    place = Place(home=home) if cache is None else Place(cache, home)
    return place if precision == "auto" else Place(place.cache, home, precision)


def main() -> None:
    keep_freed_memory()
    sys.exit(console.exit_code(app))
