"""Transductive methods under every protocol: the same tasks for all, and nothing is done twice."""

import itertools
import json
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from helpers.features import one_sentence, random_embeddings
from helpers.trainings import events_and_result, shorten_trainings
from onelook.artifacts import method_artifact, save
from onelook.benchmark.measure import Entry, Measured, compare, measure
from onelook.benchmark.sources import Source
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.errors import DataError, SettingsError, UserError
from onelook.events import Notice, finish
from onelook.experiments import transductive as module
from onelook.experiments.transductive import INDUCTIVE, PROTOCOL_METHODS, PROTOCOLS, ProtocolsConfig, protocols
from onelook.machine import Place
from onelook.methods import PrototypicalNetworks
from onelook.scoring import Estimate, paired, task_accuracies
from onelook.tasks import Embeddings
from onelook.train.loop import Stepped
from onelook.train.recipes import build, parse_request

N_TASKS = 12
COSTS = ("seconds", "milliseconds", "memory_mb")
CONFIG = ProtocolsConfig(
    ("bd-cspn", "tim"), "label-spreading", ("balanced", "dirichlet:2", "single"), (3,), (1, 2), 4, n_tasks=N_TASKS
)
METHODS = ("label-spreading", INDUCTIVE, "bd-cspn", "tim")


@pytest.fixture(scope="module", autouse=True)
def _short_trainings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        shorten_trainings(patch)
        yield


def source(seed: int = 0, known: Embeddings | None = None) -> Source:
    def training() -> Generator[Any, None, tuple[Embeddings | None, Embeddings | None]]:
        yield from ()
        return known, known

    test = random_embeddings(8, 30, n_views=1, seed=seed, noise=1.5)
    return Source(test, {"dataset": "made-up", "split": "test", "backbone": "none"}, training)


@dataclass(frozen=True)
class Run:
    events: list[Any]
    records: list[dict[str, Any]]
    measured: list[tuple[str, TaskSpec]]
    """What was not found in files."""

    @property
    def notices(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Notice)]


def run(out: Path, config: ProtocolsConfig = CONFIG, tasks: Source | None = None, stop_after: int = -1) -> Run:
    """stop_after: so many figures, as Ctrl-C would."""
    asked = []

    def watched(entry: Entry, data: Any, spec: TaskSpec, n_tasks: int) -> Generator[Any, None, Measured]:
        if len(asked) == stop_after:
            raise KeyboardInterrupt
        asked.append((entry.label, spec))
        return (yield from measure(entry, data, spec, n_tasks))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure", watched)
        work = protocols(config, tasks or source(), out, Place(out / "cache", precision="float32"))
        try:
            events, records = events_and_result(work)
        except KeyboardInterrupt:
            return Run([], [], asked)
    return Run(events, records, asked)


def without_costs(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in COSTS} for r in records]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    out = tmp_path_factory.mktemp("made")
    return out, run(out)


def test_every_cell_has_every_method_the_reference_first(made: tuple[Path, Run]) -> None:
    cells = itertools.product((1, 2), CONFIG.protocols, METHODS)
    assert [(r["n_shot"], r["protocol"], r["method"]) for r in made[1].records] == list(cells)
    assert {r["n_total"] for r in made[1].records} == {12, 1}


def test_the_figures_are_those_of_a_comparison(made: tuple[Path, Run]) -> None:
    test = source().test
    for spec in CONFIG.specs:
        own = [r for r in made[1].records if (r["n_shot"], r["protocol"]) == (spec.n_shot, spec.protocol)]
        entries = [Entry(label, method_of(label)) for label in METHODS]
        expected = finish(compare(entries, test, spec, N_TASKS, source().about))
        for found, alike in zip(own, expected, strict=True):
            against = found["against"]
            assert [other["method"] for other in against] == [INDUCTIVE]
            rest = {k: v for k, v in found.items() if k not in (*COSTS, "against")}
            assert rest == {k: v for k, v in alike.items() if k not in COSTS}


