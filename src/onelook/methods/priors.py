"""Class priors: how frequent the classes are among the queries, as people give them and as methods use them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from onelook.errors import SettingsError, quote_name


@dataclass(frozen=True)
class ClassPriors:
    """Class priors as they were given: unknown, balanced, or a number for each class.

    >>> ClassPriors.parse("2/3/5").tensor(range(3))
    tensor([0.2000, 0.3000, 0.5000], dtype=torch.float64)
    >>> ClassPriors.parse({"dog": 3, "cat": 1}).tensor(["cat", "dog"])
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """

    given: Any
    numbers: tuple[float, ...] = ()
    """One number for each class, with any sum; empty for "unknown" and "balanced"."""
    classes: tuple[Any, ...] | None = None
    """Classes that the numbers belong to; None: those of the tasks in their order."""

    @classmethod
    def parse(cls, given: Any) -> "ClassPriors":
        """Read "unknown", "balanced", "0.5/0.3/0.2", a sequence of numbers or a mapping from classes to numbers.

        Raises SettingsError.
        """
        if isinstance(given, str) and given in ("unknown", "balanced"):
            return cls(given)
        classes = tuple(given) if isinstance(given, Mapping) else None
        values = given.values() if isinstance(given, Mapping) else given
        try:
            numbers = tuple(float(x) for x in (values.split("/") if isinstance(values, str) else values))
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) < 2 or not (all(x >= 0 for x in numbers) and 0 < sum(numbers) < math.inf):
            raise _refusal(given)
        return cls(given, numbers, classes)

    def tensor(self, classes: Sequence[Any]) -> Float[Tensor, "K"]:
        """Prior probabilities in the order of `classes`, NaN where unknown. Raises SettingsError for other classes."""
        named = self.name(classes)
        if isinstance(named, str):
            value = math.nan if named == "unknown" else 1 / len(classes)
            return torch.full((len(classes),), value, dtype=torch.float64)
        numbers = torch.tensor(list(named.values()), dtype=torch.float64)
        return numbers / numbers.sum()

    def name(self, classes: Sequence[Any]) -> str | dict[Any, float]:
        """The word that was given, or the number of each of these classes. Raises SettingsError for other classes."""
        if not self.numbers:
            return str(self.given)
        own = classes if self.classes is None else self.classes
        if len(self.numbers) != len(classes) or set(own) != set(classes):
            raise _refusal(self.given, classes)
        number = dict(zip(own, self.numbers, strict=True))
        return {label: number[label] for label in classes}


def _refusal(given: Any, classes: Sequence[Any] = ()) -> SettingsError:
    order = ", ".join(quote_name(str(label)) for label in classes[:10]) + (", ..." if len(classes) > 10 else "")
    each = f"of the {len(classes)} classes ({order})" if len(classes) else "class"
    return SettingsError(
        f"class_priors must be unknown, balanced, or a number for each {each}, written like 0.5/0.3/0.2, but is "
        f"{given!r}."
    )
