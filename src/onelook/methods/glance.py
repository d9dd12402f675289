"""Glance: synthetic gradients for any number of classes, with any class priors, on the features of any network.

Onelook's own method, a generalisation of SIB (Hu et al., ICLR 2020, arXiv:2004.12696). SIB's gradient network reads the
K scores of a query in the order of the classes, so it serves one K and depends on the order of the classes; of the
other queries it sees only a normalisation. Here the network is equivariant in classes and queries (`exchangeable`), and
it reads no features, only statistics that the features of every network have: distances in units of the distance
between classes, posteriors, margins, the labels of the neighbours, estimated class priors. One set of weights serves
any number of classes, shots and queries, and any feature network.

The local model has two parents: a mean w_k for each class, and ridge regression with one-hot targets, whose prediction
for query i by all other rows is o_ik (`regression`), with a penalty that suits the labelled examples (`penalty`). With
features of length 1 the scores are
    z_ik = -a d_ik + b o_ik + v_k + Delta_ik,   d_ik = |q_i - w_k|^2 / (mean squared distance between the class means),
where v is the logarithm of the class priors, and a and b are judged from what the labelled examples show of either
parent when they are left out, among other statistics of the task (`glance_support`). A step along the synthetic
gradient g_ik of the loss by -z_ik, in which the n_k labelled examples of mean m_k take part, is
    w_k <- w_k + rate (n_k (m_k - w_k) + sum_i g_ik (q_i - w_k)) / (n_k + sum_i g_ik).
The gradient network gives Delta and the gate in g = gate softmax(z); softmax(z) are the new targets of the queries in
the regression. Where both are neutral, a step is one of soft k-means with estimated class priors (expectation
maximisation). The other extreme is optimal transport to given class priors. A second small network judges from the
spread of the estimated priors how much confidence the initial ones (balanced, or those that are given) deserve; this
confidence moves v, and the masses of a Sinkhorn plan that the gradient network reads, from the estimated priors (0) to
the initial ones (1). Given class priors have confidence 1, and the final answer is transported to them.

Tasks of training had up to 150 queries; more of them share the weight of so many (`regression.weigh_queries`).

Whoever labels images as they come finds more of the frequent classes: where no class priors are given, the initial ones
are proportional to n_k^0.2.

Everything is differentiable and in closed form. Meta-training minimises the cross-entropy of the queries after every
step, the last with the largest weight, and that of their class priors.
"""

import math
from collections.abc import Generator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from onelook import ops
from onelook.errors import PositiveInt, TwoOrMore
from onelook.methods import glance_statistics as statistics
from onelook.methods.base import Method
from onelook.methods.exchangeable import ExchangeableNetwork
from onelook.methods.glance_scene import Known, Moment, Opinion, Scene, View, Votes
from onelook.methods.glance_statistics import SCALE, relative
from onelook.methods.glance_support import ALONE, Conductor, Labelled, Voices, judge_left_out, judge_loudness, weigh
from onelook.methods.guard import Count, Verdict, apply_guard
from onelook.methods.priors import ClassPriors
from onelook.methods.regression import Regression, margin, weigh_queries
from onelook.tasks import Tasks

SHOTS_TELL = 0.2
"""Power of the numbers of labelled examples in the initial class priors; chosen on validation tasks."""


