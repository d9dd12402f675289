"""Glance: synthetic gradients for any number of classes, in any proportions, on the features of any network.

Onelook's own method: SIB (Hu et al., ICLR 2020, arXiv:2004.12696) grown up. SIB's gradient network reads the K scores
of a query in the order of the classes, so it serves one K and depends on what the classes are called; of the other
queries it knows nothing but through a normalisation. This one is equivariant: it treats all classes alike and all
queries alike (`exchangeable`), and it reads no features, only what the features of every network have: distances in
units of how far the classes lie apart, posteriors, margins, what the neighbours are taken for, how frequent the
classes seem to be. One set of weights serves any number of classes, shots and queries, and any feature network.

The local model has one mean w_k a class. With features of length 1 the scores are
    z_ik = -lambda d_ik + v_k + Delta_ik,   d_ik = |q_i - w_k|^2 / (mean squared distance between the class means),
and a step along the made-up gradient g_ik of the loss by -z_ik, with the labelled examples (n_k of mean m_k) kept, is
    w_k <- w_k + rate (n_k (m_k - w_k) + sum_i g_ik (q_i - w_k)) / (n_k + sum_i g_ik).
The gradient network makes Delta and the gate in g = gate softmax(z). Where it says nothing, a step is one of soft
k-means with estimated proportions v (expectation maximisation). The other end is optimal transport: a small second
network judges from the spread of the estimated proportions how far to believe in the expected ones (equal ones, or
those that one is told), and this belief moves v, and the masses of a Sinkhorn plan that the gradient network reads,
from the estimated proportions (0) to the expected ones (1). Told proportions are believed, and the last answer is
transported to them.

Classes with unequal numbers of labelled examples. With s^2 the spread of a class, a query of it stands s^2 + s^2 / n_k
from the mean of its n_k examples on average: who has fewer is farther from its own queries, and loses them. So the
first distances are less by s^2 (1 / n_k - 1 / n), and the gradient network is told of n examples for every class, the
harmonic mean, which is what n_k becomes in the mean of these distances and in the unit. It was trained on few tasks of
unequal classes; told the numbers themselves, it took the queries from the classes with most (docs/log.md). Nor does a
class hold its mean with more than n examples. Who labels what comes finds more of the frequent classes: where nothing
is told, the expected proportions are those of n_k^0.2.

All is differentiable and in closed form. Meta-training descends the cross-entropy of the queries after every step, the
last counting most, and that of their proportions.
"""

import math
from typing import Annotated, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import Bound, PositiveInt
from onelook.methods.base import Method
from onelook.methods.exchangeable import ExchangeableNetwork
from onelook.methods.guard import Verdict, guarded
from onelook.methods.priors import ClassPriors
from onelook.tasks import Tasks

SHOTS_TELL = 0.2
"""How far numbers of labelled examples tell of proportions: 0 not at all, 1 all. Chosen on validation tasks."""


