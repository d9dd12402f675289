"""ImageFeatures: a backbone as a scikit-learn transformer, from images to the rows of a FewShotClassifier."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image, ImageOps
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor

from onelook.artifacts import AUTO, identify_network, load_network
from onelook.backbones import Backbone
from onelook.backbones.framing import Framing
from onelook.data.colours import find_white
from onelook.data.embed import AVERAGE, EmbedConfig, embed, embed_files, parse_averaging
from onelook.data.images import ImageSet, Rejected, decode, describe_error, image_array
from onelook.data.listing import LARGEST, Listing
from onelook.errors import DataError, SettingsError, quote_name
from onelook.estimators.choosing import SIZE, Choice, choose_by_kind, is_drawing, sample_rows
from onelook.events import finish
from onelook.files import digest, read_regular
from onelook.machine import Place
from onelook.ops import normalise


class ImageFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Unit-length features of images, equal to those that `onelook label` computes for the same files.

    Images are paths, Pillow images, or arrays of uint8: H×W, H×W×1, H×W×3 or H×W×4 each, or all in one array N×H×W×C.
    `fit` chooses the network where it is "auto"; there is nothing else to fit.

    Parameters
    ----------
    network: "auto" (by the images of `fit`: for photographs, or for characters and drawings), a name of
        `onelook networks`, a file of `onelook pretrain`, "hf:NAME", a folder of transformers, or FILE.onnx.
    average: versions of an image whose features are averaged: "mirror", "crops:N", "mirror+crops:N" or "none".
    cache: folder of cached features of paths; None: $ONELOOK_CACHE, or the user's cache folder.
    offline: download nothing.
    precision: "float32", "bfloat16", or "auto": bfloat16 where the device has it.
    device: "cpu", "cuda", "mps", or "auto": cuda where there is one.

    Attributes
    ----------
    choice_: name of the network and why it was chosen.
    network_: identity of the features, for `FewShotClassifier.save`.

    Examples
    --------
    >>> ImageFeatures("small").transform(np.zeros((2, 32, 32, 3), dtype=np.uint8)).shape
    (2, 256)
    """

    def __init__(
        self,
        network: Any = AUTO,
        average: Any = AVERAGE,
        cache: Any = None,
        offline: Any = False,
        precision: Any = "auto",
        device: Any = "auto",
    ) -> None:  # scikit-learn wants any value accepted here and refused in fit
        self.network = network
        self.average = average
        self.cache = cache
        self.offline = offline
        self.precision = precision
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "ImageFeatures":
        """Choose and load the network, by the images of X where it is "auto", and check the settings; y is ignored.

        Raises SettingsError, ArtifactError, and DataError, which names an image that cannot be read.
        """
        del y
        self._read_settings()
        self.choice_ = _choose(X) if self.network == AUTO else Choice(str(self.network), "")
        network = self._load()
        self.network_ = identify_network(network, self.choice_.name, str(self.average))
        self._n_features_out = network.feature_size
        return self

    def transform(self, X: Any) -> Float32[np.ndarray, "N D"]:
        """Compute a row for each image, in order. Raises DataError, which names an image that cannot be read."""
        images = _require_sequence(X)
        network, (config, place) = self._load(), self._read_settings()
        network.to(place.device)
        out = torch.empty(len(images), network.feature_size)
        is_file = np.array([isinstance(one, str | Path) for one in images])
        files, others = np.flatnonzero(is_file).tolist(), np.flatnonzero(~is_file).tolist()
        if files:
            out[files] = _embed_paths([Path(images[i]) for i in files], network, config, place.cache)
        block = config.count_at_once(network)
        for start in range(0, len(others), block):
            part = others[start : start + block]
            out[part] = _embed_pixels({i: images[i] for i in part}, network, config)
        return normalise(out).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = self.network == AUTO
        tags.no_validation = True
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """State without the network: copies in other processes load it when they need it."""
        return {name: value for name, value in super().__getstate__().items() if name != "_loaded"}

    def _load(self) -> Backbone:
        """Network of the settings, loaded once."""
        if self.network == AUTO and not hasattr(self, "choice_"):
            raise NotFittedError("ImageFeatures chooses its network by the images given to fit; call fit first.")
        wanted = (self.choice_.name if self.network == AUTO else str(self.network), bool(self.offline))
        if getattr(self, "_loaded", (None,))[0] != wanted:
            self._loaded = (wanted, finish(load_network(*wanted))[0])
        return self._loaded[1]

    def _read_settings(self) -> tuple[EmbedConfig, Place]:
        folder: dict[str, Any] = {} if self.cache is None else {"cache": Path(self.cache)}
        place = Place(**folder, precision=self.precision, device=self.device)
        return EmbedConfig(precision=place.precision, average=parse_averaging(str(self.average))), place


