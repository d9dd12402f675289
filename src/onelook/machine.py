"""The machine: places of files, number formats, and its description for records."""

import contextlib
import ctypes
import functools
import importlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from onelook.errors import SettingsError
from onelook.files import cache_home

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h


@dataclass(frozen=True)
class Place:
    """Where files lie on this machine, and what it computes in.

    >>> Place(Path("cache"), precision="float32").precision
    'float32'
    """

    cache: Path = field(default_factory=cache_home)
    """Folder of cached features. Default: $ONELOOK_CACHE, or the user's cache folder."""
    home: Path | None = None
    """Folder of the standard data sets. Default: $ONELOOK_DATA, or the user's cache folder."""
    precision: str = "auto"
    """Number format of networks: float32, bfloat16, or auto, which is bfloat16 where the device computes in it."""
    device: str = "auto"
    """Device that computes: cpu, cuda, mps, or auto, which is cuda where there is one, and else cpu."""
    memory: str = "auto"
    """Memory for what is decoded or compared at once, 512MiB or more, such as 2GiB; features and results come on top.
    auto: as much as is fastest."""

    asked: str = field(init=False, repr=False, compare=False)
    """Device as it was asked for, which other machines may have where this one has not."""

    def __post_init__(self) -> None:
        parse_memory(self.memory)
        object.__setattr__(self, "asked", self.device)
        object.__setattr__(self, "device", find_device(self.device))
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise SettingsError(f"A precision is auto, float32 or bfloat16, but got {self.precision!r}.")
        if self.precision == "auto":
            object.__setattr__(self, "precision", best_precision(self.device))


def parse_memory(text: str) -> int | None:
    """Bytes of a text such as 2GiB; None for auto. Raises SettingsError, also for less than 512 MiB.

    >>> parse_memory("1.5GiB") == 3 << 29
    True
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?([MG])i?B?", text, re.IGNORECASE)
    n_bytes = found and int(float(found[1]) * 2 ** {"m": 20, "g": 30}[found[2].lower()])
    if text != "auto" and (n_bytes is None or n_bytes < 512 << 20):
        raise SettingsError(f"A memory is auto, or 512MiB or more, such as 2GiB, but got {text!r}.")
    return n_bytes


def find_device(name: str) -> str:
    """The device of that name, as torch calls it; "auto" leaves out mps, which lacks the float64 of some methods.

    Raises SettingsError where there is none.

    >>> find_device("cpu")
    'cpu'
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise SettingsError(f"A device is auto, cpu, cuda, cuda:1 or another number, or mps, but got {name!r}.")
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return "cuda" if n_cuda else "cpu"
    n_devices = {"cpu": 1, "cuda": n_cuda, "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= n_devices:
        found = f"torch {torch.__version__} finds {n_devices} of its kind"
        raise SettingsError(f"There is no device {name} here ({found}); take auto or cpu.")
    return f"{kind}:{int(number)}" if number else kind


def best_precision(device: str = "cpu") -> str:
    """bfloat16 where the device computes in it, else float32."""
    if device != "cpu":
        return "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def peak_memory() -> int:
    """Largest number of bytes that this process has had in memory so far; 0 on Windows, which does not tell."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return 0
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given: an accelerator computes on when a call is over."""
    if device.type in ("cuda", "mps"):
        torch.get_device_module(device).synchronize()


def take_one_core() -> None:
    """Let this thread compute with one core, so that several of them have one each."""
    torch.get_num_threads()  # after it, torch leaves the number of its threads as it is
    threadpool_limits(1, "openmp")  # of this thread only, unlike torch.set_num_threads


@contextlib.contextmanager
def seeded(seed: int, device: torch.device = torch.device("cpu")) -> Iterator[None]:
    """Seed the global generators of the processor, from which layers draw their weights, and of a device, and restore
    them at the end."""
    # Not torch.manual_seed, which seeds the generators of all accelerators and would not restore those.
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        generators.append(torch.cuda.default_generators[device.index or 0])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    before = [one.get_state() for one in generators]
    for one in generators:
        one.manual_seed(seed)
    try:
        yield
    finally:
        for one, state in zip(generators, before, strict=True):
            one.set_state(state)


@functools.cache
def commit() -> str:
    """The commit of this checkout, with "+" where the code differs from it; "unknown" outside one.

    It is looked up once: what runs is what was there then.
    """
    here = Path(__file__).parent
    try:
        run = [
            subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True, timeout=10).stdout
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", "."])
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return run[0].strip() + ("+" if run[1].strip() else "")


def machine() -> str:
    """Description of processor and threads."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def provenance() -> dict[str, str]:
    """Commit and machine, as they stand in every record."""
    return {"commit": commit(), "machine": machine()}


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next request instead of giving it back to the system.

    Activations are large and come and go at every step; giving each back costs a page fault for every 4 KiB when it
    is asked for again: a third of the time of a training step of Conv-4. Threads share one arena, because those of
    their own give back what is freed whatever they are told. Without glibc this does nothing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            for parameter, value in ((_MMAP_THRESHOLD, 2**31 - 1), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENAS, 1)):
                mallopt(parameter, value)