class Glance(Method):
    transductive: ClassVar[bool] = True
    assumes_balanced_queries: ClassVar[bool] = False
    class_priors: str = "unknown"
    """How frequent the classes are among the queries (`ClassPriors`): "unknown", "balanced", or a number for each
    class, such as "0.5/0.3/0.2"."""
    guard: bool = True
    """Whether the queries are trusted only as far as the evidence goes (`methods.guard`)."""
    n_steps: PositiveInt = 5
    """Steps of the gradient network."""
    width: PositiveInt = 32
    """Width of the gradient network."""
    n_layers: PositiveInt = 2
    """Layers of the gradient network."""
    n_neighbours: Annotated[int, Bound(">=", 2)] = 12
    """Most similar rows that tell what a query may be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._class_priors = ClassPriors.parse(self.class_priors)
        self.log_scale = nn.Parameter(torch.full((self.n_steps + 1,), math.log(8.0)))
        self.log_scale_of_task = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), _silent(16))
        self.rate = nn.Parameter(torch.zeros(self.n_steps))
        self.log_prior_count = nn.Parameter(torch.tensor(math.log(2.0)))
        self.log_reach = nn.Parameter(torch.tensor([0.0, 1.0]))
        self.belief = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 1))
        self.gradient_network = ExchangeableNetwork(13, 4, 7, 7, self.width, self.n_layers, n_out=2)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        return self.answer(tasks)[0] if self.guard else self.trajectory(tasks)[-1]

    def answer(
        self, tasks: Tasks, priors: Float[Tensor, "T K"] | None = None
    ) -> tuple[Float[Tensor, "T Q K"], Verdict]:
        """Guarded logits, and how far the queries were trusted in each task. priors: see `trajectory`."""
        return guarded(lambda some: self.trajectory(some, priors)[-1], self.inductive, tasks)

    def inductive(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """Logits of the labelled examples alone: the nearest class mean."""
        support, query = ops.normalise(tasks.support), ops.normalise(tasks.query)
        means = ops.class_means(support, tasks.support_labels, tasks.n_way)
        return -self.log_scale[0].exp() * ops.squared_distance(query, means) / _apart(means)

    def trajectory(self, tasks: Tasks, priors: Float[Tensor, "T K"] | None = None) -> Float[Tensor, "steps T Q K"]:
        """Logits after 0, 1, … n_steps steps. priors: class priors, NaN where unknown; None: those of the settings."""
        scene = self._scene(tasks, priors)
        weights, log_share = scene.means, _relative(scene.expected)
        logits = self._scores(0, weights, log_share, scene)
        answers = [logits]
        for step in range(self.n_steps):
            view = self._view(step, logits, weights, log_share, scene)
            delta, gate = self.gradient_network(*view.statistics, view.posterior).unbind(-1)
            # The factors bring the network's first outputs to the size of scores.
            g_TQK = (logits + 4 * delta).softmax(-1) * 2 * torch.sigmoid(2 * gate)
            count_TK = scene.anchor + g_TQK.sum(1)
            target = (scene.anchor.unsqueeze(-1) * scene.means + g_TQK.mT @ scene.query) / count_TK.unsqueeze(-1)
            weights = weights + torch.sigmoid(self.rate[step]) * (target - weights)
            estimated = self._estimated(g_TQK)
            log_share = view.belief * _relative(scene.expected) + (1 - view.belief) * _relative(estimated)
            logits = self._scores(step + 1, weights, log_share, scene) + 4 * delta
            answers.append(logits)
        answers[-1] = self._transport_to_priors(logits, scene)
        return torch.stack(answers)

    def loss(self, tasks: Tasks, priors: Float[Tensor, "T K"] | None = None) -> Float[Tensor, ""]:
        if tasks.query_labels is None:
            raise ValueError("training needs tasks with query labels")
        known = tasks.query_labels >= 0  # the others are of no class of their task
        labels = tasks.query_labels.clamp_min(0)
        n_known = known.sum(1, keepdim=True).clamp_min(1)

        def mean_of_known(x: Float[Tensor, "T Q K"]) -> Float[Tensor, "T K"]:
            return (x * known.unsqueeze(-1)).sum(1) / n_known

        true_TK = mean_of_known(ops.one_hot(labels, tasks.n_way, tasks.query.dtype))
        losses = []
        for logits in self.trajectory(tasks, priors):
            mean_TK = mean_of_known(logits.softmax(-1)).clamp_min(1e-4)
            of_proportions = -(true_TK * mean_TK.log()).sum(1).mean()
            losses.append(functional.cross_entropy(logits[known], labels[known]) + 0.5 * of_proportions)
        weight = 0.5 ** torch.arange(self.n_steps, -1, -1, dtype=tasks.query.dtype, device=tasks.query.device)
        # In units of not knowing anything, so that tasks of many classes do not weigh more.
        return (weight * torch.stack(losses)).sum() / (weight.sum() * math.log(tasks.n_way))

    def _scene(self, tasks: Tasks, priors: Float[Tensor, "T K"] | None) -> "_Scene":
        support, query = ops.normalise(tasks.support), ops.normalise(tasks.query)
        hot = ops.one_hot(tasks.support_labels, tasks.n_way, support.dtype)
        means = ops.class_means(support, tasks.support_labels, tasks.n_way)
        shots = hot.sum(1)
        typical = 1 / (1 / shots).mean(1, keepdim=True)
        unit = _apart(means)
        spread, pooled = _spread(support, means, hot, unit)
        excess = pooled * (1 / shots - 1 / typical)
        n = min(self.n_neighbours, support.shape[1] + query.shape[1] - 1)
        similarity, neighbours = ops.nearest_rows(query, torch.cat([support, query], 1), n)
        # The farthest neighbour weighs nothing, so that no answer jumps where two rows change places.
        nearness = ((similarity - similarity[..., -1:]) / unit).unsqueeze(2)
        reach = torch.expm1((self.log_reach.exp().unsqueeze(-1) * nearness).clamp_max(10.0))
        reach = reach / (reach.sum(-1, keepdim=True) + 1e-3)
        density = _log(2 * (1 - similarity.mean(-1)) / unit.squeeze(-1))
        distance = ops.squared_distance(query, means) / unit - excess.unsqueeze(1)
        least = distance.amin(-1)
        sizes = (math.log(query.shape[1]) / 4, math.log(tasks.n_way) / 2)
        ease = (_log(least.mean(1)), _log((distance.mean(-1) - least).mean(1)))
        about = torch.stack([*(shots.new_full(shots.shape[:1], x) for x in sizes), typical.squeeze(1).log(), *ease], -1)
        log_scale = self.log_scale_of_task(torch.cat([about, unit.view(-1, 1).log() / 4], -1)).unsqueeze(-1)
        expected, is_given = self._expected(tasks, priors, shots / typical)
        return _Scene(
            query,
            means,
            torch.minimum(shots, typical),
            typical,
            excess,
            hot,
            unit,
            spread,
            density,
            neighbours,
            reach,
            about,
            log_scale,
            expected,
            is_given,
        )

    def _expected(
        self, tasks: Tasks, priors: Float[Tensor, "T K"] | None, relative_shots: Float[Tensor, "T K"]
    ) -> tuple[Tensor, Tensor]:
        """The class priors (T, K) to begin with, and whether (T, 1) they are given."""
        if priors is None:
            own = self._class_priors.tensor(range(tasks.n_way))
            priors = own.to(tasks.query).expand(len(tasks), -1)
        is_given = ~priors.isnan().any(1, keepdim=True)
        likely = relative_shots**SHOTS_TELL
        return torch.where(is_given, priors, likely / likely.sum(1, keepdim=True)).clamp_min(1e-4), is_given

    def _scores(
        self, step: int, weights: Float[Tensor, "T K D"], log_share: Float[Tensor, "T K"], scene: "_Scene"
    ) -> Float[Tensor, "T Q K"]:
        distance = self._distance(step, weights, scene)
        scale = (self.log_scale[step] + scene.log_scale).exp()
        return log_share.unsqueeze(1) - scale * (distance - distance.amin(-1, keepdim=True))

    def _distance(self, step: int, weights: Float[Tensor, "T K D"], scene: "_Scene") -> Float[Tensor, "T Q K"]:
        distance = ops.squared_distance(scene.query, weights) / scene.unit
        # Later means are mostly of queries, whose own part in them outweighs what is left of the excess (docs/log.md).
        return distance if step else distance - scene.excess.unsqueeze(1)

    def _transport_to_priors(self, logits: Float[Tensor, "T Q K"], scene: "_Scene") -> Float[Tensor, "T Q K"]:
        """The answer whose proportions are nearly those that one was told; of many queries more nearly than of few."""
        n_query, n_way = logits.shape[1:]
        plan = ops.relaxed_sinkhorn(logits, n_query * scene.expected, 20, stiffness=n_query / (n_query + n_way))
        return torch.where(scene.is_given.unsqueeze(-1), plan, logits)

    def _estimated(self, share: Float[Tensor, "T Q K"]) -> Float[Tensor, "T K"]:
        """Proportions with a learned number of queries that each class is believed to have had before."""
        count = share.sum(1) + self.log_prior_count.exp()
        return count / count.sum(1, keepdim=True)

    def _view(
        self,
        step: int,
        logits: Float[Tensor, "T Q K"],
        weights: Float[Tensor, "T K D"],
        log_share: Float[Tensor, "T K"],
        scene: "_Scene",
    ) -> "_View":
        """What the gradient network reads: statistics that every feature network has."""
        n_query, n_way = logits.shape[1:]
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1)
        distance = self._distance(step, weights, scene)
        least = distance.amin(-1)
        estimated = self._estimated(p)
        belief = self._belief(step, logits, p, entropy, scene)
        mass = (n_query * (belief * scene.expected + (1 - belief) * estimated)).clamp_min(1e-3)
        log_plan = ops.sinkhorn(logits, mass, 3)
        best = logits.topk(2, -1).values
        rival = torch.where(logits >= best[..., :1], best[..., 1:], best[..., :1])
        near, wide, near_of_near = self._neighbours_say(p, scene)
        entries = torch.stack(
            [
                4 * (least.unsqueeze(-1) - distance).clamp_min(-4),
                log_p.clamp_min(-12) / 4,
                p,
                (logits - rival).clamp(-12, 12) / 4,
                log_plan.clamp_min(-12) / 4,
                log_plan.exp(),
                (log_plan - log_p).clamp(-6, 6),
                near,
                (near + 0.05).log(),
                wide,
                (wide + 0.05).log(),
                near_of_near,
                (near_of_near + 0.05).log(),
            ],
            -1,
        )
        queries = torch.stack(
            [entropy / math.log(n_way), (best[..., 0] - best[..., 1]).clamp_max(20), scene.density, _log(least)], -1
        )
        compactness = _log((p * distance).sum(1) / (p.sum(1) + 1e-3))
        classes = torch.stack(
            [
                log_share,
                estimated * n_way,
                _relative(mass / n_query),
                compactness,
                scene.spread,
                _log(distance.amin(1)),
                scene.typical.log().expand_as(log_share),
            ],
            -1,
        )
        progress = torch.full_like(belief, step / self.n_steps)
        task = torch.cat([scene.about, belief, progress], -1)
        return _View((entries, queries, classes, task), p, belief)

    def _belief(
        self,
        step: int,
        logits: Float[Tensor, "T Q K"],
        p: Float[Tensor, "T Q K"],
        entropy: Float[Tensor, "T Q"],
        scene: "_Scene",
    ) -> Float[Tensor, "T 1"]:
        """How far the expected proportions are believed, 0 to 1, by how far the estimated ones are from them."""
        n_query, n_way = logits.shape[1:]
        plan = ops.sinkhorn(logits, n_query * scene.expected, 3).exp()
        ratio = p.mean(1) * n_way
        off = (ratio - n_way * scene.expected).square().mean(1)
        moved = (p - plan).abs().sum(-1).mean(1)
        evidence = torch.stack(
            [
                _log(off) / 2,
                ratio.amax(1).log(),
                ratio.amin(1).clamp_min(1e-2).log(),
                moved.clamp_min(1e-3).log(),
                entropy.mean(1),
                torch.full_like(off, step / self.n_steps),
                scene.about[:, 3] - scene.about[:, 4],
            ],
            -1,
        )
        belief = torch.sigmoid(self.belief(torch.cat([evidence, scene.about[:, :3]], -1)))
        return torch.where(scene.is_given, torch.ones_like(belief), belief)

    def _neighbours_say(self, p: Float[Tensor, "T Q K"], scene: "_Scene") -> tuple[Tensor, Tensor, Tensor]:
        """What the nearest rows are taken for, with a short and a long reach, and what those nearest to them are."""
        n_rows = scene.support_hot.shape[1] + p.shape[1]
        own = 1 - scene.reach.sum(-1)  # where all rows are equally far, a row has its own answer only
        offset = n_rows * torch.arange(len(p), device=p.device).view(-1, 1, 1)

        def heard(of_queries: Tensor) -> Float[Tensor, "T Q 2 K"]:
            rows = torch.cat([scene.support_hot, of_queries], 1).flatten(0, 1)
            found = rows[(scene.neighbours + offset).flatten()].view(*scene.neighbours.shape, -1)
            return scene.reach @ found + own.unsqueeze(-1) * of_queries.unsqueeze(2)

        wide, near = heard(p).unbind(2)
        return near, wide, heard(near)[:, :, 1]


class _Scene(NamedTuple):
    """What does not change during the steps. n nearest rows of support and queries, B = 2 reaches, G sizes."""

    query: Float[Tensor, "T Q D"]
    means: Float[Tensor, "T K D"]
    anchor: Float[Tensor, "T K"]
    """With how many examples each class holds its mean."""
    typical: Float[Tensor, "T 1"]
    """The harmonic mean of the shots."""
    excess: Float[Tensor, "T K"]
    """How much farther than from others the queries stand from this mean, for being of fewer examples."""
    support_hot: Float[Tensor, "T S K"]
    unit: Float[Tensor, "T 1 1"]
    """Of all squared distances: their mean between the class means."""
    spread: Float[Tensor, "T K"]
    density: Float[Tensor, "T Q"]
    neighbours: Int[Tensor, "T Q n"]
    reach: Float[Tensor, "T Q B n"]
    about: Float[Tensor, "T G"]
    log_scale: Float[Tensor, "T 1 1"]
    expected: Float[Tensor, "T K"]
    is_given: Bool[Tensor, "T 1"]


class _View(NamedTuple):
    statistics: tuple[Tensor, Tensor, Tensor, Tensor]
    """Of entries, queries, classes and the task."""
    posterior: Float[Tensor, "T Q K"]
    belief: Float[Tensor, "T 1"]


def _apart(means: Float[Tensor, "T K D"]) -> Float[Tensor, "T 1 1"]:
    """The mean squared distance between the class means."""
    apart = 2 * (means - means.mean(1, keepdim=True)).square().sum((1, 2)) / (means.shape[1] - 1)
    # Means nearer than this would make rounding look like evidence, and gradients overflow.
    return apart.clamp_min(1e-3).view(-1, 1, 1)


def _spread(
    support: Float[Tensor, "T S D"],
    means: Float[Tensor, "T K D"],
    hot: Float[Tensor, "T S K"],
    unit: Float[Tensor, "T 1 1"],
) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T 1"]]:
    """The variance of each class and that of all, 0 where nothing tells; a class of one example has that of all."""
    shots = hot.sum(1)
    scatter = (hot.mT @ (support - hot @ means).square().sum(-1, keepdim=True) / unit).squeeze(-1)
    pooled = scatter.sum(1, keepdim=True) / (shots - 1).sum(1, keepdim=True).clamp_min(1)
    return torch.where(shots > 1, scatter / (shots - 1).clamp_min(1), pooled), pooled


def _silent(size: int) -> nn.Linear:
    """A layer that says nothing at first."""
    layer = nn.Linear(size, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _log(x: Tensor) -> Tensor:
    return x.clamp_min(1e-6).log()


def _relative(proportions: Float[Tensor, "T K"]) -> Float[Tensor, "T K"]:
    """Logarithms, 0 for equal proportions."""
    return proportions.log() + math.log(proportions.shape[1])
