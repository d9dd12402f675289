"""Figures of the page of the paper's experiments, docs/paper.md; its sentences are in paper.md.j2."""

import math
from collections.abc import Sequence
from typing import Any

from pages.plots import Records, kind_of, of_experiment, steps_of
from pages.templates import made, plus_minus, render, signed

from onelook.benchmark.tables import Table
from onelook.experiments.paper import tabulate
from onelook.experiments.paper_rows import REFERENCE

TITLES = {
    "cifar-fs": "CIFAR-FS",
    "mini-imagenet": "mini-ImageNet",
    "conv4-64": "Conv-4-64",
    "conv4-128": "Conv-4-128",
    "resnet12": "ResNet-12",
    "wrn-28-10": "WRN-28-10",
}
"""Names of data and networks as papers write them."""
EPOCHS = 60
"""Epochs of the article's pretraining."""
TOLERANCE = 1.5
"""Points below a published figure that are not called a shortfall."""


def page(results: dict[str, Records]) -> str:
    """Markdown.

    results: the records of `paper`, `epochs`, `curves`, `bottleneck`, `lines` and `domains`, as far as there are, and
        of `paper-…`, the comparison on other data or with another network.
    """
    sections = {"epochs": _epochs, "curves": _curves, "bottleneck": _bottleneck, "lines": _lines, "domains": _domains}
    compared = [records for name, records in results.items() if name == "paper" or name.startswith("paper-")]
    return render(
        "paper.md.j2",
        papers=[_comparison(records) for records in compared],
        gain=_gain(results["paper"]) if "paper" in results else None,
        gains=_table_of_gains(compared).markdown() if compared else "",
        **{name: figures(results[name]) if name in results else None for name, figures in sections.items()},
    )


def _comparison(records: Records) -> dict[str, Any]:
    rivals = [r for r in records if r["n_shot"] == 1 and not _is_ours(r) and r["versus"]]
    inductive = [r for r in rivals if not r["transductive"]]
    highest = {r["method"]: r["versus"]["difference"] + r["versus"]["ci95"] for r in inductive}
    nearest = max(inductive, key=lambda r: highest[r["method"]], default=None)
    elsewhere = {r["method"]: r["elsewhere"] for r in records if r["elsewhere"]}
    epochs = sorted({r["epochs"] for r in records if r.get("epochs")})
    return {
        "title": _name_set(records),
        "dataset": records[0]["dataset"],
        "epochs": " and ".join(map(str, epochs)),
        "on_images": any(r["on"] == "images" for r in records),
        "n_tasks": " and ".join(sorted({f"{r['n_tasks']:,}" for r in records})),
        "backbone": records[0]["backbone"].split("@")[0],
        "table": tabulate(records).markdown(),
        "elsewhere": ". ".join(f"{method}: {figures}" for method, figures in elsewhere.items()),
        "made": made(records),
        "nearest": nearest and f"{nearest['method']}, at {signed(nearest['versus'])}",
        "n_above": sum(one < 0 for one in highest.values()),
        "n_inductive": len(inductive),
        "transductive": [
            f"{r['method']}, which sees the queries too, is at {signed(r['versus'])}"
            for r in rivals
            if r["transductive"]
        ],
        "short": _short(records),
    }


def _is_ours(record: dict[str, Any]) -> bool:
    """Whether a record is of SIB, in which the comparison sets out from K = 0."""
    return bool(record["paper"].startswith("Hu"))


def _name_set(records: Records) -> str:
    network = records[0]["backbone"].split("@")[0]
    data = TITLES.get(records[0]["dataset"], records[0]["dataset"])
    return f"{data} with {TITLES.get(network, network)}{' and rotation' if records[0].get('rotation') else ''}"


def _table_of_gains(compared: Sequence[Records]) -> Table:
    """SIB over K = 0 in percent of the latter, for all data and networks, beside what the published figures give."""
    columns = ["data and network", "shot", "K = 0", "SIB", "gain of K = 3 (%)", "published (%)", "K = 1", "K = 5"]
    rows = []
    for records in compared:
        by_row = {(r["row"], r["n_shot"]): r for r in records}
        for shot in (1, 5):
            start, end = by_row.get(("sib-0", shot)), by_row.get((REFERENCE, shot))
            if start is None or end is None:
                continue
            steps = [by_row.get((row, shot)) for row in ("sib-1", "sib-5")]
            known = start["published"] and end["published"] and 100 * (end["published"] / start["published"] - 1)
            gain = plus_minus(start["versus"]["relative"], "mean", form=".1f")
            cells = [_name_set(records), str(shot), f"{start['accuracy']:.2f}", f"{end['accuracy']:.2f}", f"**{gain}**"]
            cells += [f"{known:.1f}" if known else "–", *(_percent_above(one, start) if one else "–" for one in steps)]
            rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows))


