"""Requests with content: rows of features as JSON or .npz, and images as files of a form. All of it is bounded."""

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from onelook.errors import Checked, DataError, PositiveInt, quote_name
from onelook.server.networks import Picture

JSON, NPZ, FORM = "application/json", "application/x-npz", "multipart/form-data"
MEMBERS = {"features", "labels", "unlabelled"}
ENTRY, MOST_ENTRIES = b"PK\x01\x02", 16
"""How an entry of the table of a zip file begins, and how many are read."""


@dataclass(frozen=True)
class Sizes(Checked):
    """Bounds on what one request may hold."""

    json_bytes: PositiveInt = 16 * 2**20
    """Bytes of JSON; rows beyond it fit into an .npz file."""
    array_bytes: PositiveInt = 256 * 2**20
    """Bytes of the arrays of an .npz file, unpacked."""
    rows: PositiveInt = 50_000
    feature_size: PositiveInt = 16_384
    images: PositiveInt = 500
    classes: PositiveInt = 1_000
    label_length: PositiveInt = 200
    """Characters of the name of a class."""


Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RowsBody(_Strict):
    """Rows of features."""

    features: list[list[Finite]]


class ExamplesBody(RowsBody):
    """Labelled rows, and rows without a label."""

    labels: list[str | int]
    unlabelled: list[list[Finite]] = []


Items = np.ndarray | tuple[Picture, ...]
"""Rows of features (N, D), or images."""


@dataclass(frozen=True)
class Upload:
    """Content of a request."""

    items: Items
    labels: tuple[Any, ...] = ()
    unlabelled: Items = ()


async def read_upload(request: Request, sizes: Sizes, labelled: bool) -> "Upload | bytes":
    """Read a request as far as the event loop should; `parse` does the rest in a thread.

    labelled: whether each row or image of the request has a label. Raises HTTPException: 400, 413 and 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        return await _read_form(request, sizes, labelled)
    if kind not in (JSON, NPZ):
        raise HTTPException(415, f"Send features as {JSON} or {NPZ}, or images as {FORM}.")
    content = await request.body()
    if kind == JSON and len(content) > sizes.json_bytes:
        raise HTTPException(413, f"JSON may have {sizes.json_bytes:,} bytes; send an .npz file as {NPZ}.")
    return content


def parse(content: "Upload | bytes", sizes: Sizes, labelled: bool) -> Upload:
    """Everything that a request holds, checked. Raises DataError, and HTTPException: 413 and 422."""
    if isinstance(content, bytes):
        form = ExamplesBody if labelled else RowsBody
        arrays = _read_npz(content, sizes, labelled) if content[:2] == b"PK" else dict(read_json(form, content))
        rows = _rows(arrays["features"], "features", sizes)
        pool = _rows(arrays["unlabelled"], "unlabelled", sizes) if len(arrays.get("unlabelled", ())) else rows[:0]
        labels = [one.item() if isinstance(one, np.generic) else one for one in arrays.get("labels", ())]
        content = Upload(rows, tuple(labels), pool)
        if pool.shape[1] != rows.shape[1]:
            raise DataError(f"Rows have {rows.shape[1]} features, but those without a label have {pool.shape[1]}.")
    if not len(content.items):
        raise DataError("The request holds no image; send some as parts of the name image.")
    n = len(content.items) + len(content.unlabelled)
    if n > (sizes.rows if isinstance(content.items, np.ndarray) else sizes.images):
        raise HTTPException(413, f"The request holds {n:,} rows or images; send fewer at once.")
    if labelled:
        _check_labels(content, sizes)
    return content


async def _read_form(request: Request, sizes: Sizes, labelled: bool) -> Upload:
    limits: dict[str, Any] = {"max_files": sizes.images, "max_fields": sizes.images, "max_part_size": 4096}
    try:
        form = await request.form(**limits)
    except (MultiPartException, HTTPException) as error:
        if isinstance(error, HTTPException) and error.status_code != 400:
            raise
        reason = getattr(error, "message", None) or getattr(error, "detail", "")
        raise HTTPException(400, f"The form cannot be read ({str(reason).rstrip('.')}).") from error
    try:
        allowed = {"image", "label", "unlabelled"} if labelled else {"image"}
        if strange := sorted(set(form) - allowed):
            raise HTTPException(
                400, f"A form has the parts {', '.join(sorted(allowed))}, but got {quote_name(strange[0])!r}."
            )
        images = [await _picture(one) for one in form.getlist("image")]
        others = [await _picture(one) for one in form.getlist("unlabelled")]
        labels = form.getlist("label")
    finally:
        await form.close()
    if not all(isinstance(one, str) for one in labels):
        raise HTTPException(400, "A label is text, but a file came.")
    return Upload(tuple(images), tuple(map(str, labels)), tuple(others))


async def _picture(part: "UploadFile | str") -> Picture:
    if not isinstance(part, UploadFile):
        raise HTTPException(400, "An image is a file with a name, but text came.")
    return Picture(quote_name((part.filename or "an image")[:200]), await part.read())


def read_json(kind: type[BaseModel], content: bytes) -> Any:
    """Read a body of JSON. Raises HTTPException: 400 for what is no JSON, 422 for what is of another form."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise HTTPException(400, f"The request is no JSON ({first['msg']}).") from error
        place = ".".join(map(str, first["loc"][:4]))
        raise HTTPException(422, f"{quote_name(place) or 'The request'}: {first['msg']}.") from error


