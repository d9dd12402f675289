"""Figures of the page of feature networks, docs/networks.md; its sentences are in networks.md.j2."""

from operator import itemgetter
from typing import Any

from pages.plots import Records, gather
from pages.templates import made, plus_minus, render, signed

from onelook.artifacts import AUTO
from onelook.benchmark.tables import Table

ALIKE = ("average", "precision", "n_way", "n_total", "protocol", "n_tasks", "seed")
"""Settings that the rows of one table have in common."""


def page(records: Records) -> str:
    groups = gather(records, itemgetter(*ALIKE))
    return render(
        "networks.md.j2",
        made=made(records) if records else "",
        sections=[(_describe(group[0]), _table(group).markdown()) for group in groups.values()],
    )


def _describe(r: dict[str, Any]) -> str:
    return (
        f"{r['n_tasks']:,} users, {r['n_way']} classes, {r['n_total']} images to label, {r['protocol']}, "
        f"seed {r['seed']}, {r['precision']}, averaged over: {r['average']}"
    )


def _table(records: Records) -> Table:
    names = list(dict.fromkeys(r["network"] for r in records if r["network"] != AUTO))
    rows: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for r in records:
        rows.setdefault((r["dataset"], r["split"], r["n_shot"]), {})[r["network"]] = r
    columns = ("set", "labels a class", *names, AUTO, "auto took", "auto less the best other", "expected", "covered")
    return Table(columns, tuple(_row(key, row, names) for key, row in rows.items()))


def _row(key: tuple[Any, ...], row: dict[str, dict[str, Any]], names: list[str]) -> tuple[str, ...]:
    dataset, split, shot = key
    cells = [plus_minus(row[name], form=".1f") if name in row else "–" for name in names]
    head = (f"{dataset}, {split}", str(shot), *cells)
    if AUTO not in row:
        return (*head, "–", "–", "–", "–", "–")
    auto = row[AUTO]
    took = auto["backbone"].split("@")[0]
    others = [name for name in names if name in row]
    best = max(others, key=lambda name: row[name]["accuracy"], default=None)
    less = "–" if best is None else f"{signed(auto['versus'][best], '.1f')} ({best})"
    expected = plus_minus(auto, "expected_accuracy", "expected_ci95", ".1f")
    return (*head, plus_minus(auto, form=".1f"), took, less, expected, f"{100 * auto['estimate_covers']:.0f} %")
