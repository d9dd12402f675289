"""The page of the transductive methods says what the records say."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from pages.transductive import COLOURS, MAIN, page, plots

from onelook.experiments.transductive import INDUCTIVE
from onelook.train.recipes import parse_request


def record(method: str, protocol: str = "balanced", accuracy: float = 60.0, **more: Any) -> dict[str, Any]:
    return {
        "dataset": "made-up",
        "split": "test",
        "backbone": "conv4-64@0123",
        "precision": "float32",
        "average": "none",
        "method": method,
        "n_way": 5,
        "n_shot": 1,
        "n_query": 15,
        "protocol": protocol,
        "n_total": 1 if protocol == "single" else 75,
        "n_tasks": 2000,
        "seed": 0,
        "accuracy": accuracy,
        "ci95": 0.5,
        "versus": {"method": "pt-map", "difference": accuracy - 60, "ci95": 1.0},
        "against": [{"method": INDUCTIVE, "difference": 1.0, "ci95": 0.5, "harm": 12.34, "harm_ci95": 1.44}],
        "milliseconds": 1.25,
        "commit": "abc",
        "machine": "some",
        **more,
    }


def some() -> list[dict[str, Any]]:
    return [
        record("pt-map"),
        record(INDUCTIVE, accuracy=58.9),
        record("tim", accuracy=61.1),
        record("bms", accuracy=60.9),
        record("pt-map", "dirichlet:2"),
        record(INDUCTIVE, "dirichlet:2", 60.5),
        record("tim", "dirichlet:2", 58.0),
    ]


def tables(text: str) -> dict[str, list[list[str]]]:
    """The cells of each table by the heading above it."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = f"{heading.split(' / ')[0]} / {line[4:]}" if line.startswith("### ") else line[3:]
        elif line.startswith("|") and "---" not in line:
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


TITLE = "made-up, test classes, conv4-64, 5-way, 75 queries"


def test_a_row_is_a_method_and_a_column_a_protocol_and_nothing_is_made_up_where_there_is_no_figure() -> None:
    found = tables(page(some()))
    assert list(found) == [f"{TITLE} / 1-shot", f"{TITLE} / 1-shot, harm"]
    assert found[f"{TITLE} / 1-shot"] == [
        ["method", "balanced", "dirichlet:2", "ms a task"],
        ["`pt-map`", "60.00 ± 0.50", "60.00 ± 0.50", "1.2"],
        [f"`{INDUCTIVE}`", "58.90 ± 0.50 ▼", "**60.50 ± 0.50**", "1.2"],
        ["`tim`", "**61.10 ± 0.50** ▲", "58.00 ± 0.50 ▼", "1.2"],
        ["`bms`", "60.90 ± 0.50", "–", "1.2"],
    ]
    assert found[f"{TITLE} / 1-shot, harm"][2:4] == [
        [f"`{INDUCTIVE}`", "–", "–"],
        ["`tim`", "12.3 ± 1.4", "12.3 ± 1.4"],
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "other"},
        {"split": "val"},
        {"backbone": "resnet12@1"},
        {"backbone": "conv4-64@other"},
        {"average": "mirror"},
        {"n_way": 4},
        {"n_query": 5},
        {"n_total": 20},
        {"n_tasks": 99},
        {"seed": 1},
        {"n_shot": 5},
    ],
    ids=str,
)
def test_what_was_not_measured_alike_is_in_another_table(change: dict[str, Any]) -> None:
    rows = tables(page([*some(), record("pt-map", accuracy=12.34, **change)]))
    if change.keys() & {"n_tasks", "seed", "backbone", "n_query"}:  # their headings are alike
        assert page([*some(), record("pt-map", **change)]).count("### 1-shot\n") == 2
        return
    (heading,) = (name for name, cells in rows.items() if any("12.34 ±" in cell for row in cells for cell in row))
    assert heading != f"{TITLE} / 1-shot"
    assert len(rows[heading]) == 2


def test_tasks_of_one_query_stand_beside_each_number_of_queries() -> None:
    records = [*some(), record("bms", "single", 60.21), record("pt-map", n_total=20)]
    found = tables(page(records))
    for total in (75, 20):
        head, *rows = found[f"made-up, test classes, conv4-64, 5-way, {total} queries / 1-shot"]
        (own,) = (row for row in rows if row[0] == "`bms`")
        assert own[head.index("single")] == "**60.21 ± 0.50**"
    alone = tables(page([record("bms", "single")]))
    assert "made-up, test classes, conv4-64, 5-way / 1-shot" in alone


