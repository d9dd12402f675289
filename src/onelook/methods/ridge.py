"""Ridge regression whose penalty is chosen for each task by leave-one-out on its labels.

Arthur E. Hoerl, Robert W. Kennard. Ridge Regression: Biased Estimation for Nonorthogonal Problems. Technometrics 12,
1970; its leave-one-out: Ryan M. Rifkin, Ross A. Lippert. Notes on Regularized Least Squares. MIT-CSAIL-TR-2007-025,
section 3. (No arXiv number.) Equal to `sklearn.linear_model.RidgeClassifierCV`.

With Y the one-hot labels of the support rows X, the classifier of a task is

    min over W, b    sum_i |W x_i + b - y_i|^2 + ridge |W|^2

and W q + b, times a scale, are the logits of a query. Let U be orthonormal columns of sum 0, U U^T = I - 11^T / S: then
W = A^T X with A = U (U^T X X^T U + ridge I)^-1 U^T Y, and b is the mean of Y - X W^T. Left out, row i has the error
A_i / M_ii, where M = U (U^T X X^T U + ridge I)^-1 U^T; one eigenvalue decomposition gives it for every ridge. The ridge
is that of the least sum of squared errors. This is an inductive method.

Departure from scikit-learn's: the error of a row that is the only one of its class is not counted
(`methods.leave_one_out`), as it would ask for the largest ridge always; where no class has two rows, the ridge is the
given one.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from onelook import ops
from onelook.errors import PositiveFloat
from onelook.methods.leave_one_out import choose, list_candidates
from onelook.methods.preprocessing import InductiveTransform, PreprocessedMethod
from onelook.tasks import Tasks


class Ridge(PreprocessedMethod):
    """Ridge regression from the support rows of each task to their labels, tuned by leave-one-out.

    >>> Ridge(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    ridge: PositiveFloat = 1.0
    """Penalty of the squared weights where it is not tuned, or no class has two labelled examples."""
    tune: bool = True
    """Whether the ridge is chosen for each task, from 0.01 to 100, by leave-one-out on its labels."""
    scale: PositiveFloat = 10.0
    """Factor of the predicted one-hot labels, which makes logits of them."""
    transform: InductiveTransform = "l2n"

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        tasks = self.preprocess(tasks)
        target_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, torch.float64)
        gram_TSS = tasks.support.double() @ tasks.support.double().mT
        with torch.no_grad():
            ridge_T11 = choose_ridge(gram_TSS, target_TSK, list_candidates(self.ridge, self.tune))
        dual_TSK = fit(gram_TSS, target_TSK, ridge_T11)
        bias_T1K = (target_TSK - gram_TSS @ dual_TSK).mean(1, keepdim=True).to(tasks.query.dtype)
        weights_TKD = dual_TSK.to(tasks.query.dtype).mT @ tasks.support
        return self.scale * (tasks.query @ weights_TKD.mT + bias_T1K)


def fit(
    gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], ridge: Float[Tensor, "T 1 1"]
) -> Float[Tensor, "T S K"]:
    """A, whose columns have the sum 0."""
    centred_SR = _centred(gram)
    identity = torch.eye(centred_SR.shape[1], dtype=gram.dtype, device=gram.device)
    inner_TRR = centred_SR.mT @ gram @ centred_SR + ridge * identity
    dual_TSK: Tensor = centred_SR @ torch.linalg.solve(inner_TRR, centred_SR.mT @ target)
    return dual_TSK


def choose_ridge(
    gram: Float[Tensor, "T S S"], target: Float[Tensor, "T S K"], ridges: tuple[float, ...]
) -> Float[Tensor, "T 1 1"]:
    """The one of `ridges` of the least leave-one-out error in each task; the first where nothing can be left out."""
    centred_SR = _centred(gram)
    values_TR, vectors_TRR = torch.linalg.eigh(centred_SR.mT @ gram @ centred_SR)
    vectors_TSR = centred_SR @ vectors_TRR
    losses = []
    for ridge in ridges:
        # Both times the ridge, which drops out of their ratio.
        shrunk_TSR = vectors_TSR * (ridge / (values_TR.clamp_min(0) + ridge)).unsqueeze(1)
        error_TSK = shrunk_TSR @ (vectors_TSR.mT @ target) / (shrunk_TSR * vectors_TSR).sum(-1, keepdim=True)
        losses.append(error_TSK.square().sum(-1))
    candidate_L = torch.tensor(ridges, dtype=gram.dtype, device=gram.device)
    return candidate_L[choose(losses, target)][:, None, None]


def _centred(gram: Float[Tensor, "T S S"]) -> Float[Tensor, "S R"]:
    """U, with R = S - 1 columns."""
    ones_S1 = gram.new_ones(gram.shape[1], 1)
    complete_SS: Tensor = torch.linalg.qr(ones_S1, mode="complete").Q
    return complete_SS[:, 1:]
