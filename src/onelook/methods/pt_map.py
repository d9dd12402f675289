"""PT-MAP: class means and an optimal transport of the queries to them, in turn.

Yuqing Hu, Vincent Gripon, Stéphane Pateux. Leveraging the Feature Distribution in Transfer-based Few-Shot Learning.
ICANN 2021, arXiv:2006.03806.

The features are brought near to Gaussians by the root of each entry ("PT", `transform`). Then, again and again, the
queries are spread over the classes by the transport with the cost |q_i - w_k|^2 and an entropic term, in which every
class gets the same number of queries (Sinkhorn), and each centre w_k takes a step towards the mean of its support and
of the queries weighted by the plan ("MAP"). The answer is the plan for the last centres. This is a transductive method
that is told that the queries are balanced.

Departures from the paper, all of them those of the authors' code but the last:
* one `step_size` for any number of shots;
* support and queries are centred each on their own mean;
* Sinkhorn's iterations are of a fixed number, so that no task waits for another, and in logarithms.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import SettingsError
from onelook.methods.preprocessing import PreprocessedMethod
from onelook.tasks import Tasks


class PTMAP(PreprocessedMethod):
    transductive: ClassVar[bool] = True
    assumes_balanced_queries: ClassVar[bool] = True

    def __init__(
        self,
        feature_size: int,
        scale: float = 10.0,
        step_size: float = 0.2,
        n_steps: int = 20,
        n_sinkhorn: int = 30,
        transform: str = "root-task",
    ) -> None:
        """
        scale: lambda, of the cost against the entropy of the plan.
        step_size: alpha, the part of the way to the new means that a centre goes.
        n_steps: 0 leaves the centres at the support means.
        n_sinkhorn: scalings of columns and rows for each plan.
        """
        super().__init__(feature_size, transform)
        if scale <= 0 or not 0 < step_size <= 1 or n_steps < 0 or n_sinkhorn < 1:
            raise SettingsError(
                f"PT-MAP needs scale > 0, 0 < step_size <= 1, n_steps >= 0 and n_sinkhorn >= 1, but got "
                f"scale={scale}, step_size={step_size}, n_steps={n_steps}, n_sinkhorn={n_sinkhorn}."
            )
        self.scale = scale
        self.step_size = step_size
        self.n_steps = n_steps
        self.n_sinkhorn = n_sinkhorn

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """The logarithm of the plan."""
        tasks = self.preprocessed(tasks)
        centres = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
        log_plan = self.log_plan(tasks, centres)
        for _ in range(self.n_steps):
            found = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, log_plan.exp())
            centres = centres + self.step_size * (found - centres)
            log_plan = self.log_plan(tasks, centres)
        return log_plan

    def log_plan(self, tasks: Tasks, centres: Float[Tensor, "T K D"]) -> Float[Tensor, "T Q K"]:
        kernel = -self.scale * ops.squared_distance(tasks.query, centres)
        return ops.sinkhorn(kernel, ops.balanced_mass(kernel), self.n_sinkhorn)
