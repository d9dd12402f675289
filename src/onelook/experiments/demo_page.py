"""One self-contained HTML page about a run: what the unlabelled images were worth, and how we know.

`render` is pure, and the same report gives the same bytes, so pages can be compared and kept under version control.
The page asks for nothing from outside: styles and plots are inside it, images are data: URIs, and its
Content-Security-Policy forbids the rest.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from jaxtyping import Float, Int, UInt8
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from onelook.files import write_atomically
from onelook.html import data_uri, render_template, short

LARGEST_PICTURE = 48
"""Pixels on the longer side; three tasks of 80 photographs then stay below 3 MB."""


@dataclass(frozen=True)
class Curve:
    """A line of a plot."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float | int, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] | None = None
    """Half the width of the 95 % interval of each y."""


@dataclass(frozen=True)
class TaskPicture:
    """One task with its pictures and the answers before and after the steps."""

    class_names: tuple[str, ...]
    support: UInt8[Tensor, "S C H W"]
    """C = 1 (grey) or 3 (RGB)."""
    support_labels: Int[Tensor, "S"]
    query: UInt8[Tensor, "Q C H W"]
    query_labels: Int[Tensor, "Q"]
    before: Float[Tensor, "Q K"]
    """Probabilities after 0 steps."""
    after: Float[Tensor, "Q K"]
    """Probabilities after all steps."""
    note: str = ""
    """Kind of the task and how it was chosen."""


@dataclass(frozen=True)
class Report:
    """All that the page shows. Accuracies, differences and intervals (half their width) are in percent."""

    title: str
    records: list[dict[str, Any]] = field(default_factory=list)
    """The result records: dataset, split, backbone, method, settings (a dict), n_way, n_shot, n_query (per class),
    protocol, n_tasks, seed, accuracy, ci95, seconds, commit."""
    paired: list[dict[str, Any]] = field(default_factory=list)
    """Comparisons on the same tasks: n_shot, difference (method minus reference), ci95, method, reference.
    The first one is the headline, and should be K steps against 0 steps."""
    steps: tuple[Curve, ...] = ()
    """Accuracy after k = 0 … K steps, one curve per shot setting, with the errors."""
    curves: tuple[Curve, ...] = ()
    """Training curves; each becomes a plot of its own."""
    tasks: tuple[TaskPicture, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    """How it was made: command, seed, seconds, machine, versions, commit."""
    commands: tuple[tuple[str, str], ...] = ()
    """How to go on: what a command does, and the command."""


def render(report: Report) -> str:
    n_steps = max((int(curve.x[-1]) for curve in report.steps), default=None)
    comparisons = [_comparison(pair, report.steps) for pair in report.paired]
    return render_template(
        "experiments/templates/demo.html",
        report=report,
        n_steps=n_steps,
        comparisons=comparisons,
        steps_plot=_plot(report.steps, "steps") if report.steps else "",
        steps_rows=_steps_rows(report.steps),
        curve_plots=[_plot([curve], f"curve-{i}") for i, curve in enumerate(report.curves)],
        tasks=[_task_view(task) for task in report.tasks],
    )


def write(report: Report, path: Path) -> None:
    """Write the page; `path` is either the whole new page or what it was. Raises StorageError."""
    write_atomically(path, render(report).encode("utf-8"))


# ---------------------------------------------------------------------------------------------- the headline


def _comparison(pair: dict[str, Any], steps: Sequence[Curve]) -> dict[str, Any]:
    """The pair with its interval, its verdict, and the accuracies it is the difference of, where they are known."""
    low, high = pair["difference"] - pair["ci95"], pair["difference"] + pair["ci95"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "open"
    # The accuracies come from the curve of the same shots, and only if they say the same as the difference: a
    # comparison with another method must not borrow the numbers of the one between K steps and 0.
    curve = next((c for c in steps if re.match(rf"{pair['n_shot']}\b", c.title)), None)
    ends = None
    if curve is not None and abs(curve.y[-1] - curve.y[0] - pair["difference"]) <= 0.05:
        ends = [(curve.x[i], curve.y[i], curve.error[i] if curve.error else math.nan) for i in (0, -1)]
    return {**pair, "low": low, "high": high, "verdict": verdict, "ends": ends}


# ------------------------------------------------------------------------------------------------- the plots

STYLE = Path(__file__).with_name("demo_page.mplstyle")
COLOURS = {"#010101": "var(--muted)", "#010102": "var(--line)"} | {
    f"#01010{i + 2}": f"var(--series-{i})" for i in range(1, 5)
}
"""Colours of STYLE, and the variables of the page that they stand for, so that one plot serves light and dark."""


def _plot(curves: Sequence[Curve], name: str) -> Markup:
    """An inline SVG of the curves on one pair of axes; a legend where there are several."""
    salt = {"svg.hashsalt": name}  # of its own: ids must differ between the plots of a page
    with matplotlib.style.context(["default", STYLE, salt]):
        figure = Figure(figsize=(5.0, 3.1), layout="constrained")
        axes = figure.subplots()
        for i, curve in enumerate(curves):
            _draw(axes, curve, f"C{i}", marker="osD^"[i % 4] if len(curve.x) <= 12 else "")
        axes.set(xlabel=curves[0].x_label, ylabel=curves[0].y_label)
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.06)
        if all(x == int(x) for curve in curves for x in curve.x):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        if len(curves) > 1:
            figure.legend(loc="outside upper left", ncols=3, handlelength=2.4)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    label = "; ".join(
        f"{c.title}: {c.y_label} from {short(c.y[0])} to {short(c.y[-1])} over {c.x_label} {c.x[0]:g} to {c.x[-1]:g}"
        for c in curves
    )
    return _inline_svg(stream.getvalue(), label)


def _draw(axes: Any, curve: Curve, colour: str, marker: str) -> None:
    bars = curve.error if marker else None  # bars of many points would hide the line
    axes.errorbar(curve.x, curve.y, bars, elinewidth=1.4, color=colour, marker=marker, label=curve.title)
    if curve.error is not None and not marker:
        low, high = np.subtract(curve.y, curve.error), np.add(curve.y, curve.error)
        axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, linewidth=0)


