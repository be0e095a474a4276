"""Generated scenes of coloured shapes, and a question about each that a program can judge.

A scene is a square grid of cells; each is empty or holds one shape in one colour. Scenes are
numbered by what their cells hold, and a seeded permutation of the numbers deals them to the splits:
no scene is in both. What is asked of a scene depends on its number alone. Shapes are drawn pixel by
pixel, so the images are the same on every machine.

    How many circles?             2
    What colour is the square?    red           (asked where one shape is of that kind)
    Where is the red circle?      top left      (asked where one shape is of that kind and colour)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isqrt

import numpy as np
import numpy.typing as npt

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.schema import Data
from evenkeel.training.data.hash_order import key, shuffled_index
from evenkeel.training.data.images import Pixels
from evenkeel.training.data.records import Chat
from evenkeel.training.data.registry import num_samples

VALIDATION_SHARE = 0.1
DEFAULT_VAL_SAMPLES = 256
DEFAULT_TRAIN_SAMPLES = 20_000
BACKGROUND = (255, 255, 255)


class Shape(StrEnum):
    """What is drawn."""

    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"


class Question(StrEnum):
    """What is asked."""

    COUNT = "count"
    COLOUR = "colour"
    POSITION = "position"


COLOURS = {"red": (220, 40, 40), "green": (30, 160, 60), "blue": (40, 70, 220)}
KINDS = [(colour, shape) for colour in COLOURS for shape in Shape]
"""What a cell may hold, beside nothing."""

ROWS = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
COLUMNS = {2: ("left", "right"), 3: ("left", "middle", "right")}


@dataclass(frozen=True)
class Scene:
    """A grid of cells, row by row; None is an empty one."""

    cells: tuple[tuple[str, Shape] | None, ...]

    @property
    def side(self) -> int:
        """Cells of a row."""
        return isqrt(len(self.cells))

    def exchanges(self, asked: Sequence[Question]) -> list[tuple[str, str]]:
        """(question, answer) of everything that can be asked of the scene without ambiguity."""
        held = [cell for cell in self.cells if cell is not None]
        shapes, kinds = Counter(shape for _, shape in held), Counter(held)
        found = []
        if Question.COUNT in asked:
            found += [(f"How many {shape}s?", str(shapes[shape])) for shape in Shape]
        if Question.COLOUR in asked:
            found += [
                (f"What colour is the {shape}?", colour)
                for colour, shape in held
                if shapes[shape] == 1
            ]
        if Question.POSITION in asked:
            found += [
                (f"Where is the {cell[0]} {cell[1]}?", self._position(place))
                for place, cell in enumerate(self.cells)
                if cell is not None and kinds[cell] == 1
            ]
        return found

    def _position(self, place: int) -> str:
        row, column = divmod(place, self.side)
        return f"{ROWS[self.side][row]} {COLUMNS[self.side][column]}"

    def draw(self, cell_size: int) -> npt.NDArray[np.uint8]:
        """Pixels of (side * cell_size, side * cell_size, 3)."""
        size = self.side * cell_size
        image = np.full((size, size, 3), BACKGROUND, dtype=np.uint8)
        for place, cell in enumerate(self.cells):
            if cell is not None:
                row, column = divmod(place, self.side)
                rows = slice(row * cell_size, (row + 1) * cell_size)
                columns = slice(column * cell_size, (column + 1) * cell_size)
                image[rows, columns][outline(cell[1], cell_size)] = COLOURS[cell[0]]
        return image


def outline(shape: Shape, cell_size: int) -> npt.NDArray[np.bool_]:
    """(cell_size, cell_size): which pixels of a cell a shape covers; a margin stays free."""
    centres = (np.arange(cell_size) + 0.5) / cell_size * 2 - 1  # -1 … 1 from edge to edge
    down, right = np.meshgrid(centres, centres, indexing="ij")
    covered: npt.NDArray[np.bool_]
    if shape is Shape.CIRCLE:
        covered = down**2 + right**2 <= 0.8**2
    elif shape is Shape.SQUARE:
        covered = np.maximum(abs(down), abs(right)) <= 0.75
    else:
        covered = (abs(down) <= 0.8) & (2 * abs(right) <= down + 0.8)
    return covered


class Scenes:
    """Scenes ``0 … len-1`` of one split."""

    def __init__(
        self,
        side: int,
        cell_size: int,
        asked: Sequence[Question],
        first: int,
        count: int,
        seed: int,
    ) -> None:
        self._side, self._cell_size, self._asked = side, cell_size, tuple(asked)
        self._first, self._count, self._seed = first, count, seed

    def __len__(self) -> int:
        return self._count

    def number(self, index: int) -> int:
        """Of scene ``index`` of this split, among all scenes that have something to ask of."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        return 1 + shuffled_index(self._first + index, num_scenes(self._side), self._seed)

    def scene(self, index: int) -> Scene:
        """Scene ``index`` of this split."""
        number, cells = self.number(index), []
        for _ in range(self._side**2):
            number, kind = divmod(number, len(KINDS) + 1)
            cells.append(KINDS[kind - 1] if kind else None)
        return Scene(tuple(cells))

    def __getitem__(self, index: int) -> Chat:
        scene = self.scene(index)
        exchanges = scene.exchanges(self._asked) or scene.exchanges([Question.COUNT])
        drawn = key(self.number(index), self._seed)
        question, answer = exchanges[drawn % len(exchanges)]
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turns = ({"role": "user", "content": content}, {"role": "assistant", "content": answer})
        return Chat(turns, answer, images=(Pixels(scene.draw(self._cell_size)),))

    def verify(self, answer_text: str, record: Chat) -> bool:
        """Whether the text is the right answer, in any case and with or without a full stop."""
        return answer_text.strip().rstrip(".").lower() == record.answer


