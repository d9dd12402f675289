"""Figures and plots of docs/transductive.md; its sentences are in transductive.md.j2."""

from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from typing import Any

from matplotlib.figure import Figure
from pages.plots import BLUE, GREY, Records, drawn, gather
from pages.templates import made, plus_minus, render, signed

from onelook.benchmark.tables import Table
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
"""Methods in the plot, beside the reference and the inductive one."""

HELD_OUT = "runs/glance-without-cifar"
"""Run of the weights of `protocols-held-out*.json`."""

COLOURS = ("C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "black")
"""Their colours, in this order."""

Cell = Callable[[dict[str, Any], float], str]
"""Function from a record and the best accuracy of its column to the text of a cell."""


def page(records: Records, sizes: Records = (), weak: Records = (), ablation: Records = ()) -> str:
    """Markdown. records: those of `onelook benchmark protocols`, of one run or of several; sizes: those of many cells,
    which have a row each; weak, ablation: those of benchmarks/weak.py and ablation.py."""
    return render(
        "transductive.md.j2",
        inductive=INDUCTIVE,
        sections=[_section(own) for own in _groups(records)],
        sizes=_sizes(sizes) if sizes else None,
        weak=_weak(weak) if weak else None,
        ablation=_ablation(ablation) if ablation else None,
    )


def plots(records: Records) -> dict[str, bytes]:
    """SVG files by name, one for each section, the same bytes for the same results."""
    return drawn({f"protocols-{i}": partial(_plot, own) for i, own in enumerate(_groups(records), 1)})


def _groups(records: Records) -> list[Records]:
    """Records that may stand in one table, but for the shots: same features, same number of ways, queries and tasks."""
    same = itemgetter("dataset", "split", "backbone", "n_way", "n_query", "n_tasks", "seed")
    groups = gather(records, lambda r: (*same(r), r.get("average", "none"), r["versus"]["method"]))
    divided: list[Records] = []
    for own in groups.values():
        for total in _different(r["n_total"] for r in own if not _alone(r)) or [1]:
            divided.append([r for r in own if _alone(r) or r["n_total"] == total])
    return divided


def _alone(record: dict[str, Any]) -> bool:
    """Whether its tasks have one query, whatever the others have."""
    return parse_protocol(record["protocol"]).kind == "single"


def _different(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _section(records: Records) -> dict[str, Any]:
    one = records[0]
    average = one.get("average", "none")
    totals = _different(r["n_total"] for r in records if not _alone(r))
    parts = [f"{one['dataset']}, {one['split']} classes, {one['backbone'].split('@')[0]}"]
    parts += [] if average == "none" else [f"averaged ({average})"]
    parts += [f"{one['n_way']}-way", *(f"{total} queries" for total in totals[:1])]
    reference = one["versus"]["method"]
    parts += ["weights that never met CIFAR-FS"] if reference.startswith(HELD_OUT) else []
    parts += ["told of the balance"] if "class_priors=balanced" in reference else []
    return {
        "title": ", ".join(parts),
        "n_tasks": f"{one['n_tasks']:,}",
        "seed": one["seed"],
        "backbone": one["backbone"],
        "reference": reference,
        "held_out": reference.startswith(HELD_OUT),
        "made": made(records),
        "tables": [
            (shot, _table(own, _accuracy, cost=True).markdown(), _table(own, _harm).markdown())
            for shot, own in _by_shot(records)
        ],
    }


def _by_shot(records: Records) -> list[tuple[int, Records]]:
    return [(shot, [r for r in records if r["n_shot"] == shot]) for shot in sorted({r["n_shot"] for r in records})]


def _sizes(records: Records) -> dict[str, str]:
    cells = gather(
        records,
        lambda r: (
            f"{r['dataset']}, {r['split']} classes, {r['backbone'].split('@')[0]}",
            *itemgetter("n_way", "n_shot", "n_total", "protocol", "n_tasks")(r),
        ),
    )
    rows = []
    for key, own in sorted(cells.items(), key=lambda cell: cell[0]):
        reference = next(r for r in own if r["method"] == r["versus"]["method"])
        gain = next(other for other in reference["against"] if other["method"] == INDUCTIVE)
        best = max((r for r in own if r["method"] not in (INDUCTIVE, reference["method"])), key=lambda r: r["accuracy"])
        about = (f"{part:,}" if isinstance(part, int) else part for part in key)
        rows.append((*about, plus_minus(reference), _bold(gain), f"`{best['method']}`", _bold(best["versus"])))
    columns = ("features", "ways", "shots", "queries", "protocol", "tasks", f"`{records[0]['versus']['method']}`")
    table = Table((*columns, "less the inductive", "best other", "its difference"), tuple(rows))
    others = ", ".join(f"`{name}`" for name in _different(r["method"] for r in records)[1:])
    return {"others": others, "made": made(records), "table": table.markdown()}


def _weak(records: Records) -> dict[str, Any]:
    """A row for each cell, with the difference of each other method to the reference."""
    cells = gather(records, itemgetter("dataset", "n_shot", "protocol"))
    rows = [
        (*map(str, key), plus_minus(reference), *(_bold(r["versus"]) for r in others))
        for key, (reference, *others) in cells.items()
    ]
    columns = ("features", "shots", "protocol", *(f"`{name}`" for name in _different(r["method"] for r in records)))
    about = {"n_tasks": f"{records[0]['n_tasks']:,}", "n_way": records[0]["n_way"], "queries": records[0]["n_total"]}
    return {**about, "made": made(records), "table": Table(columns, tuple(rows)).markdown()}


def _ablation(records: Records) -> dict[str, Any]:
    about = {name: records[0][name] for name in ("dataset", "split", "backbone")}
    tables = [(shot, _table(own, _worth).markdown()) for shot, own in _by_shot(records)]
    return {**about, "n_tasks": f"{records[0]['n_tasks']:,}", "made": made(records), "tables": tables}


def _worth(record: dict[str, Any], best: float) -> str:
    del best
    return plus_minus(record) if record["method"] == record["versus"]["method"] else _bold(record["versus"])


def _bold(versus: dict[str, Any]) -> str:
    text = signed(versus)
    return f"**{text}**" if Estimate.from_record(versus, "difference").excludes_zero else text


def _table(records: Records, cell: Cell, cost: bool = False) -> Table:
    """A row for each method, a column for each protocol."""
    by = {(r["method"], r["protocol"]): r for r in records}
    columns = _different(r["protocol"] for r in records)
    best = {p: max(r["accuracy"] for r in records if r["protocol"] == p) for p in columns}
    rows = []
    for method in _different(r["method"] for r in records):
        own = [by.get((method, p)) for p in columns]
        cells = ["–" if r is None else cell(r, best[r["protocol"]]) for r in own]
        if cost:
            cells.append(next(f"{r['milliseconds']:.1f}" for r in own if r is not None))
        rows.append((f"`{method}`", *cells))
    return Table(("method", *columns, *(["ms a task"] if cost else [])), tuple(rows))


def _accuracy(record: dict[str, Any], best: float) -> str:
    text = plus_minus(record)
    versus = Estimate.from_record(record["versus"], "difference")
    mark = "" if not versus.excludes_zero else " ▲" if versus.value > 0 else " ▼"
    return (f"**{text}**" if record["accuracy"] == best else text) + mark


def _harm(record: dict[str, Any], best: float) -> str:
    del best
    to = next(other for other in record["against"] if other["method"] == INDUCTIVE)
    return "–" if record["method"] == INDUCTIVE else plus_minus(to, "harm", "harm_ci95", ".1f")


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
