"""TIM for classes that are not equally frequent among the queries (alpha-TIM).

Olivier Veilleux, Malik Boudiaf, Pablo Piantanida, Ismail Ben Ayed. Realistic Evaluation of Transductive Few-Shot
Learning. NeurIPS 2021, arXiv:2204.11181.

The loss of TIM, with the entropies of Tsallis in the place of Shannon's for the queries:

    H_alpha(p) = (1 - sum_k p_k^alpha) / (alpha - 1),

which is Shannon's as alpha goes to 1. The greater alpha, the flatter is the entropy of the mean posterior around equal
frequencies, so that it keeps classes from becoming empty rather than pulling all to one size. The cross-entropy of the
support stays Shannon's, as the published code has it. The weights of the classifier begin at the class means and go
down by Adam.

Departures: the published alpha is 2 for one shot and 7 for five or more; between them it is interpolated, by the mean
shots of the task. The derivative by the features holds the steps of Adam fixed, as in TIM, and `start` is that of TIM.
"""

from jaxtyping import Float
from torch import Tensor

from onelook.errors import NonNegativeFloat, NonNegativeInt, PositiveFloat, SettingsError
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.methods.tim import LossWeights, Start, descend, first_weights, scores
from onelook.tasks import Tasks


class AlphaTIM(PreprocessedMethod):
    """TIM with entropies of order alpha, for classes that are not equally frequent.

    >>> AlphaTIM(feature_size=64, n_iterations=10)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    alpha: NonNegativeFloat = 0.0
    """Order of the entropies, from 1 (Shannon's); 0: chosen by the shots of the task."""
    n_iterations: NonNegativeInt = 1000
    support_weight: NonNegativeFloat = 1.0
    marginal_weight: NonNegativeFloat = 1.0
    conditional_weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 15.0
    learning_rate: PositiveFloat = 1e-4
    transform: Transform = "l2n"
    start: Start = "means"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha != 0 and not self.alpha >= 1:
            raise SettingsError(f"alpha of AlphaTIM must be 0 or a number >= 1, but is {self.alpha}.")

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        loss = LossWeights(self.support_weight, self.marginal_weight, self.conditional_weight)
        shots = tasks.support.shape[1] / tasks.n_way
        alpha = self.alpha or 2 + 5 * (min(max(shots, 1), 5) - 1) / 4
        weights = first_weights(tasks, self.start)
        weights = descend(weights, tasks, loss, alpha, self.temperature, self.learning_rate, self.n_iterations)
        return scores(tasks.query, weights, self.temperature)
