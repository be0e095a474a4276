"""``evenkeel collect``: the event files of a run become its metrics.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError
from evenkeel.metrics import series
from evenkeel.metrics.collection import Collection, OnConflict, collect

EPILOG = """\
examples:
  evenkeel collect logs --output metrics.json
  evenkeel collect logs --output metrics.json --on-conflict error
  evenkeel collect logs --output metrics.json --resume-state collect.state

Every event file below LOG_DIR is read, checksums included, and merged by step in the order in
which the files were begun; at the same step the later file wins. The cut or corrupt end of a file,
as a killed run leaves it, costs nothing but a warning. Values lost in the middle of a file end
in exit status 1: the output holds all that is whole, but no killed run explains the hole.

exit status: 0 good; 1 written, but values were lost in the middle of a file; 2 no event file, no
             scalar, or a conflict under --on-conflict error; 3 the output could not be written
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evenkeel collect``."""
    parser.epilog = EPILOG
    parser.add_argument(
        "log_dir", type=Path, metavar="LOG_DIR", help="directory below which event files are"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="metrics.json to write"
    )
    parser.add_argument(
        "--on-conflict",
        choices=[choice.value for choice in OnConflict],
        default=OnConflict.LATER.value,
        help="a step logged twice with different values: the later wins (default), or an error",
    )
    parser.add_argument(
        "--resume-state",
        type=Path,
        metavar="FILE",
        help="continue where the collection that wrote FILE stopped, and keep FILE up to date",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Collect, write, and say what was found."""
    if args.output.is_dir() or str(args.output) == "-":
        raise InputError(
            f"--output {args.output} is no file",
            fix=f"name the file to write, such as {args.log_dir.parent / 'metrics.json'}",
        )
    earlier = None
    if args.resume_state is not None:
        from evenkeel.metrics import resume_state

        earlier = resume_state.load(args.resume_state, args.log_dir, args.output)
    collection = collect(args.log_dir, OnConflict(args.on_conflict), earlier)
    series.save(args.output, collection.metrics)
    if args.resume_state is not None:
        resume_state.save(args.resume_state, collection, args.log_dir, args.output)
    for warning in collection.warnings:
        print(f"evenkeel collect: warning: {warning}", file=sys.stderr)
    summary = _summary(collection, args.output)
    print(json.dumps(summary) if args.json else _sentence(summary))
    return EXIT_FINDING if collection.damaged else EXIT_OK


def _summary(collection: Collection, output: Path) -> dict[str, object]:
    return {
        "output": str(output),
        "files": len(collection.files),
        "metrics": len(collection.metrics),
        "values": collection.num_values,
        "last_step": series.last_step(collection.metrics),
        "replaced": collection.num_conflicts,
        "resumed": collection.resumed,
        "damaged": collection.damaged,
        "warnings": collection.warnings,
    }


def _sentence(summary: dict[str, object]) -> str:
    text = (
        f"{summary['output']}: {summary['metrics']} metrics, {summary['values']} values, "
        f"last step {summary['last_step']}, from {summary['files']} event "
        f"{'file' if summary['files'] == 1 else 'files'}"
    )
    if summary["replaced"]:
        text += f"; {summary['replaced']} values replaced by those of later starts"
    if summary["resumed"]:
        text += "; continued"
    return text
