"""The laws of tasks: what a number gives, and what a task may and may not hold."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from onelook.data.images import ImageSet
from onelook.data.protocols import UNKNOWN
from onelook.data.sampler import TaskRows, TaskSampler, TaskSpec
from onelook.errors import DataError, SettingsError
from onelook.tasks import Embeddings


def data_of(
    sizes: tuple[int, ...], n_views: int = 1, environments: bool = False, unlabelled: int = 0, seed: int = 0
) -> Embeddings:
    """Rows in random order, sizes[k] of class k. A feature is (row, view), so that it tells where it is from."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = torch.cat([labels, torch.full((unlabelled,), -1)])
    labels = labels[torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))]
    row, view = torch.meshgrid(torch.arange(len(labels)), torch.arange(n_views), indexing="xy")
    views = torch.stack([row, view], -1).float()
    names = tuple(f"class {k}" for k in range(len(sizes)))
    return Embeddings(views, labels, names, source="made up", environments=environments)


def images_of(data: Embeddings) -> ImageSet:
    """The same rows and views as images of one pixel, whose channels are row and view."""
    n_rows = data.views.shape[1]
    names = tuple(map(str, range(n_rows)))
    pixels = data.views.byte()[..., None, None]
    return ImageSet(pixels, data.labels, data.class_names, names, (b"",) * n_rows, "made up")


