"""`onelook benchmark practice`: what a person gets who has a few labels."""

from pathlib import Path
from typing import Annotated

import typer

from onelook import artifacts
from onelook.artifacts import SHIPPED_NETWORK
from onelook.cli.benchmark import benchmark_app
from onelook.cli.console import run
from onelook.cli.options import Cache, Home, JsonFile, Precision, Seed, numbers, place_of, writable
from onelook.experiments.practice import PracticeConfig, practice

SETS = "NAME, PATH or NAME:SPLIT, divided by commas; digits are those of scikit-learn."
CELLS = "Folder of what was measured, by set and number of labels. What is there is not measured again."


@benchmark_app.command("practice")
def benchmark_practice(
    data: Annotated[str, typer.Option(help=SETS)] = "cifar-fs,omniglot,digits",
    backbone: Annotated[Path, typer.Option(help="Default: the feature network that comes along.")] = SHIPPED_NETWORK,
    shot: Annotated[str, typer.Option(help="One or more numbers, divided by commas.")] = "1,3,5",
    users: Annotated[int, typer.Option(min=2, help="Simulated, for each set and number of labels.")] = 200,
    out: Annotated[Path, typer.Option(help=CELLS)] = Path("runs/practice"),
    seed: Seed = 0,
    json: JsonFile = None,
    precision: Precision = "auto",
    home: Home = None,
    cache: Cache = None,
) -> None:
    """FewShotClassifier beside the classifiers of scikit-learn, for simulated users with a few labels.

    Example: onelook benchmark practice --data cifar-fs,digits --shot 1,5 --users 100
    """
    sets = tuple(text.strip() for text in data.split(","))
    config = PracticeConfig(backbone, sets, tuple(numbers(shot)), n_users=users, seed=seed)
    place = place_of(cache, home, precision)
    writable(out)
    if json is not None:
        writable(json.parent, json)
    records = run(practice(config, out, place), "practice")
    if json is not None:
        artifacts.save_results(records, json)
    for r in records:
        print(
            f"{r['dataset']}, {r['n_shot']} a class, {r['method']}: {r['accuracy']:.1f} ± {r['ci95']:.1f}, "
            f"{r['versus']['difference']:+.1f} ± {r['versus']['ci95']:.1f}"
        )
        for name, value in r.get("said", {}).items():
            print(f"    {name.replace('_', ' ')}: {value:.3f}")
