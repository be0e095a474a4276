"""The user's own samples, one JSON object a line.

Every line is read and judged when the file is opened, so that a wrong one is reported before the
first step and not at step 900; only the place of each line is kept in memory.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data
from evenkeel.training.data.image_fields import with_images
from evenkeel.training.data.records import Columns, Record, Records, record_from
from evenkeel.training.data.subset import held_out, limited


def open_records(
    data: Data,
    split: str,
    *,
    messages: str = "messages",
    prompt: str = "prompt",
    response: str = "response",
    text: str = "text",
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Records:
    """The lines of ``data.train_path`` or ``data.val_path``.

    Images stand in the fields ``images`` or ``image``, or in parts of a message's content; their
    paths are relative to the file.

    Args:
        data: without ``val_path``, a tenth of the training file is held out for validation.
        split: ``train`` or ``val``.
        messages: name of the field that holds a chat.
        prompt: name of the field that holds the user's turn of an exchange.
        response: name of the field that holds the assistant's.
        text: name of the field that holds running text.
        chosen: name of the field that holds a pair's better answer, or the chat that ends in it.
        rejected: name of the field that holds the worse one.

    Raises:
        InputError: no path given, no such file, or a line that is none of these.
    """
    columns = Columns(messages, prompt, response, text, chosen, rejected)
    if data.train_path is None:
        raise InputError("data.train_path is not set", fix="give the path of a .jsonl file")
    if split == "val" and data.val_path is not None:
        return limited(JsonLines(Path(data.val_path), columns), data, split)
    records = JsonLines(Path(data.train_path), columns)
    if data.val_path is not None:
        return limited(records, data, split)
    return held_out(records, data, split, data.train_path)


class JsonLines(Sequence[Record]):
    """The records of one file, by line; blank lines are skipped."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns
        self._starts, self._lines = array("q"), array("q")
        try:
            with path.open("rb") as file:
                position = 0
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._parse(line, number)
                        self._starts.append(position)
                        self._lines.append(number)
                    position += len(line)
        except OSError as error:
            raise InputError(
                f"cannot read the samples: {error.strerror}",
                path=path,
                fix="check data.train_path and data.val_path; they are relative to the working "
                "directory",
            ) from error
        if not self._starts:
            raise InputError("the file has no samples", path=path)
        self._ends = array("q", [*self._starts[1:], position])
        self._handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]
        start, end = self._starts[index], self._ends[index]
        # pread has no position of its own, so readers in other threads do not disturb it
        return self._parse(os.pread(self._handle, end - start, start), self._lines[index])

    def _parse(self, line: bytes, number: int) -> Record:
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"not JSON: {error.msg}",
                path=self._path,
                line=number,
                column=error.colno,
                fix="write one JSON object per line; line breaks inside texts are \\n",
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"not UTF-8: byte {error.start + 1} of the line is 0x{line[error.start]:02x}",
                path=self._path,
                line=number,
            ) from error
        place = f"{self._path}:{number}"
        record = record_from(fields, self._columns, place)
        return with_images(record, fields, self._path.parent, place)
