"""TIM for classes that are not equally frequent among the queries (alpha-TIM).

Olivier Veilleux, Malik Boudiaf, Pablo Piantanida, Ismail Ben Ayed. Realistic Evaluation of Transductive Few-Shot
Learning. NeurIPS 2021, arXiv:2204.11181.

The loss of TIM, with the entropies of Tsallis in the place of Shannon's for the queries:

    H_alpha(p) = (1 - sum_k p_k^alpha) / (alpha - 1),

which is Shannon's as alpha goes to 1. The greater alpha, the flatter is the entropy of the mean posterior around equal
proportions, so that it keeps classes from becoming empty rather than pulling all to one size. The cross-entropy of the
support stays Shannon's, as the published code has it. The weights of the classifier begin at the class means and go
down by Adam.

Departures: the published alpha is 2 for one shot and 7 for five or more; between them it is interpolated, by the mean
shots of the task. The derivative by the features holds the steps of Adam fixed, as in TIM.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from onelook.errors import SettingsError
from onelook.methods.preprocessing import PreprocessedMethod
from onelook.methods.tim import LossWeights, check_descent, descended, scores
from onelook.tasks import Tasks


class AlphaTIM(PreprocessedMethod):
    transductive: ClassVar[bool] = True
    assumes_balanced_queries: ClassVar[bool] = False

    def __init__(
        self,
        feature_size: int,
        alpha: float = 0.0,
        n_iterations: int = 1000,
        support_weight: float = 1.0,
        marginal_weight: float = 1.0,
        conditional_weight: float = 1.0,
        temperature: float = 15.0,
        learning_rate: float = 1e-4,
        transform: str = "l2n",
    ) -> None:
        """
        alpha: of the entropies, from 1 (Shannon's); 0 means by the shots of the task, as above.
        support_weight, marginal_weight, conditional_weight: of the three terms of the loss.
        transform: of the features (see PreprocessedMethod).
        """
        super().__init__(feature_size, transform)
        if alpha != 0 and not alpha >= 1:
            raise SettingsError(f"The entropies need an alpha of at least 1, or 0 for that of the shots; got {alpha=}.")
        check_descent(n_iterations, temperature, learning_rate)
        if min(support_weight, marginal_weight, conditional_weight) < 0:
            raise SettingsError(
                f"No weight of the loss may be below 0, but got {support_weight=}, {marginal_weight=}, "
                f"{conditional_weight=}."
            )
        self.alpha = alpha
        self.n_iterations = n_iterations
        self.support_weight = support_weight
        self.marginal_weight = marginal_weight
        self.conditional_weight = conditional_weight
        self.temperature = temperature
        self.learning_rate = learning_rate

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocessed(tasks)
        loss = LossWeights(self.support_weight, self.marginal_weight, self.conditional_weight)
        alpha = self.alpha or _alpha_of_shots(tasks.support.shape[1] / tasks.n_way)
        weights = descended(tasks, loss, alpha, self.temperature, self.learning_rate, self.n_iterations)
        return scores(tasks.query, weights, self.temperature)


def _alpha_of_shots(shots: float) -> float:
    return 2 + 5 * (min(max(shots, 1), 5) - 1) / 4
