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

Departures: features have length 1 before they are scaled. The scale begins where the temperature of `paddle` stands, as
the published start would leave all distances of features of length 1 near 0. Training is that of any method of Onelook,
on tasks of the training classes in mini-batches, where the paper learns from one fixed set of tasks of the validation
classes, for each number of shots apart.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook.errors import PositiveFloat, PositiveInt
from onelook.methods.paddle import cluster
from onelook.methods.preprocessing import PreprocessedMethod, Transform
from onelook.tasks import Tasks

_START = 1.0
"""a and t before they learn, as published."""


class UNEM(PreprocessedMethod):
    """Soft clustering whose price of classes and temperature are learned for each of its iterations.

    >>> UNEM(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    transductive = True
    n_layers: PositiveInt = 10
    initial_scale: PositiveFloat = 60**0.5
    """Factor of the features before it learns."""
    transform: Transform = "l2n"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.raw_class_weight = nn.Parameter(torch.full((self.n_layers,), _START))
        self.raw_temperature = nn.Parameter(torch.full((self.n_layers,), _START))
        # The inverse of softplus, for large scales too.
        self.raw_scale = nn.Parameter(torch.tensor(self.initial_scale + math.log(-math.expm1(-self.initial_scale))))

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        temperature_L = 1 + functional.softplus(self.raw_temperature)
        class_weight_L = functional.softplus(self.raw_class_weight)
        square = functional.softplus(self.raw_scale).square()
        layers = zip(square / temperature_L, class_weight_L / temperature_L, strict=True)
        return cluster(self.preprocess(tasks), layers)
