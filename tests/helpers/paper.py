"""The comparison of the paper on tiny images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from helpers.images import divided, write_files
from helpers.trainings import events_and_result, network_file
from onelook.events import Notice
from onelook.experiments.paper import TableConfig, table
from onelook.machine import Place
from onelook.train.loop import Stepped


@dataclass(frozen=True)
class Setting:
    place: Place
    config: TableConfig
    other: Path
    """Another feature network."""

    def run(self, out: Path, **changes: Any) -> tuple[list[Any], list[dict[str, Any]]]:
        """Events and records."""
        return events_and_result(table(replace(self.config, **changes), out, self.place))

    @staticmethod
    def of(folder: Path) -> "Setting":
        data = str(write_files(folder / "images", divided(5, 20)))
        config = TableConfig(network_file(folder / "net.safetensors"), data=data, rows=("sib",), n_tasks=3)
        other = network_file(folder / "other.safetensors", 1)
        return Setting(Place(folder / "cache", precision="float32"), config, other)


def steps(events: list[Any]) -> int:
    return sum(isinstance(e, Stepped) for e in events)


def notices(events: list[Any]) -> list[str]:
    return [e.text for e in events if isinstance(e, Notice)]


def kept(out: Path, row: str, shot: int) -> torch.Tensor:
    """The accuracy of each task."""
    (path,) = (out / row / "results").iterdir()
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(str(shot))
