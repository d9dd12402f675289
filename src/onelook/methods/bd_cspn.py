"""BD-CSPN: class means rectified once by the queries that they claim.

Jinlu Liu, Liang Song, Yongqiang Qin. Prototype Rectification for Few-Shot Learning. ECCV 2020, arXiv:1911.10713.

The queries are shifted by the difference between the mean of the support and theirs ("cross-class bias"). Then each
query gets the label of the support mean with the greatest cosine, and the prototype of a class becomes the mean of all
rows of that label, support and queries, each weighted by its posterior softmax_k(scale cos) of the class ("intra-class
bias"). The answer is the cosine of the shifted queries with the new prototypes. This is a transductive method; the
shift expects that the classes are as frequent among the queries as in the support.

Departure from the paper: every query counts towards the prototype of its label, where the paper takes the most
confident ones of each class; their weights tell them apart already.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import PositiveFloat
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks


class BDCSPN(PreprocessedMethod):
    """Class means rectified once by the queries that they claim.

    >>> BDCSPN(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    scale: PositiveFloat = 10.0
    """epsilon, factor of the cosines."""
    transform: Transform = "l2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = shift_queries(self.preprocess(tasks))
        return self.scale * ops.cosine_similarity(tasks.query, rectify_means(tasks, self.scale))


def shift_queries(tasks: Tasks) -> Tasks:
    """The mean of the queries is moved to that of the support.

    A single query is its own mean: it is left where it is, because nothing of it would remain.
    """
    if tasks.query.shape[1] == 1:
        return tasks
    shift = tasks.support.mean(1, keepdim=True) - tasks.query.mean(1, keepdim=True)
    return replace(tasks, query=tasks.query + shift)


def rectify_means(tasks: Tasks, scale: float) -> Float[Tensor, "T K D"]:
    """Means of the rows of each label times their posteriors; a query has the label of the greatest cosine."""
    means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
    own_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, means.dtype)
    of_support, of_query = (scale * ops.cosine_similarity(x, means) for x in (tasks.support, tasks.query))
    claimed_TQK = ops.one_hot(of_query.argmax(-1), tasks.n_way, means.dtype)
    total_TKD = (own_TSK * of_support.softmax(-1)).mT @ tasks.support
    total_TKD = total_TKD + (claimed_TQK * of_query.softmax(-1)).mT @ tasks.query
    return total_TKD / (own_TSK.sum(1) + claimed_TQK.sum(1)).unsqueeze(-1)
