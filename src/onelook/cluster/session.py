"""Ray: a cluster that is there already, or processes of this machine for the time of the work."""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from onelook.errors import Checked, PositiveInt, SettingsError, UnreachableError, UserError, describe_cause
from onelook.estimators.sharded import Shard, Shards

Result = TypeVar("Result")

OBJECT_STORE = 500_000_000
"""Bytes of shared memory of Ray on this machine, for the pixels and sums under way."""
QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
ADDRESS = re.compile(r"auto|local|[\w.-]+:\d{1,5}")


@dataclass(frozen=True)
class Cluster(Checked):
    """Where the work is done.

    >>> Cluster("local", workers=2).workers
    2
    """

    ray: str | None = None
    """Compute by Ray, in shards: auto (the cluster that this machine is in, or else this machine), local (this
    machine), or the address of its cluster, such as head:6379."""
    workers: PositiveInt | None = None
    """Processes of Ray that compute. Default: one for each GPU of the cluster, or else for each core."""
    shard_size: PositiveInt = 500
    """Images of a shard of Ray, which is read, computed and written as a whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray is not None and self.ray.startswith("ray://"):
            raise SettingsError(
                "Ray Data cannot be used through ray:// from outside of a cluster; give the command to a machine of "
                "it, as `ray job submit` does, with --ray auto."
            )
        if self.ray is not None and not ADDRESS.fullmatch(self.ray):
            raise SettingsError(f"An address of Ray is auto, local or HOST:PORT, but got {self.ray!r}.")
        if self.ray is None:
            for one in fields(self):
                if getattr(self, one.name) != one.default:
                    raise SettingsError(
                        f"--{one.name.replace('_', '-')} is for Ray; give --ray auto as well, or drop it."
                    )


class Session:
    """Ray, connected."""

    def __init__(self, cluster: Cluster, device: str) -> None:
        self.ray = importlib.import_module("ray")
        there = self.ray.cluster_resources()
        self.n_gpus = int(there.get("GPU", 0)) if device in ("auto", "cuda") else 0
        if device == "cuda" and not self.n_gpus:
            raise SettingsError("No machine of the cluster has a GPU for --device cuda; take auto or cpu.")
        self.n_workers = cluster.workers or self.n_gpus or int(there.get("CPU", 1))

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """Errors that say that a process or a machine was lost."""
        errors = self.ray.exceptions
        return errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError, errors.NodeDiedError

    def give_up(self) -> UserError:
        """The error for whoever has lost processes again and again."""
        return UnreachableError(
            "Processes of Ray were lost again and again, perhaps for want of memory; run the same command again, with "
            "fewer --workers or a smaller --shard-size: what is finished is kept."
        )

    @property
    def data(self) -> Any:
        """Ray Data, which says what goes wrong and nothing else."""
        data = importlib.import_module("ray.data")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        data.DataContext.get_current().enable_progress_bars = False
        return data

    @contextlib.contextmanager
    def own_errors(self) -> Iterator[None]:
        """Raise the UserError behind an error of Ray, if there is one."""
        try:
            yield
        except self.ray.exceptions.RayError as error:
            behind: BaseException | None = error
            while behind is not None:
                if isinstance(behind, UserError) and not isinstance(behind, self.ray.exceptions.RayError):
                    raise behind from None
                behind = getattr(behind, "cause", None) or behind.__cause__
            raise


@contextlib.contextmanager
def connect(cluster: Cluster, device: str = "auto") -> Iterator[Session]:
    """Connect to Ray, or start it here and end it with the block. Raises SettingsError.

    device: of the networks; auto takes the GPUs of the cluster where there are any.
    """
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise SettingsError(f"Ray says which GPU a worker has; take --device cuda and not {device}.")
    if importlib.util.find_spec("ray") is None:
        raise SettingsError('--ray needs the packages ray and pyarrow; pip install "onelook[ray]".')
    # Its messages are not for the person who labels; what it says of variables of accelerators is about its future.
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
    ray = importlib.import_module("ray")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    here: dict[str, Any] = {
        "num_cpus": max(os.cpu_count() or 1, (cluster.workers or 0) + 1),
        "include_dashboard": False,
    }
    here |= {"object_store_memory": OBJECT_STORE, "address": "local"}
    was_there = ray.is_initialized()
    try:
        if cluster.ray == "auto" and not was_there:
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                ray.init(**here, **quiet)
        elif not was_there:
            ray.init(**(here if cluster.ray == "local" else {"address": cluster.ray}), **quiet)
    except Exception as error:  # a Ray that does not come up in time has no kind of its own
        raise SettingsError(f"Ray is not to be reached at {cluster.ray} ({describe_cause(error)}).") from error
    try:
        yield Session(cluster, device)
    finally:
        if not was_there:
            ray.shutdown()


class Holder:
    """A process of Ray that holds one shard."""

    def __init__(self, load: Callable[[], Shard]) -> None:
        self.load = load

    @functools.cached_property
    def shard(self) -> Shard:
        """The shard, loaded when it is first asked: an error here would pass for the loss of the process before."""
        return self.load()

    def do(self, what: Callable[..., Result], told: Sequence[Any], *more: Any) -> Result:
        # What is told to all holders is put into the shared memory of each machine once.
        return what(self.shard, *told, *more)


class RayShards(Shards):
    """Shards in processes of Ray, which end with `close`."""

    def __init__(self, session: Session, loads: Sequence[Callable[[], Shard]]) -> None:
        self.session, self.ray = session, session.ray
        # Without a processor of its own each has a place at once, whatever else the cluster does; together they wait
        # for one another in every step.
        kind = self.ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(Holder)
        self.holders = [kind.remote(load) for load in loads]

    def ask(self, what: Callable[..., Result], *told: Any, each: Sequence[Any] | None = None) -> list[Result]:
        shared = self.ray.put(told)
        last: list[tuple[Any, ...]] = [()] * len(self.holders) if each is None else [(one,) for one in each]
        work = [holder.do.remote(what, shared, *more) for holder, more in zip(self.holders, last, strict=True)]
        with self.session.own_errors():
            found: list[Result] = self.ray.get(work)
        return found

    def close(self) -> None:
        for holder in self.holders:
            self.ray.kill(holder)
