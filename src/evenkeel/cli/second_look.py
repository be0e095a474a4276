"""The second look of a watched launch: runs in doubt get confirming runs, within a budget."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from evenkeel.convergence import second_look
from evenkeel.convergence.error_budget import MAX_LOOKS
from evenkeel.errors import EvenkeelError, InputError, MachineError
from evenkeel.launch import confirmation
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.outcome import Outcome
from evenkeel.launch.recipe_watch import RecipeWatch
from evenkeel.launch.request import Submission
from evenkeel.launch.watch import Watcher
from evenkeel.recipes import suite
from evenkeel.run_paths import Repository

RECENT = timedelta(days=14)
"""A watcher that looks at an older launch submits nothing."""


def budget_of(record: LaunchRecord, asked: float | None) -> float:
    """GPU-hours for confirming runs: asked for, else declared by the suite, else a tenth.

    Raises:
        InputError: less than 0 is asked for.
    """
    if asked is not None:
        if asked < 0:
            raise InputError(f"--confirm-budget {asked:g}: less than 0 GPU-hours")
        return asked
    submissions = record.submissions()
    if record.suite is not None and submissions:
        try:
            declared = suite.find(submissions[0].tree, record.suite).declared
        except InputError:
            declared = suite.Declared()
        if declared.confirm_gpu_hours_per_night is not None:
            return float(declared.confirm_gpu_hours_per_night)
    return confirmation.default_budget(submissions)


class SecondLook:
    """Submits confirming runs as results in doubt come in, and judges again when they have ended.

    What was submitted is found again by the records of its jobs, so a watcher that is started
    again goes on where another one ended.

    Args:
        record: the launch.
        confirming: watches the confirming runs; it has none to begin with.
        budget: GPU-hours.
        say: takes a line for each thing that is done.
    """

    def __init__(
        self,
        record: LaunchRecord,
        confirming: Watcher,
        budget: float,
        say: Callable[[str], None],
    ) -> None:
        self.confirming = confirming
        self.budget = budget
        self.notes: dict[str, str] = {}
        """Recipe → why it got no (further) confirming run."""
        self._say = say
        age = datetime.now(UTC) - datetime.fromisoformat(record.created)
        self._may_submit = age < RECENT
        self._open: set[str] = set(record.names)
        self._submitted: set[str] = set()

    def find_begun(self, recipes: Watcher) -> None:
        """Watch the confirming runs that an earlier watcher began."""
        for recipe in recipes.recipes:
            for number in range(1, MAX_LOOKS):
                submission = _of(recipe, number)
                if confirmation.was_begun(submission):
                    self.confirming.add(submission)

    def follow(self, recipes: Watcher) -> bool:
        """Do what the runs of ``recipes`` ask for by now; whether more is to come."""
        for recipe in recipes.recipes:
            name = recipe.submission.name
            if name in self._open and recipe.outcome.kind.is_final and not self._goes_on(recipe):
                self._open.discard(name)
        return bool(self._open)

    @property
    def gpu_hours(self) -> float:
        """That confirming runs have held so far."""
        return sum(one.gpu_hours for one in self.confirming.recipes)

    def to_json(self) -> dict[str, Any]:
        """``second_look`` of ``result.json``."""
        return {
            "budget_gpu_hours": round(self.budget, 4),
            "gpu_hours": round(self.gpu_hours, 4),
            "runs": [_run(one) for one in self.confirming.recipes],
            "notes": dict(sorted(self.notes.items())),
        }

    def _goes_on(self, recipe: RecipeWatch) -> bool:
        """Whether there is, or will be, something to wait for."""
        if recipe.outcome.kind is not Outcome.COMPLETED:
            return False
        number = second_look.wanted_confirmation(recipe.paths)
        if number is None:
            return False
        submission = _of(recipe, number)
        watched = next(
            (one for one in self.confirming.recipes if one.submission == submission), None
        )
        if submission.label not in self._submitted:
            return self._submit(submission, is_watched=watched is not None)
        if watched is None or not watched.outcome.kind.is_final:
            return True
        try:
            judged = second_look.judge_again(recipe.paths, Repository(recipe.submission.tree))
        except EvenkeelError as error:
            self.notes[submission.name] = f"not judged together: {error.message}"
            return False
        self._say(f"{submission.label}: together {judged.verdict.value}: {judged.message}")
        if second_look.wanted_confirmation(recipe.paths) == number:
            self.notes[submission.name] = (
                f"{submission.label} ({watched.outcome.kind.value}) was not counted: it did not"
                " come to its end, or is of other code"
            )
            return False
        return True  # to see at the next look whether it asks for one more

    def _submit(self, submission: Submission, *, is_watched: bool) -> bool:
        begun = confirmation.was_begun(submission)
        hours = confirmation.estimated_hours(submission)
        left = self.budget - self._committed()
        if not begun and (hours > left or not self._may_submit):
            why = (
                f"it may take {hours:.2f} GPU-hours, and {max(left, 0):.2f} of the"
                f" {self.budget:.2f} for confirming runs are left"
            )
            self.notes[submission.name] = f"no {submission.label}: " + (
                why if self._may_submit else "the launch is too old"
            )
            return False
        if not begun:
            self._say(f"{submission.label}: in doubt, so a confirming run; up to {hours:.2f} GPU-h")
        try:
            confirmation.submit(submission)
        except MachineError as error:
            self._say(f"{submission.label}: {error.message}")
            return True  # asked again at the next look
        except EvenkeelError as error:
            self.notes[submission.name] = f"no {submission.label}: {error.message}"
            return False
        self._submitted.add(submission.label)
        if not is_watched:
            self.confirming.add(submission)
        return True

    def _committed(self) -> float:
        """GPU-hours that ended runs took and the others may take."""
        return sum(
            one.gpu_hours
            if one.outcome.kind.is_final
            else confirmation.estimated_hours(one.submission)
            for one in self.confirming.recipes
        )


def _of(recipe: RecipeWatch, number: int) -> Submission:
    """Confirming run ``number`` of a recipe, with a seed that is not its own."""
    taken = second_look.seeds_of(recipe.paths)
    return confirmation.of_submission(recipe.submission, number, taken)


def _run(watched: RecipeWatch) -> dict[str, Any]:
    submission = watched.submission
    return {
        "recipe": submission.name,
        "look": confirmation.look_of(submission),
        "run_dir": str(submission.run_dir),
        "arguments": list(submission.options.script_args),
        "job_ids": [record.job_id for record in watched.records],
        "outcome": watched.outcome.kind.value,
        "message": watched.outcome.message,
        "gpu_hours": round(watched.gpu_hours, 4),
    }