def method_of(label: str) -> Any:
    return build(parse_request(label), CONFIG.specs[0], 6).eval()


def test_the_gain_and_the_harm_are_counted_task_by_task_against_the_inductive_method(made: tuple[Path, Run]) -> None:
    found = 0
    for r in made[1].records:
        spec = TaskSpec(3, r["n_shot"], 4, r["protocol"])
        sampler = TaskSampler(source().test, spec)
        own, base = (finish(task_accuracies(method_of(m), sampler, N_TASKS)) for m in (r["method"], INDUCTIVE))
        worse = torch.tensor([float(a < b) for a, b in zip(own.tolist(), base.tolist(), strict=True)])
        (to,) = r["against"]
        assert to["difference"] == pytest.approx(100 * paired(own, base).value, abs=5.1e-4)
        assert to["ci95"] == pytest.approx(100 * paired(own, base).half_width, abs=5.1e-4)
        assert to["harm"] == pytest.approx(100 * Estimate.from_values(worse).value, abs=5.1e-4)
        assert to["harm_ci95"] == pytest.approx(100 * Estimate.from_values(worse).half_width, abs=5.1e-4)
        found += 0 < to["harm"] < 100
    assert found > 3  # else the counts above would say little


def test_the_milliseconds_are_of_the_method_and_not_of_drawing_the_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    sample, forward = TaskSampler.sample, PrototypicalNetworks.forward

    def slow_sample(self: TaskSampler, tasks: Any) -> Any:
        now[0] += 10
        return sample(self, tasks)

    def slow_forward(self: PrototypicalNetworks, tasks: Any) -> Any:
        now[0] += 0.006
        return forward(self, tasks)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(TaskSampler, "sample", slow_sample)
    monkeypatch.setattr(PrototypicalNetworks, "forward", slow_forward)
    (record,) = run(
        tmp_path, replace(CONFIG, methods=(), reference=INDUCTIVE, protocols=("single",), shots=(1,))
    ).records
    assert record["milliseconds"] == pytest.approx(6 / N_TASKS)
    assert record["seconds"] == pytest.approx(10.006)


def test_what_is_done_is_not_done_again(made: tuple[Path, Run]) -> None:
    out, first = made
    again = run(out)
    assert len(first.measured) == len(first.records) == 24
    assert again.measured == []
    assert again.records == first.records  # what it cost, too
    assert again.notices == ["All 24 figures are there already."]


def test_an_interrupted_run_goes_on_where_it_was(made: tuple[Path, Run], tmp_path: Path) -> None:
    stopped = run(tmp_path, stop_after=5)
    assert len(stopped.measured) == 5
    rest = run(tmp_path)
    assert stopped.measured + rest.measured == made[1].measured
    assert without_costs(rest.records) == without_costs(made[1].records)


def test_a_method_that_is_added_meets_the_tasks_alone_and_is_paired_with_those_that_are_there(
    made: tuple[Path, Run], tmp_path: Path
) -> None:
    first = replace(CONFIG, methods=("bd-cspn",))
    run(tmp_path, first)
    added = run(tmp_path)
    assert {label for label, _ in added.measured} == {"tim"}
    assert len(added.measured) == len(CONFIG.specs)
    assert without_costs(added.records) == without_costs(made[1].records)


def test_another_reference_costs_nothing(made: tuple[Path, Run]) -> None:
    other = run(made[0], replace(CONFIG, reference="tim", methods=("bd-cspn", "label-spreading")))
    assert other.measured == []
    assert {r["versus"]["method"] for r in other.records} == {"tim"}
    by = {(r["method"], r["protocol"], r["n_shot"]): r for r in other.records}
    for r in made[1].records:
        mine = by["label-spreading", r["protocol"], r["n_shot"]]["versus"]
        if r["method"] == "tim":
            assert mine["difference"] == -r["versus"]["difference"]
            assert mine["ci95"] == r["versus"]["ci95"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"n_tasks": N_TASKS + 1}, {"n_query": 5}, {"ways": (4,)}], ids=str)
