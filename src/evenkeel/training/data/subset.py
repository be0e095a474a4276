"""Parts of a set of records: the first so many, and a validation part held out of one set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data
from evenkeel.training.data.hash_order import permutation
from evenkeel.training.data.records import Record, Records
from evenkeel.training.data.registry import num_samples

HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 1000
_SPLIT_KEY = 0x5917


class Subset:
    """The records at ``indices`` of another set, in that order."""

    def __init__(self, records: Records, indices: npt.NDArray[np.int64]) -> None:
        self._records, self._indices = records, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._records[int(self._indices[index])]


def limited(records: Records, data: Data, split: str) -> Records:
    """At most as many records as the recipe asks for, from the front."""
    wanted = num_samples(data, split)
    if wanted is None or wanted >= len(records):
        return records
    return Subset(records, np.arange(wanted))


def held_out(records: Records, data: Data, split: str, place: str) -> Records:
    """One part of a set that has to serve for training and validation.

    Which records are held out depends on how many there are and how many are asked for, not on
    the recipe's seed: runs that differ in it are validated on the same records.

    Raises:
        InputError: nothing would remain to train on.
    """
    default = max(1, min(MAX_HELD_OUT, round(len(records) * HELD_OUT_SHARE)))
    num_validation = default if data.num_val_samples is None else data.num_val_samples
    if num_validation >= len(records):
        raise InputError(
            f"{num_validation} of {len(records)} samples would be held out for validation, "
            "leaving none to train on",
            path=place,
            fix="set data.val_path, or lower data.num_val_samples",
        )
    order = permutation(len(records), _SPLIT_KEY)
    if split == "val":
        return Subset(records, np.sort(order[:num_validation]))
    return limited(Subset(records, np.sort(order[num_validation:])), data, split)
