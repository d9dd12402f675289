"""The plots of the page of the paper's experiments, and the style of all."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Records = Sequence[dict[str, Any]]

BLUE, ORANGE, GREY, GREEN = "#2563eb", "#d97706", "#6b7280", "#059669"


def plots(results: dict[str, Records]) -> dict[str, bytes]:
    """SVG files by name, the same bytes for the same results."""
    makers = {
        "methods": ("paper", _plot_methods),
        "steps": ("curves", _plot_steps),
        "queries": ("curves", _plot_queries),
        "lines": ("lines", _plot_lines),
    }
    return drawn({name: partial(make, results[source]) for name, (source, make) in makers.items() if source in results})


def drawn(makers: dict[str, Callable[[], Figure]]) -> dict[str, bytes]:
    """The figures as SVG files, all in one style."""
    with mpl.rc_context(
        {
            "svg.hashsalt": "onelook",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
        }
    ):
        return {name: _svg(make()) for name, make in makers.items()}


def _svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return out.getvalue()


def gather(
    records: Records, key: Callable[[dict[str, Any]], tuple[Any, ...]]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Records by their key, in the order in which each is first met."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in records:
        groups.setdefault(key(r), []).append(r)
    return groups


def of_experiment(records: Records, experiment: str, shot: int) -> list[dict[str, Any]]:
    return [r for r in records if r["experiment"] == experiment and r["n_shot"] == shot]


def steps_of(record: dict[str, Any]) -> int:
    return int(record["settings"].get("n_steps", 0))


def kind_of(record: dict[str, Any]) -> str:
    return str(record["method"]).split(":")[0]


def _plot_methods(records: Records) -> Figure:
    one = sorted((r for r in records if r["n_shot"] == 1), key=lambda r: r["accuracy"])
    figure = Figure(figsize=(8, 0.27 * len(one) + 1), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    place = {r["row"]: i for i, r in enumerate(one)}
    for axis, shot in zip(axes, (1, 5), strict=True):
        for r in (r for r in records if r["n_shot"] == shot):
            colour = BLUE if r["paper"].startswith("Hu") else ORANGE if r["transductive"] else GREY
            axis.errorbar(r["accuracy"], place[r["row"]], xerr=r["ci95"], fmt="o", color=colour, markersize=4)
            if r["published"]:
                axis.plot(r["published"], place[r["row"]], "|", color=colour, markersize=9)
        axis.set_xlabel(f"{shot}-shot accuracy (%)")
    axes[0].set_yticks(range(len(one)), [r["method"] for r in one])
    for colour, label in ((BLUE, "SIB"), (ORANGE, "sees the queries"), (GREY, "inductive")):
        axes[1].plot([], [], "o", color=colour, label=label, markersize=4)
    axes[1].plot([], [], "|", color=GREY, label="published", markersize=9)
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    return figure


def _line(axis: Axes, records: Records, by: Any, label: str, colour: str, style: str = "-") -> None:
    points = sorted(records, key=by)
    axis.errorbar(
        [by(r) for r in points],
        [r["accuracy"] for r in points],
        yerr=[r["ci95"] for r in points],
        fmt=f"o{style}",
        color=colour,
        label=label,
        markersize=4,
        capsize=2,
    )


def _plot_steps(records: Records) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, shot in zip(axes, (1, 5), strict=True):
        own = of_experiment(records, "steps", shot)
        start = [r for r in own if kind_of(r) == "feature-averaging"]
        _line(axis, start + [r for r in own if kind_of(r) == "sib"], steps_of, "synthetic, on the queries", BLUE)
        inductive = start + [r for r in own if kind_of(r) == "sib-inductive"]
        _line(axis, inductive, steps_of, "true, on the support set", GREY)
        axis.set(title=f"{shot}-shot", xlabel="K, gradient steps", ylabel="accuracy (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _plot_queries(records: Records) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, shot in zip(axes, (1, 5), strict=True):
        own = of_experiment(records, "queries", shot)
        _line(axis, [r for r in own if kind_of(r) == "sib"], _queries_of, "K = 3, trained with 15", BLUE)
        trained = of_experiment(records, "queries, trained for them", shot)
        same = [r for r in own if kind_of(r) == "sib" and r["n_query"] not in {t["n_query"] for t in trained}]
        _line(axis, trained + same, _queries_of, "K = 3, trained with as many", GREEN, "--")
        _line(axis, [r for r in own if kind_of(r) == "feature-averaging"], _queries_of, "K = 0", GREY)
        axis.set(title=f"{shot}-shot", xlabel="unlabelled queries a class", ylabel="accuracy (%)", xscale="log")
        axis.set_xticks(ticks := sorted({r["n_query"] for r in own}), [str(n) for n in ticks], minor=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _queries_of(record: dict[str, Any]) -> int:
    return int(record["n_query"])


def _plot_lines(records: Records) -> Figure:
    record = records[0]
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    epochs = [e["epoch"] for e in record["epochs"]]
    left.plot(epochs, [e["information"] for e in record["epochs"]], color=BLUE, label="information (nats)")
    left.axhline(record["exact"]["information"], color=BLUE, linestyle=":", label="in truth")
    left.plot(epochs, [e["kl_to_exact"] for e in record["epochs"]], color=ORANGE, label="KL to the exact posterior")
    left.plot(epochs, [e["test_error"] for e in record["epochs"]], color=GREY, label="squared error, unseen tasks")
    left.set(xlabel="epoch", ylim=(0, 1.5))
    left.legend(frameon=False)
    truth, found = zip(*record["points"], strict=True)
    right.plot(truth, found, "o", color=BLUE, markersize=2.5, alpha=0.6)
    ends = [min(truth), max(truth)]
    right.plot(ends, ends, color=GREY, linewidth=1)
    right.set(xlabel="exact posterior mean of the slope", ylabel="slope after K steps")
    return figure
