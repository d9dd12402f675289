"""`onelook benchmark`: a comparison that a person puts together, and the experiments of the paper."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onelook import artifacts
from onelook.backbones import BACKBONES
from onelook.benchmark import compare, sources
from onelook.benchmark.compare import Comparison
from onelook.cli import console
from onelook.cli.console import run
from onelook.cli.options import (
    AVERAGE,
    FINISHED,
    NPZ,
    SEVERAL,
    Average,
    Cache,
    Data,
    Home,
    ImageSize,
    JsonFile,
    Precision,
    Query,
    Seed,
    Split,
    Tasks,
    Trained,
    Way,
    numbers,
    place_of,
    writable,
)
from onelook.data.glyph_domains import GlyphDomainsConfig, glyph_domains
from onelook.data.protocols import KNOWN
from onelook.data.sampler import TaskSpec
from onelook.errors import SettingsError
from onelook.experiments.bottleneck import BottleneckConfig, bottleneck
from onelook.experiments.curves import CurvesConfig, curves
from onelook.experiments.domains import DomainsConfig, domains
from onelook.experiments.lines import LinesConfig, lines
from onelook.experiments.paper import TableConfig, markdown, table
from onelook.experiments.paper_rows import ROWS
from onelook.experiments.transductive import INDUCTIVE, PROTOCOL_METHODS, PROTOCOLS, ProtocolsConfig, protocols
from onelook.machine import commit, machine
from onelook.train.recipes import parse_request

benchmark_app = typer.Typer(invoke_without_command=True)

if TYPE_CHECKING:
    Context = typer.Context
else:
    Context = typer.Context.__mro__[1]  # what typer hands over in truth, and what the tests' type checks see

RUNS = "Folder of the rows. Those that are done in it are not made again."
PACS = "A folder of domain/class/image, all domains with the same classes. Default: built-in glyphs of four domains."
AUDIT = "Ask instead what the answers depend on: other queries, their order, other tasks, labels. Exit code 1: a leak."
CELLS = "Folder of what is done, which is not done again: a file for each method in each cell."
REFERENCES = f"The method that differences are to. Those to {INDUCTIVE} are recorded too."
ROTATION = "The same with --rotation-weight, for the rows that need it."


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
    total: Annotated[int | None, typer.Option(min=1, help="All queries of a task; default: way × query.")] = None,
    tasks: Annotated[int, typer.Option(min=2)] = 2000,
    protocol: Annotated[str, typer.Option(help=f"{KNOWN}. Several with commas.")] = "balanced",
    average: Average = "none",
    audit: Annotated[bool, typer.Option("--audit", help=AUDIT)] = False,
    seed: Seed = 0,
    json: Annotated[Path | None, typer.Option("--json", help="File to write the result records to.")] = None,
    precision: Precision = "auto",
    home: Home = None,
    cache: Cache = None,
) -> None:
    """Compare methods on the same tasks. Those that learn are trained on the training classes first.

    Examples: onelook benchmark --data cifar-fs --backbone runs/cifar-fs/model.safetensors
    --methods feature-averaging,sib --shot 1,5 --tasks 2000 --json results.json;
    onelook benchmark --embeddings test.npz --methods prototypical,pt-map --audit
    """
    if context.invoked_subcommand is not None:
        _nothing_before(context, context.invoked_subcommand)
        return
    requests = tuple(parse_request(text.strip()) for text in methods.split(","))
    specs = tuple(TaskSpec(way, n, query, p.strip(), seed, total) for p in protocol.split(",") for n in numbers(shot))
    comparison = Comparison(requests, specs, tasks, average, audit)
    place = place_of(cache, home, precision)
    if json is not None:
        writable(json.parent, json)
    if embeddings is not None:
        job = compare.benchmark_embeddings(comparison, embeddings, train_embeddings, place)
    elif backbone is not None:
        job = compare.benchmark(comparison, data, split, backbone, place)
    else:
        raise SettingsError("A comparison needs features: give --backbone FILE with --data, or --embeddings FILE.")
    records = run(job, "audit" if audit else "benchmark")
    if json is not None:
        artifacts.save_results(records, json)
    if not audit:
        console.print_records(records, as_json=False)
    elif console.print_audits(records):
        raise typer.Exit(1)


def _nothing_before(context: Context, word: str) -> None:
    """Raises SettingsError for an option that would be left out, because it is not one of the command of that word."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            raise SettingsError(
                f"Options of `{context.command_path} {word}` come after the word {word}, but "
                f"{parameter.opts[0]} is before it."
            )


