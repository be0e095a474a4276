"""Printing an estimate: shared by ``evenkeel plan`` and the dry run of ``evenkeel launch``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from evenkeel.errors import EXIT_INPUT, EXIT_OK
from evenkeel.launch.drivers import DriverWord
from evenkeel.launch.plan import error_lines, plan, report_lines


def print_estimate(words: Sequence[DriverWord], as_json: bool) -> int:
    """Print the GPU-hours of the drivers; broken ones are named on stderr.

    Returns:
        0, or 2 when a driver is broken.
    """
    found = plan((driver.word, driver.path) for driver in words)
    # errors first: the total is the last line even where both go to one terminal
    for line in error_lines(found.recipes):
        print(line, file=sys.stderr, flush=True)
    if as_json:
        import json

        print(json.dumps(found.to_json(), indent=2))
    else:
        print("\n".join(report_lines(found)))
    return EXIT_INPUT if found.broken else EXIT_OK
