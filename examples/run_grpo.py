"""Group-relative policy optimisation: ``run_grpo.py --config FILE [key=value ...]``."""

import sys

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.run import main

if __name__ == "__main__":
    sys.exit(main(Algorithm.GRPO))
