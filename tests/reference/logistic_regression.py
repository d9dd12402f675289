import numpy as np
import torch
from scipy.special import log_softmax, softmax
from sklearn import linear_model
from torch import Tensor

from onelook.methods import LogisticRegression
from onelook.tasks import Tasks
from reference.common import preprocessed

GRID = [10 ** (exponent / 2) for exponent in range(-4, 5)]


def logits(method: LogisticRegression, task: Tasks) -> Tensor:
    """scikit-learn's classifier, as the authors use it, fitted to a smaller tolerance."""
    support, query = (part.detach().numpy() for part in preprocessed(method, task))
    labels = task.support_labels[0].numpy()
    weights, bias = fit(support, labels, tuned(support, labels, method.C) if method.tune else method.C)
    return torch.from_numpy(query @ weights.T + bias)


def tuned(rows: np.ndarray, labels: np.ndarray, price: float) -> float:
    """`price` where no class has two rows."""
    if max(np.bincount(labels)) == 1:
        return price
    return min([price, *GRID], key=lambda price: leave_one_out_loss(rows, labels, price))


def fit(rows: np.ndarray, labels: np.ndarray, price: float) -> tuple[np.ndarray, np.ndarray]:
    """W and b. Of two classes scikit-learn keeps w = w_1 - w_0 alone, whose penalty is |w|^2 / 2 where that of both is
    |w|^2 / 4, and its score is the difference of both."""
    two = labels.max() == 1
    classifier = linear_model.LogisticRegression(
        C=2 * price if two else price, solver="newton-cholesky", tol=1e-10, max_iter=1000
    )
    classifier.fit(rows, labels)
    weights, bias = classifier.coef_, classifier.intercept_
    return (np.array([-weights[0], weights[0]]) / 2, np.array([-bias[0], bias[0]]) / 2) if two else (weights, bias)


def leave_one_out_loss(rows: np.ndarray, labels: np.ndarray, price: float) -> float:
    """One Newton step from the solution for all rows, in the weights and biases of all classes, for each row that is
    left out and has another of its class."""
    solution = np.column_stack(fit(rows, labels, price))
    rows = np.column_stack([rows, np.ones(len(rows))])
    n_way, size = solution.shape
    loss = 0.0
    for left in range(len(rows)):
        if np.count_nonzero(labels == labels[left]) == 1:
            continue
        penalised = np.diag([1.0] * (size - 1) + [0.0])
        gradient, hessian = solution @ penalised, np.kron(np.eye(n_way), penalised)
        for x, label in (pair for i, pair in enumerate(zip(rows, labels, strict=True)) if i != left):
            p = softmax(solution @ x)
            gradient += price * np.outer(p - np.eye(n_way)[label], x)
            hessian += price * np.kron(np.diag(p) - np.outer(p, p), np.outer(x, x))
        step = np.linalg.pinv(hessian) @ gradient.ravel()
        scores = (solution - step.reshape(n_way, size)) @ rows[left]
        loss -= log_softmax(scores)[labels[left]]
    return loss
