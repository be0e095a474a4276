"""Training bugs, planted one at a time into the real trainers, and changes that are none.

Importing this package registers all of them and loads no trainer: a mutant's function imports and
patches when it is planted.
"""

from mutants import (  # noqa: F401 - each registers its mutants
    batches,
    data,
    gradients,
    harmless,
    loss,
    model,
    optimizer,
    preferences,
    reinforcement,
    resume,
    schedule,
    vision,
)
from mutants.registry import HARMLESS, MUTANTS, listing, plant

__all__ = ["HARMLESS", "MUTANTS", "listing", "plant"]