def _choose(X: Any) -> Choice:
    images = _require_sequence(X)
    kinds = []
    for i in sample_rows(len(images)):
        one, name = images[i], f"Image {i} of X"
        try:
            is_file = isinstance(one, str | Path)
            pixels = decode(read_regular(Path(one), LARGEST), SIZE, 3) if is_file else _frame(one, name, SIZE, 3)
        except Exception as error:  # what Pillow raises on damaged bytes has no common base
            raise _unreadable(quote_name(str(one)) if is_file else name, describe_error(error)) from error
        kinds.append(is_drawing(pixels))
    return choose_by_kind(kinds)


def _require_sequence(X: Any) -> list[Any]:
    is_one = isinstance(X, str | bytes | Path | Image.Image) or (isinstance(X, np.ndarray) and X.ndim == 0)
    if is_one or (isinstance(X, np.ndarray) and X.ndim == 3 and X.shape[-1] in (3, 4)):
        kind = f"array of shape {X.shape}" if isinstance(X, np.ndarray) and X.ndim else type(X).__name__
        raise SettingsError(f"X must be a sequence of images, but got one {kind}; give it in a list.")
    try:
        images = list(X)
    except TypeError as error:
        raise SettingsError(f"X must be a sequence of images, but is of type {type(X).__name__}.") from error
    if not images:
        raise SettingsError("X has no image; give at least one.")
    return images


def _embed_paths(paths: list[Path], network: Backbone, config: EmbedConfig, cache: Path) -> Float32[Tensor, "N D"]:
    # Listed by index and not by name, as the same file may be given twice.
    names = tuple(map(str, range(len(paths))))
    listing = Listing(
        names,
        (-1,) * len(names),
        (),
        "X",
        lambda name: read_regular(paths[int(name)], LARGEST),
        lambda name: paths[int(name)].stat().st_size,
    )

    def refuse(event: Any) -> None:
        if isinstance(event, Rejected):
            raise _unreadable(quote_name(str(paths[int(event.name)])), event.reason)

    return finish(embed_files(listing, network, config, cache), refuse).features


def _embed_pixels(images: dict[int, Any], network: Backbone, config: EmbedConfig) -> Float32[Tensor, "N D"]:
    """Features of images in memory, which are given by their index in X."""
    frame = (network.image_size, network.channels, network.framing)
    pixels = np.stack([_frame(one, f"Image {i} of X", *frame) for i, one in images.items()])
    names, digests = tuple(map(str, images)), tuple(digest(one.tobytes()) for one in pixels)
    labels = torch.full((len(names),), -1)
    found = ImageSet(torch.from_numpy(pixels)[None], labels, (), names, digests, "X", framing=network.framing)
    return finish(embed(found, network, config)).features


def _frame(one: Any, name: str, size: int, channels: int, framing: Framing | None = None) -> np.ndarray:
    if isinstance(one, np.ndarray):
        flat = one[..., 0] if one.ndim == 3 and one.shape[-1] == 1 else one
        is_image = flat.ndim == 2 or (flat.ndim == 3 and flat.shape[-1] in (3, 4))
        if one.dtype != np.uint8 or not one.size or not is_image:
            found = f"{one.dtype} of shape {one.shape}"
            raise SettingsError(f"{name} must be uint8 of H×W, H×W×1, H×W×3 or H×W×4, but is {found}.")
        one = Image.fromarray(flat)
    if not isinstance(one, Image.Image):
        found = type(one).__name__
        raise SettingsError(f"{name} must be a path, a Pillow image or an array, but is of type {found}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image_array(ImageOps.exif_transpose(one), size, channels, framing, find_white(one))
    except Exception as error:  # what Pillow raises on damaged bytes has no common base
        raise _unreadable(name, describe_error(error)) from error


def _unreadable(name: str, reason: str) -> DataError:
    return DataError(f"{name} cannot be read: {reason}; leave it out, or repair it.")
