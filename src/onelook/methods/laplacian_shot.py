"""LaplacianShot: nearest prototypes, where neighbouring queries talk each other into one label.

Imtiaz Masud Ziko, Jose Dolz, Eric Granger, Ismail Ben Ayed. Laplacian Regularized Few-Shot Learning. ICML 2020,
arXiv:2006.15486.

With d_ik = |q_i - w_k|^2 and a graph between each query and its nearest queries, the assignments y minimise
    sum_ik y_ik d_ik - smoothness / 2 sum_ij W_ij <y_i, y_j> + sum_ik y_ik log y_ik
by bound updates that treat all queries at once, y_i <- softmax_k(-d_ik + smoothness sum_j W_ij y_jk) (algorithm 1).
The prototypes w are rectified first by the queries that they claim, as in BD-CSPN. This is a transductive method; the
shift of the rectification expects that the classes are as frequent among the queries as in the support.

Departures from the paper, all of them those of the authors' code but the last two:
* what a prototype's sum of weighted rows is divided by is their number and not their weight, so that the prototype of
  a doubtful class is short;
* the smoothness is not chosen anew for each data set and number of shots;
* the number of updates is fixed, so that no task waits for another;
* labelled rows keep their labels in the rectification, where the code claims them like queries.
"""

from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import NonNegativeFloat, NonNegativeInt, PositiveInt
from onelook.methods.bd_cspn import rectify_means, shift_queries
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks


class LaplacianShot(PreprocessedMethod):
    """Nearest prototypes, where neighbouring queries agree on a label.

    >>> LaplacianShot(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    smoothness: NonNegativeFloat = 0.3
    """lambda, weight of a neighbour's label against the distances. 0.3 is as good as any of the authors' candidates on
    validation tasks (Conv-4 on CIFAR-FS), for one shot and for five."""
    n_neighbours: PositiveInt = 3
    """k, the queries that each query listens to; all others, if there are fewer. The authors' code counts the query
    itself among its 3."""
    n_steps: NonNegativeInt = 20
    """Bound updates; 0 leaves the nearest prototype."""
    rectify: bool = True
    """Whether the queries are shifted and the prototypes rectified."""
    transform: Transform = "cl2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """log y."""
        tasks = self.preprocess(tasks)
        if self.rectify:
            tasks = shift_queries(tasks)
            prototypes = rectify_means(tasks, scale=10.0)
        else:
            prototypes = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
        unary = -ops.squared_distance(tasks.query, prototypes)
        graph = neighbours(tasks.query, self.n_neighbours)
        log_y = unary.log_softmax(-1)
        for _ in range(self.n_steps):
            log_y = self.update(unary, graph, log_y)
        return log_y

    def update(
        self, unary: Float[Tensor, "T Q K"], graph: Float[Tensor, "T Q Q"], log_y: Float[Tensor, "T Q K"]
    ) -> Float[Tensor, "T Q K"]:
        """One round of algorithm 1."""
        return (unary + self.smoothness * graph @ log_y.exp()).log_softmax(-1)


def neighbours(rows: Float[Tensor, "T Q D"], n_neighbours: int) -> Float[Tensor, "T Q Q"]:
    """W: 1 where column j is among the nearest of row i, which is not among its own."""
    nearest = ops.nearest_others(-ops.squared_distance(rows, rows), min(n_neighbours, rows.shape[1] - 1))
    return nearest.to(rows.dtype)
