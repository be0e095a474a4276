"""Images of a record: where they come from, and how they are read as RGB."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from evenkeel.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage


class ImageSource(Protocol):
    """An image that is read when it is needed."""

    def load(self) -> PilImage:
        """The image in RGB.

        Raises:
            InputError: it cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image that is at hand: uint8 of shape (height, width, 3)."""

    array: npt.NDArray[np.uint8]

    def load(self) -> PilImage:
        """See ``ImageSource``."""
        from PIL import Image

        return Image.fromarray(self.array)


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own."""

    path: Path
    place: str
    """Of the record, for messages."""

    def load(self) -> PilImage:
        """See ``ImageSource``."""
        return _opened(self.path, f"the image {self.path}", self.place)


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A file's content, as a set of the ``datasets`` library may hold it."""

    content: bytes
    place: str

    def load(self) -> PilImage:
        """See ``ImageSource``."""
        return _opened(io.BytesIO(self.content), "the image", self.place)


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image that a library has opened already."""

    image: Any

    def load(self) -> PilImage:
        """See ``ImageSource``."""
        rgb: PilImage = self.image.convert("RGB")
        return rgb


def image_source(value: Any, folder: Path | None, place: str) -> ImageSource:
    """What a record's field says an image is.

    Args:
        value: a path, an image of PIL, or the ``{"bytes": …, "path": …}`` of ``datasets``.
        folder: what a relative path is relative to; None: files are not to be had here.
        place: of the record.

    Raises:
        InputError: none of these, or no such file.
    """
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return EncodedImage(value["bytes"], place)
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = value["path"]
    if hasattr(value, "convert") and hasattr(value, "size"):
        return DecodedImage(value)
    if not isinstance(value, str) or not value:
        raise InputError(
            f"an image is {type(value).__name__} {value!r}, not the path of a file", path=place
        )
    if value.startswith(("http://", "https://", "data:")):
        raise InputError(
            f"the image {value[:60]!r} is not a file; images are not downloaded while training",
            path=place,
            fix="download it, and give its path relative to the file of samples",
        )
    path = Path(value) if folder is None else folder / value
    if not path.is_file():
        raise InputError(
            f"there is no image {path}",
            path=place,
            fix="give the path relative to the file of samples, or an absolute one",
        )
    return ImageFile(path, place)


def _opened(source: Path | io.BytesIO, what: str, place: str) -> PilImage:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise InputError(f"{what} is of no format that pillow knows", path=place) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{what} cannot be read: {error}", path=place) from error