def _short(records: Records) -> str:
    short = [r for r in records if r["published"] and r["accuracy"] < r["published"] - TOLERANCE]
    named = [f"{r['method']} at {r['n_shot']}-shot ({r['accuracy']:.2f} against {r['published']})" for r in short]
    if named:
        return f"More than {TOLERANCE} points below the published figure: {', '.join(named)}."
    return f"No row is more than {TOLERANCE} points below its published figure."


def _gain(records: Records) -> dict[str, Any] | None:
    by_row = {(r["row"], r["n_shot"]): r for r in records}
    start, end = by_row.get(("sib-0", 1)), by_row.get((REFERENCE, 1))
    if start is None or end is None:
        return None
    one, turned, end_turned = (by_row.get((row, 1)) for row in ("sib-1", "cc-rot", "sib-rot"))
    rivals = [r for r in records if r["n_shot"] == 1 and r["published"] and not _is_ours(r)]
    strongest = max(rivals, key=lambda r: r["accuracy"], default=None)
    others = []
    if turned is not None and end_turned is not None:
        others.append(
            f"On features with rotation SIB has {end_turned['accuracy']:.2f}, against the {turned['accuracy']:.2f} of "
            f"{turned['method']} on the same: {_percent_above(end_turned, turned)} %."
        )
    if strongest is not None:
        others.append(
            f"Over the strongest baseline with a published CIFAR-FS figure ({strongest['method']}, here "
            f"{strongest['accuracy']:.2f}) it is {_percent_above(end, strongest)} %."
        )
    if (five := by_row.get(("sib-0", 5))) is not None:
        others.append(f"At five shots it is {plus_minus(five['versus']['relative'], 'mean', form='.1f')} %.")
    return {
        "start": f"{start['accuracy']:.2f}",
        "end": f"{end['accuracy']:.2f}",
        "relative": plus_minus(start["versus"]["relative"], "mean", form=".1f"),
        "points": signed(start["versus"] | {"difference": -start["versus"]["difference"]}),
        "one_step": one and _percent_above(one, start),
        "others": others,
    }


def _percent_above(record: dict[str, Any], base: dict[str, Any]) -> str:
    return f"{100 * (record['accuracy'] / base['accuracy'] - 1):.1f}"


def _epochs(records: Records) -> dict[str, str]:
    """What an epoch costs, by precision."""
    by_case: dict[str, dict[str, dict[str, Any]]] = {}
    for r in records:
        by_case.setdefault(_name_set([r]), {})[r["precision"]] = r
    columns = ("data and network", "images a second", "an epoch", f"{EPOCHS} epochs", "in float32")
    rows = []
    for name, one in by_case.items():
        fast, slow = one["bfloat16"], one["float32"]
        minutes = fast["epoch_minutes"]
        hours = [EPOCHS * r["epoch_minutes"] / 60 for r in (fast, slow)]
        per_second = f"{fast['images_per_second']:,.0f}"
        rows.append((name, per_second, f"{_short_number(minutes)} min", *(f"{_short_number(h)} h" for h in hours)))
    return {"table": Table(columns, tuple(rows)).markdown(), "made": made(records)}