def num_scenes(side: int) -> int:
    """Different scenes of a grid, without the empty one."""
    contents = len(KINDS) + 1
    return int(contents ** (side * side)) - 1


def open_records(
    data: Data,
    split: str,
    *,
    side: int = 2,
    cell_size: int = 8,
    questions: Sequence[str] = tuple(Question),
    seed: int = 0,
) -> Scenes:
    """The scenes of a split.

    Args:
        data: without a number of samples, up to 20,000 of the training split and up to 256 of the
            validation split.
        split: ``train`` or ``val``.
        side: cells of a row and of a column, 2 or 3.
        cell_size: pixels of a cell's side; images are ``side * cell_size`` pixels wide and high.
        questions: some of ``count``, ``colour``, ``position``; a scene that admits none of them is
            counted.
        seed: of the order and of the split; apart from the recipe's seed.

    Raises:
        InputError: an option is out of range, or there are fewer scenes than asked for.
    """
    if side not in ROWS or side is True:
        raise InputError(f"data.options.side is {side!r}; it must be 2 or 3")
    if not isinstance(cell_size, int) or not 8 <= cell_size <= 512:
        raise InputError(
            f"data.options.cell_size is {cell_size!r}; it must be 8 to 512 pixels, "
            "so that shapes can be told apart"
        )
    num_validation = round(num_scenes(side) * VALIDATION_SHARE)
    first, available, default = 0, num_validation, DEFAULT_VAL_SAMPLES
    if split == "train":
        first, available = num_validation, num_scenes(side) - num_validation
        default = min(DEFAULT_TRAIN_SAMPLES, available)
    wanted = num_samples(data, split)
    count = default if wanted is None else wanted
    if count > available:
        raise InputError(
            f"data.num_{split}_samples is {count}, but there are {available} {split} scenes",
            fix=f"ask for 1 to {available}, or set data.options.side=3",
        )
    return Scenes(side, cell_size, _questions(questions), first, count, seed)


def _questions(names: Sequence[str]) -> list[Question]:
    known = [question.value for question in Question]
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in known:
            raise InputError(
                f"data.options.questions has {name!r}{did_you_mean(str(name), known)}; "
                f"valid: {', '.join(known)}"
            )
    if not names:
        raise InputError("data.options.questions is empty", fix=f"name some of {', '.join(known)}")
    return [Question(name) for name in names]
