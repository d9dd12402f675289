"""Glance for pools of any size, in time and memory that grow with the number of queries and not with its square.

Some queries, the anchors, are a task as any other. What compares all queries with each other is asked of them alone:
the neighbours of a query are the anchors and labelled examples nearest to it, and the means over columns in the
gradient network and the potentials of transport are those of the anchors. All queries take part in the class means and
class priors of each step. So where all queries are anchors, the answer is that of `Glance`; else it differs by what
docs/concepts.md states. With many classes, only the CANDIDATES of each query that score best are compared.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from onelook import ops
from onelook.events import Progress
from onelook.machine import take_one_core
from onelook.methods import glance_statistics as statistics
from onelook.methods.glance import Glance
from onelook.methods.glance_scene import Moment, Opinion, Scene, Votes
from onelook.methods.regression import Linear, Moments
from onelook.tasks import Tasks

CANDIDATES = 32
"""Classes that are compared for each query that is no anchor."""
BLOCK = 512
"""Queries of a block, whose tables stay in the processor's cache."""

COMPARING = "comparing"
"""Stage of the work, as are all of `name_step`."""

Found = tuple[Float[Tensor, "... n"], Int[Tensor, "... n"]]
"""Products with the nearest rows, largest first, and the numbers of these."""
Take = Callable[[Int[Tensor, "N"]], Float[Tensor, "N D"]]
"""Reads the features of queries, at length 1, by their numbers."""


@dataclass(frozen=True)
class PoolAnswer:
    """Logits of Q queries for C of the K classes; no other class is possible for a query."""

    logits: Float[Tensor, "Q C"]
    candidates: Int[Tensor, "Q C"] | None
    """Classes of the logits; None: all in their order."""


@dataclass(frozen=True)
class Near:
    """The anchors nearest to each anchor and to each of the rest, whatever is labelled."""

    anchors: Found
    rest: Found | None
    moments: Moments
    """Moments of the anchors."""

    @classmethod
    def find(
        cls, method: Glance, anchors: Float[Tensor, "1 V D"], rest: Int[Tensor, "F"], take: Take
    ) -> Generator[Any, None, "Near"]:
        anchors = ops.normalise(anchors)
        n = min(method.n_neighbours, anchors.shape[1] - 1)
        of_rest = None
        if len(rest):
            of_rest = anchors.new_empty(len(rest), n), rest.new_empty(len(rest), n, dtype=torch.int32)
            for part in ops.blocks(len(rest), BLOCK):
                of_rest[0][part], of_rest[1][part] = _nearest(take(rest[part]), anchors, n)
                yield Progress(COMPARING, part.stop, len(rest))
        return cls(ops.nearest_rows(anchors, anchors, n), of_rest, Moments.of(anchors))


def _nearest(x: Float[Tensor, "N D"], anchors: Float[Tensor, "1 V D"], n: int) -> Found:
    best = (x @ anchors[0].T).topk(n, dim=-1)
    return best.values, best.indices.int()


def answer_pool(
    method: Glance,
    anchors: Tasks,
    rest: Int[Tensor, "F"],
    take: Take,
    priors: Float[Tensor, "1 K"] | None = None,
    near: Near | None = None,
) -> Generator[Any, None, tuple[Float[Tensor, "V K"], PoolAnswer]]:
    """Answers to the queries of one task, the anchors, and to the rest, which `take` reads by their numbers.

    near: what compares the queries with each other, where it is known.
    """
    scene = method.scene(anchors, priors, (near.anchors, near.moments) if near else None, len(rest))
    # Each core has blocks of its own: they do not wait for each other at the end of each of many small operations.
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=take_one_core) as cores:
        each = cores.map if scene.query.device.type == "cpu" else map
        followers = Followers(method, scene, rest, take, near.rest if near else None, each)
        answer = yield from lead(method, scene, followers.vote)
    return answer, PoolAnswer(followers.added, followers.candidates)


def name_step(step: int) -> str:
    return f"step {step + 1}"


