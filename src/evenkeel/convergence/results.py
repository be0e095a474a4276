"""What a comparison found: one result per metric and summary, folded into one verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evenkeel.convergence.error_budget import Budget
from evenkeel.convergence.metric_kinds import Family, kind_of
from evenkeel.convergence.verdict import Verdict


@dataclass(frozen=True)
class Picture:
    """A curve and its band, block by block, for a plot."""

    steps: tuple[int, ...]
    center: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    value: tuple[float, ...]

    def of_a_share(self) -> Picture:
        """The same with a band that ends at 0 and 1, see ``MetricResult.of_a_share``."""
        return replace(
            self,
            low=tuple(map(_from_zero, self.low, self.value)),
            high=tuple(map(_to_one, self.high, self.value)),
        )


@dataclass(frozen=True)
class MetricResult:
    """One summary of one metric, judged.

    Args:
        metric: its name.
        summary: ``final``, ``mean``, ``end``, ``shape``, ``steps_to_target``, ``value``, ``exact``,
            ``matched`` for the run of the same seed, or ``steps`` where the curve is at fault.
        verdict: of this summary alone.
        message: in words.
        family: which error budget it spends.
        value: of the new run (mean over confirming runs).
        low: least value that is a pass.
        high: largest value that is a pass.
        baseline: mean of the baseline.
        minimum_detectable_change: found with 80 % power, relative to the baseline.
        change: of value against baseline, relative.
        p_value: chance of a healthy run that is this bad or worse.
        step: first step out of the band, or of the fault.
        block: first and last step of the stretch that ``shape`` is about.
        coarse: the minimum detectable change is too large to be worth much.
        runs_needed: baseline runs with which it would not be coarse, if so many were tried.
        picture: for a plot.
        ratio: of ``matched``: the largest deviation over what rounding explains.
    """

    metric: str
    summary: str
    verdict: Verdict
    message: str
    family: Family
    value: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    minimum_detectable_change: float | None = None
    change: float | None = None
    p_value: float | None = None
    step: int | None = None
    block: tuple[int, int] | None = None
    coarse: bool = False
    runs_needed: int | None = None
    picture: Picture | None = None
    ratio: float | None = None

    @property
    def label(self) -> str:
        """What it says: the verdict, or for speed and memory a note that is not one."""
        if self.family is Family.CONVERGENCE:
            return self.verdict.value
        words = {
            Family.SPEED: {Verdict.REGRESSED: "SLOWER", Verdict.IMPROVED: "FASTER"},
            Family.MEMORY: {Verdict.REGRESSED: "MORE_MEMORY", Verdict.IMPROVED: "LESS_MEMORY"},
        }
        return words[self.family].get(self.verdict, self.verdict.value)

    def of_a_share(self) -> MetricResult:
        """The same for a value that can only be from 0 to 1: its bounds and band end there, too.

        A value outside its bounds is the alarm as before, also where rounding puts one above 1.
        """
        if self.value is None or self.low is None or self.high is None:
            return self
        return replace(
            self,
            low=_from_zero(self.low, self.value),
            high=_to_one(self.high, self.value),
            picture=self.picture and self.picture.of_a_share(),
        )

    def with_message(self) -> MetricResult:
        """The same with its message written from its numbers."""
        where = f" in steps {self.block[0]} to {self.block[1]}" if self.block else ""
        change = "" if self.change is None else f" ({_change(self.change)} of the baseline)"
        text = f"{_number(self.value)}{where}{change}, allowed {self._interval()}"
        if self.verdict is Verdict.INCONCLUSIVE:
            # speed and memory decide nothing, so nobody trains again for them
            decides = self.family is Family.CONVERGENCE
            text += "; a confirming run will tell" if decides else "; in doubt"
        if self.step is not None:
            text += f"; out of the band from step {self.step}"
        return replace(self, message=text)

    def _interval(self) -> str:
        return f"{_number(self.low)} to {_number(self.high)}"

    def to_json(self) -> dict[str, Any]:
        """The keys of the contract, then more; what is not finite becomes null."""
        return {
            "metric": self.metric,
            "summary": self.summary,
            "value": _strict(self.value),
            "low": _strict(self.low),
            "high": _strict(self.high),
            "minimum_detectable_change": _strict(self.minimum_detectable_change),
            "verdict": self.verdict.value,
            "message": self.message,
            "family": self.family.value,
            "note": self.label if self.family is not Family.CONVERGENCE else None,
            "baseline": _strict(self.baseline),
            "change": _strict(self.change),
            "p_value": _strict(self.p_value),
            "step": self.step,
            "coarse": self.coarse,
            "runs_needed": self.runs_needed,
            "ratio": _strict(self.ratio),
        }


# what decides first where several metrics disagree
_GRAVITY = (
    Verdict.NON_FINITE,
    Verdict.INCOMPLETE,
    Verdict.REGRESSED,
    Verdict.INCOMPARABLE,
    Verdict.INCONCLUSIVE,
    Verdict.IMPROVED,
    Verdict.PASS,
)


@dataclass(frozen=True)
class Comparison:
    """The verdict over all metrics, with its evidence."""

    verdict: Verdict
    message: str
    results: tuple[MetricResult, ...]
    budget: Budget
    num_new: int
    num_baseline: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        results: Sequence[MetricResult],
        budget: Budget,
        num_new: int,
        num_baseline: int,
        notes: tuple[str, ...] = (),
    ) -> Comparison:
        """Fold results: convergence decides; speed and memory only where there is nothing else."""
        deciding = [one for one in results if one.family is Family.CONVERGENCE] or list(results)
        verdict, message = _fold(deciding)
        return cls(verdict, message, tuple(results), budget, num_new, num_baseline, notes)

    @property
    def asks_for_confirmation(self) -> bool:
        """Whether another run of the same code would decide it."""
        return self.verdict is Verdict.INCONCLUSIVE and self.num_new < self.budget.looks

    @property
    def _deciding(self) -> set[Family]:
        """The families of metrics that make the verdict."""
        families = {one.family for one in self.results}
        return families & {Family.CONVERGENCE} or families

    def offending(self) -> list[MetricResult]:
        """What is not a plain pass, worst first.

        A doubt about speed or memory is none of it where convergence decides: no run settles it.
        """
        found = [
            one
            for one in self.results
            if one.verdict is not Verdict.PASS
            and (one.verdict is not Verdict.INCONCLUSIVE or one.family in self._deciding)
        ]
        return sorted(
            found, key=lambda one: (one.family is not Family.CONVERGENCE, _rank(one.verdict))
        )

    def speed_notes(self) -> list[MetricResult]:
        """Findings on speed and memory."""
        return [one for one in self.offending() if one.family is not Family.CONVERGENCE]

    def noted(self) -> list[str]:
        """What speed and memory say beside the verdict, a few words per metric."""
        if Family.CONVERGENCE not in self._deciding:
            return []  # there they are the verdict
        found: dict[str, str] = {}
        for one in self.speed_notes():
            if one.verdict in (Verdict.REGRESSED, Verdict.IMPROVED):
                change = "" if one.change is None else f" {one.change:+.1%}"
                found.setdefault(one.metric, f"{one.label}: {one.metric}{change}")
        return list(found.values())

    @property
    def headline(self) -> str:
        """The message, with what speed and memory say beside it."""
        return "; ".join([self.message, *self.noted()])

    def to_json(self) -> dict[str, Any]:
        """The contract of ``evenkeel compare --json``, then more."""
        return {
            "verdict": self.verdict.value,
            "family_error": self.budget.family_error,
            "metrics": [one.to_json() for one in self.results],
            "message": self.message,
            "speed_and_memory": self.noted(),
            "num_recipes": self.budget.num_recipes,
            "looks": self.budget.looks,
            "num_new_runs": self.num_new,
            "num_baseline_runs": self.num_baseline,
            "asks_for_confirmation": self.asks_for_confirmation,
            "notes": list(self.notes),
        }


def _from_zero(low: float, value: float) -> float:
    return max(low, min(0.0, value))


def _to_one(high: float, value: float) -> float:
    return min(high, max(1.0, value))


def _rank(verdict: Verdict) -> int:
    return _GRAVITY.index(verdict) if verdict in _GRAVITY else len(_GRAVITY)


def _fold(results: Sequence[MetricResult]) -> tuple[Verdict, str]:
    if not results:
        return Verdict.NO_BASELINE, "the baseline has no metric to compare with"
    worst = min(
        results,
        key=lambda one: (_rank(one.verdict), one.p_value or 0.0, -kind_of(one.metric).weight),
    )
    verdict = worst.verdict
    if verdict is Verdict.PASS:
        num = len({one.metric for one in results})
        return verdict, f"{num} {'metric' if num == 1 else 'metrics'} as in the baseline"
    names = sorted({one.metric for one in results if one.verdict is verdict})
    others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    summary = "" if worst.summary == "steps" else f" {worst.summary}"
    return verdict, f"{worst.metric}{summary}: {worst.message}{others}"


def _change(value: float) -> str:
    return f"{1 + value:.3g} times that" if value >= 100 else f"{value:+.2%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _strict(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