@benchmark_app.command("paper")
def benchmark_paper(
    backbone: Trained,
    rotation_backbone: Annotated[Path | None, typer.Option(help=ROTATION)] = None,
    data: Data = "cifar-fs",
    split: Split = "test",
    rows: Annotated[str, typer.Option(help=f"Some of {', '.join(ROWS)}.")] = ",".join(ROWS),
    tasks: Tasks = 2000,
    out: Annotated[Path, typer.Option(help=RUNS)] = Path("runs/paper"),
    seed: Seed = 0,
    json: JsonFile = None,
    precision: Precision = "auto",
    home: Home = None,
    cache: Cache = None,
) -> None:
    """The comparison of the paper: SIB and its baselines on the same tasks, beginning with the same feature network.

    Example: onelook benchmark paper --backbone runs/cifar-fs/model.safetensors --rows sib,sib-0,r2d2
    """
    place = place_of(cache, home, precision)
    writable(out)
    if json is not None:
        writable(json.parent, json)
    chosen = tuple(key.strip() for key in rows.split(","))
    config = TableConfig(backbone, rotation_backbone, data, split, chosen, n_tasks=tasks, seed=seed)
    records = run(table(config, out, place), "paper")
    if json is not None:
        artifacts.save_results(records, json)
    console.print_markdown(markdown(records))


@benchmark_app.command("protocols")
def benchmark_protocols(
    data: Data = "cifar-fs",
    split: Split = "test",
    backbone: Annotated[Path | None, typer.Option(help=FINISHED)] = None,
    embeddings: Annotated[Path | None, typer.Option(help=NPZ)] = None,
    train_embeddings: Annotated[Path | None, typer.Option(help="The same of other classes, to learn from.")] = None,
    methods: Annotated[str, typer.Option(help=SEVERAL)] = ",".join(PROTOCOL_METHODS),
    reference: Annotated[str, typer.Option(help=REFERENCES)] = PROTOCOL_METHODS[0],
    protocol: Annotated[str, typer.Option(help=f"{KNOWN}. Several with commas.")] = ",".join(PROTOCOLS),
    way: Annotated[str, typer.Option(help="One or more numbers, divided by commas.")] = "5",
    shot: Annotated[str, typer.Option(help="The same.")] = "1,5",
    query: Query = 15,
    total: Annotated[str | None, typer.Option(help="All queries of a task, one or more; default: way × query.")] = None,
    average: Annotated[str, typer.Option(help=f"{AVERAGE} Several with commas.")] = "none",
    tasks: Tasks = 2000,
    out: Annotated[Path, typer.Option(help=CELLS)] = Path("runs/protocols"),
    seed: Seed = 0,
    json: JsonFile = None,
    precision: Precision = "auto",
    home: Home = None,
    cache: Cache = None,
) -> None:
    """Transductive methods under every protocol, on the same tasks; what is done is kept, and not done again.

    Example: onelook benchmark protocols --backbone runs/cifar-fs/model.safetensors --json protocols.json
    """
    if (backbone is None) == (embeddings is None):
        raise SettingsError("The protocols need features: give --backbone FILE with --data, or --embeddings FILE.")
    place = place_of(cache, home, precision)
    config = ProtocolsConfig(
        tuple(text.strip() for text in methods.split(",")),
        reference,
        tuple(p.strip() for p in protocol.split(",")),
        tuple(numbers(way, "--way")),
        tuple(numbers(shot)),
        query,
        (None,) if total is None else tuple(numbers(total, "--total")),
        tasks,
        seed,
    )
    writable(out)
    if json is not None:
        writable(json.parent, json)
    records = []
    for one in (text.strip() for text in average.split(",")):
        if embeddings is not None:
            source = sources.source_of_files(embeddings, train_embeddings, max(config.ways), one)
        else:
            assert backbone is not None
            source = run(sources.source_of(data, split, backbone, place, one), "features")
        records += run(protocols(config, source, out, place), "protocols")
    if json is not None:
        artifacts.save_results(records, json)
    console.print_records(records, as_json=False)


