"""`onelook benchmark`: a comparison of methods on the same tasks; the studies are its sub-commands."""

from dataclasses import replace
from typing import Annotated, Any

from cyclopts import App

from onelook.benchmark.audit import tabulate
from onelook.benchmark.compare import Comparison, benchmark, benchmark_embeddings
from onelook.cli import console
from onelook.cli.options import Features, Fields, Records, options
from onelook.cli.terminal import write
from onelook.data.sampler import TaskSpec
from onelook.errors import TwoOrMore
from onelook.machine import Place
from onelook.train.recipes import parse_request

COMMANDS = {
    "paper": "Compare SIB with the baselines of its paper, from the same feature network.",
    "protocols": "Compare transductive methods under every protocol; what is measured is saved and not done again.",
    "curves": "Measure accuracy over the number of steps and of unlabelled queries.",
    "bottleneck": "Compare SIB with and without its KL term, on tasks of known and of unknown classes.",
    "lines": "Fit spinning lines without labels, against the exact posterior, with and without the KL term.",
    "domains": "Adapt to each domain without its labels, from labelled images of the others.",
    "networks": "Compare feature networks, and the choice of auto, for simulated users with few labels.",
    "practice": "Compare FewShotClassifier with the classifiers of scikit-learn, for simulated users with few labels.",
}
"""Commands of `onelook.cli.studies`, each with the first line of its docstring."""
AUDIT = "Test instead what the answers depend on: other queries, their order, other tasks, labels. Exit code 1: a leak."

app = App(name="benchmark")
for _place, (_name, _help) in enumerate(COMMANDS.items()):
    app.command(f"onelook.cli.studies:run_{_name}", name=_name, help=_help, sort_key=_place)


@app.default
@options
def compare(
    features: Features,
    tasks: Annotated[TaskSpec, Fields(only=("n_way", "n_query", "n_total", "seed"))],
    place: Place,
    records: Records,
    *,
    methods: tuple[str, ...] = ("feature-averaging", "sib", "prototypical"),
    shots: tuple[int, ...] = (1, 5),
    protocols: tuple[str, ...] = ("balanced",),
    n_tasks: TwoOrMore = Comparison.n_tasks,
    average: str = "none",
    audit: Annotated[bool, AUDIT] = False,
) -> int:
    """Compare methods on the same tasks, after training those that learn.

    Examples: onelook benchmark --data cifar-fs --backbone runs/cifar-fs/model.safetensors
    --methods feature-averaging,sib --shot 1,5 --tasks 2000 --json results.json;
    onelook benchmark --embeddings test.npz --methods prototypical,pt-map --audit
    """
    requests = tuple(map(parse_request, methods))
    specs = tuple(replace(tasks, n_shot=n, protocol=one) for one in protocols for n in shots)
    comparison = Comparison(requests, specs, n_tasks, average, audit)
    if features.embeddings is not None:
        job = benchmark_embeddings(comparison, features.embeddings, features.train_embeddings, place)
    else:
        assert features.backbone is not None
        job = benchmark(comparison, features.data, features.split, features.backbone, place)
    found = records.save(console.run(job, "audit" if audit else "benchmark"))
    if audit:
        return int(_print_audits(found))
    console.print_records(found, as_json=False)
    return 0


def _print_audits(records: list[dict[str, Any]]) -> bool:
    """Print a table of audits, its legend, and a sentence for each leak. Returns whether there is one."""
    console.print_table(tabulate(records))
    write("same: predictions unaffected. as declared: affected, as the method states. LEAK: affected, undeclared.")
    for record in records:
        for leak in record["leaks"]:
            write(f"{record['method']}, {record['n_shot']}-shot, {record['protocol']} queries: it {leak}")
    return any(record["leaks"] for record in records)
