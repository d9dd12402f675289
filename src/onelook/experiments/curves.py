"""Where the gain of SIB comes from: the number of steps, of unlabelled queries, and whose gradient it follows.

Shell Xu Hu et al. Empirical Bayes Transductive Meta-Learning with Synthetic Gradients. ICLR 2020, arXiv:2004.12696:
the table over K, and the two studies of the appendix.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from onelook.benchmark.compare import make_entry
from onelook.benchmark.measure import compare
from onelook.benchmark.sources import open_source
from onelook.data.sampler import TaskSpec
from onelook.errors import Checked, NonNegativeInt, TwoOrMore
from onelook.machine import Place
from onelook.train.recipes import parse_request


@dataclass(frozen=True)
class CurvesConfig(Checked):
    backbone: str
    """Feature network: a name, such as lite, or a file made by `onelook pretrain`."""
    data: str = "cifar-fs"
    split: str = "test"
    steps: tuple[int, ...] = (1, 2, 3, 5, 8)
    """Numbers of synthetic gradient steps K, beside 0."""
    queries: tuple[int, ...] = (1, 5, 15, 50, 100)
    """Numbers of unlabelled queries per class."""
    shots: tuple[int, ...] = (1, 5)
    n_tasks: TwoOrMore = 2000
    seed: NonNegativeInt = 0


INDUCTIVE = "sib-inductive"


def curves(config: CurvesConfig, place: Place) -> Generator[Any, None, list[dict[str, Any]]]:
    """Records of three experiments: "steps", "queries" and "queries, trained for them".

    steps: SIB and inductive SIB, trained and used with K steps. queries: K = 0 and K = 3, trained on tasks of 15
    queries a class. queries, trained for them: K = 3, trained on tasks of as many queries as it is used with.
    """
    source = yield from open_source(config.data, config.split, config.backbone, place)
    about = {name: source.about[name] for name in ("dataset", "split", "precision", "backbone")}

    def measure(experiment: str, asked: list[str], used: TaskSpec, trained: TaskSpec) -> Generator[Any, None, Any]:
        """Methods that were trained on tasks of one specification, on test tasks of another."""
        entries = []
        for text in asked:
            entries.append((yield from make_entry(parse_request(text), trained, source, place)))
        return (yield from compare(entries, source.test, used, config.n_tasks, {"experiment": experiment, **about}))

    records = []
    for shot in config.shots:
        spec = TaskSpec(5, shot, 15, seed=config.seed)
        asked = [f"{name}:n_steps={k}" for name in ("sib", INDUCTIVE) for k in config.steps]
        records += yield from measure("steps", ["feature-averaging", *asked], spec, spec)
        for n_query in config.queries:
            used = replace(spec, n_query=n_query)
            records += yield from measure("queries", ["feature-averaging", "sib"], used, spec)
            if n_query != spec.n_query:
                records += yield from measure("queries, trained for them", ["sib"], used, used)
    return records
