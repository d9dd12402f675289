import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from onelook.methods import DynamicFewShot
from onelook.tasks import Tasks


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.sqrt(vector @ vector)), 1e-12)


def attended(method: DynamicFewShot, z: np.ndarray, left_out: set[int]) -> np.ndarray:
    """Gidaris & Komodakis, the attended part: what one unit support feature takes from the base classes."""
    linear = method.attention_query
    asked = unit(linear.weight.detach().numpy() @ z + linear.bias.detach().numpy())
    base = [b for b in range(method.n_classes) if b not in left_out]
    keys, weights = method.keys.detach().numpy(), method.base_weights.detach().numpy()
    shares = softmax([method.gamma.item() * (asked @ unit(keys[b])) for b in base])
    return np.sum([share * unit(weights[b]) for share, b in zip(shares, base, strict=True)], axis=0)


def weights(method: DynamicFewShot, task: Tasks, left_out: set[int]) -> list[np.ndarray]:
    """Average and attended part, class after class."""
    made = []
    for label in range(task.n_way):
        rows = [unit(z.numpy()) for z, y in zip(task.support[0], task.support_labels[0], strict=True) if y == label]
        average = sum(rows) / len(rows)
        attention = sum(attended(method, z, left_out) for z in rows) / len(rows)
        phi_avg, phi_att = method.diagonal.detach().numpy(), method.attended_diagonal.detach().numpy()
        made.append(phi_avg * average + phi_att * attention)
    return made


def logits(method: DynamicFewShot, task: Tasks, left_out: frozenset[int] = frozenset()) -> Tensor:
    made = weights(method, task, set(left_out))
    scores = [[method.scale.item() * (unit(q.numpy()) @ unit(w)) for w in made] for q in task.query[0]]
    return torch.tensor(np.array(scores))
