"""The penalty of ridge regression, by regressions of scikit-learn that are fitted again without each example."""

import math

import numpy as np
from sklearn.linear_model import Ridge

GRID = [0.5 * 4.0**power for power in range(-3, 5)]


def suited(rows: np.ndarray, weight: np.ndarray, labels: np.ndarray) -> float:
    """The geometric mean of the grid, by the evidence and a prior about 0.5 with a standard deviation of 1.

    Of the logarithm of what is above 0.5, half.
    """
    n = int((np.bincount(labels)[labels] > 1).sum())
    if not n:
        return 0.5
    evidence = [
        -n * math.log(max(1 - max(correlate(rows, weight, labels, penalty), 0) ** 2, 1e-4))
        - math.log(penalty / 0.5) ** 2 / 2
        for penalty in GRID
    ]
    belief = np.exp(np.array(evidence) - max(evidence))
    power = belief @ np.log(GRID) / belief.sum() - math.log(0.5)
    return 0.5 * math.exp(power / 2 if power > 0 else power)


def correlate(rows: np.ndarray, weight: np.ndarray, labels: np.ndarray, penalty: float) -> float:
    """Correlation of the labels with the opinions of regressions on all other rows."""
    away = rows - rows.mean(0)
    scale = max(np.sqrt(np.square(away).sum(1).mean()), 1e-6)
    z = np.hstack([away / scale, np.ones((len(rows), 1))])
    hot, numbers, opinions = np.eye(labels.max() + 1)[labels], np.arange(len(rows)), []
    for i in numbers:
        kept = numbers != i
        fitted = Ridge(penalty, fit_intercept=False).fit(z[kept], hot[kept], weight[kept])
        opinion, n = fitted.predict(z[[i]])[0], hot[:, labels[i]].sum()
        opinion[labels[i]] *= n / max(n - 1, 0.5)
        opinions.append(opinion - opinion.mean())
    tested = hot.sum(0)[labels] > 1
    found, right = np.array(opinions)[tested], (hot - hot.mean(1, keepdims=True))[tested]
    return float((found * right).sum() / max(np.sqrt(np.square(found).sum() * np.square(right).sum()), 1e-6))
