"""Devices are found or refused in one sentence; random numbers on them are given back as they were."""

import sys
from pathlib import Path

import pytest
import torch

from helpers.features import one_sentence
from onelook.errors import SettingsError
from onelook.machine import Place, find_device, parse_memory, peak_memory, seeded


def with_cuda(monkeypatch: pytest.MonkeyPatch, n_devices: int, bfloat16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_devices)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bfloat16)


def test_auto_takes_cuda_where_there_is_one_and_precision_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cuda(monkeypatch, 0)
    assert Place(Path()).device == "cpu"
    for bfloat16, expected in ((True, "bfloat16"), (False, "float32")):
        with_cuda(monkeypatch, 2, bfloat16)
        place = Place(Path())
        assert (place.device, place.precision) == ("cuda", expected)
    assert Place(Path(), device="cuda:1", precision="float32").precision == "float32"
    assert Place(Path(), device="cpu").device == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert Place(Path(), device="mps").precision == "float32"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "There is no device cuda here"),
        ("cuda:1", "There is no device cuda:1 here"),
        ("mps", "There is no device mps here"),
        ("gpu", "A device is auto, cpu, cuda"),
        ("cpu:1", "A device is"),
        ("cuda:x", "A device is"),
        ("", "A device is"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_a_sentence(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cuda(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=words) as caught:
        find_device(name)
    one_sentence(caught.value)


def test_random_numbers_depend_on_the_seed_and_leave_the_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed, torch.device("cpu")):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_peak_of_memory_grows_with_what_is_used() -> None:
    before = peak_memory()
    torch.ones(before // 4 + (100 << 20) // 4)
    assert peak_memory() >= before + (50 << 20)


@pytest.mark.parametrize("text", ["", "2", "2TiB", "-1GiB", "511MiB", "nanGiB", "1e3GiB", "GiB", "9" * 40 + "GiB"])
def test_a_memory_that_is_none_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match="A memory is auto, or 512MiB or more") as caught:
        Place(Path(), memory=text)
    one_sentence(caught.value)


def test_a_memory_is_read_as_people_write_it() -> None:
    assert {parse_memory(text) for text in ("2GiB", "2 GB", "2g", "2048MiB", "2.0GiB")} == {2 << 30}
    assert parse_memory("auto") is None


def test_a_system_that_does_not_tell_its_memory_has_a_peak_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory() == 0
