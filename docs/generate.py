"""Write the pages of results (benchmarks, paper, transductive, practice) from the files under benchmarks/.

No figure is written by hand.
"""

import json
from pathlib import Path

from pages import paper as paper
from pages import practice as practice
from pages import transductive as transductive
from pages.plots import plots

from onelook.artifacts import load_results
from onelook.benchmark.measure import tabulate
from onelook.files import write_atomically

ROOT = Path(__file__).parent.parent
HEAD = """# Benchmarks

Made by `make docs` from the result files under `benchmarks/`; [benchmarks/README.md](../benchmarks/README.md) has the
commands that made these. Accuracies are means over tasks in percent, with 95 % intervals; differences are paired, on
the same tasks. Everything was chosen on validation classes; the test classes were opened to report.

For comparison, SIB's published figures on CIFAR-FS with Conv-4-64, 5-way, 1-shot / 5-shot: K = 0 59.2 / 75.4,
K = 3 68.7 / 77.1 (± 0.4 to 0.6). `feature-averaging` is K = 0, `sib` K = 3 with the recipe `fast`; `recipe=published`
has the published step size, optimiser and number of steps. The features are ours: pretrained longer than the published
ones, hence the higher level.
"""


PAPER = ("paper", "curves", "bottleneck", "lines", "domains")
"""Results that have a page of their own."""
SEVERAL = ("protocols", "practice", "sizes")
"""Those whose files begin so have too."""
ABLATION = ROOT / "benchmarks" / "ablation.json"
"""On the page of transductive methods."""


def paper_results() -> dict[str, list[dict[str, object]]]:
    paths = {name: ROOT / "benchmarks" / f"{name}.json" for name in PAPER}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def transductive_results() -> list[dict[str, object]]:
    """Of `onelook benchmark protocols`, all together."""
    return _all_of("protocols")


def transductive_page(records: list[dict[str, object]]) -> str:
    """With the same methods on tasks of many sizes, and what the parts of Glance are worth."""
    return transductive.page(records, _all_of("sizes"), load_results(ABLATION) if ABLATION.exists() else [])


def practice_results() -> list[dict[str, object]]:
    """Of `onelook benchmark practice`, all together."""
    return _all_of("practice")


def _all_of(stem: str) -> list[dict[str, object]]:
    return [record for path in sorted((ROOT / "benchmarks").glob(f"{stem}*.json")) for record in load_results(path)]


def page() -> str:
    sections = [HEAD]
    for path in sorted((ROOT / "benchmarks").glob("*.json")):
        if path.stem in PAPER or path.stem.startswith(SEVERAL) or path == ABLATION:
            continue
        records = json.loads(path.read_text())
        title = path.stem
        body = _results(path) if all("accuracy" in record for record in records) else _measurements(records)
        sections.append(f"## {title}\n\n{body}\n")
    return "\n".join(sections)


def _results(path: Path) -> str:
    records = load_results(path)
    tasks = " and ".join(sorted({f"{r['n_tasks']:,}" for r in records}))
    queries = " and ".join(sorted({str(r["n_query"]) for r in records}))
    made = "; ".join(sorted({f"commit {r['commit']}, seed {r['seed']}, {r['machine']}" for r in records}))
    return f"{tabulate(records).markdown()}\n\n{tasks} tasks, {queries} queries a class; {made}."


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
    results = paper_results()
    write_atomically(ROOT / "docs" / "paper.md", paper.page(results).encode())
    pictures = plots(results)
    if records := transductive_results():
        write_atomically(ROOT / "docs" / "transductive.md", transductive_page(records).encode())
        pictures |= transductive.plots(records)
    if records := practice_results():
        write_atomically(ROOT / "docs" / "practice.md", practice.page(records).encode())
    for name, svg in pictures.items():
        write_atomically(ROOT / "docs" / "plots" / f"{name}.svg", svg)
