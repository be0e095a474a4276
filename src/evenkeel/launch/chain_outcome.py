"""From the ends of jobs to that of their recipe, what is tried again, and whom to suspect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from evenkeel.launch.outcome import INFRASTRUCTURE, JobOutcome, Outcome


@dataclass(frozen=True)
class RetryPolicy:
    """What is tried again, and how often: never what the code or the numbers did."""

    retries: int = 2
    kinds: frozenset[Outcome] = field(default=INFRASTRUCTURE)

    def __post_init__(self) -> None:
        wrong = self.kinds - INFRASTRUCTURE
        if wrong:
            names = ", ".join(sorted(kind.value for kind in wrong))
            raise ValueError(f"only failures of the infrastructure are retried, not: {names}")

    def wants(self, outcome: JobOutcome, tries: int) -> bool:
        """Whether to try again after ``tries`` tries, the first one counted."""
        return outcome.kind in self.kinds and tries <= self.retries


def of_chain(outcomes: Sequence[JobOutcome]) -> JobOutcome:
    """How a recipe stands, from its jobs in order.

    All steps done, or a diverged run, is the last word whatever came later. Otherwise the newest
    job that got anywhere tells; jobs that were cancelled before they ran say nothing beside it,
    and one that did its share in vain is short of steps because of one that failed before.
    """
    last_words = (Outcome.COMPLETED, Outcome.DIVERGED, Outcome.DOOMED)
    for outcome in outcomes:
        if outcome.kind in last_words:
            return outcome
    for outcome in outcomes:
        if not outcome.kind.is_final:
            return outcome
    told = [one for one in outcomes if one.kind is not Outcome.CANCELLED or one.nodes]
    failed = [one for one in told if one.kind is not Outcome.INCOMPLETE]
    if told and told[-1].kind is Outcome.INCOMPLETE and failed:
        return failed[-1]
    return [*outcomes, *told][-1] if outcomes else JobOutcome(Outcome.UNKNOWN, "no job")


def suspect_nodes(
    failures: Mapping[str, Collection[JobOutcome]], least: int = 2
) -> dict[str, list[str]]:
    """Nodes on which several recipes failed for no fault of their own: node → recipes.

    Args:
        failures: recipe → outcomes of its jobs of one night.
        least: recipes that must have failed on a node to name it.
    """
    recipes_of: dict[str, set[str]] = {}
    for recipe, outcomes in failures.items():
        for outcome in outcomes:
            if outcome.kind in (Outcome.NODE_FAILURE, Outcome.HARDWARE):
                for node in outcome.nodes:
                    recipes_of.setdefault(node, set()).add(recipe)
    return {
        node: sorted(recipes)
        for node, recipes in sorted(recipes_of.items())
        if len(recipes) >= least
    }
