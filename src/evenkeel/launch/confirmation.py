"""Confirming runs: the same code and arguments as a run that left doubt, with another seed.

Their results lie beside the run's, in ``<run>.confirm1`` and ``.confirm2``, and their jobs below
the folder of its own, so that whoever picks up a launch finds them again by their names.
"""

from __future__ import annotations

from collections.abc import Collection

from evenkeel.launch.intervention import submit_apart
from evenkeel.launch.plan import gpu_minutes
from evenkeel.launch.request import ExecutorKind, Submission
from evenkeel.launch.submission import read_records, run_chain_locally

FIRST_SEED = 2001
"""Baselines are recorded with seeds from 1001 on, and recipes say 42."""
SHARE_OF_NIGHT = 0.1
"""Of what a launch may cost, for confirming runs, where nobody declares a budget."""


def seed_of(number: int, taken: Collection[int] = ()) -> int:
    """The seed of confirming run ``number`` (from 1), which is none of those ``taken``."""
    free = (seed for seed in range(FIRST_SEED, FIRST_SEED + number + len(taken)))
    return [seed for seed in free if seed not in taken][number - 1]


def of_submission(submission: Submission, number: int, taken: Collection[int] = ()) -> Submission:
    """Confirming run ``number`` (from 1) of a recipe of a launch, ready to submit.

    Args:
        submission: the recipe.
        number: 1 or 2.
        taken: seeds that were used before.
    """
    return submission.beside(f"confirm{number}", [f"seed={seed_of(number, taken)}"])


def look_of(confirming: Submission) -> int:
    """At which look it counts: the second for the first confirming run."""
    return int(confirming.variant.removeprefix("confirm")) + 1


def was_begun(confirming: Submission) -> bool:
    """Whether its submit was begun, by this process or an earlier one."""
    return confirming.launch_dir.is_dir() and bool(read_records(confirming))


def estimated_hours(submission: Submission) -> float:
    """GPU-hours that all of its jobs may take."""
    return gpu_minutes(submission.shape) / 60


def default_budget(submissions: Collection[Submission]) -> float:
    """GPU-hours for the confirming runs of a launch of which nobody says how many.

    A tenth of what the launch may cost, and at least two runs of its dearest recipe: of a hundred
    healthy recipes five ask for a confirming run, and one that regressed for two at most.
    """
    hours = [estimated_hours(one) for one in submissions]
    return max(SHARE_OF_NIGHT * sum(hours), 2 * max(hours, default=0.0))


def submit(confirming: Submission) -> None:
    """Submit it, or run it here; what an earlier call did is not done twice.

    Raises:
        MachineError: the cluster gave no answer; call it again later.
    """
    confirming.launch_dir.mkdir(parents=True, exist_ok=True)
    if confirming.options.executor is ExecutorKind.SLURM:
        submit_apart(confirming)
    else:
        run_chain_locally(confirming)
