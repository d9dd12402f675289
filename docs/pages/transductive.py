"""The page of the transductive methods under every protocol, docs/transductive.md, and its plots: from result files."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from pages.plots import BLUE, GREY, Records, drawn

from onelook.data.protocols import parse_protocol
from onelook.experiments.transductive import INDUCTIVE
from onelook.scoring import Estimate
from onelook.train.recipes import parse_request

MAIN = (
    "tim",
    "alpha-tim",
    "pt-map",
    "laplacianshot",
    "bms:balanced=false",
    "paddle",
    "em-dirichlet",
    "map-proportions",
    "sib",
)
"""In the plot, beside the reference and the inductive method."""

COLOURS = ("C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "black")
"""Of these, in their order."""

HEAD = f"""# Transductive methods, protocol by protocol

A transductive method looks at all the queries of a task before it answers one. The tasks that it is usually judged by
have as many queries of each class as of any other, which some methods are told and others guess; no folder of
photographs is so. Here the same methods meet tasks whose queries are spread in other ways, too. A column is a protocol
([the names](concepts.md)); in each column all methods meet the same tasks. `make docs` makes this page from the files
`benchmarks/protocols*.json`; [benchmarks/README.md](../benchmarks/README.md) has the commands.

Accuracies are means over tasks in percent, ± 95 %; queries of unknown classes are not counted. The best of a column is
bold. ▲ and ▼ say that a method is above or below the reference by a paired difference whose interval excludes zero.
The harm is the percentage of the tasks in which a method answers fewer queries right than the inductive classifier
`{INDUCTIVE}`, which looks at no other query. Milliseconds are of the method alone, on finished
features, for a task of the first column.
"""

Cell = Callable[[dict[str, Any], float], str]


SIZES = f"""## Tasks of other sizes

The same weights on other numbers of classes, labelled examples and queries. Each row is one cell: the difference of
the reference to the inductive classifier (`{INDUCTIVE}`), and of the best other method to the reference; a
difference whose interval excludes zero is bold.
"""


ABLATION = """## What each part of Glance is worth

The first row, and the first of those that were trained for this table, are accuracies; the others are paired
differences to the one above them, bold where the interval excludes zero. The rows of the weights that ship lack
something or are told something; the trained ones are short trainings on the training classes alone, which differ in the
tasks that they meet.
"""


def page(records: Records, sizes: Records = (), ablation: Records = ()) -> str:
    """Markdown. records: those of `onelook benchmark protocols`, of one run or of several; sizes: those of many cells,
    which have a row each; ablation: those of benchmarks/ablation.py."""
    sections = [HEAD]
    for i, own in enumerate(_groups(records), 1):
        sections.append(_section(own, f"plots/protocols-{i}.svg"))
    sections += [_sizes(sizes)] if sizes else []
    return "\n".join([*sections, *([_ablation(ablation)] if ablation else [])])


def plots(records: Records) -> dict[str, bytes]:
    """SVG files by name, one for each section, the same bytes for the same results."""
    return drawn({f"protocols-{i}": partial(_plot, own) for i, own in enumerate(_groups(records), 1)})


def _groups(records: Records) -> list[Records]:
    """Those that may stand in one table, but for the shots: same features, same number of ways, queries and tasks."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in records:
        key = (
            r["dataset"],
            r["split"],
            r["backbone"],
            r.get("average", "none"),
            r["n_way"],
            r["n_query"],
            r["n_tasks"],
            r["seed"],
            r["versus"]["method"],
        )
        groups.setdefault(key, []).append(r)
    divided: list[Records] = []
    for own in groups.values():
        for total in _different(r["n_total"] for r in own if not _alone(r)) or [1]:
            divided.append([r for r in own if _alone(r) or r["n_total"] == total])
    return divided


def _alone(record: dict[str, Any]) -> bool:
    """Its tasks have one query, whatever the others have."""
    return parse_protocol(record["protocol"]).kind == "single"


