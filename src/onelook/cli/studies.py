"""`onelook benchmark paper` and the other studies: measured once, saved, and printed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from onelook.benchmark import sources
from onelook.cli import console
from onelook.cli.options import Features, Fields, Records, options
from onelook.cli.terminal import write
from onelook.data.domains import GlyphDomainsConfig, glyph_domains
from onelook.experiments import bottleneck, curves, domains, lines, networks, paper, practice, transductive
from onelook.files import place_run
from onelook.machine import Place, provenance

RunFolder = Annotated[Path, place_run()]


@options
def run_paper(
    config: paper.TableConfig, place: Place, records: Records, *, out: RunFolder = Path("runs/paper")
) -> None:
    """Compare SIB with the baselines of its paper, from the same feature network.

    Example: onelook benchmark paper --backbone runs/cifar-fs/model.safetensors --rows sib,sib-0,r2d2
    """
    found = records.save(console.run(paper.table(config, out, place), "paper"))
    console.print_table(paper.tabulate(found))


@dataclass(frozen=True)
class ProtocolFeatures(Features):
    data: str = "cifar-fs"


@options
def run_protocols(
    features: ProtocolFeatures,
    config: transductive.ProtocolsConfig,
    place: Place,
    records: Records,
    *,
    average: Annotated[tuple[str, ...], "One or more of mirror, crops:N, mirror+crops:N and none."] = ("none",),
    out: RunFolder = Path("runs/protocols"),
) -> None:
    """Compare transductive methods under every protocol; what is measured is saved and not done again.

    Example: onelook benchmark protocols --backbone runs/cifar-fs/model.safetensors --json protocols.json
    """
    found = []
    for one in average:
        source = _open_source(features, max(config.ways), one, place)
        found += console.run(transductive.protocols(config, source, out, place), "protocols")
    records.save(found)
    console.print_records(found, as_json=False)


def _open_source(features: Features, n_way: int, average: str, place: Place) -> sources.Source:
    if features.embeddings is not None:
        return sources.open_features(features.embeddings, features.train_embeddings, n_way, average)
    assert features.backbone is not None
    job = sources.open_source(features.data, features.split, features.backbone, place, average)
    return console.run(job, "features")


@options
def run_curves(config: curves.CurvesConfig, place: Place, records: Records) -> None:
    """Measure accuracy over the number of steps and of unlabelled queries.

    Example: onelook benchmark curves --backbone runs/cifar-fs/model.safetensors --json curves.json
    """
    found = records.save(console.run(curves.curves(config, place), "curves"))
    for name in dict.fromkeys(record["experiment"] for record in found):
        for n_query in sorted({record["n_query"] for record in found if record["experiment"] == name}):
            write("", f"{name}, {n_query} queries per class")
            own = [r for r in found if r["experiment"] == name and r["n_query"] == n_query]
            console.print_records(own, as_json=False)


@options
def run_bottleneck(config: bottleneck.BottleneckConfig, place: Place, records: Records) -> None:
    """Compare SIB with and without its KL term, on tasks of known and of unknown classes.

    Example: onelook benchmark bottleneck --backbone runs/cifar-fs/model.safetensors
    """
    found = records.save(console.run(bottleneck.bottleneck(config, place), "bottleneck"))
    for r in found:
        write(
            f"{r['n_shot']}-shot, gamma {r['prior_weight']:g}: known classes {r['train_accuracy']:.2f}, unknown "
            f"{r['accuracy']:.2f} ± {r['ci95']:.2f} %; loss {r['train_loss']:.3f} and {r['loss']:.3f}"
        )


@options
def run_lines(records: Records, *, seeds: Annotated[tuple[int, ...], "One or more seeds."] = (0, 1, 2)) -> None:
    """Fit spinning lines without labels, against the exact posterior, with and without the KL term.

    Example: onelook benchmark lines --seeds 0,1,2
    """
    found = []
    for seed in seeds:
        for kl_weight in (lines.LinesConfig.kl_weight, 0.0):
            config = lines.LinesConfig(seed=seed, kl_weight=kl_weight, bayesian_network=kl_weight > 0)
            record = console.run(lines.lines(config), f"lines, seed {seed}, beta {kl_weight:g}")
            found.append(record | provenance())
            final = record["final"]
            write(
                f"seed {seed}, beta {kl_weight:g}: correlation with the exact posterior mean "
                f"{final['correlation']:.3f}; squared error {final['slope_error']:.4f}, of the best constant "
                f"{final['slope_error_constant']:.4f}, of the exact posterior {final['slope_error_oracle']:.4f}; "
                f"information {final['information']:.3f} of {record['exact']['information']:.3f} nats"
            )
    records.save(found)


PACS = "A folder of domain/class/image, all domains with the same classes. Default: built-in glyphs of four domains."


@options
def run_domains(
    config: Annotated[domains.DomainsConfig, Fields(only=("backbone", "image_size", "seed"))],
    place: Annotated[Place, Fields(only=("precision",))],
    records: Records,
    *,
    data: Annotated[Path | None, PACS] = None,
) -> None:
    """Adapt to each domain without its labels, from labelled images of the others.

    Example: onelook benchmark domains --data FOLDER --image-size 64
    """
    config = replace(config, precision=place.precision)
    images = data or console.run(glyph_domains(GlyphDomainsConfig(seed=config.seed)), "glyphs of four domains")
    record = console.run(domains.domains(config, images), "domains")
    records.save([record | provenance()])
    for target in record["targets"]:
        own = ", ".join(
            f"{name} {value['mean']:.2f} ± {value['ci95']:.2f}" for name, value in target["accuracy"].items()
        )
        write(f"{target['target']} ({target['n_images']:,} images): {own}")


@options
def run_networks(
    config: networks.NetworksConfig, place: Place, records: Records, *, out: RunFolder = Path("runs/networks")
) -> None:
    """Compare feature networks, and the choice of auto, for simulated users with few labels.

    Example: onelook benchmark networks --data omniglot,digits --network auto,small,lite --users 200
    """
    found = records.save(console.run(networks.compare_networks(config, out, place), "networks"))
    for r in found:
        versus = [f"{one['difference']:+.1f} ± {one['ci95']:.1f} to {name}" for name, one in r["versus"].items()]
        write(
            f"{r['dataset']}, {r['n_shot']} a class, {r['network']}: {r['accuracy']:.1f} ± {r['ci95']:.1f}, "
            f"expected {r['expected_accuracy']:.1f}; {', '.join(versus) or 'alone'}"
        )


@options
def run_practice(
    config: practice.PracticeConfig, place: Place, records: Records, *, out: RunFolder = Path("runs/practice")
) -> None:
    """Compare FewShotClassifier with the classifiers of scikit-learn, for simulated users with few labels.

    Example: onelook benchmark practice --data cifar-fs,digits --shot 1,5 --users 100
    """
    found = records.save(console.run(practice.practice(config, out, place), "practice"))
    for r in found:
        write(
            f"{r['dataset']}, {r['n_shot']} a class, {r['method']}: {r['accuracy']:.1f} ± {r['ci95']:.1f}, "
            f"{r['versus']['difference']:+.1f} ± {r['versus']['ci95']:.1f}"
        )
        for name, value in r.get("report", {}).items():
            write(f"    {name.replace('_', ' ')}: {value:.3f}")