class Glance(Method):
    """Synthetic gradients for any number of classes, on the features of any network.

    >>> Glance()(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    version = 8
    transductive = True
    class_priors: str = "unknown"
    """How frequent the classes are among the queries (`ClassPriors`): "unknown", "balanced", or a number for each
    class, such as "0.5/0.3/0.2"."""
    guard: bool = True
    """Whether the queries are trusted only as far as the evidence goes (`methods.guard`)."""
    n_steps: PositiveInt = 4
    """Steps of the gradient network."""
    width: PositiveInt = 32
    """Width of the gradient network."""
    n_layers: PositiveInt = 2
    """Layers of the gradient network."""
    n_neighbours: TwoOrMore = 12
    """Most similar rows whose posteriors the gradient network reads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._class_priors = ClassPriors.parse(self.class_priors)
        self.log_scale = nn.Parameter(torch.full((self.n_steps + 1,), math.log(8.0)))
        self.log_scale_of_ridge = nn.Parameter(torch.full((self.n_steps + 1,), math.log(4.0)))
        self.alone = Conductor(len(ALONE))
        self.together = Conductor(len(SCALE))
        self.rate = nn.Parameter(torch.zeros(self.n_steps))
        self.log_prior_count = nn.Parameter(torch.tensor(math.log(2.0)))
        self.log_reach = nn.Parameter(torch.tensor([0.0, 1.0]))
        self.belief = nn.Sequential(nn.Linear(len(statistics.CONFIDENCE), 24), nn.Tanh(), nn.Linear(24, 1))
        sizes = len(statistics.ENTRY), len(statistics.QUERY), len(statistics.CLASS), len(statistics.STEP)
        self.gradient_network = ExchangeableNetwork(*sizes, self.width, self.n_layers, 2)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        return self.answer(tasks)[0] if self.guard else self.trajectory(tasks)[-1]

    def answer(
        self, tasks: Tasks, priors: Float[Tensor, "T K"] | None = None
    ) -> tuple[Float[Tensor, "T Q K"], Verdict]:
        """Logits of the guard, and its verdict on each task. priors: see `trajectory`."""
        tasks = tasks.map_tasks(ops.in_few_axes)
        return apply_guard(lambda some: self.trajectory(some, priors)[-1], self.inductive, tasks, self.recognise)

    def inductive(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """Inductive logits, from class means and ridge regression of the labelled examples."""
        labelled, query = Labelled.read(tasks), ops.normalise(tasks.query)
        distance = ops.squared_distance(query, labelled.means) / labelled.unit
        return self.listen(labelled).mix(distance, labelled.ridge(query))

    def recognise(self, tasks: Tasks) -> Count:
        """Count the labelled examples that `inductive` recognises, each left out."""
        labelled = Labelled.read(tasks)
        scores, tested = judge_left_out(self.listen(labelled), labelled)
        return tested.sum(1), (tested & (scores.argmax(-1) == tasks.support_labels)).sum(1)

    def listen(self, labelled: Labelled) -> Voices:
        """How loud the parents are where there are labelled examples alone."""
        about = statistics.stack(ALONE, labelled.about).to(self.log_scale)
        return self._at_step(0, self.alone(about)).to(labelled.support).suit(labelled)

    def trajectory(self, tasks: Tasks, priors: Float[Tensor, "T K"] | None = None) -> Float[Tensor, "steps T Q K"]:
        """Logits after 0, 1, … n_steps steps. priors: class priors, NaN where unknown; None: those of the settings."""
        tasks = tasks.map_tasks(ops.in_few_axes)
        return torch.stack([moment.answer for moment in self.walk(self.scene(tasks, priors))])

    def walk(self, scene: Scene) -> Generator[Moment, Votes | None, None]:
        """Answers after 0, 1, … n_steps steps; what is sent after one are votes of further queries for the next."""
        weights, log_priors = scene.means, relative(scene.initial_priors)
        distance = self.distances(0, scene.query, weights, scene)
        opinion, recognised, targets = scene.first_opinion, scene.recognised, None
        logits = self.scores(0, distance, opinion.values, log_priors, scene)
        for step in range(self.n_steps):
            view = self._view(step, logits, distance, opinion, recognised, log_priors, scene)
            out, shifts = self.gradient_network.trace(*view.statistics)
            delta, gate = out.unbind(-1)
            moved = view.log_plan - logits
            votes = yield Moment(logits, weights, log_priors, moved, targets, view.statistics[-1], view.near, shifts)
            # The factors bring the network's first outputs to the size of scores.
            posterior = ops.log_softmax(logits + 4 * delta).exp()
            g_TQK = posterior * 2 * torch.sigmoid(2 * gate)
            mass_TK, sum_TKD = g_TQK.sum(1), g_TQK.mT @ scene.query
            if votes is not None:
                mass_TK, sum_TKD = mass_TK + votes[0], sum_TKD + votes[1]
            mass_TK, sum_TKD = scene.share * mass_TK, scene.share * sum_TKD
            weights = self._move(step, weights, mass_TK, sum_TKD, scene)
            targets = torch.cat([scene.support_hot, posterior], 1)
            of_all = scene.regression.leave_out(targets)
            recognised = margin(of_all[:, : scene.n_support], scene.support_hot)
            opinion = Opinion.of(of_all[:, scene.n_support :])
            estimated, confidence = self._estimate_priors(mass_TK), view.confidence
            log_priors = confidence * relative(scene.initial_priors) + (1 - confidence) * relative(estimated)
            distance = self.distances(step + 1, scene.query, weights, scene)
            logits = self.scores(step + 1, distance, opinion.values, log_priors, scene) + 4 * delta
        plan = self._transport_to_priors(logits, scene)
        yield Moment(plan, weights, log_priors, plan - logits, targets)

    def loss(self, tasks: Tasks, priors: Float[Tensor, "T K"] | None = None) -> Float[Tensor, ""]:
        if tasks.query_labels is None:
            raise ValueError("training needs tasks with query labels")
        known = tasks.query_labels >= 0  # the others are of no class of their task
        labels = tasks.query_labels.clamp_min(0)

        def mean_of_known(x: Float[Tensor, "T Q K"]) -> Float[Tensor, "T K"]:
            return (x * known.unsqueeze(-1)).sum(1) / known.sum(1, keepdim=True).clamp_min(1)

        true_TK = mean_of_known(ops.one_hot(labels, tasks.n_way, tasks.query.dtype))
        losses = []
        for logits in self.trajectory(tasks, priors):
            mean_TK = mean_of_known(logits.softmax(-1)).clamp_min(1e-4)
            prior_loss = -(true_TK * mean_TK.log()).sum(1).mean()
            losses.append(functional.cross_entropy(logits[known], labels[known]) + 0.5 * prior_loss)
        weight = 0.5 ** torch.arange(self.n_steps, -1, -1, dtype=tasks.query.dtype, device=tasks.query.device)
        # In units of the loss of uniform posteriors, so that tasks of many classes do not weigh more.
        return (weight * torch.stack(losses)).sum() / (weight.sum() * math.log(tasks.n_way))

    def scene(
        self, tasks: Tasks, priors: Float[Tensor, "T K"] | None, known: Known | None = None, n_others: int = 0
    ) -> Scene:
        """Measure what the steps need. n_others: further queries, which vote."""
        labelled, query = Labelled.read(tasks), ops.normalise(tasks.query)
        support, unit, shots = labelled.support, labelled.unit, labelled.shots
        n = min(self.n_neighbours, support.shape[1] + query.shape[1] - 1)
        rows = torch.cat([support, query], 1)
        near, moments = known or (None, None)
        if near is None:
            similarity, neighbours = ops.nearest_rows(query, rows, n)
        else:
            similarity, neighbours = ops.nearest_of_both(query, support, near, n)
        reach, density = statistics.measure_reach(similarity, unit, self.log_reach)
        distance = ops.squared_distance(query, labelled.means) / unit - labelled.excess.unsqueeze(1)
        first_opinion = Opinion.of(labelled.ridge(query))
        about = labelled.about | statistics.describe_task(distance, first_opinion, labelled.typical)
        initial_priors, is_given = self._initial_priors(tasks, priors, shots / labelled.typical)
        share, _ = weigh_queries(query.shape[1] + n_others, tasks.n_way)
        _, weight = weigh_queries(query.shape[1], tasks.n_way)
        weights = weigh(labelled.support_hot, labelled.anchor / shots), torch.full_like(query[..., 0], weight)
        first, later = self.alone(statistics.stack(ALONE, about)), self.together(statistics.stack(SCALE, about))
        louder = judge_loudness(self._at_step(0, first), labelled)
        return Scene(
            **vars(labelled) | {"about": about},
            query=query,
            share=share,
            density=density,
            neighbours=neighbours,
            reach=reach,
            regression=Regression.fit(rows, torch.cat(weights, 1), labelled.penalty, moments),
            first_opinion=first_opinion,
            voices=(first.raise_by(louder, louder), later.raise_by(louder, louder).follow(labelled)),
            initial_priors=initial_priors,
            is_given=is_given,
        )

    def _initial_priors(
        self, tasks: Tasks, priors: Float[Tensor, "T K"] | None, relative_shots: Float[Tensor, "T K"]
    ) -> tuple[Tensor, Tensor]:
        """The class priors (T, K) to begin with, and whether (T, 1) they are given."""
        if priors is None:
            priors = self._class_priors.tensor(range(tasks.n_way)).to(tasks.query).expand(len(tasks), -1)
        is_given = ~priors.isnan().any(1, keepdim=True)
        likely = relative_shots**SHOTS_TELL
        return torch.where(is_given, priors, likely / likely.sum(1, keepdim=True)).clamp_min(1e-4), is_given

    def scores(
        self,
        step: int,
        distance: Float[Tensor, "T Q K"],
        opinion: Float[Tensor, "T Q K"],
        log_priors: Float[Tensor, "T K"],
        scene: Scene,
    ) -> Float[Tensor, "T Q K"]:
        """Scores by distances, ridge regression and class priors alone."""
        return log_priors.unsqueeze(1) + self._at_step(step, scene.voices[min(step, 1)]).mix(distance, opinion)

    def _at_step(self, step: int, voices: Voices) -> Voices:
        return voices.raise_by(self.log_scale[step], self.log_scale_of_ridge[step])

    def distances(
        self, step: int, query: Float[Tensor, "T Q D"], weights: Float[Tensor, "T K D"], scene: Scene
    ) -> Float[Tensor, "T Q K"]:
        """Squared distances to the class means, in their unit."""
        distance = ops.squared_distance(query, weights) / scene.unit
        # Later means are mostly of queries, whose own part in them outweighs what is left of the excess (docs/log.md).
        return distance if step else distance - scene.excess.unsqueeze(1)

    def _move(
        self,
        step: int,
        weights: Float[Tensor, "T K D"],
        mass: Float[Tensor, "T K"],
        sums: Float[Tensor, "T K D"],
        scene: Scene,
    ) -> Float[Tensor, "T K D"]:
        """Class means after a step along the synthetic gradient. mass, sums: of the queries, by the gradient."""
        count_TK = scene.anchor + mass
        target = (scene.anchor.unsqueeze(-1) * scene.means + sums) / count_TK.unsqueeze(-1)
        return weights + torch.sigmoid(self.rate[step]) * (target - weights)

    def _transport_to_priors(self, logits: Float[Tensor, "T Q K"], scene: Scene) -> Float[Tensor, "T Q K"]:
        """The answer moved towards the given class priors, the nearer the more queries there are."""
        if not scene.is_given.any():
            return logits
        n_query, n_way = logits.shape[1:]
        plan = ops.relaxed_sinkhorn(logits, n_query * scene.initial_priors, 20, stiffness=n_query / (n_query + n_way))
        return torch.where(scene.is_given.unsqueeze(-1), plan, logits)

    def _estimate_priors(self, mass: Float[Tensor, "T K"]) -> Float[Tensor, "T K"]:
        """Class priors estimated from the queries of each class, with a learned pseudo-count of more."""
        count = mass + self.log_prior_count.exp()
        return count / count.sum(1, keepdim=True)

    def _view(
        self,
        step: int,
        logits: Float[Tensor, "T Q K"],
        distance: Float[Tensor, "T Q K"],
        opinion: Opinion,
        recognised: Float[Tensor, "T S"],
        log_priors: Float[Tensor, "T K"],
        scene: Scene,
    ) -> View:
        """The input of the gradient network, and what it was made of."""
        n_query, n_way = logits.shape[1:]
        log_p = ops.log_softmax(logits)
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1)
        share, _ = weigh_queries(n_query, n_way)
        estimated, progress = self._estimate_priors(share * p.sum(1)), step / self.n_steps
        confidence = self._judge(statistics.describe_evidence(logits, p, entropy, progress, scene), scene)
        mass = (n_query * (confidence * scene.initial_priors + (1 - confidence) * estimated)).clamp_min(1e-3)
        best = logits.topk(2, -1).values
        of_class = statistics.describe_classes(p, distance, log_priors, estimated, mass, scene)
        of_step = {
            "confidence": confidence.squeeze(1),
            "progress": torch.full_like(confidence[:, 0], progress),
            "recognised": recognised.mean(1),
            "ridge lead now": opinion.lead.mean(1),
        }
        log_plan, heard = ops.sinkhorn(logits, mass, 3), statistics.ask_neighbours(p, scene)
        of_entry = statistics.describe_entries(logits, log_p, distance, best, log_plan, heard, opinion)
        of_query = statistics.describe_queries(log_p, distance, best, scene.density, opinion, n_way)
        read = (
            statistics.stack(statistics.ENTRY, of_entry),
            statistics.stack(statistics.QUERY, of_query),
            statistics.stack(statistics.CLASS, of_class),
            statistics.stack(statistics.STEP, scene.about | of_step),
            p,
        )
        return View(read, log_plan, heard[0], confidence)

    def _judge(self, evidence: dict[str, Float[Tensor, "T"]], scene: Scene) -> Float[Tensor, "T 1"]:
        """Confidence in the initial priors, 0 to 1; 1 where they are given."""
        confidence = torch.sigmoid(self.belief(statistics.stack(statistics.CONFIDENCE, scene.about | evidence)))
        return torch.where(scene.is_given, torch.ones_like(confidence), confidence)
