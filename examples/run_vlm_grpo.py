"""Group-relative policy optimisation of a vision-language recipe: ``--config FILE``."""

import sys

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.run import main

if __name__ == "__main__":
    sys.exit(main(Algorithm.GRPO))
