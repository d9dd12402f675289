"""The examples of docs/vectors.md, from files to labels, as a reader would run them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from helpers.folder import labels
from helpers.terminal import done
from test_docs import ROOT, blocks, command_lines

PAGE = (ROOT / "docs" / "vectors.md").read_text(encoding="utf-8")
WORDS = {
    "bills": "invoice amount due payment tax total account number bank transfer",
    "recipes": "butter flour oven stir sugar eggs minutes bake bowl salt",
}


def write_text(path: Path, kind: str, rng: np.random.Generator) -> None:
    words = [*rng.choice(WORDS[kind].split(), 12), *rng.choice(["the", "and", "of", "to"], 6)]
    path.write_text(" ".join(words))


def write_sound(path: Path, kind: str, rng: np.random.Generator) -> None:
    """Half a second of a low hum or of a high whistle, in stereo, with noise."""
    pitch = rng.uniform(150, 250) if kind == "hum" else rng.uniform(2000, 3000)
    wave = np.sin(2 * np.pi * pitch * np.arange(8000) / 16000) + rng.normal(0, 0.1, 8000)
    wavfile.write(path, 16000, (wave[:, None].repeat(2, 1) * 8000).astype(np.int16))


KINDS: dict[str, Any] = {
    "notes": (write_text, ("bills", "recipes"), "txt", "notes-labels"),
    "sounds": (write_sound, ("hum", "whistle"), "wav", "sound-labels"),
}


@pytest.mark.parametrize("folder", ["notes", pytest.param("sounds", marks=pytest.mark.slow)])
def test_the_example_labels_files_that_are_no_images(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELOOK_CACHE", "cache")
    write, kinds, suffix, out = KINDS[folder]
    for kind in kinds:
        Path(folder, kind).mkdir(parents=True)
        for i in range(8):
            place = Path(folder, kind) if i < 2 else Path(folder)
            write(place / f"{kind}-{i}.{suffix}", kind, np.random.default_rng([i, len(kind)]))
    code = next(text for text in blocks(PAGE, "python") if f'Path("{folder}")' in text)
    exec(compile(code, "vectors.md", "exec"), {})
    label, suggest = (line for line in command_lines(PAGE) if f" {folder} " in line)
    done(*label.split()[1:])
    found = labels(Path(out))
    assert found == {f"{kind}-{i}.{suffix}": kind for kind in kinds for i in range(2, 8)}
    html = Path(out, "report.html").read_text()
    assert "These files have no pictures" in html
    assert '<body class="plain">' in html
    assert "no picture<" not in html
    assert all(name in html for name in found)
    assert sum(name in done(*suggest.split()[1:]) for name in found) == 5
