"""Training bugs, planted one at a time into the real trainers.

Importing this package registers all of them and loads no trainer: a mutant's function imports and
patches when it is planted.
"""

from mutants import (  # noqa: F401 - each registers its mutants
    batches,
    data,
    gradients,
    loss,
    model,
    optimizer,
    preferences,
    reinforcement,
    resume,
    schedule,
    vision,
)
from mutants.registry import MUTANTS, listing, plant

__all__ = ["MUTANTS", "listing", "plant"]
