"""docs/practice.md: what a person with a few labels gets, from the results of `onelook benchmark practice`."""

from collections.abc import Sequence
from typing import Any

from onelook.experiments.practice import ALPHA, OWN, RATE

Records = Sequence[dict[str, Any]]

HEAD = f"""# A few labels, many images

Simulated users label a few examples of each of five classes and have the other images to label, in Dirichlet(2)
proportions. `FewShotClassifier` (row `{OWN}`) meets the same users, on the same features of unit length, as the
classifiers of scikit-learn with their usual settings. `make docs` makes this page from `benchmarks/practice.json`;
[benchmarks/README.md](../benchmarks/README.md) has the command. Accuracies are means over users in percent, ± 95 %;
differences are paired, user by user. The classes of no set were used to train or to choose anything.
"""

SAID = f"""## What it says of itself

The calibration error is the expected one over 15 bins. "Estimate covers": how often the interval of 95 % that
`estimate_accuracy` gives holds the true accuracy on the images to label. Sets are prediction sets that may miss the
truth in {100 * ALPHA:.0f} %. The last columns are of users a fifth of whose images are of no class that they labelled:
how many others were set aside where {100 * RATE:.0f} % were allowed, how many of the strangers were found, and the
area under the ROC curve of our score, the energy score and the distance to the nearest labelled example.
"""


def page(records: Records) -> str:
    made = sorted({f"commit {r['commit']}, {r['machine']}" for r in records})
    networks = sorted({r["backbone"] for r in records})
    users = sorted({r["n_tasks"] for r in records})
    about = f"{users[0]:,} users a column; features of {', '.join(networks)}. Made at {'; '.join(made)}.\n"
    return "\n".join(
        [HEAD, about, *(_section(records, name) for name in _different(records, "dataset")), _said(records)]
    )


def _different(records: Records, key: str) -> list[Any]:
    return list(dict.fromkeys(r[key] for r in records))


def _section(records: Records, name: str) -> str:
    own = [r for r in records if r["dataset"] == name]
    shots = _different(own, "n_shot")
    head = ["classifier"]
    for shot in shots:
        head += [f"{shot} a class", "difference"]
    lines = [head, ["---"] * len(head)]
    for method in _different(own, "method"):
        by = {r["n_shot"]: r for r in own if r["method"] == method}
        cells = [method]
        for shot in shots:
            r = by[shot]
            to = r["versus"]
            cells += [f"{r['accuracy']:.1f} ± {r['ci95']:.1f}",
                      "–" if method == OWN else f"{to['difference']:+.1f} ± {to['ci95']:.1f}"]  # fmt: skip
        lines.append(cells)
    return f"## {name}\n\n{_rows(lines)}\n"


def _said(records: Records) -> str:
    head = ["set", "labels a class", "calibration error", "estimate covers", "sets cover", "classes in a set",
            "falsely set aside", "strangers found", "AUROC", "energy", "nearest"]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for r in records:
        if "said" not in r:
            continue
        s = r["said"]
        lines.append([
            r["dataset"], str(r["n_shot"]), f"{s['calibration_error']:.3f}", f"{100 * s['estimate_covers']:.1f} %",
            f"{100 * s['set_coverage']:.1f} %", f"{s['set_size']:.2f}",
            f"{100 * s['false_rejections']:.1f} ± {100 * s['false_rejections_ci95']:.1f} %",
            f"{100 * s['strangers_found']:.1f} %", f"{s['auroc']:.3f}", f"{s['auroc_energy']:.3f}",
            f"{s['auroc_distance']:.3f}",
        ])  # fmt: skip
    return f"{SAID}\n{_rows(lines)}\n"


def _rows(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
