"""Passes with a core each give what passes one after another give, and leave everything as it was."""

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import random_images, write_image_folder
from onelook import backbones
from onelook.backbones import Backbone
from onelook.data import embed as module
from onelook.data.augment import Augmentation
from onelook.data.embed import Averaging, EmbedConfig, embed, embed_files
from onelook.data.listing import list_images
from onelook.data.passes import Passes
from onelook.events import Progress, finish

VIEWS = EmbedConfig(Augmentation(crop_padding=2), n_views=2, average=Averaging(mirror=True))


def network(in_parallel: bool, images_per_pass: int = 512) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = backbones.create("conv4-64", 3, 16)
    made.in_parallel, made.images_per_pass = in_parallel, images_per_pass
    return made


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_each_row_is_in_one_pass_and_none_is_too_large(n_images: int, largest: int, cores: int, at_once: bool) -> None:
    passes = Passes(network(at_once))
    passes.n_at_once = cores if at_once else 1
    parts = passes.cut(n_images, largest)
    assert [row for part in parts for row in part] == list(range(n_images))
    sizes = [len(part) for part in parts]
    assert max(sizes, default=1) <= largest
    if at_once and sizes:
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) % cores == 0 or len(sizes) == n_images


@pytest.mark.parametrize("config", [EmbedConfig(), VIEWS], ids=["plain", "views"])
@pytest.mark.parametrize("images_per_pass", [2, 512])
def test_passes_at_once_give_the_features_of_passes_in_turn(
    config: EmbedConfig, images_per_pass: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = list_images(write_image_folder(tmp_path / "data", {"train": (3, 7)}), "train")
    expected = finish(embed_files(folder, network(False), config))
    for block in (3, 1000):
        monkeypatch.setattr(module, "BLOCK_BYTES", block * 3 * 16 * 16)
        found = finish(embed_files(folder, network(True, images_per_pass), config))
        assert found.items == expected.items
        torch.testing.assert_close(found.views, expected.views, rtol=1e-5, atol=1e-5)
    images = random_images()
    torch.testing.assert_close(
        finish(embed(images, network(True, images_per_pass), config)).views,
        finish(embed(images, network(False), config)).views,
        rtol=1e-5,
        atol=1e-5,
    )


@dataclass
class _Watch:
    """A forward pass that notes the threads that torch has."""

    network: Backbone
    seen: set[tuple[bool, int]]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return pixels.float().flatten(1)[:, : self.network.feature_size]


def test_a_pass_at_once_has_one_core_and_the_others_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for in_parallel, expected in ((True, {(False, 1)}), (False, {(True, 3)})):
            one, seen = network(in_parallel, 2), set[tuple[bool, int]]()
            monkeypatch.setattr(one, "features", _Watch(one, seen))
            finish(embed(random_images(), one))
            assert seen == expected
            assert torch.get_num_threads() == 3
            found: list[int] = []
            thread = threading.Thread(target=lambda found=found: found.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert found == [3]
    finally:
        torch.set_num_threads(before)


def test_work_that_is_stopped_goes_on_from_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 3 * 16 * 16)
    folder = list_images(write_image_folder(tmp_path / "data", {"train": (3, 7)}), "train")
    one = network(True, 2).train()
    work, done = embed_files(folder, one, cache=tmp_path / "cache"), 0
    while done < 9:
        event = next(work)
        done = event.done if isinstance(event, Progress) and event.stage == "computing features" else 0
    work.close()
    assert one.training
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
    events: list[Progress] = []
    again = finish(embed_files(folder, one, cache=tmp_path / "cache"), events.append)
    assert max(event.done for event in events if event.stage == "computing features") == 21 - 8
    expected = finish(embed_files(folder, network(False)))
    torch.testing.assert_close(again.views, expected.views, rtol=1e-5, atol=1e-5)


def test_what_fails_in_a_pass_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    one = network(True, 2)

    def fail(pixels: torch.Tensor) -> torch.Tensor:
        raise ValueError(f"no pass of {len(pixels)}")

    monkeypatch.setattr(one, "features", fail)
    with pytest.raises(ValueError, match="no pass of"):
        finish(embed(replace(random_images()), one))
