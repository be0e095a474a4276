"""Which recipes run tonight when a suite costs more than a night may.

Pure: the same suite, history, budget and night give the same choice, in whatever order they come.

**Base.** The suite is split once into as many shares as there are nights in a cycle, of nearly
equal cost (longest first, each to the cheapest share so far; Graham, "Bounds on multiprocessing
timing anomalies", 1969). Night *t* runs share *t* mod *N*, whatever happened before: so every
recipe runs at least once in any *N* nights in a row.

**Extra.** What the budget leaves beyond tonight's share goes to the other recipes: first those
that have not run for a cycle (new ones among them), then those that changed since they last ran,
then those that failed, then whoever waited longest; each if it still fits.

All costs are integers, in GPU-minutes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evenkeel.errors import InputError
from evenkeel.launch.plan import rounded_hours


class Reason(enum.Enum):
    """Why a recipe runs tonight, in the order of weight, or why it does not."""

    SHARE = "its turn"
    OVERDUE = "overdue"
    CHANGED = "changed since it last ran"
    FAILED = "failed when it last ran"
    WAITED = "room was left"
    NO_ROOM = "does not fit into what is left"


@dataclass(frozen=True)
class Candidate:
    """A recipe of the suite with what is known of its past.

    Attributes:
        gpu_minutes: what one launch of it costs.
        nights_since: how many nights ago it last ran, 1 for last night; None for never.
        changed: its driver or configuration is not as it was then.
        failed: it did not pass then.
    """

    name: str
    gpu_minutes: int
    nights_since: int | None = None
    changed: bool = False
    failed: bool = False


@dataclass(frozen=True)
class Choice:
    """What happens to one recipe tonight, and why.

    Attributes:
        turn: in how many nights its own turn comes; 0 is tonight.
    """

    candidate: Candidate
    reason: Reason
    turn: int

    @property
    def runs(self) -> bool:
        """Whether it runs tonight."""
        return self.reason is not Reason.NO_ROOM

    def explain(self) -> str:
        """One line: what, at what cost, why."""
        cost = f"{rounded_hours(self.candidate.gpu_minutes)} GPU-hours"
        if self.runs:
            also = [
                str(reason.value) for reason in _reasons(self.candidate) if reason != self.reason
            ]
            why = "; also ".join([self._because(), *also])
            return f"{self.candidate.name}: runs tonight, {cost}: {why}"
        nights = "tomorrow" if self.turn == 1 else f"in {self.turn} nights"
        return f"{self.candidate.name}: waits, {cost}: {self.reason.value}; its turn is {nights}"

    def _because(self) -> str:
        ago = self.candidate.nights_since
        if self.reason is Reason.OVERDUE:
            return "has never run" if ago is None else f"last ran {ago} nights ago"
        return str(self.reason.value)


@dataclass(frozen=True)
class Rotation:
    """The choice for one night; ``choices`` is in the order of weight."""

    choices: tuple[Choice, ...]
    budget: int
    num_nights: int

    @property
    def spent(self) -> int:
        """GPU-minutes of what runs tonight."""
        return sum(choice.candidate.gpu_minutes for choice in self.choices if choice.runs)


def rotate(candidates: Iterable[Candidate], budget: int, num_nights: int, night: int) -> Rotation:
    """Who runs tonight.

    Args:
        candidates: the suite; no name twice.
        budget: GPU-minutes of one night.
        num_nights: length of a cycle, within which every recipe runs at least once.
        night: number of the night, such as a date's ordinal.

    Raises:
        InputError: the suite does not fit into so many nights; says what would suffice.
    """
    suite = sorted(candidates, key=lambda candidate: candidate.name)
    shares = split(suite, num_nights)
    dearest = max((sum(one.gpu_minutes for one in share) for share in shares), default=0)
    if dearest > budget:
        raise InputError(_does_not_fit(suite, budget, num_nights, dearest))
    turn_of = {
        candidate.name: (index - night) % num_nights
        for index, share in enumerate(shares)
        for candidate in share
    }
    left = budget - sum(c.gpu_minutes for c in suite if turn_of[c.name] == 0)
    choices = []
    for candidate in sorted(suite, key=lambda one: _weight(one, turn_of[one.name], num_nights)):
        turn = turn_of[candidate.name]
        if turn == 0:
            reason = Reason.SHARE
        elif candidate.gpu_minutes > left:
            reason = Reason.NO_ROOM
        else:
            left -= candidate.gpu_minutes
            reason = next(iter(_reasons(candidate, num_nights)), Reason.WAITED)
        choices.append(Choice(candidate, reason, turn))
    return Rotation(tuple(choices), budget, num_nights)


def split(suite: Sequence[Candidate], num_nights: int) -> list[list[Candidate]]:
    """``num_nights`` shares of nearly equal cost; depends on names and costs alone."""
    if num_nights < 1:
        raise InputError(f"a cycle of {num_nights} nights", fix="give at least 1")
    shares: list[list[Candidate]] = [[] for _ in range(num_nights)]
    costs = [0] * num_nights
    for candidate in sorted(suite, key=lambda one: (-one.gpu_minutes, one.name)):
        cheapest = min(range(num_nights), key=lambda index: (costs[index], len(shares[index])))
        shares[cheapest].append(candidate)
        costs[cheapest] += candidate.gpu_minutes
    return shares


def fewest_nights(suite: Sequence[Candidate], budget: int) -> int | None:
    """The shortest cycle whose shares all fit the budget; None where one recipe alone does not."""
    if any(candidate.gpu_minutes > budget for candidate in suite):
        return None
    for num_nights in range(1, len(suite) + 1):
        costs = [sum(one.gpu_minutes for one in share) for share in split(suite, num_nights)]
        if max(costs) <= budget:
            return num_nights
    return 1  # an empty suite


def _reasons(candidate: Candidate, num_nights: int | None = None) -> list[Reason]:
    found = []
    ago = candidate.nights_since
    if num_nights is not None and (ago is None or ago >= num_nights):
        found.append(Reason.OVERDUE)
    if candidate.changed:
        found.append(Reason.CHANGED)
    if candidate.failed:
        found.append(Reason.FAILED)
    return found


def _weight(candidate: Candidate, turn: int, num_nights: int) -> tuple[int, int, int, str]:
    order = list(Reason)
    first = next(iter(_reasons(candidate, num_nights)), Reason.WAITED)
    # tonight's own share has its place in the budget already; changed and failed ones lead it
    urgency = order.index(first)
    waited = num_nights if candidate.nights_since is None else candidate.nights_since
    return (0 if turn == 0 else 1, urgency, -waited, candidate.name)


def _does_not_fit(suite: Sequence[Candidate], budget: int, num_nights: int, dearest: int) -> str:
    total = sum(candidate.gpu_minutes for candidate in suite)
    message = (
        f"the suite costs {rounded_hours(total)} GPU-hours, and its dearest share of {num_nights}"
        f" nights costs {rounded_hours(dearest)}, above the budget of {rounded_hours(budget)}"
        " a night"
    )
    enough = fewest_nights(suite, budget)
    if enough is None:
        worst = max(suite, key=lambda candidate: (candidate.gpu_minutes, candidate.name))
        return f"{message}; {worst.name} alone costs {rounded_hours(worst.gpu_minutes)}"
    return f"{message}; {enough} nights would do"
