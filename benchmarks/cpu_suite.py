"""The CPU suite by its drivers: each recipe cold, and stopped early and continued.

    uv run python benchmarks/cpu_suite.py [--suite nightly_cpu] [--only RECIPE] [--cold] [--json]

Cold is one call of the driver in an empty directory, from the import of torch to the verdict.
Continued is two: the first is asked to stop a quarter of the way through its training time (by the
stop request that ``evenkeel watch`` writes), the second goes on from its checkpoint. Both must end
with status 0, and hold the same values, to the bit, of every metric that is not a speed or a
memory. Prints a row as soon as it is there; the exit status is 1 where one of this does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from evenkeel.convergence.metric_kinds import Family, kind_of
from evenkeel.launch.drivers import of_suite
from evenkeel.run_paths import RunPaths

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(r"^ready ", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    recipe: str
    cold_s: float
    cold_status: int
    load: float
    continued_s: float | None = None
    stopped_at: int | None = None
    steps: int | None = None
    continued_status: int | None = None
    differing: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Both ways passed, the stop came between first and last step, and the values agree."""
        if self.cold_status != 0 or self.differing:
            return False
        if self.continued_status is None:
            return True
        return self.continued_status == 0 and 0 < (self.stopped_at or 0) < (self.steps or 0)


def drivers(suite: str, only: list[str]) -> list[Path]:
    paths = [Path(word.path) for word in of_suite(suite, ROOT)[0]]
    return [path for path in paths if not only or path.stem in only]


def start(driver: Path, run: RunPaths) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "EVENKEEL_EXP_DIR": str(run.root)}
    return subprocess.Popen(
        ["bash", str(driver), "checkpointing.enabled=true"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )


def timed(driver: Path, run: RunPaths) -> tuple[float, int, float]:
    """Seconds of the whole driver, its exit status, and seconds until it was ready to train."""
    began = time.monotonic()
    process = start(driver, run)
    ready = None
    while process.poll() is None:
        if ready is None and is_ready(run):
            ready = time.monotonic() - began
        time.sleep(0.1)
    seconds = time.monotonic() - began
    return seconds, process.returncode, ready or seconds


def is_ready(run: RunPaths) -> bool:
    return run.run_log.exists() and bool(READY.search(run.run_log.read_text("utf-8", "replace")))


def stopped(driver: Path, run: RunPaths, after_ready_s: float) -> int:
    """Train until asked to stop; the last step it did."""
    process = start(driver, run)
    while process.poll() is None and not is_ready(run):
        time.sleep(0.1)
    time.sleep(after_ready_s)
    run.stop_request.write_text("benchmarks/cpu_suite.py\n", encoding="utf-8")
    process.wait()
    return last_step(run)


def values(run: RunPaths) -> dict[str, dict[str, float]]:
    metrics = json.loads(run.metrics.read_text("utf-8"))
    return {
        name: curve for name, curve in metrics.items() if kind_of(name).family is Family.CONVERGENCE
    }


def last_step(run: RunPaths) -> int:
    return max((int(step) for curve in values(run).values() for step in curve), default=0)


def differing(one: dict[str, dict[str, float]], two: dict[str, dict[str, float]]) -> list[str]:
    """Names of the curves that are not the same to the bit; NaN equals NaN."""
    return sorted(
        name
        for name in one.keys() | two.keys()
        if json.dumps(one.get(name), sort_keys=True) != json.dumps(two.get(name), sort_keys=True)
    )


def measure(driver: Path, scratch: Path, cold_only: bool) -> Row:
    cold, again = (RunPaths(scratch / side / driver.stem) for side in ("cold", "continued"))
    seconds, status, ready = timed(driver, cold)
    load = os.getloadavg()[0]
    if cold_only or status != 0:
        return Row(driver.stem, seconds, status, load)
    began = time.monotonic()
    stopped_at = stopped(driver, again, (seconds - ready) / 4)
    _, again_status, _ = timed(driver, again)
    return Row(
        driver.stem,
        seconds,
        status,
        load,
        time.monotonic() - began,
        stopped_at,
        last_step(cold),
        again_status,
        tuple(differing(values(cold), values(again))),
    )


def line(row: Row) -> str:
    text = f"{row.recipe:45} {row.cold_s:5.0f} s  status {row.cold_status}  load {row.load:4.1f}"
    if row.continued_s is None:
        return text
    same = "same values" if not row.differing else f"differ: {', '.join(row.differing)}"
    return (
        f"{text}  continued {row.continued_s:5.0f} s  status {row.continued_status}"
        f"  stopped at {row.stopped_at}/{row.steps}  {same}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="nightly_cpu")
    parser.add_argument("--only", action="append", default=[], metavar="RECIPE")
    parser.add_argument("--cold", action="store_true", help="do not stop and continue")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for driver in drivers(arguments.suite, arguments.only):
            rows.append(measure(driver, Path(scratch), arguments.cold))
            print(line(rows[-1]), file=sys.stderr, flush=True)
    good = bool(rows) and all(row.good for row in rows)
    total = sum(row.cold_s for row in rows)
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "cold_s": total, "good": good}))
    else:
        print(f"{len(rows)} recipes, cold {total / 60:.1f} min: {'good' if good else 'NOT GOOD'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