def _read_npz(content: bytes, sizes: Sizes, labelled: bool) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, whose unpacked size is known before it is unpacked. Raises DataError, HTTPException."""
    if content.count(ENTRY) > MOST_ENTRIES:
        raise DataError("The .npz file holds more than the arrays that are asked for.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            wanted = MEMBERS if labelled else {"features"}
            if len(members) != len(archive.infolist()) or not {"features"} <= set(members) <= wanted:
                raise DataError(f"The .npz file must hold {', '.join(sorted(wanted))}, and features at least.")
            if sum(one.file_size for one in members.values()) > sizes.array_bytes:
                raise HTTPException(413, f"The arrays have more than {sizes.array_bytes:,} bytes; send fewer rows.")
            return {name: _read_array(archive.read(one)) for name, one in members.items()}
    except (ValueError, EOFError, OSError, SyntaxError, RuntimeError, NotImplementedError) as error:
        raise DataError("The .npz file is damaged, or holds something else than plain arrays.") from error
    except (zipfile.BadZipFile, zlib.error, MemoryError, OverflowError) as error:
        raise DataError("The .npz file is damaged.") from error


def _read_array(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError("an unknown version")
    shape, _, kind = read(stream)
    size = kind.itemsize
    for one in shape:
        size *= one
    if kind.hasobject or kind.kind not in "fiuU" or len(shape) > 2 or size != len(content) - stream.tell():
        raise ValueError("not plain numbers or words")
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def _rows(found: Any, name: str, sizes: Sizes) -> np.ndarray:
    try:
        rows = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        rows = np.empty(0)
    if rows.ndim != 2 or not rows.size:
        raise DataError(f"{name} must be rows of numbers, all of one length.")
    if rows.shape[1] > sizes.feature_size:
        raise HTTPException(413, f"{name} have {rows.shape[1]:,} columns; {sizes.feature_size:,} are the most.")
    if not np.isfinite(rows).all():
        raise DataError(f"{name} must be finite numbers.")
    return rows


def _check_labels(upload: Upload, sizes: Sizes) -> None:
    labels: Sequence[Any] = upload.labels
    if len(labels) != len(upload.items):
        raise DataError(f"There are {len(upload.items):,} rows or images, but {len(labels):,} labels; give each one.")
    if len({type(one) for one in labels}) > 1 or not all(isinstance(one, str | int) for one in labels):
        raise DataError("Labels must be words, or whole numbers, but not both.")
    for one in labels:
        if isinstance(one, str) and not (one.isprintable() and one.strip() and len(one) <= sizes.label_length):
            raise DataError(
                f"A label must have 1 to {sizes.label_length} characters that can be printed, but is {one[:50]!r}."
            )
    if len(set(labels)) > sizes.classes:
        raise HTTPException(413, f"There are {len(set(labels)):,} classes; {sizes.classes:,} are the most.")
