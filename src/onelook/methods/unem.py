"""PADDLE unrolled: as many iterations as layers, whose hyper-parameters are learned (UNEM, its Gaussian variant).

Long Zhou, Fereshteh Shakeri, Aymen Sadraoui, Mounir Kaaniche, Jean-Christophe Pesquet, Ismail Ben Ayed. UNEM: UNrolled
Generalized EM for Transductive Few-Shot Learning. CVPR 2025, arXiv:2412.16739.

With soft labels u_i of the queries, class priors pi = mean_i u_i and centres w_k, layer l of a few does

    u_ik = softmax_k((-1/2 |x_i - w_k|^2 + lambda_l log pi_k) / T_l),
    w_k  = mean of the support of class k and of the queries, with weights u_ik,

which is an iteration of PADDLE where lambda_l = T_l = 1 (lambda counted in numbers of queries). lambda_l is
softplus(a_l), T_l is 1 + softplus(t_l), and the features have a learned scale, another softplus. In the first layer
there are no priors yet. What is learned is 2 numbers for a layer and one more, by the cross-entropy of the queries of
few-shot tasks; they serve any number of classes and queries.

Departures: features have length 1 before they are scaled. The numbers begin with those that were learned as published,
on validation classes (CIFAR-FS, EfficientNet-Lite0; 5 and 10 classes, 1, 3 and 5 shots, balanced and Dirichlet(2)), so
that the method can be used without training classes. Training goes on from there like that of any method, on tasks of
the training classes in mini-batches, where the paper has one fixed set of tasks for each number of shots.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.methods.base import Method
from onelook.methods.paddle import cluster
from onelook.tasks import Tasks

_CLASS_WEIGHTS = (1.0, 0.22, 0.11, -0.08, -0.44, -1.21, -2.72, 3.2, 0.93, -1.81)
"""a of each layer. The first has no say."""
_TEMPERATURES = (2.08, 2.38, 2.98, 3.97, 5.35, 6.27, -3.55, -4.24, -3.8, -0.23)
"""t of each layer."""
_SCALE = 7.58


class UNEM(Method):
    """Soft clustering whose price of classes and temperature are learned for each of its iterations.

    >>> UNEM()(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    begins_trained = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.raw_class_weight = nn.Parameter(torch.tensor(_CLASS_WEIGHTS))
        self.raw_temperature = nn.Parameter(torch.tensor(_TEMPERATURES))
        self.raw_scale = nn.Parameter(torch.tensor(_SCALE))

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        temperature_L = 1 + functional.softplus(self.raw_temperature)
        class_weight_L = functional.softplus(self.raw_class_weight)
        square = functional.softplus(self.raw_scale).square()
        layers = zip(square / temperature_L, class_weight_L / temperature_L, strict=True)
        return cluster(tasks.map_items(ops.normalise), layers)