def lead(
    method: Glance, scene: Scene, vote: Callable[[int, Moment], Generator[Any, None, Votes]]
) -> Generator[Any, None, Float[Tensor, "V K"]]:
    """Answers to the anchors. vote: takes each step with all other queries, wherever they are."""
    walk = method.walk(scene)
    moment, step = next(walk), 0
    while moment.shifts is not None:
        mass, sums = yield from vote(step, moment)
        moment, step = walk.send((mass.to(moment.weights), sums.to(moment.weights))), step + 1
    yield from vote(step, moment)
    return moment.answer[0]


class Followers:
    """Queries that are no anchors: what is known of each between the steps."""

    def __init__(
        self,
        method: Glance,
        scene: Scene,
        numbers: Int[Tensor, "F"],
        take: Take,
        near: Found | None = None,
        each: Callable[..., Iterator[Any]] = map,
    ) -> None:
        """each: applies a function to each block, and returns the results in their order."""
        self.method, self.scene, self.numbers, self.take = method, scene, numbers, take
        self.near, self.each = near, each
        n_way = scene.means.shape[1]
        n, n_near, n_likely = len(numbers), scene.neighbours.shape[-1], min(CANDIDATES, n_way)
        here = scene.query.device
        self.neighbours = torch.empty(n, n_near, dtype=torch.int32, device=here)
        self.similarity = torch.empty(n, n_near, device=here)
        self.candidates = torch.empty(n, n_likely, dtype=torch.int32, device=here) if n_likely < n_way else None
        self.added = torch.zeros(n, n_likely, device=here)
        """Scores that the gradient network adds; after the last step the logits."""

    def vote(self, step: int, moment: Moment) -> Generator[Any, None, Votes]:
        """Take a step, and return how many queries are of each class (1, K) and their sums (1, K, D).

        Both in double precision, so that they can be added to those of other followers.
        """
        mass, sums = (torch.zeros(one.shape, dtype=torch.float64) for one in (moment.log_priors, moment.weights))
        if not len(self.numbers):
            return mass, sums
        linear = self.scene.ridge if moment.targets is None else self.scene.regression.solve(moment.targets)
        n = len(self.numbers)
        for part, votes in self.each(lambda part: (part, self._vote(step, moment, linear, part)), ops.blocks(n, BLOCK)):
            if votes is not None:
                mass += votes[0].cpu()
                sums += votes[1].cpu()
            yield Progress(name_step(step), part.stop, n)
        return mass, sums

    @torch.no_grad()  # in each thread anew
    def _vote(self, step: int, moment: Moment, linear: Linear, part: slice) -> Votes | None:
        """Take a step with a block; after the last one there are no votes."""
        x = self.take(self.numbers[part])
        if step == 0:
            self._compare(part, x)
        distance, opinion = self.method.distances(step, x[None], moment.weights, self.scene), linear(x[None])
        scores = self.method.scores(step, distance, opinion, moment.log_priors, self.scene)
        pick, added = self._choose(part, scores, step)
        logits = pick.columns(scores) + added
        if moment.shifts is None:
            self.added[part] = (logits + pick.classes(moment.moved[:, 0]))[0]
            return None
        g = pick.spread(self._ask_network(part, moment, logits, pick.columns(distance), pick.columns(opinion), pick))
        return g.sum(1), g.mT @ x

    def _compare(self, part: slice, x: Float[Tensor, "N D"]) -> None:
        """Find the neighbours of a block among anchors and labelled examples."""
        n, scene = self.similarity.shape[1], self.scene
        if self.near is None:
            near = _nearest(x, scene.query, min(n, scene.query.shape[1]))
        else:
            near = self.near[0][part], self.near[1][part]
        found = ops.nearest_of_both(x[None], scene.support, (near[0][None], near[1][None]), n)
        self.similarity[part], self.neighbours[part] = found[0][0], found[1][0].int()

    def _choose(self, part: slice, scores: Float[Tensor, "1 Q K"], step: int) -> tuple["Pick", Float[Tensor, "1 Q C"]]:
        """Candidates of a block, and the scores that the gradient network has added to them."""
        n_way, added = scores.shape[-1], self.added[part][None]
        if self.candidates is None:
            return Pick(None, n_way), added
        if step:  # what it has added to others is not known, and no more than to the least likely of its candidates
            everywhere = added.amin(-1, keepdim=True).expand_as(scores)
            added = everywhere.scatter(2, self.candidates[part][None].long(), added)
        else:
            added = torch.zeros_like(scores)
        found = (scores + added).topk(self.candidates.shape[1], -1).indices
        self.candidates[part] = found[0].int()
        return Pick(found[0], n_way), added.gather(2, found)

    def _ask_network(
        self,
        part: slice,
        moment: Moment,
        logits: Float[Tensor, "1 Q C"],
        distance: Float[Tensor, "1 Q C"],
        values: Float[Tensor, "1 Q C"],
        pick: "Pick",
    ) -> Float[Tensor, "1 Q C"]:
        """Synthetic gradients of a block; what the gradient network adds to the scores is kept."""
        log_p, best, opinion = logits.log_softmax(-1), logits.topk(2, -1).values, Opinion.of(values)
        log_plan = (logits + pick.classes(moment.moved[:, 0])).log_softmax(-1)
        similarity = self.similarity[part][None]
        reach, density = statistics.measure_reach(similarity, self.scene.unit, self.method.log_reach)
        heard = self._hear(part, moment, log_p.exp(), reach, pick)
        entries = statistics.describe_entries(logits, log_p, distance, best, log_plan, heard, opinion)
        queries = statistics.describe_queries(log_p, distance, best, density, opinion, pick.n_way)
        delta, gate = self.method.gradient_network.follow(
            statistics.stack(statistics.ENTRY, entries),
            statistics.stack(statistics.QUERY, queries),
            log_p.exp(),
            [pick.classes(shift) for shift in moment.shifts or ()],
        ).unbind(-1)
        self.added[part] = 4 * delta[0]
        return (logits + 4 * delta).softmax(-1) * 2 * torch.sigmoid(2 * gate)

    def _hear(
        self, part: slice, moment: Moment, p: Float[Tensor, "1 Q C"], reach: Tensor, pick: "Pick"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answers of the neighbours, as of `statistics.ask_neighbours`."""
        own, neighbours = (1 - reach.sum(-1)).unsqueeze(-1), self.neighbours[part].long()

        def hear(of_anchors: Tensor | None, of_queries: Tensor) -> Float[Tensor, "1 Q 2 C"]:
            assert of_anchors is not None
            table = torch.cat([self.scene.support_hot, of_anchors], 1)[0]
            return reach @ pick.entries(table, neighbours) + own * of_queries.unsqueeze(2)

        wide, near = hear(moment.posterior, p).unbind(2)
        return near, wide, hear(moment.near, near)[:, :, 1]


@dataclass(frozen=True)
class Pick:
    """Candidates among the classes; None: all of them."""

    candidates: Int[Tensor, "Q C"] | None
    n_way: int

    def columns(self, x: Float[Tensor, "1 Q K"]) -> Float[Tensor, "1 Q C"]:
        return x if self.candidates is None else x.gather(2, self.candidates[None])

    def classes(self, x: Float[Tensor, "1 K *H"]) -> Float[Tensor, "1 q C *H"]:
        return x.unsqueeze(1) if self.candidates is None else x[:, self.candidates]

    def entries(self, x: Float[Tensor, "R K"], rows: Int[Tensor, "Q n"]) -> Float[Tensor, "1 Q n C"]:
        if self.candidates is None:
            return x[rows.flatten()].view(1, *rows.shape, -1)
        return x[rows.unsqueeze(2), self.candidates.unsqueeze(1)][None]

    def spread(self, x: Float[Tensor, "1 Q C"]) -> Float[Tensor, "1 Q K"]:
        if self.candidates is None:
            return x
        return x.new_zeros(*x.shape[:2], self.n_way).scatter(2, self.candidates[None], x)
