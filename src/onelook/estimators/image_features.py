"""ImageFeatures: a feature network with the face of scikit-learn, from images to rows for a FewShotClassifier."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch import Tensor

from onelook.artifacts import load_network
from onelook.backbones import Backbone
from onelook.data.embed import BLOCK_BYTES, EmbedConfig, embed, embed_files, parse_averaging
from onelook.data.images import ImageSet, Rejected, reason_of, squared
from onelook.data.listing import Listing
from onelook.errors import DataError, SettingsError, quote_name
from onelook.events import finish
from onelook.files import digest
from onelook.machine import Place
from onelook.ops import normalise

PRECISIONS = ("auto", "float32", "bfloat16")


class ImageFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Features of length 1 of images, those that `onelook label` computes of the same files.

    Images are paths, images of Pillow, or arrays of uint8: H×W, H×W×1, H×W×3 or H×W×4 each, or all in one array
    N×H×W×C. There is nothing to fit.

    Parameters
    ----------
    network: "onelook" (comes along), a file of `onelook pretrain`, "hf:NAME", a folder of transformers, or FILE.onnx.
    average: what else of an image goes into its feature: "mirror", "crops:N", "mirror+crops:N" or "none".
    cache: the folder where features of paths are kept; None: $ONELOOK_CACHE, or the user's cache folder.
    offline: download nothing.
    precision: "float32", "bfloat16", or "auto": bfloat16 where the processor has it.

    Attributes
    ----------
    network_: the identity of the features, for `FewShotClassifier.save`.
    """

    def __init__(
        self,
        network: Any = "onelook",
        average: Any = "mirror",
        cache: Any = None,
        offline: Any = False,
        precision: Any = "auto",
    ) -> None:  # scikit-learn wants anything to be taken here, and refused in fit
        self.network = network
        self.average = average
        self.cache = cache
        self.offline = offline
        self.precision = precision

    def fit(self, X: Any, y: Any = None) -> "ImageFeatures":
        """Loads the network; X and y are not looked at. Raises what is wrong with the settings."""
        del X, y
        network = self._loaded()
        self._settings()
        self.network_ = {"name": str(self.network), "digest": network.digest().hex(), "average": str(self.average)}
        self._n_features_out = network.feature_size
        return self

    def transform(self, X: Any) -> Float32[np.ndarray, "N D"]:
        """A row for each image, in their order. Raises DataError, with the name of an image that cannot be read."""
        images = _images(X)
        network, (config, place) = self._loaded(), self._settings()
        out = torch.empty(len(images), network.feature_size)
        is_file = np.array([isinstance(one, str | Path) for one in images])
        files, others = np.flatnonzero(is_file).tolist(), np.flatnonzero(~is_file).tolist()
        if files:
            out[files] = _of_files([Path(images[i]) for i in files], network, config, place.cache)
        block = max(1, BLOCK_BYTES // (network.channels * network.image_size**2))
        for start in range(0, len(others), block):
            part = others[start : start + block]
            out[part] = _of_pixels({i: images[i] for i in part}, network, config)
        return normalise(out).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = False, True, True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Without the network, which is loaded where it is needed: copies go to other processes."""
        return {name: value for name, value in super().__getstate__().items() if name != "_kept"}

    def _loaded(self) -> Backbone:
        """The network of the settings, loaded once."""
        wanted = (str(self.network), bool(self.offline))
        if getattr(self, "_kept", (None,))[0] != wanted:
            network, _ = finish(load_network(*wanted))
            self._kept = (wanted, network)
        return self._kept[1]

    def _settings(self) -> tuple[EmbedConfig, Place]:
        if self.precision not in PRECISIONS:
            raise SettingsError(f"precision is one of {', '.join(PRECISIONS)}, but got {self.precision!r}.")
        place = Place() if self.cache is None else Place(Path(self.cache))
        place = place if self.precision == "auto" else replace(place, precision=self.precision)
        return EmbedConfig(precision=place.precision, average=parse_averaging(str(self.average))), place


def _images(X: Any) -> list[Any]:
    if isinstance(X, str | bytes | Path | Image.Image) or (isinstance(X, np.ndarray) and X.ndim == 0):
        raise SettingsError(f"X is a sequence of images, but got one {type(X).__name__}; give it in a list.")
    if isinstance(X, np.ndarray) and X.ndim == 3 and X.shape[-1] in (3, 4):
        raise SettingsError(f"X is a sequence of images, but got one array of shape {X.shape}; give it in a list.")
    images = list(X)
    if not images:
        raise SettingsError("X has no image; give one at least.")
    return images


def _of_files(paths: list[Path], network: Backbone, config: EmbedConfig, cache: Path) -> Float32[Tensor, "N D"]:
    # By number and not by name, as the same file may be given twice.
    names = tuple(map(str, range(len(paths))))
    listing = Listing(names, (-1,) * len(names), (), "X", lambda name: paths[int(name)].read_bytes())
    work = embed_files(listing, network, config, cache)
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value.features  # type: ignore[no-any-return]
        if isinstance(event, Rejected):
            raise _unreadable(quote_name(str(paths[int(event.name)])), event.reason)


def _of_pixels(images: dict[int, Any], network: Backbone, config: EmbedConfig) -> Float32[Tensor, "N D"]:
    """Images by their place in X."""
    frame = (network.image_size, network.channels, network.framing)
    pixels = np.stack([_squared(one, f"Image {i} of X", *frame) for i, one in images.items()])
    names, digests = tuple(map(str, images)), tuple(digest(one.tobytes()) for one in pixels)
    labels = torch.full((len(names),), -1)
    found = ImageSet(torch.from_numpy(pixels)[None], labels, (), names, digests, "X", framing=network.framing)
    return finish(embed(found, network, config)).features


def _squared(one: Any, name: str, *frame: Any) -> np.ndarray:
    if isinstance(one, np.ndarray):
        flat = one[..., 0] if one.ndim == 3 and one.shape[-1] == 1 else one
        is_image = flat.ndim == 2 or (flat.ndim == 3 and flat.shape[-1] in (3, 4))
        if one.dtype != np.uint8 or not one.size or not is_image:
            raise SettingsError(
                f"{name} must be uint8 of H×W, H×W×1, H×W×3 or H×W×4, but is {one.dtype} of shape {one.shape}."
            )
        one = Image.fromarray(flat)
    if not isinstance(one, Image.Image):
        raise SettingsError(
            f"{name} must be a path, an image of Pillow or an array, but is of type {type(one).__name__}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return squared(one, *frame)
    except Exception as error:  # what Pillow raises on damaged bytes has no common base
        raise _unreadable(name, reason_of(error)) from error


def _unreadable(name: str, reason: str) -> DataError:
    return DataError(f"{name} cannot be read: {reason}; leave it out, or repair it.")
