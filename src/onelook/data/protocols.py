"""Protocols: how the queries of a task, and its labelled examples, are spread over the classes. Each has a name.

Published few-shot tasks have as many queries of each class as of any other, which no folder of photographs has
(Veilleux, Boudiaf, Piantanida, Ben Ayed. Realistic Evaluation of Transductive Few-Shot Learning. NeurIPS 2021,
arXiv:2204.11181), and none at all of some classes (Zanella, Fuchs, De Vleeschouwer, Ben Ayed. Realistic Test-Time
Adaptation of Vision-Language Models. CVPR 2025, arXiv:2501.03729: "effective classes"). A name is one of

    balanced         as many of each class; the remainder goes to classes drawn at random
    dirichlet:A      class priors drawn for each task from a symmetric Dirichlet distribution; the paper has A = 2
    present:J        queries of J of the K classes only, balanced among them
    effective:A-B    queries of A to B of the K classes only (of all K where B is more), drawn from all their images
                     alike; the paper has 1-4, 2-10, 5-25 and `all`
    long-tail:R      class priors that fall geometrically, the most frequent class R times the least; in random order
    single           one query, of a class drawn at random

and may be followed by

    +unequal-shots   as many labelled examples in all, each class at least one, the others at random
    +proportional-shots
                     the same, in proportion to the queries, as where images are labelled at random
    +unknown:F       a fraction F of the queries is of classes that the task does not have; their label is UNKNOWN
"""

import functools
import math
import re
from dataclasses import dataclass

import numpy as np

from onelook.errors import SettingsError

UNKNOWN = -1
"""The label of a query whose class is none of the task's."""

KNOWN = (
    "balanced, dirichlet:A, present:J, effective:A-B or effective:all, long-tail:R, single; "
    "then +unequal-shots or +proportional-shots, +unknown:F"
)
_OF_SHOTS = ("unequal-shots", "proportional-shots")


@dataclass(frozen=True)
class Protocol:
    kind: str = "balanced"
    value: float = 0.0
    """A, J or R."""
    unequal_shots: bool = False
    unknown: float = 0.0
    """F."""
    proportional_shots: bool = False
    most: float = 0.0
    """B; infinite, as A is, where all classes are meant."""

    @property
    def is_balanced(self) -> bool:
        """Whether every class has the same number of queries, if that number is whole."""
        return self.kind == "balanced"

    def draw_priors(self, rng: np.random.Generator, n_way: int) -> np.ndarray:
        """Draw the class priors of the queries of one task: K numbers that add up to 1."""
        match self.kind:
            case "dirichlet":
                return rng.dirichlet(np.full(n_way, self.value))
            case "present":
                if self.value > n_way:
                    raise SettingsError(f"Queries of {self.value:g} classes need tasks of as many; this has {n_way}.")
                fraction = (np.arange(n_way) < self.value) / self.value
                return rng.permutation(fraction)
            case "effective":
                least, most = (int(min(number, n_way)) for number in (self.value, self.most))
                n = rng.integers(least, most, endpoint=True)
                return rng.permutation((np.arange(n_way) < n) / n)
            case "long-tail":
                fraction = self.value ** -(np.arange(n_way) / (n_way - 1))
                return rng.permutation(fraction / fraction.sum())
        return np.full(n_way, 1 / n_way)

    def shots(
        self, rng: np.random.Generator, n_way: int, n_shot: int, most: np.ndarray, queries: np.ndarray | None = None
    ) -> np.ndarray:
        """Labelled examples of each class, K numbers that add up to n_way × n_shot; none above `most`.

        queries: numbers of each class, where the shots are drawn in proportion to them.
        """
        if not self.unequal_shots and not self.proportional_shots:
            return np.full(n_way, n_shot)
        shots = np.ones(n_way, dtype=int)
        for _ in range(n_way * (n_shot - 1)):
            free = np.flatnonzero(shots < most)
            fraction = None if queries is None or not queries[free].any() else queries[free] / queries[free].sum()
            shots[rng.choice(free, p=fraction)] += 1
        return shots


@functools.cache  # each task asks
def parse_protocol(name: str) -> Protocol:
    """Read the name of a protocol. Raises SettingsError for one that does not exist, with those that do.

    >>> parse_protocol("dirichlet:2+unknown:0.2").unknown
    0.2
    """
    first, *parts = name.split("+")
    kind, colon, value = first.partition(":")
    number, most = _effective(value) if kind == "effective" else (_number(value) if colon else None, 0.0)
    fits = {
        "balanced": not colon,
        "single": not colon,
        "dirichlet": number is not None and number > 0,
        "present": number is not None and number >= 1 and number.is_integer(),
        "effective": number is not None,
        "long-tail": number is not None and number >= 1,
    }
    unknown = [_number(part.removeprefix("unknown:")) for part in parts if part.startswith("unknown:")]
    others = [part for part in parts if not part.startswith("unknown:")]
    if (
        not fits.get(kind, False)
        or len(others) > 1
        or not set(others) <= set(_OF_SHOTS)
        or len(unknown) > 1
        or not all(f is not None and 0 < f < 1 for f in unknown)
    ):
        raise SettingsError(f"There is no protocol {name!r}; known: {KNOWN} (such as dirichlet:2+unknown:0.2).")
    fraction = next((f for f in unknown if f is not None), 0.0)
    return Protocol(kind, number or 0.0, _OF_SHOTS[0] in others, fraction, _OF_SHOTS[1] in others, most)


def _effective(text: str) -> tuple[float | None, float]:
    """A and B of A-B, or of "all"; None where it is neither."""
    if text == "all":
        return math.inf, math.inf
    found = re.fullmatch(r"([1-9]\d{0,5})-([1-9]\d{0,5})", text)
    least, most = map(float, found.groups()) if found else (math.inf, 0.0)
    return (least, most) if least <= most else (None, 0.0)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
