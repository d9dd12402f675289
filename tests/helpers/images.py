"""Small generated image folders: what people bring, in all the shapes they bring it."""

import csv
import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int = 0, width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    """A smooth random picture, so that compression and scaling keep it recognisable."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def class_image(label: int, number: int, side: int = 16) -> bytes:
    """A PNG whose class can be told from its colour and its stripes."""
    draw = np.random.default_rng([label, number])
    look = np.random.default_rng(label)
    stripes = np.sin(np.arange(side) * look.uniform(0.3, 2.0))[None, :, None]
    pixels = look.uniform(40, 215, 3) + 35 * stripes + draw.normal(0, 12, (side, side, 3))
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_table(folder: Path, files: dict[str, bytes], rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> Path:
    """table.csv in `folder`, beside the files."""
    write_files(folder, files)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / "table.csv"


def classes(n_classes: int, n_images: int, prefix: str = "", first: int = 0, side: int = 16) -> dict[str, bytes]:
    """Files of `n_classes` class folders below `prefix`."""
    return {
        f"{prefix}class {k:02d}/{i:02d}.png": class_image(k, i, side)
        for k in range(first, first + n_classes)
        for i in range(n_images)
    }


def divided(n_classes: int = 6, n_images: int = 20) -> dict[str, bytes]:
    """Three splits of other classes each."""
    parts = [classes(n_classes, n_images, f"{s}/", k * n_classes) for k, s in enumerate(("train", "val", "test"))]
    return parts[0] | parts[1] | parts[2]


def png_file(header: bytes, pixels: bytes) -> bytes:
    """A PNG of a header and of pixels that are compressed already."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def blank_png(width: int, height: int) -> bytes:
    """A black grey-scale PNG of any size, which costs hardly more than its header to write."""
    packer = zlib.compressobj(9, wbits=-15)
    row = packer.compress(bytes(width + 1)) + packer.flush(zlib.Z_FULL_FLUSH)  # after it a row may be said again
    checksum_of_zeros = ((width + 1) * height % 65521 << 16) | 1
    packed = b"\x78\x01" + row * height + packer.flush() + checksum_of_zeros.to_bytes(4, "big")
    return png_file(struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), packed)
