"""One verdict per run, from a closed set, decided from how the run ended and what it measured.

Pure: everything that is read from disk comes in as arguments. Nothing passes because it did not
finish, and nothing passes because there was nothing to compare it with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from evenkeel.errors import EXIT_FINDING, EXIT_OK
from evenkeel.metrics.evaluation import CheckResult, Outcome
from evenkeel.run_record import TrainerExit

if TYPE_CHECKING:
    from evenkeel.convergence.results import Comparison
    from evenkeel.convergence.seams import Seam


class Verdict(StrEnum):
    """What is said of one recipe in one night."""

    PASS = "PASS"
    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INCOMPLETE = "INCOMPLETE"
    NON_FINITE = "NON_FINITE"
    WALLTIME = "WALLTIME"
    INFRA = "INFRA"
    CRASHED = "CRASHED"
    NO_BASELINE = "NO_BASELINE"
    INCOMPARABLE = "INCOMPARABLE"

    @property
    def exit_code(self) -> int:
        """0 for ``PASS`` and ``IMPROVED``, else 1."""
        return EXIT_OK if self in (Verdict.PASS, Verdict.IMPROVED) else EXIT_FINDING


@dataclass(frozen=True)
class RunState:
    """How far a run came and how its last start ended, as its files tell.

    Args:
        last_step: the last step with a training loss; 0 before the first.
        max_steps: the step to reach; None where nobody said.
        exit_status: of the trainer's last start; None when it is not known.
        last_words: the trainer's traceback, or the last lines that it printed.
        damage: what was lost of the metrics, in words; empty when they are whole.
    """

    last_step: int = 0
    max_steps: int | None = None
    exit_status: int | None = None
    last_words: str = ""
    damage: str = ""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason and the checks behind it."""

    verdict: Verdict
    message: str
    state: RunState
    checks: tuple[CheckResult, ...] = ()
    comparison: Comparison | None = None
    """With the baseline, where there is one that may judge the run."""
    seams: tuple[Seam, ...] = ()
    """Where a continued run shows that it was continued."""


def first_non_finite_loss(
    metrics: Mapping[str, Mapping[int, float]],
) -> tuple[str, int, float] | None:
    """(metric, step, value) of the earliest loss that is NaN or infinite, or None."""
    losses = [n for n in metrics if n.rsplit("/", 1)[-1] == "loss" or n.endswith("_loss")]
    return _first_non_finite(metrics, losses)


def _first_non_finite(
    metrics: Mapping[str, Mapping[int, float]], names: Iterable[str]
) -> tuple[str, int, float] | None:
    found = [
        (step, name, value)
        for name in names
        for step, value in metrics[name].items()
        if not math.isfinite(value)
    ]
    if not found:
        return None
    step, name, value = min(found, key=lambda entry: entry[:2])
    return name, step, value


def judge(
    state: RunState,
    metrics: Mapping[str, Mapping[int, float]],
    checks: Sequence[CheckResult],
) -> Judgement:
    """The verdict of a run without its baseline; ``with_comparison`` adds that.

    In this order: a non-finite loss, a trainer that died, a run cut short, checks that could not
    be read or failed, nothing to judge by, and only then ``PASS``.
    """
    verdict, message = _verdict(state, metrics, checks)
    return Judgement(verdict, message, state, tuple(checks))


_OPEN = (Verdict.PASS, Verdict.NO_BASELINE)


def with_comparison(judgement: Judgement, comparison: Comparison) -> Judgement:
    """Let a baseline have its say where run and checks leave the verdict open.

    Hand-written checks stay what they were: a failed one decides, and the comparison is shown
    beside it.
    """
    if judgement.verdict not in _OPEN:
        return replace(judgement, comparison=comparison)
    message = comparison.headline
    if judgement.checks:
        message = f"{message}; {judgement.message}"
    return replace(judgement, verdict=comparison.verdict, message=message, comparison=comparison)


_MAY_HAVE_NO_SEAM = (*_OPEN, Verdict.IMPROVED, Verdict.INCONCLUSIVE)


def with_seams(judgement: Judgement, seams: Sequence[Seam]) -> Judgement:
    """A continued run that shows where it was continued is not healthy, however it ended."""
    judgement = replace(judgement, seams=tuple(seams))
    deciding = [seam for seam in seams if seam.decides]
    if not deciding or judgement.verdict not in _MAY_HAVE_NO_SEAM:
        return judgement
    first = deciding[0]
    others = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    message = f"{first.metric}: {first.kind} at step {first.step}: {first.message}{others}"
    return replace(judgement, verdict=Verdict.REGRESSED, message=f"{message}; {judgement.message}")


def _verdict(
    state: RunState,
    metrics: Mapping[str, Mapping[int, float]],
    checks: Sequence[CheckResult],
) -> tuple[Verdict, str]:
    bad = first_non_finite_loss(metrics)
    if bad is None and state.exit_status == TrainerExit.NON_FINITE:
        bad = _first_non_finite(metrics, (n for n in metrics if n.startswith("train/")))
    if bad is not None:
        name, step, value = bad
        return Verdict.NON_FINITE, f"{name} is {value} at step {step}, for the first time"
    if state.exit_status == TrainerExit.NON_FINITE:
        return Verdict.NON_FINITE, f"the trainer stopped on a non-finite value\n{state.last_words}"
    if state.exit_status not in (None, TrainerExit.FINISHED, TrainerExit.STOPPED):
        return Verdict.CRASHED, _crash(state)
    if state.max_steps is not None and state.last_step < state.max_steps:
        return Verdict.INCOMPLETE, f"step {state.last_step} of {state.max_steps}"
    if state.damage:
        return Verdict.INCOMPLETE, f"metrics were lost: {state.damage}"
    return _verdict_of_checks(checks)


def _verdict_of_checks(checks: Sequence[CheckResult]) -> tuple[Verdict, str]:
    if not checks:
        return Verdict.NO_BASELINE, "there is neither a baseline nor a check to judge it by"
    failed = [check for check in checks if not check.passed]
    if not failed:
        return Verdict.PASS, f"{_count(len(checks))} passed"
    for check in failed:
        if check.outcome is Outcome.NON_FINITE:
            return Verdict.NON_FINITE, check.message
    unread = [check for check in failed if check.outcome is not Outcome.FAILED]
    if unread:
        return Verdict.INCOMPLETE, unread[0].message
    return Verdict.REGRESSED, f"{len(failed)} of {_count(len(checks))} failed"


def _count(number: int) -> str:
    return f"{number} check" if number == 1 else f"{number} checks"


def _crash(state: RunState) -> str:
    status = state.exit_status
    assert status is not None
    how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
    why = f":\n{state.last_words}" if state.last_words else ""
    return f"the trainer {how} after step {state.last_step}{why}"
