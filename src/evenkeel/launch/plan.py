"""What a launch will cost: GPU-hours per recipe and in total, exact.

    GPU-hours = NUM_RUNS × NUM_NODES × GPUS_PER_NODE × NUM_MINUTES / 60

Everything inside is an integer number of GPU-minutes; 60 is divided by once, when a number is
written. A dry run of hundreds of drivers must answer at once, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evenkeel.errors import InputError
from evenkeel.launch.request import JobShape
from evenkeel.recipes.config_block import ConfigBlock, read

# below this a double still shows every digit of the quotient before its rounded last one
_EXACT_IN_A_DOUBLE = 10**12


@dataclass(frozen=True)
class RecipePlan:
    """One driver's share: its shape, or why there is none.

    Attributes:
        driver: as it was asked for.
        name: the recipe, the driver's file name without ``.sh``.
        shape: what its CONFIG block asks for; None where the block is broken.
        error: what is wrong with it; None where nothing is.
    """

    driver: str
    name: str
    shape: JobShape | None = None
    error: InputError | None = None

    @property
    def gpu_minutes(self) -> int | None:
        """60 times the GPU-hours, exact; None where the block is broken."""
        return None if self.shape is None else gpu_minutes(self.shape)

    def to_json(self) -> dict[str, Any]:
        """The entry of ``evenkeel plan --json``."""
        shape = self.shape
        return {
            "driver": self.driver,
            "name": self.name,
            "num_nodes": shape and shape.num_nodes,
            "gpus_per_node": shape.gpus_per_node if shape else None,
            "num_runs": shape and shape.num_runs,
            "num_minutes": shape and shape.num_minutes,
            "gpu_hours": None if shape is None else gpu_minutes(shape) / 60,
            "error": None if self.error is None else str(self.error),
        }


@dataclass(frozen=True)
class Plan:
    """The drivers of one launch, in the order asked for."""

    recipes: tuple[RecipePlan, ...]

    @property
    def broken(self) -> tuple[RecipePlan, ...]:
        """The drivers whose CONFIG block could not be read."""
        return tuple(recipe for recipe in self.recipes if recipe.error is not None)

    @property
    def total_gpu_minutes(self) -> int:
        """Over the drivers that are not broken, exact."""
        return sum(recipe.gpu_minutes or 0 for recipe in self.recipes)

    def to_json(self) -> dict[str, Any]:
        """What ``evenkeel plan --json`` prints."""
        return {
            "recipes": [recipe.to_json() for recipe in self.recipes],
            "total_gpu_hours": self.total_gpu_minutes / 60,
        }


def gpu_minutes(shape: JobShape) -> int:
    """GPU-minutes of all jobs of one recipe at their full time."""
    return shape.num_runs * shape.num_nodes * shape.gpus_per_node * shape.num_minutes


def shape_of(block: ConfigBlock) -> JobShape:
    """The job that a CONFIG block asks for; its JOB_COMMENT becomes the job's comment."""
    return JobShape(
        num_nodes=block.num_nodes,
        gpus_per_node=block.gpus_per_node,
        num_runs=block.num_runs,
        num_minutes=block.num_minutes,
        max_steps=block.max_steps,
        steps_per_run=block.steps_per_run,
        comment=block.text("JOB_COMMENT"),
    )


def recipe_name(driver: str) -> str:
    """The file name without ``.sh``; a name may hold further dots (``….v2.sh``)."""
    return driver.rpartition("/")[2].removesuffix(".sh")


def plan(
    drivers: Iterable[tuple[str, str]], read_block: Callable[[str], ConfigBlock] = read
) -> Plan:
    """The plan of (driver as asked for, path to read) pairs.

    Each block is read by itself: no value of one driver reaches another, and a broken one
    leaves the others as they are.
    """
    return Plan(tuple(_plan_one(driver, path, read_block) for driver, path in drivers))


def _plan_one(driver: str, path: str, read_block: Callable[[str], ConfigBlock]) -> RecipePlan:
    name = recipe_name(driver)
    try:
        return RecipePlan(driver, name, shape=shape_of(read_block(path)))
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            fix = "name a driver script, or a recipe of the repository around you"
            error = InputError("there is no such driver", path=path, fix=fix)
        return RecipePlan(driver, name, error=error)


def format_hours(minutes: int) -> str:
    """GPU-minutes as GPU-hours, for machines: ``20``, ``2.5``, ``6.666666666666667``.

    Exact where the decimals end (they do when 3 divides the minutes), else the nearest double
    in its shortest form, so that a reader gets back what was meant.
    """
    whole, rest = divmod(minutes, 60)
    if rest == 0:
        return str(whole)
    if rest % 3 == 0:
        return f"{whole}.{rest * 100 // 60:02d}".rstrip("0")
    return repr(minutes / 60) if whole < _EXACT_IN_A_DOUBLE else f"{whole}.{rest * 100 // 60:02d}"


def rounded_hours(minutes: int) -> str:
    """GPU-minutes as GPU-hours for people: ``20``, ``2.5``, ``6.67``.

    Two decimals tell any two numbers of minutes apart.
    """
    whole, hundredths = divmod((minutes * 10 + 3) // 6, 100)
    return f"{whole}.{hundredths:02d}".rstrip("0").rstrip(".")


def report_lines(recipes: Plan) -> list[str]:
    """What a dry run prints, the total last; see the contract in docs/launch.md."""
    lines = [
        f"[INFO]: {format_hours(minutes)} GPUhrs to run {_one_line(recipe.driver)}"
        for recipe in recipes.recipes
        if (minutes := recipe.gpu_minutes) is not None
    ]
    if recipes.broken:
        lines.append(
            f"[INFO]: {len(recipes.broken)} of {len(recipes.recipes)} drivers are broken"
            " and not part of the total"
        )
    return [*lines, f"[INFO]: Total GPU hours: {format_hours(recipes.total_gpu_minutes)}"]


def error_lines(recipes: Sequence[RecipePlan]) -> list[str]:
    """One message per broken driver, naming it, the place and the mend."""
    return [
        f"[ERROR]: {_one_line(recipe.driver)} is broken: {recipe.error}"
        for recipe in recipes
        if recipe.error is not None
    ]


def _one_line(driver: str) -> str:
    return driver if driver.isprintable() else driver.encode("unicode_escape").decode("ascii")
