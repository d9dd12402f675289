"""The page of the paper's experiments says what the records say."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages.paper import page
from pages.plots import plots

from onelook.experiments.paper import relative_gain
from onelook.experiments.paper_rows import ROWS, published

MINI = ("mini-imagenet", "conv4-64")
RESULTS = Path(__file__).parents[2] / "benchmarks"


def record(row: str, shot: int, accuracy: float, difference: float, ci95: float = 0.3, **more: Any) -> dict[str, Any]:
    known = ROWS[row]
    return {
        "row": row,
        "method": known.title,
        "paper": known.paper,
        "on": known.on,
        "dataset": "made-up",
        "backbone": "conv4-64@0123",
        "n_shot": shot,
        "n_tasks": 2000,
        "accuracy": accuracy,
        "ci95": 0.5,
        "versus": {"difference": difference, "ci95": ci95, "relative": {"mean": 16.0, "ci95": 0.6}},
        "published": published(row, "cifar-fs", "conv4-64", shot),
        "elsewhere": "",
        "transductive": row == "tpn",
        "parameters": 1234,
        "train_seconds": 5.0,
        "commit": "abc",
        "machine": "some",
        **more,
    }


def comparison(r2d2: float = 65.0, r2d2_difference: float = -9.0) -> list[dict[str, Any]]:
    one = [
        record("sib", 1, 74.0, 0.0),
        record("sib-0", 1, 64.0, -10.0),
        record("tpn", 1, 70.0, -4.0),
        record("r2d2", 1, r2d2, r2d2_difference),
        record("leo", 1, 63.0, -11.0),
    ]
    return one + [record(r["row"], 5, r["accuracy"] + 17, r["versus"]["difference"]) for r in one]


def test_a_row_is_said_to_be_short_only_where_it_is_more_than_one_and_a_half_points_below() -> None:
    assert "No row is more than 1.5 points below" in page({"paper": comparison(r2d2=62.3 - 1.5)})
    short = page({"paper": comparison(r2d2=62.3 - 1.51)})
    assert "R2-D2 at 1-shot (60.79 against 62.3)" in short


def test_baselines_are_counted_by_whether_their_interval_excludes_zero() -> None:
    assert "above 2 of 2 inductive baselines" in page({"paper": comparison()})
    within = page({"paper": comparison(r2d2_difference=-0.2)})
    assert "above 1 of 2 inductive baselines" in within
    assert "the nearest is R2-D2, at -0.20 ± 0.30" in within


def test_what_sees_the_queries_is_named_apart() -> None:
    assert "TPN, which sees the queries too, is at -4.00 ± 0.30." in page({"paper": comparison()})


def test_each_set_has_its_own_table_and_a_line_of_its_gain_beside_the_published_one() -> None:
    mini = [
        r
        | {
            "dataset": "mini-imagenet",
            "epochs": 5,
            "on": "features",
            "published": published(r["row"], *MINI, r["n_shot"]),
        }
        for r in comparison()
    ]
    turned = [r | {"rotation": True} for r in mini]
    assert "### mini-ImageNet with Conv-4-64 and rotation\n" in page({"paper-turned": turned})
    found = page({"paper": comparison(), "paper-mini": mini})
    assert re.findall(r"^### (.*)", found, re.MULTILINE)[:2] == [
        "made-up with Conv-4-64",
        "mini-ImageNet with Conv-4-64",
    ]
    assert found.count("pretrained for 5 epochs. No row goes on training") == 1
    assert "| made-up with Conv-4-64 | 1 | 64.00 | 74.00 | **16.0 ± 0.6** | 16.0 | – | – |" in found
    assert "| mini-ImageNet with Conv-4-64 | 5 | 81.00 | 91.00 | **16.0 ± 0.6** | 5.5 | – | – |" in found


def test_the_cost_of_the_epochs_of_the_article_is_that_of_one_times_their_number() -> None:
    one = {"backbone": "resnet12", "dataset": "cifar-fs", "commit": "abc", "machine": "some"}
    fast = one | {"precision": "bfloat16", "images_per_second": 59.3, "epoch_minutes": 10.8}
    slow = one | {"precision": "float32", "images_per_second": 26.5, "epoch_minutes": 24.2}
    assert "| CIFAR-FS with ResNet-12 | 59 | 11 min | 11 h | 24 h |" in page({"epochs": [slow, fast]})


def test_every_experiment_is_left_out_where_it_was_not_run() -> None:
    assert "##" not in page({})
    assert re.findall(r"^## (.*)", page({"paper": comparison()}), re.MULTILINE) == ["The comparison"]
    assert plots({}) == {}
    assert set(plots({"paper": comparison()})) == {"methods"}


def test_a_plot_names_every_method_and_is_the_same_file_each_time() -> None:
    first, second = (plots({"paper": comparison()})["methods"] for _ in range(2))
    assert first == second
    ET.fromstring(first)
    for method in ("SIB, K = 3", "TPN", "R2-D2", "LEO"):
        assert f"<!-- {method} -->" in first.decode()


@pytest.mark.parametrize("seed", range(3))
def test_the_relative_gain_has_the_interval_that_resampling_the_tasks_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=2000)
    base = 60 + 10 * common + rng.normal(size=2000)
    values = 70 + 12 * common + 3 * rng.normal(size=2000)
    found = relative_gain(torch.from_numpy(values), torch.from_numpy(base))
    rows = rng.integers(2000, size=(4000, 2000))
    drawn = values[rows].mean(1) / base[rows].mean(1) - 1
    assert found.value == pytest.approx(values.mean() / base.mean() - 1, rel=1e-9)
    assert found.half_width == pytest.approx(1.96 * drawn.std(), rel=0.06)


@pytest.mark.parametrize("name", ["paper", "epochs", "curves", "bottleneck", "lines", "domains"])
def test_the_results_that_are_kept_make_a_section_of_the_page(name: str) -> None:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path.name} was not made yet")
    assert page({name: json.loads(path.read_text())}).count("\n## ") >= 1


@pytest.mark.parametrize(
    ("gap", "said"), [(14.9, "At no weight"), (15.2, "from that without the term: 1-shot at gamma 1.")]
)
def test_the_gap_is_said_to_move_only_beyond_both_intervals(gap: float, said: str) -> None:
    def measured(weight: float, gap: float) -> dict[str, Any]:
        return {
            "n_shot": 1,
            "prior_weight": weight,
            "train_accuracy": 88.0,
            "train_ci95": 0.5,
            "accuracy": 88 - gap,
            "ci95": 0.6,
            "accuracy_gap": gap,
            "accuracy_gap_ci95": 0.8,
            "train_loss": 0.3,
            "loss": 0.6,
            "loss_gap": 0.3,
            "loss_gap_ci95": 0.02,
            "commit": "abc",
            "machine": "some",
        }

    assert said in page({"bottleneck": [measured(0, 14.0), measured(1.0, gap)]})
