"""Soft k-means that begins with the labelled rows.

Mengye Ren, Eleni Triantafillou, Sachin Ravi, Jake Snell, Kevin Swersky, Joshua B. Tenenbaum, Hugo Larochelle, Richard
S. Zemel. Meta-Learning for Semi-Supervised Few-Shot Classification. ICLR 2018, arXiv:1803.00676.
Yassir Bendou, Yuqing Hu, Raphael Lafargue, Giulia Lioi, Bastien Pasdeloup, Stéphane Pateux, Vincent Gripon. EASY:
Ensemble Augmented-Shot Y-shaped Learning. Journal of Imaging 2022, arXiv:2201.09699.

A query is of class k with the posterior p_ik = softmax_k(-scale |q_i - w_k|^2), and w_k becomes the mean of the support
of class k and of all queries weighted by their posteriors. The answer is the distance to the last means.
This is a transductive method; classes of one size and one width suit it best.

Departures from the first paper, all of them the second's:
* the unlabelled rows are the queries themselves;
* many steps, where Ren et al. take one and meta-train the features for it;
* a fixed scale, because the features are finished and have length 1;
* the features are centred first, here on the mean of the training classes, where EASY's code takes that of the task.
"""

from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import NonNegativeInt, PositiveFloat
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks


class SoftKMeans(PreprocessedMethod):
    """Soft k-means that begins with the labelled rows.

    >>> SoftKMeans(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = assumes_balanced_queries = True
    scale: PositiveFloat = 5.0
    """Factor of the squared distances."""
    n_steps: NonNegativeInt = 30
    """0 leaves the support means."""
    transform: Transform = "cl2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
        logits = -self.scale * ops.squared_distance(tasks.query, means)
        for _ in range(self.n_steps):
            means = ops.soft_class_means(tasks.support, tasks.support_labels, tasks.query, logits.softmax(-1))
            logits = -self.scale * ops.squared_distance(tasks.query, means)
        return logits