def same(a: TaskRows, b: TaskRows) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def rows_and_views(items: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return items[..., 0].long().numpy(), items[..., 1].long().numpy()


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], TaskSpec]:
    """What `data_of` and TaskSampler take. Classes are so small that they run out of images now and then."""
    n_way, n_shot, n_query = draw(st.integers(2, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    protocol = draw(st.sampled_from(["balanced", "dirichlet:2", "dirichlet:0.2", "dirichlet:50", "long-tail:5"]))
    protocol += draw(st.sampled_from(["", "", "+unequal-shots", "+proportional-shots"]))
    least = n_shot + n_query
    sizes = st.lists(st.integers(least, least + 3 * n_query), min_size=n_way, max_size=n_way + 3)
    data = {
        "sizes": tuple(draw(sizes)),
        "n_views": draw(st.integers(1, 3)),
        "environments": draw(st.booleans()),
        "unlabelled": draw(st.integers(0, 5)),
        "seed": draw(st.integers(0, 9)),
    }
    return data, TaskSpec(n_way, n_shot, n_query, protocol, draw(st.integers(0, 2**32 - 1)))


def sampler_of(case: tuple[dict[str, Any], TaskSpec]) -> TaskSampler:
    return TaskSampler(data_of(**case[0]), case[1])


numbers = st.integers(0, 2**32 - 1)


@given(case=cases(), tasks=st.lists(numbers, min_size=1, max_size=4), data=st.data())
def test_a_task_is_a_function_of_its_number_whoever_else_is_asked_for(
    case: tuple[dict[str, Any], TaskSpec], tasks: list[int], data: st.DataObject
) -> None:
    sampler = sampler_of(case)
    batch = sampler.sample(tasks)
    again = TaskSampler(sampler.data, sampler.spec)
    for i in data.draw(st.permutations(range(len(tasks)))):
        alone = again.sample([tasks[i]])
        assert torch.equal(alone.support, batch.support[i : i + 1])
        assert torch.equal(alone.support_labels, batch.support_labels[i : i + 1])
        assert torch.equal(alone.query, batch.query[i : i + 1])
        assert alone.query_labels is not None
        assert batch.query_labels is not None
        assert torch.equal(alone.query_labels, batch.query_labels[i : i + 1])


def test_no_generator_of_the_process_is_read_or_moved() -> None:
    sampler = TaskSampler(data_of((9,) * 6, 4), TaskSpec(protocol="dirichlet:2", n_query=3))
    np.random.seed(1)
    torch.manual_seed(1)
    first = sampler.sample(range(3))
    np.random.seed(2)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(sampler.sample(range(3)).query, first.query)
    assert torch.equal(torch.get_rng_state(), before)


@given(case=cases(), task=numbers)
def test_no_row_is_seen_twice_in_a_task_and_the_labels_are_those_of_the_classes(
    case: tuple[dict[str, Any], TaskSpec], task: int
) -> None:
    sampler = sampler_of(case)
    spec, rows = sampler.spec, sampler.rows(task)
    assert len(set(rows.classes.tolist())) == spec.n_way
    used = np.concatenate([rows.support, rows.query])
    assert len(set(used.tolist())) == len(used) == spec.n_way * (spec.n_shot + spec.n_query)
    labels = sampler.data.labels.numpy()
    assert np.array_equal(labels[rows.support], rows.classes[rows.support_labels])
    assert np.array_equal(labels[rows.query], rows.classes[rows.query_labels])
    shots = np.bincount(rows.support_labels, minlength=spec.n_way)
    assert shots.min() >= 1
    if not spec.spread.unequal_shots and not spec.spread.proportional_shots:
        assert shots.tolist() == [spec.n_shot] * spec.n_way
    if spec.spread.is_balanced:
        assert np.bincount(rows.query_labels, minlength=spec.n_way).tolist() == [spec.n_query] * spec.n_way


@given(case=cases(), tasks=st.lists(numbers, min_size=1, max_size=3))
def test_a_sample_holds_the_rows_that_rows_names(case: tuple[dict[str, Any], TaskSpec], tasks: list[int]) -> None:
    sampler = sampler_of(case)
    batch = sampler.sample(tasks)
    assert batch.n_way == sampler.spec.n_way
    assert batch.query_labels is not None
    for i, task in enumerate(tasks):
        rows = sampler.rows(task)
        assert np.array_equal(rows_and_views(batch.support[i])[0], rows.support)
        assert np.array_equal(rows_and_views(batch.query[i])[0], rows.query)
        assert np.array_equal(batch.support_labels[i].numpy(), rows.support_labels)
        assert np.array_equal(batch.query_labels[i].numpy(), rows.query_labels)


@given(case=cases(), tasks=st.lists(numbers, min_size=1, max_size=3))
def test_images_and_features_of_the_same_set_give_the_same_rows_and_views(
    case: tuple[dict[str, Any], TaskSpec], tasks: list[int]
) -> None:
    sampler = sampler_of(case)
    assert isinstance(sampler.data, Embeddings)
    data = replace(sampler.data, environments=sampler.data.views.shape[0] > 1)  # as `embed` makes them
    of_features = TaskSampler(data, sampler.spec)
    of_images = TaskSampler(images_of(data), sampler.spec)
    features, images = of_features.sample(tasks), of_images.sample(tasks)
    assert all(same(of_features.rows(i), of_images.rows(i)) for i in tasks)
    assert torch.equal(images.support[..., 0, 0].float(), features.support)
    assert torch.equal(images.query[..., 0, 0].float(), features.query)
    assert torch.equal(images.support_labels, features.support_labels)


@given(case=cases(), task=numbers)
def test_the_rows_of_a_task_do_not_depend_on_the_views(case: tuple[dict[str, Any], TaskSpec], task: int) -> None:
    sampler = sampler_of(case)
    assert isinstance(sampler.data, Embeddings)
    one = replace(sampler.data, views=sampler.data.views[:1])
    assert same(TaskSampler(one, sampler.spec).rows(task), sampler.rows(task))


def test_a_task_sees_one_environment_and_over_many_tasks_all_of_them() -> None:
    sampler = TaskSampler(data_of((9,) * 6, 4, environments=True), TaskSpec(n_query=3))
    tasks = sampler.sample(range(200))
    view = np.concatenate([rows_and_views(tasks.support)[1], rows_and_views(tasks.query)[1]], 1)
    assert (view == view[:, :1]).all()
    assert np.bincount(view[:, 0], minlength=4).min() > 30


def test_augmented_views_are_drawn_for_every_row_apart() -> None:
    sampler = TaskSampler(data_of((9,) * 6, 4), TaskSpec(n_query=3))
    tasks = sampler.sample(range(200))
    for items in (tasks.support, tasks.query):
        view = rows_and_views(items)[1]
        share = np.bincount(view.flatten(), minlength=4) / view.size
        assert np.abs(share - 0.25).max() < 0.06
        assert (view != view[:, :1]).any(1).mean() > 0.9


def test_other_seeds_and_other_numbers_give_other_tasks() -> None:
    data = data_of((20,) * 10)
    drawn = {
        (seed, i): TaskSampler(data, TaskSpec(seed=seed)).sample([i]).query.numpy().tobytes()
        for seed in (0, 1, 2**31, 2**32 - 1)
        for i in (0, 1, 2**31, 2**32 - 1)
    }
    assert len(set(drawn.values())) == len(drawn)


def test_every_class_and_every_row_has_the_same_chance() -> None:
    sampler = TaskSampler(data_of((8,) * 6), TaskSpec(n_way=3, n_shot=1, n_query=2))
    tasks = sampler.sample(range(2000))
    for items, n_each in ((tasks.support, 3), (tasks.query, 6)):
        count = np.bincount(rows_and_views(items)[0].flatten(), minlength=48)
        expected = 2000 * n_each / 48
        assert np.abs(count - expected).max() < 4.5 * expected**0.5  # no row of 48 is so far off by chance


# ------------------------------------------------------------------------------------------------ unbalanced queries


def query_counts(sampler: TaskSampler, n_tasks: int) -> np.ndarray:
    n_way = sampler.spec.n_way
    return np.stack([np.bincount(sampler.rows(i).query_labels, minlength=n_way) for i in range(n_tasks)])


@pytest.mark.parametrize("concentration", [2.0, *(pytest.param(x, marks=pytest.mark.slow) for x in (0.5, 10.0))])
def test_with_enough_room_the_proportions_of_the_queries_have_the_mean_and_variance_of_the_dirichlet_law(
    concentration: float,
) -> None:
    n_way, n_query = 4, 50
    spec = TaskSpec(n_way, 1, n_query, f"dirichlet:{concentration:g}")
    counts = query_counts(TaskSampler(data_of((n_way * n_query + 1,) * n_way), spec), 2000)
    assert (counts.sum(1) == n_way * n_query).all()
    share = counts / (n_way * n_query)
    variance = (1 / n_way) * (1 - 1 / n_way) / (n_way * concentration + 1)
    assert np.abs(share.mean(0) - 1 / n_way).max() < 4 * (variance / 2000) ** 0.5
    assert np.allclose(share.var(0), variance, rtol=0.15)
    covariance = -((1 / n_way) ** 2) / (n_way * concentration + 1)
    assert np.allclose(np.cov(share.T)[np.triu_indices(n_way, 1)], covariance, rtol=0.3)


def test_the_proportions_come_from_numpys_dirichlet_rounded_by_largest_remainder() -> None:
    sampler = TaskSampler(data_of((100,) * 5), TaskSpec(n_query=15, protocol="dirichlet:2"))
    for i in range(50):
        rng = np.random.default_rng([0, i])
        rng.choice(5, 5, replace=False)
        share = rng.dirichlet(np.full(5, 2.0)) * 75
        expected = np.floor(share).astype(int)
        for k in np.argsort(expected - share)[: 75 - expected.sum()]:
            expected[k] += 1
        assert query_counts(sampler, i + 1)[-1].tolist() == expected.tolist()


@given(
    sizes=st.lists(st.integers(2, 12), min_size=2, max_size=5),
    n_query=st.integers(1, 6),
    concentration=st.sampled_from(["0.000001", "0.3", "2"]),
    task=numbers,
)
def test_a_class_that_runs_out_of_images_passes_its_share_on(
    sizes: list[int], n_query: int, concentration: str, task: int
) -> None:
    n_way = len(sizes)
    assume(sum(sizes) - n_way >= n_way * n_query)
    sampler = TaskSampler(data_of(tuple(sizes)), TaskSpec(n_way, 1, n_query, f"dirichlet:{concentration}"))
    rows = sampler.rows(task)
    counts = np.bincount(rows.query_labels, minlength=n_way)
    room = np.array(sizes)[rows.classes] - 1
    assert counts.sum() == n_way * n_query
    assert (counts <= room).all()
    share = np.random.default_rng([0, task])
    share.choice(n_way, n_way, replace=False)
    wanted = share.dirichlet(np.full(n_way, float(concentration))) * n_way * n_query
    assert (counts >= np.minimum(np.floor(wanted), room)).all()  # nobody gets less for another's lack
    assert ((counts <= np.ceil(wanted)) | (np.floor(wanted) > room).any()).all()  # nor more, without one


# ------------------------------------------------------------------------------------------------ other protocols


def test_queries_of_some_classes_only_are_balanced_among_them() -> None:
    counts = query_counts(TaskSampler(data_of((40,) * 8), TaskSpec(protocol="present:2", n_query=6)), 200)
    assert all(sorted(row) == [0, 0, 0, 15, 15] for row in counts.tolist())
    assert (counts > 0).any(0).all()  # now these, now those


def test_queries_of_effective_classes_are_drawn_from_all_their_images_alike() -> None:
    data, spec = data_of((13,) * 4 + (37,) * 4), TaskSpec(8, 1, 3, "effective:2-4", n_total=12)
    sampler = TaskSampler(data, spec)
    counts = query_counts(sampler, 600)
    effective = np.bincount((counts > 0).sum(1), minlength=5)
    assert set(np.flatnonzero(effective)) <= {1, 2, 3, 4}  # one of two may have none by chance
    assert effective[[2, 3, 4]].min() > 120  # as often each
    large = np.stack([sampler.rows(i).classes >= 4 for i in range(600)])
    assert counts[large].sum() > 2 * counts[~large].sum()  # 36 images to 12
    both = [row[row > 0] for row in counts if (row > 0).sum() == 2]
    assert len({tuple(row) for row in both}) > 5  # nobody has evened them out


def test_all_classes_are_effective_where_more_are_asked_for_than_there_are() -> None:
    data = data_of((300,) * 5)
    for name in ("effective:all", "effective:5-25", "effective:7-9"):
        assert (query_counts(TaskSampler(data, TaskSpec(protocol=name)), 50) > 3).all()


def test_a_long_tail_has_the_ratio_that_is_asked_for_in_any_order() -> None:
    counts = query_counts(TaskSampler(data_of((200,) * 6), TaskSpec(protocol="long-tail:16", n_query=31)), 100)
    assert all(sorted(row) == [5, 10, 20, 40, 80] for row in counts.tolist())
    assert len({tuple(row) for row in counts.tolist()}) > 50


def test_a_single_query_is_of_any_class() -> None:
    counts = query_counts(TaskSampler(data_of((9,) * 5), TaskSpec(protocol="single")), 300)
    assert (counts.sum(1) == 1).all()
    assert counts.sum(0).min() > 30


@pytest.mark.parametrize("total", [1, 7, 10, 300])
def test_a_total_is_spread_evenly_and_what_is_left_over_by_lot(total: int) -> None:
    counts = query_counts(TaskSampler(data_of((70,) * 6), TaskSpec(n_total=total)), 100)
    assert (counts.sum(1) == total).all()
    assert (counts.max(1) - counts.min(1)).max() <= 1
    assert counts.sum(0).max() - counts.sum(0).min() < 60


def test_unequal_shots_add_up_and_leave_no_class_without_one() -> None:
    sampler = TaskSampler(data_of((12,) * 6), TaskSpec(n_shot=4, n_query=2, protocol="balanced+unequal-shots"))
    shots = np.stack([np.bincount(sampler.rows(i).support_labels, minlength=5) for i in range(300)])
    assert (shots.sum(1) == 20).all()
    assert shots.min() == 1
    assert shots.max() > 7
    assert shots.max() <= 10  # 2 of the 12 images are left for the queries


def test_proportional_shots_add_up_follow_the_queries_and_leave_no_class_without_one() -> None:
    spec = TaskSpec(n_shot=8, n_query=30, protocol="dirichlet:1+proportional-shots")
    sampler = TaskSampler(data_of((400,) * 6), spec)
    drawn = [sampler.rows(i) for i in range(100)]
    shots, queries = (
        np.stack([np.bincount(labels, minlength=5) for labels in of])
        for of in ([rows.support_labels for rows in drawn], [rows.query_labels for rows in drawn])
    )
    assert (shots.sum(1) == 40).all()
    assert shots.min() == 1
    expected = 1 + 35 * queries / 150
    assert np.abs((shots - expected).mean(0)).max() < 1.5
    assert np.square(shots - expected).mean() < 1.5 * (35 * queries / 150 * (1 - queries / 150)).mean()


@given(part=st.floats(0.05, 0.95), n_query=st.integers(1, 6), task=numbers)
def test_queries_of_unknown_classes_are_of_no_class_of_the_task_and_so_labelled(
    part: float, n_query: int, task: int
) -> None:
    sampler = TaskSampler(data_of((9,) * 12), TaskSpec(n_query=n_query, protocol=f"balanced+unknown:{part:.3f}"))
    rows = sampler.rows(task)
    unknown = rows.query_labels == UNKNOWN
    assert len(rows.query) == 5 * n_query
    assert unknown.sum() == min(round(float(f"{part:.3f}") * 5 * n_query), 5 * n_query - 1)
    assert not np.isin(sampler.data.labels.numpy()[rows.query[unknown]], rows.classes).any()
    assert len(set(rows.query.tolist())) == len(rows.query)


def test_unknown_classes_are_refused_where_there_are_none() -> None:
    with pytest.raises(DataError, match=r"7 unknown queries"):
        TaskSampler(data_of((30,) * 5), TaskSpec(protocol="balanced+unknown:0.1", n_query=14)).sample([0])


def test_the_digest_is_that_of_the_tasks_and_of_the_names_of_their_images() -> None:
    data, spec = replace(data_of((9,) * 6), items=tuple(map(str, range(54)))), TaskSpec(n_query=3)
    found = TaskSampler(data, spec).digest(5)
    assert TaskSampler(replace(data, views=data.views + 1), spec).digest(5) == found  # other features, the same tasks
    others = [
        TaskSampler(data, spec).digest(4),
        TaskSampler(data, replace(spec, seed=1)).digest(5),
        TaskSampler(data, replace(spec, protocol="dirichlet:2")).digest(5),
        TaskSampler(replace(data, items=data.items[::-1]), spec).digest(5),
        TaskSampler(replace(data, class_names=data.class_names[::-1]), spec).digest(5),
    ]
    assert len({found, *others}) == 6


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("sizes", "spec", "parts"),
    [
        ((30,), TaskSpec(), ["5-way", "5 classes of 16 images", "only 1 of the 1", "made up", "'class 0' has 30"]),
        ((30, 30, 30, 30, 9), TaskSpec(), ["only 4 of the 5", "'class 4' has 9", "Add images, or ask for fewer"]),
        ((15, 15), TaskSpec(n_way=2, n_shot=5, n_query=11), ["2-way 5-shot", "22 queries", "16 images", "only 0 of"]),
        ((5, 1), TaskSpec(n_way=2, n_shot=1, protocol="dirichlet:2"), ["2 images or more", "'class 1' has 1"]),
    ],
)
def test_too_few_classes_or_images_are_named_with_the_remedy(
    sizes: tuple[int, ...], spec: TaskSpec, parts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        TaskSampler(data_of(sizes), spec)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_classes_with_exactly_enough_images_will_do_and_smaller_ones_are_never_drawn() -> None:
    sampler = TaskSampler(data_of((4, 3, 4, 2, 9), unlabelled=50), TaskSpec(n_way=3, n_shot=1, n_query=3))
    assert {int(c) for i in range(20) for c in sampler.rows(i).classes} == {0, 2, 4}


def test_too_few_images_for_unbalanced_queries_are_named_with_the_remedy() -> None:
    sampler = TaskSampler(data_of((3, 3)), TaskSpec(n_way=2, n_shot=1, n_query=3, protocol="dirichlet:2"))
    with pytest.raises(DataError, match=r"6 queries, but its 2 classes hold 4 images .* fewer queries"):
        sampler.sample([0])


@pytest.mark.parametrize("wrong", [{"n_way": 1}, {"n_shot": 0}, {"n_query": 0}, {"seed": -1}])
def test_an_impossible_specification_is_refused_with_what_was_found(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=str(next(iter(wrong.values())))):
        TaskSpec(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "protocol",
    [
        "",
        "dirichlet",
        "dirichlet:0",
        "dirichlet:-1",
        "dirichlet:two",
        "uniform",
        "balanced:1",
        "present:1.5",
        "present:0",
        "effective",
        "effective:3",
        "effective:0-4",
        "effective:4-2",
        "effective:1.5-2",
        "long-tail:0.5",
        "single:2",
        "balanced+unknown:1",
        "balanced+unknown",
        "balanced+unequal-shots+unequal-shots",
        "balanced+unequal-shots+proportional-shots",
        "balanced+unknown:0.1+unknown:0.2",
        "+unequal-shots",
    ],
)
def test_an_unknown_protocol_is_refused_with_the_known_ones(protocol: str) -> None:
    with pytest.raises(SettingsError, match="known: balanced, dirichlet:A"):
        TaskSpec(protocol=protocol)


def test_more_present_classes_than_there_are_ways_are_refused() -> None:
    with pytest.raises(SettingsError, match="6 classes need tasks of as many; this has 5"):
        TaskSpec(protocol="present:6")
