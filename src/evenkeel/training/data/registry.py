"""The data sets that a recipe can name, and how one is opened.

To add one: write a module with ``open_records(data, split, **options)`` and give it a line in
``DATASETS``; the keyword arguments are what ``data.options`` may set.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.schema import Data
from evenkeel.training.data.records import Blend, Records, TextStream

DATASETS = {
    "arithmetic": "evenkeel.training.data.arithmetic",
    "arithmetic_pairs": "evenkeel.training.data.arithmetic_pairs",
    "letters": "evenkeel.training.data.letters",
    "letter_pairs": "evenkeel.training.data.letter_pairs",
    "english_text": "evenkeel.training.data.english_text",
    "digits": "evenkeel.training.data.digits",
    "shapes": "evenkeel.training.data.shapes",
    "jsonl": "evenkeel.training.data.jsonl",
    "huggingface": "evenkeel.training.data.huggingface",
    "blend": "evenkeel.training.data.blend",
}
"""Name → module; a module is imported when its set is opened."""

SPLITS = ("train", "val")


def open_records(data: Data, split: str) -> Records | TextStream | Blend:
    """The records of one split of the set that ``data.dataset`` names.

    Raises:
        InputError: unknown set or option; whatever the set's own module finds wrong.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, not one of {SPLITS}")
    for name in ("num_train_samples", "num_val_samples"):
        wanted = getattr(data, name)
        if wanted is not None and wanted < 1:
            raise InputError(f"data.{name} is {wanted}; it must be 1 or more, or absent")
    if data.dataset not in DATASETS:
        raise InputError(
            f"data.dataset is {data.dataset!r}{did_you_mean(data.dataset, DATASETS)}; "
            f"valid: {', '.join(DATASETS)}"
        )
    module = importlib.import_module(DATASETS[data.dataset])
    opener: Callable[..., Records | TextStream | Blend] = module.open_records
    _check_options(data, opener)
    return opener(data, split, **data.options)


def num_samples(data: Data, split: str) -> int | None:
    """How many samples of ``split`` the recipe asks for; None: as many as there are."""
    return data.num_train_samples if split == "train" else data.num_val_samples


def _check_options(data: Data, opener: Callable[..., object]) -> None:
    parameters = inspect.signature(opener).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in data.options:
        if option not in known:
            raise InputError(
                f"data.options.{option}: {data.dataset} has no such option"
                f"{did_you_mean(str(option), known)}; valid: {', '.join(known) or 'none'}"
            )