def test_other_tasks_are_other_figures(change: dict[str, Any], made: tuple[Path, Run]) -> None:
    other = run(made[0], replace(CONFIG, shots=(1,), protocols=("balanced",), **change))
    assert [label for label, _ in other.measured] == list(METHODS)


def test_other_features_settings_or_versions_are_other_figures(
    made: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(CONFIG, shots=(1,), protocols=("balanced",))
    assert len(run(made[0], small, source(seed=1)).measured) == 4
    changed = run(made[0], replace(small, methods=("bd-cspn", "tim:temperature=3")))
    assert [label for label, _ in changed.measured] == ["tim:temperature=3.0"]
    monkeypatch.setattr(type(method_of("tim")), "version", 2)
    assert [label for label, _ in run(made[0], small).measured] == ["tim"]


def test_a_trained_method_is_known_by_its_weights_and_not_by_the_name_of_its_file(tmp_path: Path) -> None:
    small = replace(CONFIG, shots=(1,), protocols=("balanced",), methods=())
    first, same, other = (tmp_path / f"{name}.safetensors" for name in ("first", "same", "other"))
    for path, centre in ((first, 0.0), (same, 0.0), (other, 1.0)):
        method = PrototypicalNetworks(6, transform="cl2n")
        method.centre.fill_(centre)
        save(method_artifact(method, {"config": {}}), path)
    run(tmp_path, replace(small, methods=(str(first),)))
    assert run(tmp_path, replace(small, methods=(str(same),))).measured == []
    assert [label for label, _ in run(tmp_path, replace(small, methods=(str(other),))).measured] == [str(other)]


def test_a_file_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    small = replace(CONFIG, shots=(1,), protocols=("balanced",))
    before = run(tmp_path, small)
    files = {}
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            files[json.loads(file.metadata()["key"])["method"]] = path
    damaged, other, copied = (files[name] for name in ("tim", "bd-cspn", "label-spreading"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    other.write_bytes(copied.read_bytes())  # of another method, and nothing tells but its header
    again = run(tmp_path, small)
    assert [label for label, _ in again.measured] == ["bd-cspn", "tim"]
    assert without_costs(again.records) == without_costs(before.records)


def test_one_method_in_two_spellings_is_measured_once(tmp_path: Path) -> None:
    spelled = ("tim", "tim:solver=adm", "bd-cspn", "bd-cspn")
    found = run(tmp_path, replace(CONFIG, methods=spelled, shots=(1,), protocols=("balanced",)))
    assert [r["method"] for r in found.records] == ["label-spreading", INDUCTIVE, "tim", "tim:solver=adm", "bd-cspn"]
    assert [label for label, _ in found.measured].count("tim:solver=adm") == 0


def test_a_method_that_learns_is_trained_once_for_all_protocols(tmp_path: Path) -> None:
    known = random_embeddings(8, 30, n_views=1, seed=5)
    config = replace(CONFIG, methods=("sib",), ways=(5,), shots=(1,), n_query=15)
    found = run(tmp_path, config, source(known=known))
    trained = [e for e in found.events if isinstance(e, Stepped)]
    assert [e.step for e in trained] == list(range(1, trained[0].n_steps + 1))
    (cost,) = (k for k, e in enumerate(found.events) if isinstance(e, Notice) and "figures of" in e.text)
    assert found.events.index(trained[-1]) < cost  # the trained method is timed, not another
    assert {r["settings"].get("recipe") for r in found.records if r["method"] == "sib"} == {"fast"}
    again = run(tmp_path, replace(config, protocols=("long-tail:3",)), source(known=known))
    assert not [e for e in again.events if isinstance(e, Stepped)]


def test_a_method_of_five_classes_is_left_out_where_there_are_others_and_cannot_be_the_reference(
    tmp_path: Path,
) -> None:
    small = replace(CONFIG, shots=(1,), protocols=("balanced",))
    found = run(tmp_path, replace(small, methods=("sib", "tim")))
    assert [r["method"] for r in found.records] == ["label-spreading", INDUCTIVE, "tim"]
    assert "sib is left out of 3-way 1-shot tasks: it is for another number of classes." in found.notices
    with pytest.raises(SettingsError, match="sib cannot be the reference of 3-way tasks") as refused:
        run(tmp_path, replace(small, reference="sib"))
    one_sentence(refused.value)


def test_the_cost_is_told_before_any_figure_is_made(made: tuple[Path, Run]) -> None:
    run = made[1]
    assert "24 figures of 12 tasks each: about" in run.notices[0]
    assert run.notices[1] == "cell 1 of 6: balanced, 3-way 1-shot, 12 queries"
    assert run.notices[3] == "cell 3 of 6: single, 3-way 1-shot, 1 query"
    first = run.events.index(next(e for e in run.events if isinstance(e, Notice)))
    assert [e.stage for e in run.events[:first]] == [
        *["drawing the tasks"] * 6,
        *["a few tasks of each, to see what they cost"] * 24,
    ]
    assert {e.stage for e in run.events[first:] if not isinstance(e, Notice)} == set(METHODS)


def test_tasks_of_one_query_are_not_drawn_again_for_other_numbers_of_queries() -> None:
    config = replace(CONFIG, shots=(1,), totals=(6, 12))
    assert [(s.protocol, s.total) for s in config.specs] == [
        ("balanced", 6),
        ("dirichlet:2", 6),
        ("single", 1),
        ("balanced", 12),
        ("dirichlet:2", 12),
    ]


def test_one_shot_is_not_drawn_again_as_unequal_shots_unless_nothing_else_is_asked() -> None:
    config = replace(
        CONFIG,
        protocols=("balanced", "balanced+unequal-shots", "balanced+proportional-shots", "present:2+unequal-shots"),
    )
    assert [(s.n_shot, s.protocol) for s in config.specs] == [
        (1, "balanced"),
        (1, "present:2+unequal-shots"),
        (2, "balanced"),
        (2, "balanced+unequal-shots"),
        (2, "balanced+proportional-shots"),
        (2, "present:2+unequal-shots"),
    ]
    one, other = (TaskSampler(source().test, TaskSpec(3, 1, 4, p)).digest(9) for p in config.protocols[:2])
    assert one == other


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocols": ("balanced", "present:2"), "n_query": 22}, "A task needs 66 queries"),
        ({"shots": (1, 30)}, "need 3 classes of"),
        ({"ways": (3, 9)}, "9-way"),
        ({"reference": "tin"}, "no method"),
        ({"protocols": ("balanced", "even")}, "no protocol 'even'"),
        ({"methods": ("tim:x=1",)}, "setting of tim"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_any_work(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as refused:
        run(tmp_path, replace(CONFIG, **change))
    one_sentence(refused.value)
    assert not list(tmp_path.iterdir())


def test_there_is_no_default_method_or_protocol_that_does_not_exist() -> None:
    config = ProtocolsConfig()
    assert len(config.requests) == len(PROTOCOL_METHODS)
    assert len(config.specs) == 2 * len(PROTOCOLS) - 1
    assert config.requests[0].label == PROTOCOL_METHODS[0]


@pytest.mark.slow
def test_all_default_methods_meet_all_default_protocols(tmp_path: Path) -> None:
    known = random_embeddings(10, 60, n_views=2, seed=5)
    test = random_embeddings(8, 120, n_views=1)
    found = run(tmp_path, ProtocolsConfig(n_tasks=2), replace(source(known=known), test=test))
    assert len(found.records) == (2 * len(PROTOCOLS) - 1) * len(PROTOCOL_METHODS)


def test_too_few_images_are_an_error_of_the_data() -> None:
    with pytest.raises(DataError):
        finish(protocols(replace(CONFIG, n_query=40), source(), Path("nowhere"), Place(precision="float32")))
