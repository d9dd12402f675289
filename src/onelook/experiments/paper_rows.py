"""The rows of the paper's comparison, and what is published for them.

Shell Xu Hu et al. Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696,
table 1: sixteen baselines, counting methods with their networks. Here one network serves all, so that Gidaris et al.
2019 stands once. Added are variants that are asked for today (first-order MAML, ANIL, full context), the dynamic
generator with its attention, SIB on the features of the strongest baseline, and Glance as it ships.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFERENCE = "sib"
"""The row that all others are compared with."""


@dataclass(frozen=True)
class Row:
    title: str
    paper: str
    method: str
    """Request for the method, as a person would write it."""
    on: str
    """Kind of training data: "features" of the finished network, or "images", training the network too."""
    rotation: bool = False
    """Whether the network was also taught to tell turned images."""


_ENTRIES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
ROWS = {key: Row(**{name: entry[name] for name in entry if name != "published"}) for key, entry in _ENTRIES.items()}
PUBLISHED: dict[str, dict[tuple[str, str], tuple[float, float]]] = {
    key: {(data, network): (one, five) for data, network, one, five in entry["published"]}
    for key, entry in _ENTRIES.items()
    if "published" in entry
}
"""Row -> data and network -> 1-shot and 5-shot accuracy, as the article lists them; of Conv-4-128 as its workshop
version of 2019 does, over 600 tasks."""


def published(row: str, data: str, network: str, shot: int) -> float | None:
    """The article's figure for a row, where it has one for this data, network and shot."""
    found = PUBLISHED.get(row, {}).get((data, network))
    return None if found is None or shot not in (1, 5) else found[shot == 5]


def published_elsewhere(row: str, data: str, network: str) -> str:
    """Published figures for other data or networks, in words, where there are none for these."""
    known = PUBLISHED.get(row, {})
    if (data, network) in known:
        return ""
    return "; ".join(f"{d}, {n}: {one} / {five}" for (d, n), (one, five) in known.items())
