"""Sets in the format of the ``datasets`` library: a hub name, or a folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data
from evenkeel.training.data.image_fields import with_images
from evenkeel.training.data.records import Columns, Record, Records, record_from
from evenkeel.training.data.subset import held_out, limited


def open_records(
    data: Data,
    split: str,
    *,
    config: str | None = None,
    messages: str = "messages",
    prompt: str = "prompt",
    response: str = "response",
    text: str = "text",
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Records:
    """The rows of one split.

    Args:
        data: ``train_path`` names the set, ``train_split`` and ``val_split`` its splits;
            ``val_path`` another set for validation. With neither ``val_path`` nor ``val_split``
            a tenth of the training split is held out.
        split: ``train`` or ``val``.
        config: the set's configuration, where it has several.
        messages: name of the column that holds a chat.
        prompt: name of the column that holds the user's turn of an exchange.
        response: name of the column that holds the assistant's.
        text: name of the column that holds running text.
        chosen: name of the column that holds a pair's better answer, or the chat that ends in it.
        rejected: name of the column that holds the worse one.

    Raises:
        InputError: the library is missing, or there is no such set, split or column.
    """
    if data.train_path is None:
        raise InputError(
            "data.train_path is not set", fix="give the name of a set on the hub, or a folder"
        )
    columns = Columns(messages, prompt, response, text, chosen, rejected)
    separate = data.val_path is not None or data.val_split is not None
    if split == "val" and separate:
        path, part = data.val_path or data.train_path, data.val_split or data.train_split
    else:
        path, part = data.train_path, data.train_split
    rows = Rows(_load(path, part, config), columns, f"{path}[{part}]")
    if separate:
        return limited(rows, data, split)
    return held_out(rows, data, split, rows.place)


class Rows:
    """The rows of a ``datasets.Dataset``; the first is judged at once, each when it is read."""

    def __init__(self, dataset: Any, columns: Columns, place: str) -> None:
        self._dataset, self._columns, self.place = dataset, columns, place
        if len(dataset) == 0:
            raise InputError("the split has no rows", path=place)
        self[0]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Record:
        fields, place = self._dataset[index], f"{self.place} row {index + 1}"
        return with_images(record_from(fields, self._columns, place), fields, None, place)


def _load(path: str, split: str, config: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "data.dataset 'huggingface' needs the datasets library, which is not installed",
            fix="uv pip install 'evenkeel[datasets]'",
        ) from error
    saved = Path(path) / "dataset_info.json"
    saved_splits = Path(path) / "dataset_dict.json"
    try:
        if saved.exists():
            return datasets.load_from_disk(path)
        if saved_splits.exists():
            return datasets.load_from_disk(str(Path(path) / split))
        return datasets.load_dataset(path, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"cannot open the split {split!r} of {path!r}: {reason}",
            fix="check data.train_path, data.train_split and data.val_split; without a network, "
            "give a folder",
        ) from error
