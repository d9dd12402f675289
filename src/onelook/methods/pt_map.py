"""PT-MAP: class means and an optimal transport of the queries to them, in turn.

Yuqing Hu, Vincent Gripon, Stéphane Pateux. Leveraging the Feature Distribution in Transfer-based Few-Shot Learning.
ICANN 2021, arXiv:2006.03806.

The features are brought near to Gaussians by the root of each entry ("PT", `transform`). Then, again and again, the
queries are spread over the classes by the transport with the cost |q_i - w_k|^2 and an entropic term, in which every
class gets the same number of queries (Sinkhorn), and each centre w_k takes a step towards the mean of its support and
of the queries weighted by the plan ("MAP"). The answer is the plan for the last centres. This is a transductive method
that assumes balanced queries.

Departures from the paper, all of them those of the authors' code but the last:
* one `step_size` for any number of shots;
* support and queries are centred each on their own mean;
* Sinkhorn's iterations are of a fixed number, so that no task waits for another, and in logarithms.
"""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import Bound, NonNegativeInt, PositiveFloat, PositiveInt
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks


class PTMAP(PreprocessedMethod):
    """Class means and a balanced optimal transport of the queries to them, in turn.

    >>> PTMAP(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    scale: PositiveFloat = 10.0
    """lambda, weight of the cost against the entropy of the plan."""
    step_size: Annotated[float, Bound(">", 0), Bound("<=", 1)] = 0.2
    """alpha, fraction of the way to the new means that a centre goes."""
    n_steps: NonNegativeInt = 20
    """0 leaves the centres at the support means."""
    n_sinkhorn: PositiveInt = 30
    """Scalings of columns and rows for each plan."""
    transform: Transform = "root-task"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """The logarithm of the plan."""
        tasks = self.preprocess(tasks)
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
