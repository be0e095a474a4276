"""How the false alarms that a night may cost are spread over recipes, metrics, summaries, looks.

Weighted Bonferroni (Genovese, Roeder & Wasserman 2006, doi:10.1093/biomet/93.3.509): each test
gets a share of the budget, the shares sum to 1, and the chance of any false alarm is at most the
budget however the tests depend on each other. The shares are fixed before the new run is seen, so
every check has an interval that can be printed beside its value.

Looks: a run is looked at alone (look 1), and where the result lies in the band of doubt, together
with one and then two confirming runs (looks 2 and 3). The budget is spent over the looks in the
manner of Lan & DeMets (1983, doi:10.1093/biomet/70.3.659). The looks share their data, and only
runs in the band go on: what is spent at the looks may sum to more than 1 while the whole procedure
keeps the budget (``docs/convergence.md`` has the simulation).
"""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.errors import InputError

MAX_LOOKS = 3
# share of the budget spent at look 1, 2, 3, for 1, 2 or 3 looks in all
SPENDING = {1: (1.0,), 2: (0.5, 0.6), 3: (0.4, 0.3, 0.6)}

# shares of the summaries of one metric; a summary that does not apply leaves its share to others
SUMMARY_SHARES = {"final": 0.5, "mean": 0.2, "end": 0.15, "shape": 0.1, "steps_to_target": 0.05}
# of speed and memory, whose families have budgets of their own
COST_SHARES = {"median": 0.5, "final": 0.5}


@dataclass(frozen=True)
class Budget:
    """What is promised.

    Args:
        family_error: chance of any false alarm in a night of healthy runs, per family of metrics.
        num_recipes: recipes judged in that night.
        looks: runs of a recipe that may be looked at, 1 to ``MAX_LOOKS``.
        band: chance that a healthy recipe is asked for a confirming run.
        good_side: share of the budget for false claims of an improvement.
    """

    family_error: float = 0.01
    num_recipes: int = 1
    looks: int = MAX_LOOKS
    band: float = 0.05
    good_side: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.family_error < 0.5:
            raise InputError(
                f"family error is {self.family_error}, not above 0 and below 0.5",
                fix="0.01 means that one night of healthy runs in a hundred has a false alarm",
            )
        if not 1 <= self.looks <= MAX_LOOKS:
            raise InputError(f"{self.looks} looks; from 1 to {MAX_LOOKS} are possible")
        if self.num_recipes < 1:
            raise InputError(f"{self.num_recipes} recipes in a night; at least 1 is needed")

    def alarm(self, share: float, look: int) -> float:
        """Chance of a false alarm of a test with ``share`` of a recipe's budget at ``look``."""
        spent = SPENDING[self.looks][look - 1]
        return self.family_error / self.num_recipes * share * spent

    def doubt(self, share: float, look: int) -> float:
        """Tail probability below which a test asks for a confirming run; 0 at the last look."""
        return 0.0 if look >= self.looks else max(self.band * share, self.alarm(share, look))
