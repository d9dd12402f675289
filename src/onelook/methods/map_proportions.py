"""MAP with estimated class priors: soft k-means from labelled rows that learns how frequent the classes are.

Arthur P. Dempster, Nan M. Laird, Donald B. Rubin. Maximum Likelihood from Incomplete Data via the EM Algorithm. Journal
of the Royal Statistical Society B, 1977. There is no paper of this exact method. It is PT-MAP (Yuqing Hu, Vincent
Gripon, Stéphane Pateux. Leveraging the Feature Distribution in Transfer-based Few-Shot Learning. ICANN 2021,
arXiv:2006.03806) whose transport with equal masses gives way to the textbook estimate of mixing weights.

The features of class k are Gaussian around w_k with one variance, and a query is of class k with probability pi_k;
over pi stands a Dirichlet(prior + 1). Each step
    p_ik = softmax_k(-scale |q_i - w_k|^2 + log pi_k),
    pi_k = (sum_i p_ik + prior) / (Q + K prior),
    w_k <- w_k + step_size (the mean of the support of class k and of all queries, those weighted by p_ik, - w_k),
and the answer is the posterior p after the last step. A large prior keeps the class priors equal (soft
k-means), a small one follows the queries. This is a transductive method that expects no balance of the queries.
"""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import Bound, NonNegativeInt, PositiveFloat
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks


class MAPProportions(PreprocessedMethod):
    """A mixture of Gaussians that estimates how frequent the classes are.

    >>> MAPProportions(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    scale: PositiveFloat = 10.0
    """Factor of the squared distances, 1 / (2 variance)."""
    prior: PositiveFloat = 10.0
    """Queries that each class is taken to have had before the first is seen; 50 if they are about equally frequent, 10
    if nothing is known."""
    step_size: Annotated[float, Bound(">", 0), Bound("<=", 1)] = 0.2
    """Fraction of the way to the new means that a step goes."""
    n_steps: NonNegativeInt = 20
    """0 leaves the support means."""
    transform: Transform = "l2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """log p."""
        tasks = self.preprocess(tasks)
        means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
        log_p = (-self.scale * ops.squared_distance(tasks.query, means)).log_softmax(-1)
        for _ in range(self.n_steps):
            p = log_p.exp()
            found = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, p)
            means = means + self.step_size * (found - means)
            joint = -self.scale * ops.squared_distance(tasks.query, means) + self.log_priors(p).unsqueeze(1)
            log_p = joint.log_softmax(-1)
        return log_p

    def log_priors(self, p: Float[Tensor, "T Q K"]) -> Float[Tensor, "T K"]:
        """log pi: the mode of the posterior Dirichlet."""
        _, n_query, n_way = p.shape
        return ((p.sum(1) + self.prior) / (n_query + n_way * self.prior)).log()
