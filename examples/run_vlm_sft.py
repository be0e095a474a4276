"""Supervised fine-tuning of a vision-language recipe: ``run_vlm_sft.py --config FILE``."""

import sys

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.run import main

if __name__ == "__main__":
    sys.exit(main(Algorithm.SFT))
