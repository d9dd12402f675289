"""`onelook label --ray` and `onelook embed --ray`: work in shards, by Ray."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from onelook.cli.console import print_json, run
from onelook.cli.terminal import write
from onelook.cluster.embedding import write_embeddings
from onelook.cluster.labelling import label_shards
from onelook.cluster.session import Cluster
from onelook.data.addresses import Store, find_address
from onelook.errors import SettingsError, plural, quote_name
from onelook.files import cache_home
from onelook.labelling.label import LabelConfig
from onelook.machine import Place


def label_by_ray(
    config: LabelConfig, place: Place, cluster: Cluster, out: Path, refused: dict[str, Any], as_json: bool
) -> None:
    """Label images in shards. refused: options that are about a single machine, with their values."""
    _refuse(refused | {"--features": config.features}, place)
    store = Store(str(out))
    done = run(label_shards(config, place, cluster, store), "label")
    if as_json:
        print_json({"out": store.address or str(out), **asdict(done)})
        return
    for name, n in done.counts.items():
        write(f"{n:>7,}  {quote_name(name)}")
    write(done.guard, f"Expected accuracy {done.expected_accuracy}.")
    if done.n_unreadable:
        write(f"{plural(done.n_unreadable, 'image')} cannot be read; the shards of features say why.")
    place_of = quote_name(store.below("labels").place)
    write(f"Written: {place_of}, Parquet with the columns of labels.csv in {plural(len(done.shards), 'shard')}")


def embed_by_ray(
    data: str, network: str, average: str, place: Place, cluster: Cluster, out: Path | None, refused: dict[str, Any]
) -> None:
    """Write the features of images in shards. refused: as in `label_by_ray`."""
    _refuse(refused, place)
    if out is None:
        raise SettingsError("--ray writes shards of features; name their folder or address with --shards.")
    parts, made = run(write_embeddings(data, network, average, place, cluster, Store(str(out))), "embedding")
    n = sum(len(part.names) for part in parts)
    write(f"{find_address(out) or out}: {plural(n, 'image')} in {plural(len(parts), 'shard')}")
    if made.n_unreadable:
        write(f"{plural(made.n_unreadable, 'image')} cannot be read, for example {made.example}.")


def _refuse(given: dict[str, Any], place: Place) -> None:
    """Refuse options that are about a single machine, if they have a value."""
    given = given | {"--cache": place.cache != cache_home(), "--memory": place.memory != "auto"}
    if names := [name for name, value in given.items() if value]:
        raise SettingsError(f"{names[0]} is for a folder on this machine, not for shards; drop it, or --ray.")