@benchmark_app.command("curves")
def benchmark_curves(
    backbone: Trained,
    data: Data = "cifar-fs",
    split: Split = "test",
    tasks: Tasks = 2000,
    seed: Seed = 0,
    json: JsonFile = None,
    precision: Precision = "auto",
    home: Home = None,
    cache: Cache = None,
) -> None:
    """Accuracy over the number of steps and of unlabelled queries; and with steps on the support set instead.

    Example: onelook benchmark curves --backbone runs/cifar-fs/model.safetensors --json curves.json
    """
    if json is not None:
        writable(json.parent, json)
    config = CurvesConfig(backbone, data, split, n_tasks=tasks, seed=seed)
    records = run(curves(config, place_of(cache, home, precision)), "curves")
    if json is not None:
        artifacts.save_results(records, json)
    for name in dict.fromkeys(record["experiment"] for record in records):
        for n_query in sorted({record["n_query"] for record in records if record["experiment"] == name}):
            print(f"\n{name}, {n_query} queries a class")
            own = [r for r in records if r["experiment"] == name and r["n_query"] == n_query]
            console.print_records(own, as_json=False)


@benchmark_app.command("bottleneck")
def benchmark_bottleneck(
    backbone: Trained,
    data: Data = "cifar-fs",
    tasks: Tasks = 2000,
    seed: Seed = 0,
    json: JsonFile = None,
    precision: Precision = "auto",
    home: Home = None,
    cache: Cache = None,
) -> None:
    """SIB with its KL term and without it: accuracy and loss on tasks of known and of unknown classes.

    Example: onelook benchmark bottleneck --backbone runs/cifar-fs/model.safetensors
    """
    if json is not None:
        writable(json.parent, json)
    config = BottleneckConfig(backbone, data, n_tasks=tasks, seed=seed)
    records = run(bottleneck(config, place_of(cache, home, precision)), "bottleneck")
    if json is not None:
        artifacts.save_results(records, json)
    for r in records:
        print(
            f"{r['n_shot']}-shot, gamma {r['prior_weight']:g}: known classes {r['train_accuracy']:.2f}, unknown "
            f"{r['accuracy']:.2f} ± {r['ci95']:.2f} %; loss {r['train_loss']:.3f} and {r['loss']:.3f}"
        )


@benchmark_app.command("lines")
def benchmark_lines(
    seeds: Annotated[str, typer.Option(help="One or more, divided by commas.")] = "0,1,2", json: JsonFile = None
) -> None:
    """Spinning lines: regression without a label, against the exact posterior; with the KL term and without.

    Example: onelook benchmark lines --seeds 0,1,2
    """
    if json is not None:
        writable(json.parent, json)
    records = []
    for seed in numbers(seeds, "--seeds"):
        for kl_weight in (LinesConfig.kl_weight, 0.0):
            config = LinesConfig(seed=seed, kl_weight=kl_weight, bayesian_network=kl_weight > 0)
            record = run(lines(config), f"lines, seed {seed}, beta {kl_weight:g}")
            records.append(record | {"commit": commit(), "machine": machine()})
            final = record["final"]
            print(
                f"seed {seed}, beta {kl_weight:g}: correlation with the exact posterior mean "
                f"{final['correlation']:.3f}; squared error {final['slope_error']:.4f}, of the best constant "
                f"{final['slope_error_constant']:.4f}, of the exact posterior {final['slope_error_oracle']:.4f}; "
                f"information {final['information']:.3f} of {record['exact']['information']:.3f} nats"
            )
    if json is not None:
        artifacts.save_results(records, json)


@benchmark_app.command("domains")
def benchmark_domains(
    data: Annotated[Path | None, typer.Option(help=PACS)] = None,
    backbone: Annotated[str, typer.Option(help=f"One of {', '.join(BACKBONES)}.")] = "conv4-64",
    image_size: ImageSize = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Adaptation to each domain in turn, without a label of it, from labelled images of the others.

    Example: onelook benchmark domains --data FOLDER --image-size 64
    """
    if json is not None:
        writable(json.parent, json)
    place = place_of(None, None, precision)
    config = DomainsConfig(backbone, image_size or 32, precision=place.precision, seed=seed)
    images = data or run(glyph_domains(GlyphDomainsConfig(seed=seed)), "glyphs of four domains")
    record = run(domains(config, images), "domains") | {"commit": commit(), "machine": machine()}
    if json is not None:
        artifacts.save_results([record], json)
    for target in record["targets"]:
        own = ", ".join(
            f"{name} {value['mean']:.2f} ± {value['ci95']:.2f}" for name, value in target["accuracy"].items()
        )
        print(f"{target['target']} ({target['n_images']:,} images): {own}")
