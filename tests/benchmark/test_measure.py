"""Methods are compared on the same tasks, and no record is lost on the way to the table."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.features import random_embeddings
from helpers.methods import method_for
from onelook.benchmark.measure import Entry, compare, step_accuracies, tabulate
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.events import finish
from onelook.methods import FeatureAveraging, IterativeMethod, Method
from onelook.scoring import Estimate, paired, task_accuracies
from onelook.tasks import Tasks

SPEC = TaskSpec(n_way=3, n_shot=1, n_query=2, seed=7)
ABOUT = {"dataset": "made-up", "split": "test", "backbone": "none"}
KEYS = {
    "dataset",
    "split",
    "backbone",
    "method",
    "settings",
    "n_way",
    "n_shot",
    "n_query",
    "protocol",
    "n_tasks",
    "seed",
    "accuracy",
    "ci95",
    "seconds",
    "commit",
}


def method(name: str, seed: int = 0, **settings: Any) -> Method:
    tasks = TaskSampler(random_embeddings(), SPEC).sample(range(1))
    return method_for(tasks, name, seed, **settings).float()


def entries() -> list[Entry]:
    return [
        Entry("averaging", method("feature-averaging")),
        Entry("sib", method("sib", n_steps=4, step_size=0.5), {"recipe": "fast"}),
        Entry("again", method("feature-averaging")),
        Entry("prototypical", method("prototypical", metric="cosine")),
    ]


def records(n_tasks: int = 40, spec: TaskSpec = SPEC, chosen: list[Entry] | None = None) -> list[dict[str, Any]]:
    return finish(compare(chosen or entries(), random_embeddings(), spec, n_tasks, ABOUT))


def test_a_record_says_all_that_is_needed_to_make_it_again() -> None:
    for entry, record in zip(entries(), records(), strict=True):
        assert set(record) >= KEYS
        assert record | ABOUT == record
        assert record["method"] == entry.label
        kept = (record["n_way"], record["n_shot"], record["n_query"], record["protocol"], record["seed"])
        assert kept == (SPEC.n_way, SPEC.n_shot, SPEC.n_query, SPEC.protocol, SPEC.seed)
        assert record["n_tasks"] == 40
        assert record["seconds"] > 0
    sib = records()[1]["settings"]
    assert (sib["n_steps"], sib["step_size"], sib["recipe"]) == (4, 0.5, "fast")


def test_records_are_json() -> None:
    made = records()
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_every_method_meets_the_same_tasks_and_a_method_does_not_differ_from_itself() -> None:
    averaging, sib, again, _ = records()
    assert (again["accuracy"], again["ci95"]) == (averaging["accuracy"], averaging["ci95"])
    for same in (averaging, again):
        assert same["versus"] == {"method": "averaging", "difference": 0.0, "ci95": 0.0}
    assert sib["accuracy"] != averaging["accuracy"]  # else the zeros above would say nothing


def test_numbers_and_differences_are_those_of_the_tasks() -> None:
    sampler = TaskSampler(random_embeddings(), SPEC)
    reference = finish(task_accuracies(entries()[0].method, sampler, 40))
    for entry, record in zip(entries(), records(), strict=True):
        own = finish(task_accuracies(entry.method, sampler, 40))
        assert record["accuracy"] == pytest.approx(100 * Estimate.from_values(own).value, abs=5.1e-4)
        assert record["ci95"] == pytest.approx(100 * Estimate.from_values(own).half_width, abs=5.1e-4)
        assert record["versus"]["difference"] == pytest.approx(100 * paired(own, reference).value, abs=5.1e-4)
        assert record["versus"]["ci95"] == pytest.approx(100 * paired(own, reference).half_width, abs=5.1e-4)


def test_an_entry_may_have_items_of_its_own_and_meets_the_same_tasks_of_them() -> None:
    """The same classes and rows, seen otherwise: here so that the answers are given away."""
    shared = random_embeddings()
    telling = torch.nn.functional.one_hot(shared.labels, shared.feature_size).float().expand_as(shared.views)
    own = Entry("told", method("prototypical"), data=replace(shared, views=telling))
    without, told, again = records(chosen=[entries()[0], own, entries()[2]])
    assert (told["accuracy"], told["ci95"]) == (100, 0)
    assert again["accuracy"] == without["accuracy"] < 100  # it is none but its own
    sampler = TaskSampler(shared, SPEC)
    missed = 1 - finish(task_accuracies(entries()[0].method, sampler, 40))
    assert told["versus"]["ci95"] == pytest.approx(100 * Estimate.from_values(missed).half_width, abs=5.1e-4)


def test_a_record_does_not_depend_on_what_it_is_compared_with_but_for_the_difference() -> None:
    timed = {"versus", "seconds", "milliseconds", "memory_mb"}
    alone = records(chosen=entries()[1:2])[0]
    among = records()[1]
    assert {k: v for k, v in alone.items() if k not in timed} == {k: v for k, v in among.items() if k not in timed}


def test_accuracy_after_the_last_step_is_that_of_the_comparison_and_after_none_that_of_the_initialisation() -> None:
    entry = entries()[1]
    sib = entry.method
    assert isinstance(sib, IterativeMethod)
    found = finish(step_accuracies(sib, random_embeddings(), SPEC, 40))
    assert len(found) == 5
    record = records()[1]
    assert found[-1].record("accuracy").items() <= record.items()
    without = method("sib", n_steps=0)
    without.load_state_dict(sib.state_dict())
    assert found[0] == Estimate.from_values(
        finish(task_accuracies(without, TaskSampler(random_embeddings(), SPEC), 40))
    )
    assert len({step.value for step in found}) > 1  # the steps do something here


def test_every_step_is_what_a_method_of_so_many_steps_gives() -> None:
    sib = method("sib", n_steps=3, step_size=0.5)
    assert isinstance(sib, IterativeMethod)
    found = finish(step_accuracies(sib, random_embeddings(), SPEC, 33))
    for n_steps, step in enumerate(found):
        shorter = method("sib", n_steps=n_steps, step_size=0.5)
        shorter.load_state_dict(sib.state_dict())
        sampler = TaskSampler(random_embeddings(), SPEC)
        assert step == Estimate.from_values(finish(task_accuracies(shorter, sampler, 33)))


class Curious(FeatureAveraging):
    def init(self, tasks: Tasks) -> torch.Tensor:
        assert tasks.query_labels is None, "the method was shown the answers"
        return super().init(tasks)


def test_steps_are_taken_without_the_answers() -> None:
    assert len(finish(step_accuracies(Curious(6), random_embeddings(), SPEC, 3))) == 1


def shown(record: dict[str, Any]) -> str:
    return f"{record['accuracy']:.2f} ± {record['ci95']:.2f}"


def test_the_table_shows_every_record_in_the_column_of_its_shot() -> None:
    made = records() + records(spec=TaskSpec(n_way=3, n_shot=3, n_query=2))
    head, rows = vars(tabulate(made)).values()
    assert len(rows) == 4
    for record in made:
        row = next(row for row in rows if row[head.index("method")] == record["method"])
        assert row[head.index(f"{record['n_shot']}-shot")] == shown(record)


def test_all_lines_of_a_table_have_the_same_number_of_cells() -> None:
    free = [entry for entry in entries() if entry.method.n_way is None]
    made = records() + records(spec=TaskSpec(n_way=2, n_shot=3, n_query=2), chosen=free)  # the gaps are filled
    assert {len(row) for row in tabulate(made).rows} == {len(tabulate(made).columns)}


def test_a_difference_is_shown_with_what_it_is_to_and_not_for_the_reference_itself() -> None:
    made = records()
    head, rows = vars(tabulate(made)).values()
    differences = [row[head.index("difference")] for row in rows]
    assert {row[head.index("differences to")] for row in rows} == {"averaging"}
    assert differences[0] == "–"
    for text, record in zip(differences[1:], made[1:], strict=True):
        assert text == f"{record['versus']['difference']:+.2f} ± {record['versus']['ci95']:.2f}"


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "other"},
        {"split": "val"},
        {"backbone": "other"},
        {"backbone": "none@1234"},
        {"method": "other"},
        {"n_way": 4},
        {"n_shot": 5},
        {"n_query": 5},
        {"protocol": "dirichlet:2"},
        {"n_tasks": 99},
        {"seed": 8},
        {"settings": {"n_steps": 9}},
        {},
    ],
    ids=str,
)
def test_no_record_takes_the_place_of_another(change: dict[str, Any]) -> None:
    first = records()[0]
    second = first | change | {"accuracy": 12.34, "ci95": 0.56}
    text = tabulate([first, second]).markdown()
    assert shown(first) in text
    assert shown(second) in text


def test_a_table_of_nothing_has_only_its_head() -> None:
    assert tabulate([]).rows == ()
