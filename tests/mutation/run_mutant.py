"""A trainer with one bug planted: ``run_mutant.py NAME examples/run_sft.py --config FILE …``.

Also under torchrun, in the trainer's place. ``healthy`` plants nothing; ``--list`` prints all
mutants and harmless changes as JSON, without loading a trainer.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from mutants import HARMLESS, MUTANTS, listing, plant

HEALTHY = "healthy"


def main() -> int:
    """Plant, then run the script as if it had been called itself."""
    arguments = sys.argv[1:]
    if arguments == ["--list"]:
        print(json.dumps(listing()))
        return 0
    if len(arguments) < 2 or arguments[0] not in {HEALTHY, *MUTANTS, *HARMLESS}:
        print(f"usage: run_mutant.py NAME SCRIPT [ARGUMENT ...]\nNAME: {HEALTHY}, "
              f"{', '.join(MUTANTS)}", file=sys.stderr)  # fmt: skip
        return 2
    name, script = arguments[:2]
    if name != HEALTHY:
        plant(name)
    sys.argv = arguments[1:]
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
