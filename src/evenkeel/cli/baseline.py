"""``evenkeel baseline``: record, show, compare and retire the runs that verdicts rest on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.cli.command_parser import add_action
from evenkeel.errors import EXIT_OK, InputError
from evenkeel.run_paths import Repository

if TYPE_CHECKING:
    from evenkeel.convergence.baseline import Baseline

EPILOG = """\
examples:
  evenkeel baseline record --from m1.json m2.json m3.json --output baseline.json
  evenkeel baseline record sft-llama-0.9m-1n1g-fsdp2tp1 --runs 5
  evenkeel baseline add baseline.json runs/sixth
  evenkeel baseline show baseline.json
  evenkeel baseline diff old.json new.json
  evenkeel baseline accept baseline.json RUN... --reason "new tokenizer, see the pull request"
  evenkeel baseline retire baseline.json --reason "replaced by .v2"

Where BASELINE is asked for, a file or the name of a recipe of this repository can be given.
A recipe's baselines are in tests/baselines/{llm,vlm}/<recipe>/<platform>.json.
"""


_RECORD = """\
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

_ADD = """\
Add runs to those that a baseline has: the more healthy runs it knows, the smaller the changes that
it shows. They must be of the same configuration.

examples:
  evenkeel baseline add baseline.json runs/sixth
  evenkeel baseline add sft-llama-0.9m-1n1g-fsdp2tp1 runs/sixth runs/seventh --reason "more seeds"
"""

_ACCEPT = """\
Let runs of a new behaviour that is meant take the place of a baseline's runs. Its settings stay,
and so does the record of who accepted what, when and why.

examples:
  evenkeel baseline accept baseline.json runs/a runs/b runs/c --reason "new tokenizer"
"""

_RETIRE = """\
Let a baseline judge no more, and keep it: runs that are compared with it are INCOMPARABLE, and say
why. New runs, by 'evenkeel baseline accept', take it into service again.

examples:
  evenkeel baseline retire baseline.json --reason "replaced by .v2"
"""

_SHOW = """\
Show what a baseline knows: its runs, who accepted them, and of each metric the values that pass,
the change that would be found in four of five runs, and the runs that it takes to find enough.

examples:
  evenkeel baseline show baseline.json
  evenkeel baseline show sft-llama-0.9m-1n1g-fsdp2tp1 --metric train/loss
  evenkeel baseline show baseline.json --json
"""

_DIFF = """\
Show what changed from one baseline to another: provenance, metrics that only one has, and of each
metric the mean and the change that it would find.

examples:
  evenkeel baseline diff old.json new.json

exit status: 0 also where they differ; 2 bad input
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser per action."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    record = add_action(actions, "record", "make one, from runs to train or at hand", _RECORD)
    _add_recording(record)
    add = add_action(actions, "add", "add runs to one", _ADD)
    accept = add_action(actions, "accept", "let runs of a new behaviour replace its runs", _ACCEPT)
    retire = add_action(actions, "retire", "let one judge no more", _RETIRE)
    show = add_action(actions, "show", "band, noise and minimum detectable change", _SHOW)
    diff = add_action(actions, "diff", "what changed from one to another", _DIFF)
    for action in (add, accept, retire, show):
        action.add_argument("baseline", metavar="BASELINE", help="a file, or a recipe's name")
    for action in (add, accept):
        action.add_argument("sources", nargs="+", type=Path, metavar="RUN",
                            help="metrics files or run directories")  # fmt: skip
    for action in (record, add, accept, retire):
        action.add_argument("--reason", default="", help="why, for the reader of the file")
        action.add_argument("--by", help="who (default: git's user name, else the login)")
    show.add_argument("--metric", action="append", default=[], metavar="NAME", help="only these")
    show.add_argument("--json", action="store_true", help="print numbers as JSON")
    diff.add_argument("before", metavar="BEFORE", help="a file, or a recipe's name")
    diff.add_argument("after", metavar="AFTER", help="likewise")
    for action in (record, add, accept, retire, show, diff):
        action.add_argument("--root", type=Path, metavar="DIR",
                            help="repository (default: around this folder)")  # fmt: skip


def _add_recording(record: argparse.ArgumentParser) -> None:
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
    """Dispatch."""
    actions = {"record": _record, "add": _add, "accept": _accept, "retire": _retire,
               "show": _show, "diff": _diff}  # fmt: skip
    return actions[args.action](args)


def _record(args: argparse.Namespace) -> int:
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
    _warn([*baseline_recording.left_out(evidence, made), *baseline_files.doubts(made)])
    _say(f"recorded {_held(made)} in {path}")
    return EXIT_OK


def _add(args: argparse.Namespace) -> int:
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files, baseline_recording
    from evenkeel.convergence.run_evidence import read_evidence

    path = baseline_files.find(args.baseline, args.root)
    evidence = [read_evidence(source) for source in args.sources]
    accepted = baseline_files.acceptance(args.by, args.reason or "more runs")
    made = baseline_recording.with_runs(files.load(path), evidence, accepted)
    files.save(made, path)
    _warn([*baseline_recording.left_out(evidence, made), *baseline_files.doubts(made)])
    _say(f"{path}: now {_held(made)}")
    return EXIT_OK


def _accept(args: argparse.Namespace) -> int:
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files
    from evenkeel.convergence.run_evidence import read_evidence

    if not args.reason:
        raise InputError(
            "accepting another behaviour needs a --reason",
            fix='--reason "what changed, and why that is right"',
        )
    path = baseline_files.find(args.baseline, args.root)
    evidence = [read_evidence(source) for source in args.sources]
    accepted = baseline_files.acceptance(args.by, args.reason)
    made = baseline_files.replaced(files.load(path), evidence, accepted)
    files.save(made, path)
    _warn(baseline_files.doubts(made))
    _say(f"{path}: now {_held(made)}")
    return EXIT_OK


def _retire(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files

    if not args.reason:
        raise InputError(
            "retiring a baseline needs a --reason", fix='--reason "what judges instead, and why"'
        )
    path = baseline_files.find(args.baseline, args.root)
    retired = baseline_files.acceptance(args.by, args.reason)
    files.save(replace(files.load(path), retired=retired), path)
    _say(f"{path} judges no more")
    return EXIT_OK


def _show(args: argparse.Namespace) -> int:
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files, baseline_judgement
    from evenkeel.report import baseline_text

    path = baseline_files.find(args.baseline, args.root)
    loaded = files.load(path)
    baseline_judgement.refuse_unknown(args.metric, loaded.curves)
    if args.json:
        print(json.dumps(baseline_text.numbers(loaded, args.metric)))
    else:
        baseline_text.print_baseline(loaded, str(path), args.metric)
    return EXIT_OK


def _diff(args: argparse.Namespace) -> int:
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files
    from evenkeel.report import baseline_text

    before = files.load(baseline_files.find(args.before, args.root))
    after = files.load(baseline_files.find(args.after, args.root))
    baseline_text.print_difference(before, after)
    return EXIT_OK


def _warn(doubts: Sequence[str]) -> None:
    for doubt in doubts:
        print(f"[WARNING] {doubt}", file=sys.stderr)


def _held(made: Baseline) -> str:
    counts = {"run": len(made.runs), "metric": len(made.curves)}
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())


def _say(text: str) -> None:
    print(f"[INFO] {text}")
