"""docs/practice.md: what a person with a few labels gets, from the results of `onelook benchmark practice`."""

from collections.abc import Sequence
from typing import Any

from onelook.experiments.practice_cell import LABELLED_ONLY, OWN
from onelook.experiments.practice_said import ALPHA, RATE, UNKNOWN_SHARE

Records = Sequence[dict[str, Any]]

ALIKE = ("dataset", "split", "backbone", "precision", "n_way", "n_total", "protocol", "n_tasks", "seed")
"""What the columns of one table have in common."""

HEAD = f"""# A few labels, many images

Simulated users label a few examples of each of some classes and have the other images to label, in Dirichlet(2)
proportions. `FewShotClassifier` (row `{OWN}`) meets the same users, on the same features of unit length, as the
classifiers of scikit-learn; `{LABELLED_ONLY}` is ours without the images to label, and what it lacks is what they are
worth: it answers by the nearest class mean, as the nearest centroid does. Settings are those of scikit-learn but for
three that would not do with few labels: label spreading goes by 7 neighbours, logistic regression may take 1,000
iterations, and self-training believes what logistic regression is sure of by 0.6 and not 0.75; where it never is,
self-training adds nothing and is logistic regression. `make docs` makes this page from `benchmarks/practice*.json`;
[benchmarks/README.md](../benchmarks/README.md) has the command. Accuracies are means over users in percent, ± 95 %;
differences to `{OWN}` are paired, user by user. Neither the feature network nor Glance was trained on these classes;
digits were among the sets by which the suggestions were chosen ([log.md](log.md)).
"""

SAID = f"""## What it says of itself

The calibration error is the expected one over 15 bins, ± 95 % by drawing users again. *Estimate covers*: how often the
interval of 95 % that `estimate_accuracy` gives holds the true accuracy on the images to label, with Clopper and
Pearson's interval over users, and how wide it is in percentage points. *Sets cover*: how often the truth is in the
prediction sets, which may miss it in {100 * ALPHA:.0f} %, and how many classes they have. *Commonest class*: its share
of the images to label; that of sets with few images a class is smaller than Dirichlet(2) has it, because these run out.
"""

STRANGE = f"""## Strangers

Users {100 * UNKNOWN_SHARE:.0f} % of whose images are of no class that they labelled: how many of the others were set
aside, where {100 * RATE:.0f} % were allowed, how many of the strangers were, and the area under the ROC curve of our
score, of the energy score, and of the distance to the nearest labelled example.
"""


def page(records: Records) -> str:
    if not records:
        return HEAD
    made = sorted({f"commit {r['commit']}, {r['machine']}" for r in records})
    networks = sorted({f"{r['backbone']} ({r['precision']})" for r in records})
    facts = sorted(
        {
            f"{r['n_tasks']:,} users, {r['n_way']} classes, {r['n_total']} images to label, seed {r['seed']}"
            for r in records
        }
    )
    about = f"In each column: {'; or '.join(facts)}. Features of {', '.join(networks)}. Made at {'; '.join(made)}.\n"
    own = [r for r in records if "said" in r]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in records:
        groups.setdefault(tuple(r[key] for key in ALIKE), []).append(r)
    return "\n".join([HEAD, about, *map(_section, groups.values()), _said(own), _strangers(own)])


def _name(record: dict[str, Any]) -> str:
    return f"{record['dataset']}, {record['split']} classes, {record['backbone'].split('@')[0]}"


def _section(own: Records) -> str:
    shots = list(dict.fromkeys(r["n_shot"] for r in own))
    head = ["classifier"]
    for shot in shots:
        head += [f"{shot} a class", "difference", "ms a user"]
    lines = [head]
    for method in dict.fromkeys(r["method"] for r in own):
        by = {r["n_shot"]: r for r in own if r["method"] == method}
        cells = [method]
        for shot in shots:
            if shot not in by:
                cells += 3 * ["–"]
                continue
            r = by[shot]
            to = r["versus"]
            cells += [
                f"{r['accuracy']:.1f} ± {r['ci95']:.1f}",
                "–" if method == OWN else f"{to['difference']:+.1f} ± {to['ci95']:.1f}",
                f"{r['milliseconds']:.1f}",
            ]
        lines.append(cells)
    return f"## {_name(own[0])}\n\n{_table(lines)}\n"


def _said(own: Records) -> str:
    lines = [
        [
            "set",
            "labels a class",
            "calibration error",
            "estimate covers",
            "width",
            "sets cover",
            "classes in a set",
            "commonest class",
        ]
    ]
    for r in own:
        s = r["said"]
        lines.append(
            [
                *_cell(r),
                f"{s['calibration_error']:.3f} ± {s['calibration_error_ci95']:.3f}",
                f"{100 * s['estimate_covers']:.1f} % "
                f"({100 * s['estimate_covers_low']:.1f} to {100 * s['estimate_covers_high']:.1f})",
                f"{100 * s['estimate_width']:.1f}",
                _percent(s, "set_coverage"),
                f"{s['set_size']:.2f}",
                f"{100 * s['largest_share']:.1f} %",
            ]
        )
    return f"{SAID}\n{_table(lines)}\n"


def _strangers(own: Records) -> str:
    lines = [["set", "labels a class", "falsely set aside", "strangers found", "AUROC", "energy", "nearest"]]
    for r in own:
        s = r["said"]
        areas = [f"{s[name]:.3f} ± {s[name + '_ci95']:.3f}" for name in ("auroc", "auroc_energy", "auroc_nearest")]
        lines.append([*_cell(r), _percent(s, "false_rejections"), _percent(s, "strangers_found"), *areas])
    return f"{STRANGE}\n{_table(lines)}\n"


def _cell(record: dict[str, Any]) -> list[str]:
    return [_name(record), str(record["n_shot"])]


def _percent(said: dict[str, float], name: str) -> str:
    return f"{100 * said[name]:.1f} ± {100 * said[name + '_ci95']:.1f} %"


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rest))
