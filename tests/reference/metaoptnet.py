import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from onelook.methods import MetaOptNet
from onelook.tasks import Tasks
from reference.common import unit


def svm_weights(x: np.ndarray, labels: np.ndarray, n_way: int, price: float) -> np.ndarray:
    """Lee et al., equations 9 and 10, by a general solver: alpha_ik <= C [k = y_i], sum_k alpha_ik = 0."""
    hot = np.eye(n_way)[labels]
    products = x @ x.T
    sums = np.kron(np.eye(len(x)), np.ones((1, n_way)))

    def negative_dual(flat: np.ndarray) -> tuple[float, np.ndarray]:
        alpha = flat.reshape(hot.shape)
        return 0.5 * np.sum(alpha * (products @ alpha)) - np.sum(alpha * hot), (products @ alpha - hot).ravel()

    found = minimize(
        negative_dual,
        np.zeros(hot.size),
        jac=True,
        method="SLSQP",
        bounds=[(None, price * y) for y in hot.ravel()],
        constraints={"type": "eq", "fun": lambda flat: sums @ flat, "jac": lambda flat: sums},  # noqa: ARG005
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    return found.x.reshape(hot.shape).T @ x


def ridge_weights(x: np.ndarray, labels: np.ndarray, n_way: int, ridge: float) -> np.ndarray:
    """The normal equations of the features, one class at a time."""
    targets = [(labels == label).astype(float) for label in range(n_way)]
    return np.stack([np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y) for y in targets])


def logits(method: MetaOptNet, task: Tasks) -> Tensor:
    def item(row: Tensor) -> np.ndarray:
        return (unit(row) if method.unit_length else row).numpy()

    x, labels = np.stack([item(row) for row in task.support[0]]), task.support_labels[0].numpy()
    if method.head == "svm":
        weights = svm_weights(x, labels, task.n_way, method.C)
    else:
        weights = ridge_weights(x, labels, task.n_way, method.ridge)
    scores = [[method.scale.item() * float(item(row) @ weight) for weight in weights] for row in task.query[0]]
    return torch.tensor(scores, dtype=torch.float64)