def _different(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _section(records: Records, plot: str) -> str:
    one = records[0]
    average = one.get("average", "none")
    seen = "" if average == "none" else f", averaged ({average})"
    totals = _different(r["n_total"] for r in records if not _alone(r))
    queries = f", {totals[0]} queries" if totals else ""
    parts = [
        f"## {one['dataset']}, {one['split']} classes, {one['backbone'].split('@')[0]}{seen}, "
        f"{one['n_way']}-way{queries}\n",
        f"{one['n_tasks']:,} tasks a column, seed {one['seed']}. Features of {one['backbone']}. "
        f"The reference is `{one['versus']['method']}`. {_made(records)}\n",
        f"![Accuracy over the protocols]({plot})\n",
    ]
    for shot in sorted({r["n_shot"] for r in records}):
        own = [r for r in records if r["n_shot"] == shot]
        parts += [f"### {shot}-shot\n", _table(own, _accuracy, cost=True) + "\n"]
        parts += [f"### {shot}-shot, harm\n", _table(own, _harm) + "\n"]
    return "\n".join(parts)


def _sizes(records: Records) -> str:
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in records:
        key = (
            f"{r['dataset']}, {r['split']} classes, {r['backbone'].split('@')[0]}",
            r["n_way"],
            r["n_shot"],
            r["n_total"],
            r["protocol"],
            r["n_tasks"],
        )
        cells.setdefault(key, []).append(r)
    head = [
        "features",
        "ways",
        "shots",
        "queries",
        "protocol",
        "tasks",
        f"`{records[0]['versus']['method']}`",
        "less the inductive",
        "best other",
        "its difference",
    ]
    lines = [head, ["---"] * len(head)]
    for key, own in sorted(cells.items(), key=lambda cell: cell[0]):
        reference = next(r for r in own if r["method"] == r["versus"]["method"])
        gain = next(other for other in reference["against"] if other["method"] == INDUCTIVE)
        best = max((r for r in own if r["method"] not in (INDUCTIVE, reference["method"])), key=lambda r: r["accuracy"])
        lines.append(
            [
                *(f"{part:,}" if isinstance(part, int) else part for part in key),
                _plain(reference),
                _signed(gain),
                f"`{best['method']}`",
                _signed(best["versus"]),
            ]
        )
    others = ", ".join(f"`{name}`" for name in _different(r["method"] for r in records)[1:])
    about = f"Beside it: {others}. {_made(records)}\n"
    return "\n".join([SIZES, about, _markdown(lines), ""])


def _ablation(records: Records) -> str:
    one = records[0]
    about = (
        f"{one['dataset']}, {one['split']} classes, features of {one['backbone']}, {one['n_tasks']:,} tasks a column"
    )
    parts = [ABLATION, f"{about}. {_made(records)}\n"]
    for shot in sorted({r["n_shot"] for r in records}):
        own = [r for r in records if r["n_shot"] == shot]
        parts += [f"### {shot}-shot, part by part\n", _table(own, _worth) + "\n"]
    return "\n".join(parts)


def _worth(record: dict[str, Any], best: float) -> str:
    del best
    if record["method"] == record["versus"]["method"]:
        return _plain(record)
    return _signed(record["versus"])


def _plain(record: dict[str, Any]) -> str:
    return f"{record['accuracy']:.2f} ± {record['ci95']:.2f}"


def _signed(versus: dict[str, Any]) -> str:
    text = f"{versus['difference']:+.2f} ± {versus['ci95']:.2f}"
    return f"**{text}**" if Estimate.from_record(versus, "difference").excludes_zero else text


def _made(records: Records) -> str:
    made = sorted({f"commit {r['commit']}, {r['machine']}" for r in records})
    return f"Made at {'; '.join(made)}."


def _table(records: Records, cell: Cell, cost: bool = False) -> str:
    """A row for each method, a column for each protocol. cell: from a record and the best accuracy of its column."""
    by = {(r["method"], r["protocol"]): r for r in records}
    columns = _different(r["protocol"] for r in records)
    best = {p: max(r["accuracy"] for r in records if r["protocol"] == p) for p in columns}
    head = ["method", *columns, *(["ms a task"] if cost else [])]
    lines = [head, ["---"] * len(head)]
    for method in _different(r["method"] for r in records):
        own = [by.get((method, p)) for p in columns]
        cells = ["–" if r is None else cell(r, best[r["protocol"]]) for r in own]
        if cost:
            cells.append(next(f"{r['milliseconds']:.1f}" for r in own if r is not None))
        lines.append([f"`{method}`", *cells])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _accuracy(record: dict[str, Any], best: float) -> str:
    text = _plain(record)
    versus = Estimate.from_record(record["versus"], "difference")
    mark = "" if not versus.excludes_zero else " ▲" if versus.value > 0 else " ▼"
    return (f"**{text}**" if record["accuracy"] == best else text) + mark


def _harm(record: dict[str, Any], best: float) -> str:
    del best
    to = next(other for other in record["against"] if other["method"] == INDUCTIVE)
    return "–" if record["method"] == INDUCTIVE else f"{to['harm']:.1f} ± {to['harm_ci95']:.1f}"


def _plot(records: Records) -> Figure:
    shots = sorted({r["n_shot"] for r in records})
    figure = Figure(figsize=(4.5 * len(shots), 4), layout="constrained")
    axes = figure.subplots(1, len(shots), squeeze=False)[0]
    columns = _different(r["protocol"] for r in records)
    reference = records[0]["versus"]["method"]
    there = {r["method"] for r in records}
    main = zip((parse_request(text).label for text in MAIN), COLOURS, strict=True)
    colours = {reference: BLUE, INDUCTIVE: GREY} | dict(main) | {reference: BLUE}  # these two first in the legend
    for axis, shot in zip(axes, shots, strict=True):
        for method, colour in colours.items():
            if method not in there:
                continue
            own = {r["protocol"]: r for r in records if r["n_shot"] == shot and r["method"] == method}
            places = [k for k, p in enumerate(columns) if p in own]
            points = [own[columns[k]] for k in places]
            strong = method == reference
            axis.errorbar(
                places,
                [r["accuracy"] for r in points],
                yerr=[r["ci95"] for r in points],
                fmt="o--" if method == INDUCTIVE else "o-",
                color=colour,
                label=method,
                markersize=4,
                capsize=2,
                linewidth=2.5 if strong else 1,
                zorder=3 if strong else 2,
            )
        axis.set(title=f"{shot}-shot", ylabel="accuracy (%)")
        axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure
