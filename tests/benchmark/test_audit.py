"""The audit finds every leak that is planted here, and none in a clean method; the contract has it ask all of ours."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.features import random_embeddings, random_images
from helpers.methods import N_CLASSES, tiny_network
from helpers.terminal import done, onelook
from onelook import methods, ops
from onelook.benchmark.audit import Audit, Finding, audit, tabulate
from onelook.benchmark.audit_checks import CHECKS, GROUPS
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.vectors import save_features
from onelook.events import finish
from onelook.methods import ImageMethod, Method
from onelook.tasks import Embeddings, Tasks

SPEC = TaskSpec(n_way=3, n_shot=2, n_query=4, seed=3)


def coarse() -> Embeddings:
    """Features of whole numbers, so that distances are often equal and the least leak turns an answer."""
    made = random_embeddings(N_CLASSES, 12, 6, n_views=1)
    return replace(made, views=(1.5 * made.views).round())


def audited(method: Method, n_tasks: int = 4, spec: TaskSpec = SPEC) -> Audit:
    return finish(audit(method, TaskSampler(coarse(), spec), n_tasks))


def leaks(found: Audit) -> set[str]:
    return {finding.check.name for finding in found.leaks}


def named(found: Audit, check: str) -> Finding:
    return next(finding for finding in found.findings if finding.check.name == check)


# ------------------------------------------------------------------------------------------------ planted leaks


class Clean(Method):
    """The nearest class mean; each leak is planted in it."""

    transductive: ClassVar[bool] = False
    assumes_balanced_queries: ClassVar[bool] = False

    def forward(self, tasks: Tasks) -> Tensor:
        means = ops.class_means(tasks.support, tasks.support_labels, tasks.n_way)
        return -ops.squared_distance(tasks.query, means)


class QueryBatchNorm(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        mean, deviation = tasks.query.mean(1, keepdim=True), tasks.query.std(1, keepdim=True, correction=0) + 1
        return super().forward(replace(tasks, query=(tasks.query - mean) / deviation))


class Tiny(Clean):
    size = 1e-3

    def forward(self, tasks: Tasks) -> Tensor:
        lean = torch.tanh(tasks.query.mean(1, keepdim=True))[..., : tasks.n_way]
        return super().forward(tasks) + self.size * lean


class Minute(Tiny):
    size = 1e-6


class Rounding(Tiny):
    """As far as sums in another order may differ; it is no leak."""

    size = 1e-12


class CountsQueries(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        return super().forward(tasks) * tasks.query.shape[1]


class ReadsLabels(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        logits = super().forward(tasks)
        if tasks.query_labels is not None:
            logits = logits + 1000 * functional.one_hot(tasks.query_labels, tasks.n_way)
        return logits


class SeesThatThereAreLabels(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        return super().forward(tasks) * (1 if tasks.query_labels is None else 2)


class CountsClasses(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        logits = super().forward(tasks)
        if tasks.query_labels is not None:
            prior = functional.one_hot(tasks.query_labels, tasks.n_way).double().mean(1, keepdim=True)
            logits = logits + (prior - 1 / tasks.n_way)  # nothing, where all classes are equally frequent
        return logits


class StepsAlongTheTrueGradient(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        if tasks.query_labels is None:
            return super().forward(tasks)
        with torch.inference_mode(False), torch.enable_grad():
            own = {key: getattr(tasks, key).clone() for key in ("support", "query", "support_labels", "query_labels")}
            own["support"].requires_grad_()
            copied = replace(tasks, **own)
            loss = functional.cross_entropy(super().forward(copied).flatten(0, 1), own["query_labels"].flatten())
            (gradient,) = torch.autograd.grad(loss, own["support"])
            return super().forward(replace(copied, support=own["support"] - gradient)).detach()


class KeepsLabels(Clean):
    """Answers as it should while labels are there, but knows them when it is asked again."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[bytes, Tensor] = {}

    def forward(self, tasks: Tasks) -> Tensor:
        key = tasks.query.numpy().tobytes()
        logits = super().forward(tasks)
        if tasks.query_labels is not None:
            self.kept[key] = tasks.query_labels
            return logits
        return logits + functional.one_hot(self.kept[key], tasks.n_way) if key in self.kept else logits


class Shared(dict[bytes, Tensor]):
    """What a copy of its owner has in common with it."""

    def __deepcopy__(self, memo: Any) -> "Shared":
        return self


class KeepsLabelsForAll(KeepsLabels):
    """Where a copy of the method finds them too."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Shared()


class ReadsClasses(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        logits = super().forward(tasks)
        return logits if tasks.classes is None else logits + 0.1 * tasks.classes.unsqueeze(1)


class ReadsBoth(ReadsClasses):
    """Reads the classes where there are labels too, as in training."""

    def forward(self, tasks: Tasks) -> Tensor:
        return super().forward(tasks if tasks.query_labels is not None else tasks.without_query_labels())


class FailsByClasses(Clean):
    """Looks the classes up in a table that is made for other data."""

    def forward(self, tasks: Tasks) -> Tensor:
        logits = super().forward(tasks)
        return logits if tasks.classes is None else logits + torch.zeros(1)[tasks.classes].unsqueeze(1)


class SortedByClass(Clean):
    """Takes the first Q / K queries for those of the first class, and so on."""

    def forward(self, tasks: Tasks) -> Tensor:
        n_query = tasks.query.shape[1]
        supposed = torch.arange(n_query) * tasks.n_way // n_query
        return super().forward(tasks) + functional.one_hot(supposed, tasks.n_way)


class Remembers(Clean):
    """A running mean of all queries is taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, tasks: Tasks) -> Tensor:
        logits = super().forward(replace(tasks, query=tasks.query - self.mean))
        self.mean = 0.9 * self.mean + 0.1 * tasks.query.mean()
        return logits


class RemembersTheFirst(Clean):
    """Centres all tasks by the queries of the first that it ever saw."""

    def __init__(self) -> None:
        super().__init__()
        self.centre: Tensor | None = None

    def forward(self, tasks: Tasks) -> Tensor:
        if self.centre is None:
            self.centre = tasks.support.mean((0, 1))
        return super().forward(replace(tasks, query=tasks.query - self.centre))


class LearnsStatistics(Clean):
    """Batch normalisation as it is used: of the batch in training, when it also takes running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, tasks: Tasks) -> Tensor:
        return super().forward(tasks.map_items(self.norm))


class DropsOut(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        return super().forward(tasks.map_items(lambda x: functional.dropout(x, 0.5, self.training)))


class Guesses(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        logits = super().forward(tasks)
        return logits + torch.randn_like(logits)


class MixesTasks(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        return super().forward(tasks) / tasks.support.square().mean()


class FirstTaskFirst(Clean):
    """Each task sees only those before it in the batch."""

    def forward(self, tasks: Tasks) -> Tensor:
        before = torch.cat([torch.zeros(1), tasks.query.mean((1, 2))[:-1]]).cumsum(0)
        return super().forward(replace(tasks, query=tasks.query + before[:, None, None]))


class FirstExample(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        return super().forward(tasks) + functional.one_hot(tasks.support_labels[:, :1], tasks.n_way)


class FirstClass(Clean):
    def forward(self, tasks: Tasks) -> Tensor:
        return super().forward(tasks) + torch.eye(tasks.n_way)[0]


OTHER_QUERIES = {"replaced", "alone", "many more"}
EVERYTHING = {check.name for check in CHECKS}
PLANTED: list[tuple[Callable[[], Method], set[str]]] = [
    (Clean, set()),
    (Rounding, set()),
    (QueryBatchNorm, OTHER_QUERIES),
    (Tiny, OTHER_QUERIES | {"class names"}),
    (Minute, OTHER_QUERIES | {"class names"}),
    (CountsQueries, {"alone", "many more"}),
    (ReadsLabels, {"true labels", "wrong labels"}),
    (SeesThatThereAreLabels, {"true labels", "wrong labels"}),
    (CountsClasses, {"wrong labels"}),
    (StepsAlongTheTrueGradient, {"true labels", "wrong labels"}),
    (KeepsLabels, {"labels kept"}),
    (ReadsClasses, {"classes"}),
    (FailsByClasses, {"classes"}),
    (ReadsBoth, {"classes"}),
    (SortedByClass, {"query order", "sorted queries", "alone", "many more", "class names"}),
    (Remembers, {"twice", "memory", "labels kept"}),
    (RemembersTheFirst, {"memory", "batch"}),
    (LearnsStatistics, {"memory", "training mode"}),
    (DropsOut, {"training mode"}),
    (Guesses, EVERYTHING),
    (MixesTasks, {"batch"}),
    (FirstTaskFirst, {"batch"}),
    (FirstExample, {"support order"}),
    (FirstClass, {"class names"}),
]


@pytest.mark.parametrize(("made", "expected"), PLANTED, ids=lambda one: getattr(one, "__name__", None) or "")
def test_a_planted_leak_is_found_where_it_is_and_nowhere_else(made: Callable[[], Method], expected: set[str]) -> None:
    assert leaks(audited(made())) == expected


def test_a_count_of_queries_of_each_class_is_found_by_the_true_labels_where_classes_are_not_equally_frequent() -> None:
    assert "true labels" in leaks(audited(CountsClasses(), spec=replace(SPEC, protocol="dirichlet:1")))


def test_what_all_copies_of_a_method_remember_is_found_too() -> None:
    assert "labels kept" in leaks(audited(KeepsLabelsForAll()))


def test_every_check_finds_a_leak_that_is_planted() -> None:
    assert set().union(*(expected for _, expected in PLANTED if expected != EVERYTHING)) == EVERYTHING


def test_a_leak_of_a_thousandth_turns_answers_and_both_are_said() -> None:
    found = audited(Tiny(), 16, replace(SPEC, n_shot=1, n_query=8))
    (sentence,) = (f.sentence for f in found.leaks if f.check.name == "replaced")
    assert 1e-5 < named(found, "replaced").change < 2e-3
    assert named(found, "replaced").answers_changed > 0
    assert sentence.startswith("is declared inductive, but its answers change when the other queries are replaced (log")


def test_changes_and_changed_answers_are_counted_over_all_queries() -> None:
    tasks = TaskSampler(coarse(), SPEC).sample(range(4))
    answers = Clean()(tasks).argmax(-1)
    right = 100 * float((answers == tasks.query_labels).double().mean())
    found = named(audited(ReadsLabels()), "true labels")  # those were wrong that change, because 1000 is much
    assert found.change == pytest.approx(1000)
    assert found.answers_changed == pytest.approx(100 - right)
    assert 0 < right < 100


def test_an_answer_that_fails_is_a_change_without_measure() -> None:
    found = audited(FailsByClasses())
    assert named(found, "classes").sentence.endswith("(it fails, or is not finite; 100 % of the answers).")
    assert json.loads(json.dumps(found.record(), allow_nan=False)) == found.record()


# ------------------------------------------------------------------------------------------------ declarations


class DeclaredQueryBatchNorm(QueryBatchNorm):
    transductive: ClassVar[bool] = True


class DeclaredInVain(Clean):
    transductive: ClassVar[bool] = True
    ordered_support = True
    n_way = 3


class DeclaredOrder(FirstExample):
    ordered_support = True


class DeclaredClasses(FirstClass):
    n_way = 3


@pytest.mark.parametrize(
    ("method", "check", "verdict"),
    [
        (DeclaredQueryBatchNorm(), "replaced", "declared transductive, and is"),
        (DeclaredInVain(), "replaced", "declared transductive, but is not"),
        (DeclaredOrder(), "support order", "declared to read examples in order, and does"),
        (DeclaredInVain(), "support order", "declared to read examples in order, but does not"),
        (DeclaredClasses(), "class names", "made for numbered classes, and reads the numbers"),
        (DeclaredInVain(), "class names", "made for a fixed number of classes, in any order"),
        (Clean(), "replaced", "as declared"),
        (QueryBatchNorm(), "replaced", "LEAK"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Method) else None,
)
def test_what_is_declared_is_no_leak_and_is_said(method: Method, check: str, verdict: str) -> None:
    found = audited(method)
    assert named(found, check).verdict == verdict
    if verdict != "LEAK":
        assert leaks(found) == set()


def test_no_declaration_excuses_labels_or_other_tasks() -> None:
    class Everything(ReadsLabels):
        transductive: ClassVar[bool] = True
        ordered_support = True
        n_way = 3

    class Mixing(MixesTasks):
        transductive: ClassVar[bool] = True

    assert leaks(audited(Everything())) == {"true labels", "wrong labels"}
    assert leaks(audited(Mixing())) == {"batch"}


# ------------------------------------------------------------------------------------------------ the method, the tasks


def test_the_method_is_left_as_it_is() -> None:
    method = LearnsStatistics().train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    audited(method)
    assert method.training
    after = method.state_dict()
    assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in before.items())


def test_progress_is_told_after_every_check_of_every_task() -> None:
    told = [(e.done, e.total) for e in audit(Clean(), TaskSampler(coarse(), SPEC), 2)]
    assert told == [(i + 1, 2 * len(CHECKS)) for i in range(2 * len(CHECKS))]


def test_the_same_audit_gives_the_same_findings() -> None:
    assert audited(QueryBatchNorm()).record() == audited(QueryBatchNorm()).record()


@pytest.mark.parametrize("protocol", ["single", "dirichlet:2+unequal-shots", "balanced+unknown:0.4"])
def test_every_protocol_can_be_audited(protocol: str) -> None:
    spec = replace(SPEC, protocol=protocol)
    assert leaks(audited(Clean(), 3, spec)) == set()
    assert leaks(audited(MixesTasks(), 3, spec)) == {"batch"}
    assert "many more" in leaks(audited(QueryBatchNorm(), 3, spec))


class BatchStatistics(ImageMethod):
    """Normalises by the images at hand, as a network that was left in training mode."""

    transductive: ClassVar[bool] = False
    assumes_balanced_queries: ClassVar[bool] = False

    def forward(self, tasks: Tasks) -> Tensor:
        self.backbone.train()
        return Clean()(tasks.map_items(self.backbone))  # type: ignore[no-any-return]


def test_a_method_of_images_is_audited_too() -> None:
    sampler = TaskSampler(random_images(5, 7), TaskSpec(n_way=3, n_shot=1, n_query=5))
    assert leaks(finish(audit(BatchStatistics(tiny_network()), sampler, 1))) >= OTHER_QUERIES | {"batch"}


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str | Path, ...]:
    monkeypatch.setitem(methods.METHODS, "leaky", QueryBatchNorm)
    save_features(coarse(), tmp_path / "f.npz")
    return (
        "benchmark",
        "--embeddings",
        tmp_path / "f.npz",
        "--query",
        "3",
        "--tasks",
        "3",
        "--cache",
        tmp_path / "c",
        "--audit",
        "--json",
        tmp_path / "a.json",
        "--methods",
    )


def test_methods_without_a_leak_end_well(command: tuple[str | Path, ...], tmp_path: Path) -> None:
    out = done(*command, "prototypical,bd-cspn", "--shot", "1,2")
    lines = {tuple(line.split()) for line in out.splitlines()}
    for shot in ("1", "2"):
        assert (shot, "prototypical", "same", "same", "same", "same") in lines
        assert (shot, "bd-cspn", "as", "declared", "same", "same", "same") in lines
    assert out.splitlines()[-1].startswith("same: ")
    records = json.loads((tmp_path / "a.json").read_text())
    assert [(r["method"], r["n_shot"], r["n_tasks"], r["transductive"], r["leaks"]) for r in records] == [
        ("prototypical", 1, 3, False, []),
        ("bd-cspn", 1, 3, True, []),
        ("prototypical", 2, 3, False, []),
        ("bd-cspn", 2, 3, True, []),
    ]
    assert [f["check"] for f in records[0]["findings"]] == [check.name for check in CHECKS]


def test_a_leak_is_said_in_a_sentence_and_exits_with_1(command: tuple[str | Path, ...], tmp_path: Path) -> None:
    outcome = onelook(*command, "prototypical,leaky", "--shot", "1")
    assert outcome.code == 1
    told = [line for line in outcome.out.splitlines() if line.startswith("leaky, 1-shot, balanced queries: it is decl")]
    assert len(told) == 3
    assert "Traceback" not in outcome.err
    _, leaky = json.loads((tmp_path / "a.json").read_text())
    assert leaky["summary"] == {"queries": "LEAK", "order": "same", "tasks": "same", "labels": "same"}
    assert [sentence in line for sentence, line in zip(leaky["leaks"], told, strict=True)] == [True] * 3


def test_the_table_has_a_column_for_each_group_of_checks() -> None:
    assert {check.group for check in CHECKS} == set(GROUPS)
    about = {"dataset": "d", "backbone": "b", "n_way": 3, "n_shot": 1, "protocol": "balanced", "method": "m"}
    table = tabulate([about | audited(MixesTasks()).record()])
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert [cells[name] for name in GROUPS.values()] == ["same", "same", "LEAK", "same"]
