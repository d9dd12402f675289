"""Figures of the page of practice, docs/practice.md; its sentences are in practice.md.j2."""

from operator import itemgetter
from typing import Any

from pages.plots import Records, gather
from pages.templates import made, plus_minus, render, signed

from onelook.benchmark.tables import Table
from onelook.experiments.practice_measure import LABELLED_ONLY, OWN
from onelook.experiments.practice_report import ALPHA, RATE, UNKNOWN_FRACTION

ALIKE = ("dataset", "split", "backbone", "precision", "n_way", "n_total", "protocol", "n_tasks", "seed")
"""Settings that the columns of one table have in common."""


def page(records: Records) -> str:
    groups = gather(records, itemgetter(*ALIKE))
    facts = {
        f"{r['n_tasks']:,} users, {r['n_way']} classes, {r['n_total']} images to label, seed {r['seed']}"
        for r in records
    }
    own = [r for r in records if "report" in r]
    return render(
        "practice.md.j2",
        own=OWN,
        labelled_only=LABELLED_ONLY,
        alpha=f"{100 * ALPHA:.0f}",
        rate=f"{100 * RATE:.0f}",
        unknown_fraction=f"{100 * UNKNOWN_FRACTION:.0f}",
        facts="; or ".join(sorted(facts)),
        networks=", ".join(sorted({f"{r['backbone']} ({r['precision']})" for r in records})),
        made=made(records),
        sections=[(_name(group[0]), _table(group).markdown()) for group in groups.values()],
        report=_report(own).markdown(),
        unknown=_unknown(own).markdown(),
    )


def _name(record: dict[str, Any]) -> str:
    return f"{record['dataset']}, {record['n_way']} of {record['split']} classes, {record['backbone'].split('@')[0]}"


def _table(records: Records) -> Table:
    shots = list(dict.fromkeys(r["n_shot"] for r in records))
    columns = ["classifier"]
    for shot in shots:
        columns += [f"{shot} a class", "difference", "ms a user"]
    by = {(r["method"], r["n_shot"]): r for r in records}
    methods = dict.fromkeys(r["method"] for r in records)
    rows = ((method, *(cell for shot in shots for cell in _cells(by.get((method, shot))))) for method in methods)
    return Table(tuple(columns), tuple(rows))


def _cells(record: dict[str, Any] | None) -> tuple[str, str, str]:
    if record is None:
        return "–", "–", "–"
    difference = "–" if record["method"] == OWN else signed(record["versus"], ".1f")
    return plus_minus(record, form=".1f"), difference, f"{record['milliseconds']:.1f}"


def _report(own: Records) -> Table:
    of_estimate = ("estimate covers", "width", "too much")
    columns = ("calibration error", *of_estimate, "sets cover", "classes in a set", "commonest class")
    rows = []
    for record in own:
        r = record["report"]
        covers, low, high = (f"{100 * r[f'estimate_covers{end}']:.1f}" for end in ("", "_low", "_high"))
        rows.append(
            (
                _name(record),
                str(record["n_shot"]),
                plus_minus(r, "calibration_error", "calibration_error_ci95", ".3f"),
                f"{covers} % ({low} to {high})",
                f"{100 * r['estimate_width']:.1f}",
                _percent(r, "estimate_excess", "+.1f"),
                _percent(r, "set_coverage"),
                f"{r['set_size']:.2f}",
                f"{100 * r['largest_share']:.1f} %",
            )
        )
    return Table(("set", "labels a class", *columns), tuple(rows))


def _unknown(own: Records) -> Table:
    areas = ("auroc", "auroc_energy", "auroc_nearest")
    rows = (
        (
            _name(record),
            str(record["n_shot"]),
            *(_percent(record["report"], name) for name in ("false_rejections", "unknown_found")),
            *(plus_minus(record["report"], name, f"{name}_ci95", ".3f") for name in areas),
        )
        for record in own
        if "auroc" in record["report"]
    )
    columns = ("set", "labels a class", "falsely set aside", "unknown found", "AUROC", "energy", "nearest")
    return Table(columns, tuple(rows))


def _percent(report: dict[str, float], name: str, form: str = ".1f") -> str:
    if name not in report:  # a record of before
        return "–"
    percent = {key: 100 * report[key] for key in (name, f"{name}_ci95")}
    return f"{plus_minus(percent, name, f'{name}_ci95', form)} %"