def test_there_is_a_plot_for_each_section_with_the_main_methods_and_the_same_each_time() -> None:
    records = [*some(), record("leo"), record("pt-map", average="mirror")]
    made = plots(records)
    assert made == plots(records)
    assert set(made) == {"protocols-1", "protocols-2"}
    assert all(f"](plots/{name}.svg)" in page(records) for name in made)
    text = made["protocols-1"].decode()
    ET.fromstring(text)
    for word in ("pt-map", INDUCTIVE, "tim", "dirichlet:2"):
        assert f"<!-- {word} -->" in text
    assert "<!-- leo -->" not in text
    assert f"<!-- {INDUCTIVE} -->" not in made["protocols-2"].decode()


def test_the_methods_of_the_plot_exist_and_each_has_a_colour() -> None:
    assert len({parse_request(text).label for text in MAIN}) == len(set(COLOURS))


def test_nothing_measured_is_a_page_of_no_section() -> None:
    assert "\n## " not in page([])
    assert plots([]) == {}


def test_sizes_have_a_row_for_each_cell_with_the_best_other_method() -> None:
    cells = [
        *some(),
        *(
            record(method, accuracy=accuracy, n_way=20, n_total=1000, n_tasks=50)
            for method, accuracy in (("pt-map", 70.0), (INDUCTIVE, 80.0), ("bms", 69.5))
        ),
    ]
    found = tables(page(some(), cells))["Tasks of other sizes"]
    assert found[1:] == [
        [
            "made-up, test classes, conv4-64",
            "5",
            "1",
            "75",
            "balanced",
            "2,000",
            "60.00 ± 0.50",
            "**+1.00 ± 0.50**",
            "`tim`",
            "**+1.10 ± 1.00**",
        ],
        [
            "made-up, test classes, conv4-64",
            "5",
            "1",
            "75",
            "dirichlet:2",
            "2,000",
            "60.00 ± 0.50",
            "**+1.00 ± 0.50**",
            "`tim`",
            "**-2.00 ± 1.00**",
        ],
        [
            "made-up, test classes, conv4-64",
            "20",
            "1",
            "1,000",
            "balanced",
            "50",
            "70.00 ± 0.50",
            "**+1.00 ± 0.50**",
            "`bms`",
            "**+9.50 ± 1.00**",
        ],
    ]


def test_weak_features_have_a_row_for_each_cell_with_the_difference_of_each_other_method() -> None:
    cell = {"n_shot": 3, "protocol": "dirichlet:2"}
    lost = {"method": "pt-map", "difference": 0.5, "ci95": 1.0}
    cells = [record("pt-map", **cell), record("tim", accuracy=57.0, **cell), record("bms", versus=lost, **cell)]
    found = tables(page(some(), weak=[record("pt-map"), record("tim"), record("bms"), *cells]))["Weak features"]
    assert found[0] == ["features", "shots", "protocol", "`pt-map`", "`tim`", "`bms`"]
    assert found[2] == ["made-up", "3", "dirichlet:2", "60.00 ± 0.50", "**-3.00 ± 1.00**", "+0.50 ± 1.00"]


def test_the_parts_of_a_method_are_told_by_their_differences_to_the_row_that_they_are_compared_with() -> None:
    parts = [record("pt-map"), record("less", accuracy=58.0), record("as much", accuracy=60.5)]
    trained = [
        record(name, accuracy=accuracy, versus={"method": "first", "difference": accuracy - 50, "ci95": 1.0})
        for name, accuracy in (("first", 50.0), ("second", 49.5))
    ]
    found = tables(page(some(), ablation=[*parts, *trained]))
    assert found["What each part of Glance is worth / 1-shot, part by part"] == [
        ["method", "balanced"],
        ["`pt-map`", "60.00 ± 0.50"],
        ["`less`", "**-2.00 ± 1.00**"],
        ["`as much`", "+0.50 ± 1.00"],
        ["`first`", "50.00 ± 0.50"],
        ["`second`", "-0.50 ± 1.00"],
    ]
