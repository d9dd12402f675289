"""What a session takes of a cluster of Ray, here one that is made up."""

import importlib
from types import SimpleNamespace

import pytest

from onelook.artifacts import load_network
from onelook.cluster.embedding import Task
from onelook.cluster.session import Cluster, Session, connect
from onelook.errors import SettingsError
from onelook.events import finish
from onelook.machine import Place


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    found = {"CPU": 8.0} | ({"GPU": float(request.param)} if request.param else {})
    ray = SimpleNamespace(cluster_resources=lambda: found)
    monkeypatch.setattr(importlib, "import_module", lambda name: {"ray": ray}[name])


@pytest.mark.parametrize(
    ("gpus", "device", "taken"),
    [(2, "auto", (2, 2)), (2, "cuda", (2, 2)), (2, "cpu", (0, 8)), (0, "auto", (0, 8)), (0, "mps", (0, 8))],
    indirect=["gpus"],
)
@pytest.mark.usefixtures("gpus")
def test_workers_are_on_the_device_that_was_asked_for(device: str, taken: tuple[int, int]) -> None:
    session = Session(Cluster("auto"), device)
    assert (session.n_gpus, session.n_workers) == taken


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_a_device_that_no_worker_has_is_refused() -> None:
    with pytest.raises(SettingsError, match="No machine of the cluster has a GPU"):
        Session(Cluster("auto"), "cuda")
    with pytest.raises(SettingsError, match="take --device cuda and not cuda:1"), connect(Cluster("auto"), "cuda:1"):
        pass


def test_a_worker_is_told_what_was_asked_for_and_not_what_this_machine_has() -> None:
    network, _ = finish(load_network("small"))
    for asked in ("auto", "cpu"):
        assert Task.of(network, "small", False, "none", Place(device=asked)).device == asked
