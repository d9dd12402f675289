"""The page of practice says what the records say."""

import re
from typing import Any

import pytest
from pages.practice import page

from onelook.experiments.practice_measure import LABELLED_ONLY, OWN

SAID = {
    "calibration_error": 0.0312,
    "calibration_error_ci95": 0.0047,
    "estimate_covers": 0.955,
    "estimate_covers_low": 0.917,
    "estimate_covers_high": 0.979,
    "estimate_width": 0.2345,
    "estimate_excess": 0.0234,
    "estimate_excess_ci95": 0.0112,
    "set_coverage": 0.9234,
    "set_coverage_ci95": 0.0121,
    "set_size": 1.678,
    "largest_share": 0.3987,
    "false_rejections": 0.0412,
    "false_rejections_ci95": 0.0063,
    "unknown_found": 0.3179,
    "unknown_found_ci95": 0.0214,
    "auroc": 0.8123,
    "auroc_ci95": 0.0117,
    "auroc_energy": 0.7654,
    "auroc_energy_ci95": 0.0138,
    "auroc_nearest": 0.7912,
    "auroc_nearest_ci95": 0.0126,
}


def record(method: str, shot: int = 1, accuracy: float = 61.23, difference: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "dataset": "made-up",
        "split": "test",
        "backbone": "conv4-64@0123",
        "precision": "float32",
        "n_way": 5,
        "n_shot": shot,
        "n_query": 15,
        "protocol": "dirichlet:2",
        "n_total": 75,
        "n_tasks": 1200,
        "seed": 3,
        "tasks": "9876",
        "method": method,
        "accuracy": accuracy,
        "ci95": 1.16,
        "versus": {"method": OWN, "difference": difference, "ci95": 0.74},
        "milliseconds": 3.46,
        "commit": "abc",
        "machine": "some",
        **({"report": SAID} if method == OWN else {}),
        **more,
    }


def some() -> list[dict[str, Any]]:
    return [
        record(OWN),
        record(LABELLED_ONLY, accuracy=52.11, difference=-9.12),
        record("SVM", accuracy=63.31, difference=2.08),
        record(OWN, 5, 71.92),
        record(LABELLED_ONLY, 5, 70.45, -1.47),
        record("SVM", 5, 68.0, -3.92),
    ]


def tables(text: str) -> dict[str, list[list[str]]]:
    """The cells of each table by the heading above it."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and "---" not in line:
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_a_row_is_a_classifier_and_two_columns_are_a_number_of_labels() -> None:
    found = tables(page(some()))
    assert list(found) == ["made-up, 5 of test classes, conv4-64", "Its report about itself", "Unknown images"]
    assert found["made-up, 5 of test classes, conv4-64"] == [
        ["classifier", "1 a class", "difference", "ms a user", "5 a class", "difference", "ms a user"],
        [OWN, "61.2 ± 1.2", "–", "3.5", "71.9 ± 1.2", "–", "3.5"],
        [LABELLED_ONLY, "52.1 ± 1.2", "-9.1 ± 0.7", "3.5", "70.5 ± 1.2", "-1.5 ± 0.7", "3.5"],
        ["SVM", "63.3 ± 1.2", "+2.1 ± 0.7", "3.5", "68.0 ± 1.2", "-3.9 ± 0.7", "3.5"],
    ]


def test_all_that_it_said_is_there_once_for_each_cell() -> None:
    found = tables(page(some()))
    said, strange = found["Its report about itself"], found["Unknown images"]
    assert (
        [row[:2] for row in said[1:]]
        == [row[:2] for row in strange[1:]]
        == [["made-up, 5 of test classes, conv4-64", "1"], ["made-up, 5 of test classes, conv4-64", "5"]]
    )
    assert dict(zip(said[0][2:], said[1][2:], strict=True)) == {
        "calibration error": "0.031 ± 0.005",
        "estimate covers": "95.5 % (91.7 to 97.9)",
        "width": "23.4",
        "too much": "+2.3 ± 1.1 %",
        "sets cover": "92.3 ± 1.2 %",
        "classes in a set": "1.68",
        "commonest class": "39.9 %",
    }
    assert dict(zip(strange[0][2:], strange[1][2:], strict=True)) == {
        "falsely set aside": "4.1 ± 0.6 %",
        "unknown found": "31.8 ± 2.1 %",
        "AUROC": "0.812 ± 0.012",
        "energy": "0.765 ± 0.014",
        "nearest": "0.791 ± 0.013",
    }


def test_users_who_know_all_classes_are_not_in_the_table_of_unknown_images() -> None:
    said = {name: value for name, value in SAID.items() if "auroc" not in name}
    found = tables(page([*some(), record(OWN, 16, report=said)]))
    assert [row[1] for row in found["Unknown images"]] == ["labels a class", "1", "5"]
    assert [row[1] for row in found["Its report about itself"]] == ["labels a class", "1", "5", "16"]


@pytest.mark.parametrize("name", SAID)
def test_no_figure_is_left_out(name: str) -> None:
    changed = [r | {"report": SAID | {name: SAID[name] + 0.0771}} if "report" in r else r for r in some()]
    assert tables(page(changed)) != tables(page(some()))


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "other"},
        {"split": "val"},
        {"backbone": "resnet12@1"},
        {"backbone": "conv4-64@other"},
        {"n_tasks": 99},
        {"n_total": 20},
        {"seed": 1},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_what_was_not_measured_alike_is_in_a_table_of_its_own(change: dict[str, Any]) -> None:
    text = page([*some(), record(OWN, 1, 12.34, **change), record("SVM", 1, 11.0, -1.34, **change)])
    _, second, *_ = re.findall(r"^## .* classes, .*\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert second.splitlines() == [
        "| classifier | 1 a class | difference | ms a user |",
        "| --- | --- | --- | --- |",
        f"| {OWN} | 12.3 ± 1.2 | – | 3.5 |",
        "| SVM | 11.0 ± 1.2 | -1.3 ± 0.7 | 3.5 |",
    ]
    assert [row[1] for row in tables(text)["Unknown images"]] == ["labels a class", "1", "5", "1"]


def test_nothing_is_made_up_where_there_is_no_figure() -> None:
    found = tables(page([*some(), record(OWN, 16)]))["made-up, 5 of test classes, conv4-64"]
    assert [row[-3:] for row in found[1:]] == [["61.2 ± 1.2", "–", "3.5"], *2 * [["–", "–", "–"]]]


def test_users_network_and_machine_are_named() -> None:
    text = page([*some(), record(OWN, 3, n_tasks=20, commit="def")])
    words = ["1,200 users", "20 users", "75 images to label", "seed 3", "conv4-64@0123 (float32)"]
    for word in [*words, "commit abc, some", "commit def, some"]:
        assert word in text


def test_nothing_measured_is_a_page_of_no_table() -> None:
    assert tables(page([])) == {}
