"""``evenkeel baseline record``: from runs, trained for it or at hand, to a baseline file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.errors import EXIT_OK, InputError
from evenkeel.run_paths import Repository

if TYPE_CHECKING:
    from evenkeel.convergence.baseline import Baseline

TEXT = """\
Make a baseline, either of the recipe NAME, which is trained here with several seeds (its own
first) and a numeric twin, or with --from of runs that are at hand. Trainings that are finished are
kept, so an interrupted call goes on where it stopped.

examples:
  evenkeel baseline record sft-llama-0.9m-1n1g-fsdp2tp1 --runs 5
  evenkeel baseline record --from m1.json m2.json m3.json --output baseline.json
  evenkeel baseline record --from runs/a runs/b runs/c --output B.json --without 'timing/*'
  evenkeel baseline record --from m1.json m2.json --output B.json --direction answer/length=both

Without --output a recipe's file goes to tests/baselines/{llm,vlm}/<recipe>/<platform>.json.

exit status: 0 written, also with warnings; 1 a training did not finish; 2 bad input
"""


def add_arguments(record: argparse.ArgumentParser) -> None:
    """Declare the options of the action, but for those that others have, too."""
    record.add_argument("name", nargs="?", metavar="NAME", help="a recipe, whose driver is run")
    record.add_argument(
        "--runs", type=int, default=5, metavar="K", help="seeds, its own first (default 5)"
    )
    record.add_argument("--twins", type=int, default=1, metavar="N",
                        help="numeric twins of its own seed (default 1)")  # fmt: skip
    record.add_argument("--from", nargs="+", type=Path, dest="sources", metavar="RUN",
                        help="metrics files or run directories instead of training")  # fmt: skip
    record.add_argument("--output", type=Path, metavar="FILE", help="where to write it")
    record.add_argument("--evidence", type=Path, metavar="DIR",
                        help="where the runs of NAME are kept")  # fmt: skip
    record.add_argument("--direction", action="append", default=[], metavar="NAME=SIDE",
                        help="good side of a metric: lower, higher, both, exact")  # fmt: skip
    record.add_argument("--without", action="append", default=[], metavar="PATTERN",
                        help="leave metrics out, 'timing/*' for one")  # fmt: skip
    record.add_argument("--exact", action="store_true", help="write values with all digits")
    record.add_argument("--bit-exact", action="store_true",
                        help="a bit difference on the same numerics is a regression")  # fmt: skip
    record.add_argument("--force", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Train or take the runs, and write the file."""
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files, baseline_judgement, baseline_recording
    from evenkeel.convergence.run_evidence import read_evidence

    if bool(args.name) == bool(args.sources):
        raise InputError(
            "give either the NAME of a recipe to train, or --from with runs at hand",
            fix="evenkeel baseline record --from m1.json m2.json --output baseline.json",
        )
    if args.sources:
        sources: list[Path] = args.sources
    else:
        from evenkeel.launch import baseline_runs

        driver = Repository.around(args.root or Path.cwd()).find_driver(args.name)
        sources = baseline_runs.record(driver, args.runs, args.evidence, num_twins=args.twins)
    evidence = [read_evidence(path).without(args.without) for path in sources]
    recipe = args.name or str(evidence[0].record.get("recipe") or "")
    made = baseline_recording.of_evidence(
        evidence,
        recipe=recipe,
        accepted=baseline_files.acceptance(args.by, args.reason),
        exact=args.exact or args.bit_exact,
        bit_exact=args.bit_exact,
    )
    given = baseline_judgement.parse_directions(args.direction, made.curves)
    made = baseline_files.with_directions(made, given)
    path = args.output or baseline_files.standard_path(made, args.root)
    if path.is_dir():
        raise InputError(
            "a folder, where a file is wanted", path=path, fix=f"--output {path}/B.json"
        )
    if path.exists() and not args.force:
        raise InputError(
            "this baseline exists already",
            path=path,
            fix="'baseline add' or 'baseline accept' keeps its history; --force replaces it",
        )
    files.save(made, path)
    warn([*baseline_recording.left_out(evidence, made), *baseline_files.doubts(made)])
    say(f"recorded {held(made)} in {path}")
    return EXIT_OK


def warn(doubts: Sequence[str]) -> None:
    """What a person should look at before trusting a baseline."""
    for doubt in doubts:
        print(f"[WARNING] {doubt}", file=sys.stderr)


def held(made: Baseline) -> str:
    """How much is in it, in words."""
    counts = {"run": len(made.runs), "metric": len(made.curves)}
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())


def say(text: str) -> None:
    """A line about what was done."""
    print(f"[INFO] {text}")
