"""Scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, each with the question
which digit it shows.

Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository. They come with the library, so that nothing is downloaded.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data
from evenkeel.training.data.hash_order import permutation
from evenkeel.training.data.images import Pixels
from evenkeel.training.data.records import Chat
from evenkeel.training.data.registry import num_samples

QUESTION = "Which digit?"
NUM_VALIDATION = 297
"""Held out, whatever the recipe asks for; 1,500 remain to train on."""
BRIGHTEST = 16
_SPLIT_KEY = 0xD161
_ANSWER = re.compile(r"\s*(\d)\s*")


class Digits:
    """The digits of one split."""

    def __init__(
        self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], enlarge: int
    ) -> None:
        self._images, self._labels, self._enlarge = images, labels, enlarge

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Chat:
        answer = str(self._labels[index])
        grey = self._images[index].repeat(self._enlarge, axis=0).repeat(self._enlarge, axis=1)
        question = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        return Chat(turns, answer, images=(Pixels(np.stack([grey] * 3, axis=-1)),))

    def verify(self, answer_text: str, record: Chat) -> bool:
        """Whether the text is the right digit and nothing else."""
        found = _ANSWER.fullmatch(answer_text)
        return found is not None and found[1] == record.answer


def open_records(data: Data, split: str, *, enlarge: int = 1) -> Digits:
    """The digits of a split.

    Args:
        data: without a number of samples, all 1,500 or 297 of the split.
        split: ``train`` or ``val``.
        enlarge: pixels of each side of an original pixel: 2 makes images of 16 x 16.

    Raises:
        InputError: an option is out of range, or there are fewer images than asked for.
    """
    if not isinstance(enlarge, int) or enlarge is True or not 1 <= enlarge <= 64:
        raise InputError(f"data.options.enlarge is {enlarge!r}; it must be 1 to 64")
    images, labels = _all_digits()
    order = permutation(len(labels), _SPLIT_KEY)
    chosen = order[:NUM_VALIDATION] if split == "val" else order[NUM_VALIDATION:]
    wanted = num_samples(data, split)
    count = len(chosen) if wanted is None else wanted
    if count > len(chosen):
        raise InputError(
            f"data.num_{split}_samples is {count}, but the {split} split has {len(chosen)} images",
            fix=f"ask for 1 to {len(chosen)}",
        )
    return Digits(images[chosen[:count]], labels[chosen[:count]], enlarge)


@cache
def _all_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """uint8 of (1797, 8, 8), and which digits they show."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "data.dataset 'digits' needs scikit-learn, which is not installed",
            fix="uv pip install 'evenkeel[train]'",
        ) from error
    found = load_digits()
    images = np.round(found.images * (255 / BRIGHTEST)).astype(np.uint8)
    return images, found.target.astype(np.int64)
