"""Glance, a function for each statistic: of one entry, one query, one class, or the task."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from onelook.methods import Glance, glance_support, regression
from onelook.tasks import Tasks
from reference import guard, penalty
from reference.exchangeable import linear, outputs


class Scene:
    """What one task is before the first step."""

    def __init__(self, method: Glance, task: Tasks) -> None:
        self.method = method
        self.support = [unit_length(row) for row in task.support[0].numpy()]
        self.query = [unit_length(row) for row in task.query[0].numpy()]
        self.label = [int(label) for label in task.support_labels[0]]
        self.n_way, self.n_query, self.n_support = task.n_way, len(self.query), len(self.support)
        self.heard = min(self.n_query, max(regression.MOST_QUERIES, regression.MOST_OF_CLASS * self.n_way))
        self.share = self.heard / self.n_query
        self.classes = range(self.n_way)
        self.own = [[row for row, j in zip(self.support, self.label, strict=True) if j == k] for k in self.classes]
        self.shots = [len(rows) for rows in self.own]
        self.means = [sum(rows) / len(rows) for rows in self.own]
        pairs = [square(a - b) for i, a in enumerate(self.means) for b in self.means[:i]]
        self.unit = max(sum(pairs) / len(pairs), 1e-3)
        self.typical = self.n_way / sum(1 / n for n in self.shots)
        self.first_distance = self.distances(self.means)
        self.neighbours = [self.nearest(i) for i in range(self.n_query)]
        self.is_told, self.expected = self.proportions()
        self.weight = [min(self.shots[k], self.typical) / self.shots[k] for k in self.label]
        self.penalty = penalty.suited(np.array(self.support), np.array(self.weight), np.array(self.label))
        self.ridge = [self.judged_by_support(row) for row in self.query]
        self.left_out = [self.judged_by_support(row, j) for j, row in enumerate(self.support)]
        self.testable = [self.shots[k] > 1 for k in self.label]
        self.ridge_lead = mean([ahead(row) for row in self.ridge])
        evidence, unit = self.evidence(), math.log(self.unit) / 4
        sizes = self.about()
        alone = [sizes[1], sizes[2], unit, *evidence]
        self.voices = [
            heard(method.alone.layers, np.array(alone)),
            heard(method.together.layers, np.array([*sizes, unit, *evidence, self.ridge_lead])),
        ]
        self.voices[1][0] += 4 * max(0, evidence[1] - evidence[0] - 0.3 / self.typical)
        self.loudness = self.most_probable_loudness()

    def as_if_new(self, step: int = 1) -> list[tuple[list[float], np.ndarray, int]]:
        """Distances, opinion and class of each labelled example, or of some, that others of its class can judge."""
        found = []
        for j, (row, k) in enumerate(zip(self.support, self.label, strict=True)):
            n = self.shots[k]
            if n > 1 and j % step == 0:
                distance = [
                    square(row - m) / self.unit * ((n + 1) / (n - 1) if i == k else 1) for i, m in enumerate(self.means)
                ]
                opinion = np.array([x * (n / (n - 1) if i == k else 1) for i, x in enumerate(self.left_out[j])])
                found.append((distance, opinion, k))
        return found

    def mean_shift(self) -> float:
        """The logit of ridge regression less that of its network, of a grid, by Bayes' rule."""
        own, total, weighted = self.voices[0][0], 0.0, 0.0
        judges = self.as_if_new(math.ceil(self.n_support * self.n_way / glance_support.MOST_JUDGED))
        for shift in range(-3, 4):
            self.voices[0][0] = own + shift
            for louder in (0, 0.5, 1, 1.5, 2, 2.5):
                log_p = -(shift**2) / 2 - (louder / 0.4) ** 2 / 2
                for distance, opinion, k in judges:
                    log_p += log_softmax(math.exp(louder) * mixed_scores(self, 0, distance, opinion))[k]
                total, weighted = total + math.exp(log_p), weighted + shift * math.exp(log_p)
        self.voices[0][0] = own
        return weighted / total

    def most_probable_loudness(self) -> float:
        """By halving 24 times the interval where the loss of the labelled examples, each left out, turns."""
        rows = [(mixed_scores(self, 0, distance, opinion), k) for distance, opinion, k in self.as_if_new()]
        low, high = 0.0, 2.5
        for _ in range(24):
            middle = (low + high) / 2
            slope = middle / 0.4**2
            for z, k in rows:
                louder = math.exp(middle) * z
                slope += float(np.exp(log_softmax(louder)) @ louder) - louder[k]
            low, high = (middle, high) if slope < 0 else (low, middle)
        return low

    def judged_by_support(self, row: np.ndarray, j: int | None = None) -> np.ndarray:
        """What ridge regression on the labelled examples, but for number j, makes of a row."""
        kept = [i for i in range(self.n_support) if i != j]
        return ridge(self.penalty, self.support, self.weight, [hot(k, self.n_way) for k in self.label], kept, row)

    def judged_by_others(self, shares: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What ridge regression on all other labelled examples and queries makes of each of them."""
        rows, weight = [*self.support, *self.query], [*self.weight, *[0.3 * math.sqrt(self.share)] * self.n_query]
        targets = [*[hot(k, self.n_way) for k in self.label], *shares]
        kept = [[i for i in range(len(rows)) if i != j] for j in range(len(rows))]
        found = [ridge(self.penalty, rows, weight, targets, kept[j], rows[j]) for j in range(len(rows))]
        return found[: self.n_support], found[self.n_support :]

    def evidence(self) -> list[float]:
        n = max(sum(self.testable), 1)
        by_means = 0.0
        for row, k, tested in zip(self.support, self.label, self.testable, strict=True):
            if tested:
                others = (self.shots[k] * self.means[k] - row) / (self.shots[k] - 1)
                means = [others if j == k else self.means[j] for j in self.classes]
                by_means += preference([-square(row - m) / self.unit for m in means], k)
        return [by_means / n, sum(self.first_recognised()) / n, mean([float(x) for x in self.testable])]

    def first_recognised(self) -> list[float]:
        return [
            preference(opinion, k) if tested else 0.0
            for opinion, k, tested in zip(self.left_out, self.label, self.testable, strict=True)
        ]

    def distances(self, weights: list[np.ndarray]) -> list[list[float]]:
        return [[square(row - weight) / self.unit for weight in weights] for row in self.query]

    def at_step(self, step: int, weights: list[np.ndarray]) -> list[list[float]]:
        """In the first step as though every class had as many labelled examples."""
        less = [self.pooled() * (1 / n - 1 / self.typical) if step == 0 else 0.0 for n in self.shots]
        return [[d - x for d, x in zip(row, less, strict=True)] for row in self.distances(weights)]

    def nearest(self, i: int) -> list[tuple[float, int]]:
        """The rows most similar to query i, with their similarities; queries are counted after the support."""
        rows = [*self.support, *self.query]
        found = [(float(self.query[i] @ row), j) for j, row in enumerate(rows) if j != self.n_support + i]
        return sorted(found, key=lambda pair: -pair[0])[: self.method.n_neighbours]

    def reaches(self, i: int, which: int) -> list[float]:
        """How far each neighbour of query i is heard, widely (0) or nearly (1)."""
        sharpness = math.exp(self.method.log_reach[which].item())
        least = self.neighbours[i][-1][0]
        raw = [math.expm1(min(sharpness * (s - least) / self.unit, 10)) for s, _ in self.neighbours[i]]
        return [x / (sum(raw) + 1e-3) for x in raw]

    def proportions(self) -> tuple[bool, list[float]]:
        if self.method.class_priors == "unknown":
            return False, [n**0.2 / sum(m**0.2 for m in self.shots) for n in self.shots]
        if self.method.class_priors == "balanced":
            return True, [1 / self.n_way] * self.n_way
        numbers = [float(part) for part in self.method.class_priors.split("/")]
        return True, [max(x / sum(numbers), 1e-4) for x in numbers]

    def scatter(self, k: int) -> float:
        return sum(square(row - self.means[k]) for row in self.own[k]) / self.unit

    def pooled(self) -> float:
        return sum(self.scatter(k) for k in self.classes) / max(self.n_support - self.n_way, 1)

    def spread(self, k: int) -> float:
        return self.pooled() if self.shots[k] == 1 else self.scatter(k) / (self.shots[k] - 1)

    def density(self, i: int) -> float:
        similarity = [s for s, _ in self.neighbours[i]]
        return log(2 * (1 - mean(similarity)) / self.unit)

    def about(self) -> list[float]:
        first = self.at_step(0, self.means)
        least = [min(row) for row in first]
        beyond = [mean(row) - min(row) for row in first]
        sizes = [math.log(self.heard) / 4, math.log(self.n_way) / 2, math.log(self.typical)]
        return [*sizes, log(mean(least)), log(mean(beyond))]


class View:
    """What there is to read at one step, from the scores z (Q, K), the means and the shares of the classes."""

    def __init__(
        self,
        scene: Scene,
        step: int,
        z: np.ndarray,
        weights: list[np.ndarray],
        opinion: list[np.ndarray],
        recognised: list[float],
        log_share: list[float],
    ) -> None:
        self.scene, self.step, self.z, self.log_share = scene, step, z, log_share
        self.opinion, self.recognised = opinion, recognised
        self.log_opinion = [log_softmax(8 * row) for row in opinion]
        self.queries = range(scene.n_query)
        self.distance = scene.at_step(step, weights)
        self.log_p = np.array([log_softmax(row) for row in z])
        self.p = np.exp(self.log_p)
        self.entropy = [-sum(p * log_p) for p, log_p in zip(self.p, self.log_p, strict=True)]
        self.estimated = estimated(scene, self.p)
        self.belief = self.believed()
        shares = mixed(self.belief, scene.expected, self.estimated)
        self.mass = [max(scene.n_query * share, 1e-3) for share in shares]
        self.log_plan = log_transport(z, self.mass)
        self.near = [self.heard(i, 1, self.p) for i in self.queries]
        self.wide = [self.heard(i, 0, self.p) for i in self.queries]
        self.near_of_near = [self.heard(i, 1, self.near) for i in self.queries]

    def heard(self, i: int, which: int, of_queries: np.ndarray | list[np.ndarray]) -> np.ndarray:
        """What the neighbours of query i are taken for, and what itself is for the part that they leave."""
        scene = self.scene
        total, heard = np.zeros(scene.n_way), 0.0
        for (_, j), reach in zip(scene.neighbours[i], scene.reaches(i, which), strict=True):
            heard += reach
            if j < scene.n_support:
                total[scene.label[j]] += reach
            else:
                total += reach * of_queries[j - scene.n_support]
        return total + (1 - heard) * of_queries[i]

    def believed(self) -> float:
        scene = self.scene
        if scene.is_told:
            return 1.0
        plan = np.exp(log_transport(self.z, [scene.n_query * share for share in scene.expected]))
        ratio = [scene.n_way * mean(self.p[:, k]) for k in scene.classes]
        off = mean([(ratio[k] - scene.n_way * scene.expected[k]) ** 2 for k in scene.classes])
        moved = mean([sum(abs(self.p[i] - plan[i])) for i in self.queries])
        about = scene.about()
        evidence = [
            log(off) / 2,
            math.log(max(ratio)),
            math.log(max(min(ratio), 1e-2)),
            math.log(max(moved, 1e-3)),
            mean(self.entropy),
            self.progress(),
            about[3] - about[4],
            *about[:3],
        ]
        first, _, last = scene.method.belief
        return sigmoid(perceptron(first, last, np.array(evidence)))

    def progress(self) -> float:
        return self.step / self.scene.method.n_steps

    def of_entry(self, i: int, k: int) -> np.ndarray:
        others = max(self.z[i, j] for j in self.scene.classes if j != k)
        plan, log_plan, log_p = math.exp(self.log_plan[i, k]), self.log_plan[i, k], self.log_p[i, k]
        heard = [self.near[i][k], self.wide[i][k], self.near_of_near[i][k]]
        return np.array(
            [
                4 * max(min(self.distance[i]) - self.distance[i][k], -4),
                max(log_p, -12) / 4,
                self.p[i, k],
                between(-12, self.z[i, k] - others, 12) / 4,
                max(log_plan, -12) / 4,
                plan,
                between(-6, log_plan - log_p, 6),
                *(number for share in heard for number in (share, math.log(share + 0.05))),
                4 * preference(self.opinion[i], k),
                math.exp(self.log_opinion[i][k]),
                max(self.log_opinion[i][k], -12) / 4,
            ]
        )

    def of_query(self, i: int) -> np.ndarray:
        second, best = sorted(self.z[i])[-2:]
        entropy = self.entropy[i] / math.log(self.scene.n_way)
        opinion = [4 * ahead(self.opinion[i]), 2 * max(self.opinion[i])]
        return np.array([entropy, min(best - second, 20), self.scene.density(i), log(min(self.distance[i])), *opinion])

    def of_class(self, k: int) -> np.ndarray:
        n_way, n_query = self.scene.n_way, self.scene.n_query
        distance = [self.distance[i][k] for i in self.queries]
        compactness = sum(self.p[i, k] * distance[i] for i in self.queries) / (sum(self.p[:, k]) + 1e-3)
        return np.array(
            [
                self.log_share[k],
                self.estimated[k] * n_way,
                math.log(self.mass[k] / n_query * n_way),
                log(compactness),
                self.scene.spread(k),
                log(min(distance)),
                math.log(self.scene.typical),
            ]
        )

    def of_task(self) -> np.ndarray:
        known = [*self.scene.about(), *self.scene.evidence(), self.belief, self.progress()]
        return np.array([*known, mean(self.recognised), mean([ahead(row) for row in self.opinion])])

    def made_up(self) -> np.ndarray:
        """What the gradient network says: Delta and the gate, (Q, K, 2), in its own units."""
        return outputs(
            self.scene.method.gradient_network,
            [[self.of_entry(i, k) for k in self.scene.classes] for i in self.queries],
            [self.of_query(i) for i in self.queries],
            [self.of_class(k) for k in self.scene.classes],
            self.of_task(),
            self.p,
        )


def logits(method: Glance, task: Tasks) -> Tensor:
    if not method.guard:
        return torch.from_numpy(trajectory(method, task)[-1])
    found = guard.judged(lambda some: trajectory(method, some)[-1], lambda some: inductive(method, some), task)
    return torch.from_numpy(found.logits)


def inductive(method: Glance, task: Tasks) -> np.ndarray:
    scene = Scene(method, task)
    scene.voices[0][0] += scene.mean_shift()
    return np.array([mixed_scores(scene, 0, *pair) for pair in zip(scene.first_distance, scene.ridge, strict=True)])


def trajectory(method: Glance, task: Tasks) -> list[np.ndarray]:
    scene = Scene(method, task)
    weights = scene.means
    log_share = [math.log(share * scene.n_way) for share in scene.expected]
    opinion, recognised = scene.ridge, scene.first_recognised()
    answers = [scores(scene, 0, weights, opinion, log_share)]
    for step in range(method.n_steps):
        view = View(scene, step, answers[-1], weights, opinion, recognised, log_share)
        said = view.made_up()
        delta = 4 * said[:, :, 0]
        g = np.array([np.exp(log_softmax(row)) for row in view.z + delta])
        of_support, opinion = scene.judged_by_others(g)
        recognised = [preference(row, k) for row, k in zip(of_support, scene.label, strict=True)]
        for i, k in np.ndindex(*g.shape):
            g[i, k] *= 2 * sigmoid(2 * said[i, k, 1])
        weights = [moved(scene, step, weights[k], k, g[:, k]) for k in scene.classes]
        logs = [[math.log(share) for share in shares] for shares in (scene.expected, estimated(scene, g))]
        log_share = [share + math.log(scene.n_way) for share in mixed(view.belief, *logs)]
        answers.append(scores(scene, step + 1, weights, opinion, log_share) + delta)
    if scene.is_told:
        answers[-1] = held_to_what_is_told(scene, answers[-1])
    return answers


def held_to_what_is_told(scene: Scene, z: np.ndarray) -> np.ndarray:
    """b_k <- (Q pi_k / sum_i a_i exp z_ik)^(Q / (Q + K)), a_i = 1 / sum_k b_k exp z_ik; log a_i b_k exp z_ik"""
    kernel, b, n = np.exp(z - z.max(1, keepdims=True)), np.ones(scene.n_way), len(z)
    for _ in range(20):
        a = [1 / sum(b * row) for row in kernel]
        column = [sum(a[i] * kernel[i, k] for i in range(n)) for k in scene.classes]
        b = np.array([(n * scene.expected[k] / column[k]) ** (n / (n + scene.n_way)) for k in scene.classes])
    return np.array([np.log(b * row / sum(b * row)) for row in kernel])


def moved(scene: Scene, step: int, weight: np.ndarray, k: int, g: np.ndarray) -> np.ndarray:
    """w <- w + rate (n (m - w) + sum_i g_i (q_i - w)) / (n + sum_i g_i), n at most the typical number"""
    n = min(scene.shots[k], scene.typical)
    force = n * (scene.means[k] - weight)
    for share, row in zip(g, scene.query, strict=True):
        force = force + scene.share * share * (row - weight)
    return weight + sigmoid(scene.method.rate[step].item()) * force / (n + scene.share * sum(g))


def scores(
    scene: Scene, step: int, weights: list[np.ndarray], opinion: list[np.ndarray], log_share: list[float]
) -> np.ndarray:
    both = zip(scene.at_step(step, weights), opinion, strict=True)
    loud = math.exp(scene.loudness)
    return np.array([np.array(log_share) + loud * mixed_scores(scene, step, *pair) for pair in both])


def mixed_scores(scene: Scene, step: int, distance: list[float], opinion: np.ndarray) -> np.ndarray:
    """2 (1 - s) a (least distance - distance) + 2 s b (opinion - largest opinion)"""
    logit, *log_scale = scene.voices[min(step, 1)]
    a = math.exp(scene.method.log_scale[step].item() + log_scale[0])
    b = math.exp(scene.method.log_scale_of_ridge[step].item() + log_scale[1])
    share = sigmoid(logit)
    by_means = a * (min(distance) - np.array(distance))
    return 2 * (1 - share) * by_means + 2 * share * b * (opinion - max(opinion))


def ridge(
    penalty: float,
    rows: list[np.ndarray],
    weight: list[float],
    targets: list[np.ndarray],
    kept: list[int],
    row: np.ndarray,
) -> np.ndarray:
    """Ridge regression on the kept rows, about the mean of all, in units of their spread, with a constant feature."""
    centre = sum(rows) / len(rows)
    unit = max(math.sqrt(mean([square(x - centre) for x in rows])), 1e-6)
    z = [np.append((x - centre) / unit, 1.0) for x in [*[rows[i] for i in kept], row]]
    normal, right = penalty * np.eye(len(z[0])), np.zeros((len(z[0]), len(targets[0])))
    for i, x in zip(kept, z, strict=False):
        normal += weight[i] * np.outer(x, x)
        right += weight[i] * np.outer(x, targets[i])
    return np.asarray(z[-1] @ np.linalg.solve(normal, right))


def hot(k: int, n_way: int) -> np.ndarray:
    return np.eye(n_way)[k]


def preference(values: list[float] | np.ndarray, k: int) -> float:
    """By how much k is above the best other one, at most 1."""
    return between(-1, values[k] - max(value for j, value in enumerate(values) if j != k), 1)


def ahead(values: np.ndarray) -> float:
    second, best = sorted(values)[-2:]
    return float(best - second)


def heard(layers: nn.Sequential, x: np.ndarray) -> list[float]:
    first, _, last = layers
    return [float(number) for number in linear(last, np.tanh(linear(first, x)))]


def estimated(scene: Scene, share: np.ndarray) -> list[float]:
    prior = math.exp(scene.method.log_prior_count.item())
    count = [prior + scene.share * sum(share[:, k]) for k in scene.classes]
    return [x / sum(count) for x in count]


def log_transport(z: np.ndarray, mass: list[float]) -> np.ndarray:
    """Three times columns, then rows."""
    plan = np.array([log_softmax(row) for row in z])
    for _ in range(3):
        for k in range(len(mass)):
            plan[:, k] += math.log(mass[k]) - log_sum(plan[:, k])
        plan = np.array([log_softmax(row) for row in plan])
    return plan


def perceptron(first: nn.Linear, last: nn.Linear, x: np.ndarray) -> float:
    return float(linear(last, np.tanh(linear(first, x)))[0])


def unit_length(row: np.ndarray) -> np.ndarray:
    return row / max(math.sqrt(square(row)), 1e-12)


def square(x: np.ndarray) -> float:
    return math.fsum(x * x)


def mean(x: list[float] | np.ndarray) -> float:
    return math.fsum(x) / len(x)


def log(x: float) -> float:
    return math.log(max(x, 1e-6))


def between(low: float, x: float, high: float) -> float:
    return max(low, min(x, high))


def sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2


def log_sum(row: np.ndarray) -> float:
    return max(row) + math.log(math.fsum(np.exp(row - max(row))))


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - log_sum(row)


def mixed(belief: float, expected: list[float], found: list[float]) -> list[float]:
    return [belief * a + (1 - belief) * b for a, b in zip(expected, found, strict=True)]