def _inline_svg(svg: str, label: str) -> Markup:
    """Strip an SVG to what may stand inside a page: no prolog, no rules for `*`, unique ids, our colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"#01010[1-6]", lambda colour: COLOURS[colour[0]], svg)
    svg = re.sub(r'width="\S*" height="\S*"', lambda _: f'role="img" aria-label="{escape(label)}"', svg, count=1)
    return Markup(svg.strip())


def _steps_rows(steps: Sequence[Curve]) -> list[tuple[float, list[tuple[float, float | None] | None]]]:
    """Rows of a table: for each number of steps, accuracy and error of each curve."""
    points = [dict(zip(c.x, zip(c.y, c.error or (None,) * len(c.y), strict=True), strict=True)) for c in steps]
    return [(k, [of_curve.get(k) for of_curve in points]) for k in sorted({k for c in steps for k in c.x})]


# ------------------------------------------------------------------------------------------------- the tasks


def _task_view(task: TaskPicture) -> dict[str, Any]:
    """The sheet of all pictures, and for each query its truth and its answers on the two boards, before and after."""
    truth = task.query_labels.tolist()
    boards = [[x.tolist() for x in board.max(1)] for board in (task.before, task.after)]
    sheet, size, places = _sprite(np.concatenate([task.support.cpu().numpy(), task.query.cpu().numpy()]))
    n_support = len(task.support)
    queries = [
        {
            "query": q,
            "place": places[n_support + q],
            "true": true,
            "percents": [f"{100 * confidence[q]:.0f}" for confidence, _ in boards],
            "answers": (answers := [labels[q] for _, labels in boards]),
            "wrong": [answer != true for answer in answers],
            "moved": answers[0] != answers[1],
        }
        for q, true in enumerate(truth)
    ]
    examples = [{"class": k, "place": place} for k, place in zip(task.support_labels.tolist(), places, strict=False)]
    return {"sheet": sheet, "size": size, "names": task.class_names, "examples": examples, "queries": queries}


def _sprite(images: UInt8[np.ndarray, "B C H W"]) -> tuple[str, str, list[str]]:
    """All images on one sheet: its data: URI, CSS background-size, and the CSS background-position of each.

    Every cell has a rim of repeated pixels, or browsers that smooth would blend the neighbours in.
    """
    shrink = min(1.0, LARGEST_PICTURE / max(images.shape[2:]))
    height, width = (max(1, round(side * shrink)) for side in images.shape[2:])
    cell_h, cell_w, across = height + 2, width + 2, min(10, len(images))
    down = math.ceil(len(images) / across)
    sheet = np.zeros((down * cell_h, across * cell_w, 3), np.uint8)
    places = []
    for i, image in enumerate(images):
        rgb = Image.fromarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0).copy())
        small = rgb if rgb.size == (width, height) else rgb.resize((width, height), Image.Resampling.LANCZOS)
        top, left = i // across * cell_h, i % across * cell_w
        sheet[top : top + cell_h, left : left + cell_w] = np.pad(np.asarray(small), ((1, 1), (1, 1), (0, 0)), "edge")
        x, y = (left + 1) / (across * cell_w - width), (top + 1) / (down * cell_h - height)
        places.append(f"{100 * x:.3f}% {100 * y:.3f}%")
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "PNG", optimize=True)
    uri = data_uri(stream.getvalue(), "image/png")
    return uri, f"{100 * across * cell_w / width:.3f}% {100 * down * cell_h / height:.3f}%", places
