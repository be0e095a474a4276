"""``evenkeel baseline``: record, show, compare and retire the runs that verdicts rest on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evenkeel.cli import baseline_record
from evenkeel.cli.baseline_record import held, say, warn
from evenkeel.cli.command_parser import add_action
from evenkeel.errors import EXIT_OK, InputError

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
    line = "make one, from runs to train or at hand"
    record = add_action(actions, "record", line, baseline_record.TEXT)
    baseline_record.add_arguments(record)
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


def run(args: argparse.Namespace) -> int:
    """Dispatch."""
    actions = {"record": baseline_record.run, "add": _add, "accept": _accept, "retire": _retire,
               "show": _show, "diff": _diff}  # fmt: skip
    return actions[args.action](args)


def _add(args: argparse.Namespace) -> int:
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files, baseline_recording
    from evenkeel.convergence.run_evidence import read_evidence

    path = baseline_files.find(args.baseline, args.root)
    evidence = [read_evidence(source) for source in args.sources]
    accepted = baseline_files.acceptance(args.by, args.reason or "more runs")
    made = baseline_recording.with_runs(files.load(path), evidence, accepted)
    files.save(made, path)
    warn([*baseline_recording.left_out(evidence, made), *baseline_files.doubts(made)])
    say(f"{path}: now {held(made)}")
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
    warn(baseline_files.doubts(made))
    say(f"{path}: now {held(made)}")
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
    say(f"{path} judges no more")
    return EXIT_OK


def _show(args: argparse.Namespace) -> int:
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files, baseline_judgement
    from evenkeel.convergence.comparison import Options
    from evenkeel.report import baseline_text

    path = baseline_files.find(args.baseline, args.root)
    loaded = files.load(path)
    baseline_judgement.refuse_unknown(args.metric, loaded.curves)
    options = Options(directions=loaded.directions)
    home = baseline_files.repository_of(path)
    if home is not None:
        options = baseline_judgement.options_in(home, loaded)
    if args.json:
        print(json.dumps(baseline_text.numbers(loaded, options, args.metric)))
    else:
        baseline_text.print_baseline(loaded, str(path), options, args.metric)
    return EXIT_OK


def _diff(args: argparse.Namespace) -> int:
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files
    from evenkeel.report import baseline_text

    before = files.load(baseline_files.find(args.before, args.root))
    after = files.load(baseline_files.find(args.after, args.root))
    baseline_text.print_difference(before, after)
    return EXIT_OK
