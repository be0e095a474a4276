"""``evenkeel continue``: what ``continue.sh`` of a launched recipe calls."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from evenkeel.errors import EXIT_OK
from evenkeel.launch import continuation
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.launcher import only_launcher, submit_chains
from evenkeel.launch.secrets import secrets_in

EPILOG = """\
examples:
  code_snapshots/sft-llama3.2-1b-1n8g-fsdp2tp1/continue.sh              # one more run
  code_snapshots/sft-llama3.2-1b-1n8g-fsdp2tp1/continue.sh --dry-run    # only say what it would do
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a continuation."""
    parser.epilog = EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of the continue.sh")
    parser.add_argument("--dry-run", action="store_true", help="say what it would do, and end")
    parser.add_argument("--account", help="instead of the account of the launch")
    parser.add_argument("--partition", help="instead of the partition of the launch")


def run(args: argparse.Namespace) -> int:
    """Say what will be done and do it; the exit status of the CLI."""
    record, launched = continuation.find(args.folder)
    submission = continuation.next_run(record, launched, Cluster())
    options = submission.options
    options = replace(
        options,
        account=args.account or options.account,
        partition=args.partition or options.partition,
    )
    submission = replace(submission, options=options)
    for line in continuation.describe(record, submission, os.environ):
        print(line, file=sys.stdout if line.startswith("[INFO]") else sys.stderr, flush=True)
    if args.dry_run:
        return EXIT_OK
    with only_launcher(record.folder):
        secrets = secrets_in(os.environ, options.secret_names)
        return submit_chains([submission], secrets, lambda line: print(line, flush=True))
