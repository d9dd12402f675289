"""Write the pages of results (benchmarks, paper, transductive, practice, networks) from the files under benchmarks/,
and the table of kinds of files in docs/labelling.md from the code.

Sentences are those of docs/pages/*.md.j2, which a person wrote; no figure is written by hand.
"""

import json
from pathlib import Path
from typing import Any

from pages import formats as formats
from pages import networks as networks
from pages import paper as paper
from pages import practice as practice
from pages import transductive as transductive
from pages.plots import plots
from pages.templates import made, render

from onelook.artifacts import load_results
from onelook.benchmark.measure import tabulate
from onelook.benchmark.tables import Table
from onelook.files import write_atomically

ROOT = Path(__file__).parent.parent
PAPER = ("paper", "epochs", "curves", "bottleneck", "lines", "domains")
"""Names of results that have a page of their own."""
NETWORKS = ("photograph-users", "auto")
"""Names of the results of `onelook benchmark networks`."""
BESIDE = ("sizes", "weak", "ablation")
"""Names of results on the page of transductive methods, beside those of the protocols."""
SEVERAL = ("paper-", "protocols", "practice", *NETWORKS, *BESIDE)
"""Beginnings of the names of further ones."""


def paper_results() -> dict[str, list[dict[str, object]]]:
    paths = [ROOT / "benchmarks" / f"{name}.json" for name in PAPER]
    paths += sorted((ROOT / "benchmarks").glob("paper-*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths if path.exists()}


def transductive_results() -> list[dict[str, object]]:
    """All results of `onelook benchmark protocols`."""
    return _all_of("protocols")


def transductive_page(records: list[dict[str, object]]) -> str:
    """The page, with tasks of many sizes, weak features and the parts of Glance."""
    return transductive.page(records, **{name: _all_of(name) for name in BESIDE})


def practice_results() -> list[dict[str, object]]:
    """All results of `onelook benchmark practice`."""
    return _all_of("practice")


def networks_results() -> list[dict[str, object]]:
    """All results of `onelook benchmark networks`."""
    return [record for name in NETWORKS for record in _all_of(name)]


def _all_of(stem: str) -> list[dict[str, object]]:
    return [record for path in sorted((ROOT / "benchmarks").glob(f"{stem}*.json")) for record in load_results(path)]


def page() -> str:
    sections = []
    for path in sorted((ROOT / "benchmarks").glob("*.json")):
        if path.stem in PAPER or path.stem.startswith(SEVERAL):
            continue
        records = json.loads(path.read_text())
        if path.stem == "scale":
            body = _scale(records)
        elif path.stem == "whole":
            body = _whole(records)
        else:
            body = _results(path) if all("accuracy" in record for record in records) else _measurements(records)
        sections.append((path.stem, body))
    return render("benchmarks.md.j2", sections=sections)


def _results(path: Path) -> str:
    records = load_results(path)
    tasks = " and ".join(sorted({f"{r['n_tasks']:,}" for r in records}))
    queries = " and ".join(sorted({str(r["n_query"]) for r in records}))
    origin = "; ".join(sorted({f"commit {r['commit']}, seed {r['seed']}, {r['machine']}" for r in records}))
    return f"{tabulate(records).markdown()}\n\n{tasks} tasks, {queries} queries a class; {origin}."


def _scale(records: list[dict[str, Any]]) -> str:
    """Time and memory by the size of the pool."""
    columns = (
        "rows",
        "size",
        "classes",
        "seconds",
        "of processor",
        "µs a row",
        "peak, GiB",
        "foreseen",
        "accuracy",
        "by the labelled alone",
    )
    rows = []
    for one in records:
        micro = 1e6 * one["processor_seconds"] / one["rows"]
        times = f"{one['seconds']:.1f}", f"{one['processor_seconds']:.1f}", f"{micro:.0f}"
        rows.append(
            (
                f"{one['rows']:,}",
                f"{one['size']}",
                f"{one['classes']:,}",
                *times,
                f"{one['peak_gib']:.2f}",
                f"{one['forecast_seconds']:.0f} s, {one['forecast_gib']:.1f} GiB" if "forecast_gib" in one else "",
                f"{one['accuracy']:.1f}",
                f"{one['inductive']:.1f}",
            )
        )
    added = ", ".join(
        f"{one['processor_seconds_to_add_a_class']:.2f} s of processor at {one['rows']:,} × {one['size']}"
        for one in records
        if "seconds_to_add_a_class" in one
    )
    ratios = [_ratios(one, other) for one in records for other in records if _is_larger(one, other)]
    time, memory = map(max, zip(*ratios, strict=True))
    largest = (
        f"From one size to any larger one, the seconds of the processor grow at most {time:.2f} times as much as the "
        f"rows, and the memory {memory:.2f} times."
    )
    about = (
        "FewShotClassifier fitted to five labelled examples a class and a pool, a file mapped into memory: Gaussian "
        "classes. The memory is that of the whole process, with what it has read of the file. µs a row are of the "
        "processor; seconds grow where a machine does other things as well. What was foreseen was said after the first "
        "seconds of the work; the command line says it where these are more than 60."
    )
    growth = f"{largest} A class added to the pool: {added}. {made(records)}"
    return f"{about}\n\n{Table(columns, tuple(rows)).markdown()}\n\n{growth}"


def _is_larger(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a pool is of more rows than another that is else alike, and measured in one state of the code."""
    return one["rows"] > other["rows"] and all(one[key] == other[key] for key in ("size", "classes", "commit"))


def _ratios(large: dict[str, Any], small: dict[str, Any]) -> tuple[float, float]:
    """Growth of time and memory from a pool to a larger one, beside that of the rows."""
    return tuple(large[key] / small[key] * small["rows"] / large["rows"] for key in ("processor_seconds", "peak_gib"))  # type: ignore[return-value]


def _whole(records: list[dict[str, Any]]) -> str:
    """Accuracy of the answers to large pools beside that of the answer by all pairs."""
    columns = (
        "pool",
        "rows",
        "size",
        "classes",
        "pools",
        "accuracy",
        "by all pairs",
        "difference",
        "answers that differ, %",
    )
    rows = [
        (
            one["pool"],
            f"{one['rows']:,}",
            f"{one['size']}",
            f"{one['classes']}",
            f"{one['n_pools']}",
            f"{one['accuracy']:.2f}",
            f"{one['accuracy_whole']:.2f}",
            f"{one['difference']:+.2f} ± {one['ci95']:.2f}",
            f"{one['answers_that_differ']:.2f}",
        )
        for one in records
    ]
    about = (
        "FewShotClassifier as it answers a pool, beside the same with all rows compared with each other in double "
        "precision, on the same pools; the difference is one of pairs. Up to 16,384 rows are compared with each other "
        "anyway: there it shows what single precision and the sample of the guard change. "
        "Mixtures have five labelled examples a class; "
        "CIFAR-FS is the validation classes, with the network that comes along."
    )
    return f"{about}\n\n{Table(columns, tuple(rows)).markdown()}\n\n{made(records)}"


def _measurements(records: list[dict[str, object]]) -> str:
    """Records of other kinds, one list each."""
    blocks = []
    for record in records:
        head = record.get("experiment", "")
        lines = [f"* {k.replace('_', ' ')}: {v}" for k, v in record.items() if k != "experiment"]
        blocks.append("\n".join([f"**{head}**", "", *lines]))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    write_atomically(ROOT / "docs" / "benchmarks.md", page().encode())
    labelling = ROOT / "docs" / "labelling.md"
    write_atomically(labelling, formats.insert(labelling.read_text(encoding="utf-8")).encode())
    results = paper_results()
    write_atomically(ROOT / "docs" / "paper.md", paper.page(results).encode())
    pictures = plots(results)
    if records := transductive_results():
        write_atomically(ROOT / "docs" / "transductive.md", transductive_page(records).encode())
        pictures |= transductive.plots(records)
    if records := practice_results():
        write_atomically(ROOT / "docs" / "practice.md", practice.page(records).encode())
    if records := networks_results():
        write_atomically(ROOT / "docs" / "networks.md", networks.page(records).encode())
    for name, svg in pictures.items():
        write_atomically(ROOT / "docs" / "plots" / f"{name}.svg", svg)
