"""Scene of a task, as Glance sees it before its steps, and what each step makes of it."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from onelook.methods.glance_support import Labelled, Voices
from onelook.methods.regression import Moments, Regression

Votes = tuple[Float[Tensor, "T K"], Float[Tensor, "T K D"]]
"""Number of queries in each class, and their sums."""
Known = tuple[tuple[Tensor, Tensor], Moments]
"""`ops.nearest_rows` among the queries, and their moments."""


@dataclass(frozen=True)
class Scene(Labelled):
    """Everything that does not change during the steps: n nearest rows of support and queries, B = 2 reaches."""

    query: Float[Tensor, "T Q D"]
    share: float
    """Weight of each query, further ones included, in class means and class priors."""
    density: Float[Tensor, "T Q"]
    neighbours: Int[Tensor, "T Q n"]
    reach: Float[Tensor, "T Q B n"]
    regression: Regression
    """Regression on support and queries."""
    first_opinion: "Opinion"
    """Opinion of ridge regression on the labelled examples."""
    voices: tuple[Voices, Voices]
    """Voices at first, and after a step; the log scales of the steps are to be added."""
    initial_priors: Float[Tensor, "T K"]
    is_given: Bool[Tensor, "T 1"]

    @property
    def n_support(self) -> int:
        return self.support.shape[1]


@dataclass(frozen=True)
class Opinion:
    """Predictions of ridge regression for each query, and the two largest of them."""

    values: Float[Tensor, "T Q K"]
    best: Float[Tensor, "T Q 2"]

    @classmethod
    def of(cls, values: Float[Tensor, "T Q K"]) -> "Opinion":
        return cls(values, values.topk(2, -1).values)

    @property
    def lead(self) -> Float[Tensor, "T Q"]:
        return self.best[..., 0] - self.best[..., 1]


@dataclass(frozen=True)
class View:
    """Input of the gradient network, and what it was made of."""

    statistics: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """Statistics of entries, queries, classes and task; posteriors (T, Q, K)."""
    log_plan: Float[Tensor, "T Q K"]
    near: Float[Tensor, "T Q K"]
    """Posteriors of the nearest rows."""
    confidence: Float[Tensor, "T 1"]
    """Confidence in the initial priors."""


@dataclass(frozen=True)
class Moment:
    """Answers after some steps, and what queries that come later need for the next one."""

    answer: Float[Tensor, "T Q K"]
    weights: Float[Tensor, "T K D"]
    log_priors: Float[Tensor, "T K"]
    moved: Float[Tensor, "T Q K"]
    """Scores added by transport, which within a query differ from the potentials of the classes by a constant."""
    targets: Float[Tensor, "T N K"] | None = None
    """Targets of the regression behind the answer; None: that of the labelled examples alone."""
    posterior: Float[Tensor, "T Q K"] | None = None
    near: Float[Tensor, "T Q K"] | None = None
    shifts: list[Float[Tensor, "T K H"]] | None = None
    """Sums that classes and task add to the entries in each layer of the gradient network."""
