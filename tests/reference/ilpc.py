import numpy as np
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor

from onelook.methods import ILPC
from onelook.tasks import Tasks
from reference.common import preprocessed


def graph(method: ILPC, rows: np.ndarray) -> np.ndarray:
    edge = np.zeros((len(rows), len(rows)))
    for i in range(len(rows)):
        others = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -rows[i] @ rows[j])
        for j in others[: method.n_neighbours]:
            edge[i, j] = max(rows[i] @ rows[j], 0) ** 3
    weight = edge + edge.T
    degree = np.maximum(weight.sum(1), 1e-6)
    return weight / np.sqrt(np.outer(degree, degree))


def balanced(method: ILPC, share: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Steps of Sinkhorn on the queries that are left, in logarithms."""
    plan = log_softmax(method.power * np.log(share + 1e-6), 1)
    for _ in range(method.n_sinkhorn if method.balanced else 0):
        for k in range(len(mass)):
            plan[:, k] += np.log(mass[k]) - np.log(np.exp(plan[:, k]).sum())
        plan = log_softmax(plan, 1)
    return plan


def losses(method: ILPC, rows: np.ndarray, known: np.ndarray, labels: list[int]) -> np.ndarray:
    """A classifier that is held as weights and biases, from the class means."""
    target = np.eye(known.shape[1])[labels]
    means = [rows[known[:, k] == 1].mean(0) for k in range(known.shape[1])]
    head = np.stack([np.append(mean / np.linalg.norm(mean), 0) for mean in means])
    inputs = np.concatenate([rows, np.ones((len(rows), 1))], 1)
    speed, total = np.zeros_like(head), np.zeros(len(rows))
    for _ in range(method.n_steps):
        scores = inputs @ head.T
        total -= (log_softmax(scores, 1) * target).sum(1)
        gradient = (softmax(scores, 1) - target).T @ inputs / len(rows)
        speed = 0.9 * speed + gradient + 5e-4 * head
        head = head - method.step_size * speed
    return total / method.n_steps


def logits(method: ILPC, task: Tasks) -> Tensor:
    rows = torch.cat(preprocessed(method, task)).numpy()
    rows = rows - rows.mean(0)
    rows = np.stack([row / np.linalg.norm(row) for row in rows])
    n_support, n_way = task.support.shape[1], task.n_way
    inverse = np.linalg.inv(np.eye(len(rows)) - method.alpha * graph(method, rows))
    labels = [*task.support_labels[0].tolist(), *(0 for _ in task.query[0])]
    known = np.zeros((len(rows), n_way))
    known[:n_support] = np.eye(n_way)[labels[:n_support]]
    left = list(range(n_support, len(rows)))
    answer = np.zeros((len(rows), n_way))
    while left:
        spread = np.maximum(inverse @ known, 0)[left]
        mass = np.maximum((len(rows) - n_support) / n_way - known[n_support:].sum(0), 1e-6)
        answer[left] = balanced(method, spread / np.maximum(spread.sum(1, keepdims=True), 1e-12), mass)
        for i in left:
            labels[i] = int(answer[i].argmax())
        loss = losses(method, rows, known, labels)
        moved = []
        for k in range(n_way):
            moved += sorted((i for i in left if labels[i] == k), key=lambda i: loss[i])[: method.n_moved]
        if len(moved) < n_way:
            break
        for i in moved:
            known[i, labels[i]] = 1
        left = [i for i in left if i not in moved]
    return torch.from_numpy(answer[n_support:])
