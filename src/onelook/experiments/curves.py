"""Where the gain of SIB comes from: the number of steps, of unlabelled queries, and whose gradient it follows.

Shell Xu Hu et al. Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696:
the table over K, and the two studies of the appendix.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onelook.artifacts import load_backbone
from onelook.benchmark.measure import Entry, compare
from onelook.data.sampler import TaskSpec
from onelook.data.sources import N_VIEWS, open_data
from onelook.machine import Place
from onelook.tasks import Embeddings
from onelook.train.recipes import parse_request, ready


@dataclass(frozen=True)
class CurvesConfig:
    backbone: Path
    data: str = "cifar-fs"
    split: str = "test"
    steps: tuple[int, ...] = (1, 2, 3, 5, 8)
    """Numbers of synthetic gradient steps K, beside 0."""
    queries: tuple[int, ...] = (1, 5, 15, 50, 100)
    """Numbers of unlabelled queries per class."""
    shots: tuple[int, ...] = (1, 5)
    n_tasks: int = 2000
    seed: int = 0


INDUCTIVE = "sib-inductive"


def curves(config: CurvesConfig, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """Records of three experiments: "steps", "queries" and "queries, trained for them".

    steps: SIB and inductive SIB, trained and used with K steps. queries: K = 0 and K = 3, trained on tasks of 15
    queries a class. queries, trained for them: K = 3, trained on tasks of as many queries as it is used with.
    """
    study = yield from _Study.of(config, place)
    records = []
    for shot in config.shots:
        spec = TaskSpec(5, shot, 15, seed=config.seed)
        asked = ["feature-averaging"]
        asked += [f"{name}:n_steps={k}" for name in ("sib", INDUCTIVE) for k in config.steps]
        records += yield from study.compare("steps", asked, spec, spec)
        for n_query in config.queries:
            used = replace(spec, n_query=n_query)
            records += yield from study.compare("queries", ["feature-averaging", "sib"], used, spec)
            if n_query != spec.n_query:
                records += yield from study.compare("queries, trained for them", ["sib"], used, used)
    return records


@dataclass(frozen=True)
class _Study:
    """The features that all parts of it share."""

    config: CurvesConfig
    place: Place
    training: Embeddings
    validation: Embeddings
    test: Embeddings
    about: dict[str, Any]

    @staticmethod
    def of(config: CurvesConfig, place: Place) -> Generator[Any, None, "_Study"]:
        backbone, named = load_backbone(config.backbone)
        training = yield from open_data(config.data, place.home).embed("train", backbone, place, N_VIEWS)
        validation = yield from open_data(config.data, place.home).embed("val", backbone, place)
        test = yield from open_data(config.data, place.home).embed(config.split, backbone, place)
        about = {
            "dataset": config.data,
            "split": config.split,
            "precision": place.precision,
            "backbone": f"{named['name']}@{backbone.digest().hex()[:12]}",
        }
        return _Study(config, place, training, validation, test, about)

    def compare(
        self, experiment: str, asked: list[str], used: TaskSpec, trained: TaskSpec
    ) -> Generator[Any, None, list[dict[str, Any]]]:
        """Methods that were trained on tasks of one specification, on test tasks of another."""
        entries = []
        for text in asked:
            made = yield from ready(
                parse_request(text),
                trained,
                self.test.feature_size,
                self.training,
                self.validation,
                self.place.cache / "runs",
            )
            entries.append(Entry(text, made.method, made.about))
        about = {"experiment": experiment, **self.about}
        return (yield from compare(entries, self.test, used, self.config.n_tasks, about))