def _short_number(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _curves(records: Records) -> dict[str, str]:
    starts = [
        f"{shot}-shot {plus_minus(r)}"
        for shot in (1, 5)
        for r in of_experiment(records, "steps", shot)
        if kind_of(r) == "feature-averaging"
    ]
    return {
        "steps": _table_of_steps(records).markdown(),
        "starts": ", ".join(starts),
        "queries": _table_of_queries(records).markdown(),
        "made": made(records),
    }


def _table_of_steps(records: Records) -> Table:
    kinds = {"sib": "SIB", "sib-inductive": "inductive"}
    own = {(kind_of(r), steps_of(r), shot): r for shot in (1, 5) for r in of_experiment(records, "steps", shot)}
    columns = [(kind, shot) for shot in (1, 5) for kind in kinds]
    rows = []
    for k in sorted({steps for kind, steps, _ in own if kind in kinds}):
        found = [own[kind, k, shot] for kind, shot in columns]
        rows.append((str(k), *(f"{r['accuracy']:.2f} ({signed(r['versus'])})" for r in found)))
    return Table(("K", *(f"{kinds[kind]}, {shot}-shot" for kind, shot in columns)), tuple(rows))


def _table_of_queries(records: Records) -> Table:
    titles = {
        ("queries", "feature-averaging"): "K = 0",
        ("queries", "sib"): "trained with 15",
        ("queries, trained for them", "sib"): "trained with as many",
    }
    own = {(r["experiment"], kind_of(r), r["n_shot"], r["n_query"]): r for r in records}
    columns = [(*key, shot) for shot in (1, 5) for key in titles]
    rows = []
    for n in sorted({r["n_query"] for r in records if r["experiment"] == "queries"}):
        found = [own.get((*column, n)) for column in columns]
        rows.append((str(n), *("–" if r is None else plus_minus(r) for r in found)))
    heads = (f"{titles[experiment, kind]}, {shot}-shot" for experiment, kind, shot in columns)
    return Table(("queries a class", *heads), tuple(rows))


def _bottleneck(records: Records) -> dict[str, str]:
    columns = ("shot", "gamma", "known classes", "unknown classes", "gap", "loss, known", "loss, unknown", "its gap")
    rows = (
        (
            str(r["n_shot"]),
            f"{r['prior_weight']:g}",
            plus_minus(r, "train_accuracy", "train_ci95"),
            plus_minus(r),
            plus_minus(r, "accuracy_gap", "accuracy_gap_ci95"),
            f"{r['train_loss']:.3f}",
            f"{r['loss']:.3f}",
            plus_minus(r, "loss_gap", "loss_gap_ci95", ".3f"),
        )
        for r in records
    )
    return {"table": Table(columns, tuple(rows)).markdown(), "moved": _moved(records), "made": made(records)}


def _moved(records: Records) -> str:
    """Whether any weight moves the gap of the accuracy by more than the intervals of both allow."""
    without = {r["n_shot"]: r for r in records if r["prior_weight"] == 0}
    moved = [
        r
        for r in records
        if abs(r["accuracy_gap"] - without[r["n_shot"]]["accuracy_gap"])
        > math.hypot(r["accuracy_gap_ci95"], without[r["n_shot"]]["accuracy_gap_ci95"])
    ]
    if not moved:
        return "At no weight does the gap of the accuracy differ measurably from that without the term."
    named = ", ".join(f"{r['n_shot']}-shot at gamma {r['prior_weight']:g}" for r in moved)
    return f"The gap of the accuracy differs measurably from that without the term: {named}."


def _lines(records: Records) -> dict[str, str]:
    columns = {
        "correlation": ("correlation with the exact posterior mean", ".4f"),
        "slope_error": ("squared error of the slope", ".4f"),
        "slope_error_constant": ("best constant's", ".4f"),
        "slope_error_oracle": ("exact posterior's", ".4f"),
        "kl_to_exact": ("KL to the exact posterior", ".3f"),
        "information": ("information (nats)", ".3f"),
        "gap": ("error, test − train", "+.4f"),
    }
    rows = (
        (
            str(r["config"]["seed"]),
            f"{r['config']['kl_weight']:g}",
            *(f"{r['final'][name]:{form}}" for name, (_, form) in columns.items()),
        )
        for r in records
    )
    table = Table(("seed", "beta", *(title for title, _ in columns.values())), tuple(rows))
    return {
        "table": table.markdown(),
        "information": f"{records[0]['exact']['information']:.4f}",
        "n_unseen": " and ".join(sorted({str(r["config"]["n_test"]) for r in records})),
        "made": made(records),
    }


def _domains(records: Records) -> dict[str, Any]:
    targets = [target for r in records for target in r["targets"]]
    differences = [target["difference"]["rotation + steps - fixed"] for target in targets]
    titles = ("after pretraining", "fixed start", "rotation", "rotation, K = 3", "K = 3 − fixed start")
    rows = [
        (
            target["target"],
            f"{target['n_images']:,}",
            *(plus_minus(a, "mean", form=".1f") for a in target["accuracy"].values()),
            plus_minus(difference, "mean", form="+.1f"),
        )
        for target, difference in zip(targets, differences, strict=True)
    ]
    rows.append(("mean", "", *(f"{value:.1f}" for value in records[0]["mean_accuracy"].values()), ""))
    return {
        "table": Table(("target", "images", *titles), tuple(rows)).markdown(),
        "n_targets": len(targets),
        "n_better": sum(one["mean"] > one["ci95"] for one in differences),
        "n_worse": sum(one["mean"] < -one["ci95"] for one in differences),
        "made": made(records),
    }
