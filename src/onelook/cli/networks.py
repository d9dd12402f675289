"""`onelook networks`: the feature networks that there are."""

from dataclasses import asdict
from typing import Annotated

from onelook.benchmark.tables import Table
from onelook.cli.console import print_json, print_table, run
from onelook.cli.options import Fields, Json, options
from onelook.cli.terminal import write
from onelook.labelling.networks import NetworkFacts, list_networks
from onelook.machine import Place

COLUMNS = ("--network", "good for", "licence", "MB", "features", "images/s here")


@options
def networks(
    place: Annotated[Place, Fields(only=("precision", "device"))],
    *,
    measure: Annotated[bool, "Measure how fast each is here, a second or two for each."] = True,
    as_json: Json = False,
) -> None:
    """List the feature networks: what each is good for, and how fast it is here.

    Example: onelook networks --no-measure
    """
    found = run(list_networks(place, measure), "networks")
    if as_json:
        print_json([asdict(one) for one in found])
        return
    print_table(Table(COLUMNS, tuple(map(_row, found))))
    write("Without --network, `onelook label` takes auto, which chooses one by the images.")


def _row(one: NetworkFacts) -> tuple[str, ...]:
    speed = one.get_it or ("–" if one.images_per_second is None else f"{one.images_per_second:,.0f}")
    return (one.name, one.good_for, one.licence, f"{one.megabytes:,.1f}", f"{one.n_features:,}", speed)
