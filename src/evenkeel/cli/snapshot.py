"""``evenkeel snapshot``: verify, list and prune the snapshots of launches."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from evenkeel.cli.command_parser import add_action
from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError, did_you_mean
from evenkeel.launch import snapshot_care
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.git_code import toplevel_of
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.options import snapshots_dir
from evenkeel.launch.snapshot_care import is_newest, launches

EPILOG = """\
examples:
  evenkeel snapshot list                      # every launch of every recipe; * marks the newest
  evenkeel snapshot verify                    # prove what the newest snapshots hold
  evenkeel snapshot verify RECIPE LAUNCH      # the newest of a recipe; all of a launch
  evenkeel snapshot prune --keep-nights 14    # remove older nights, with their results

prune never removes a launch with a job that is pending or running, or of which Slurm says nothing.
"""

_LIST = """\
List every launch of every recipe, newest first: recipe, launch, commit and user. A star marks the
launch that code_snapshots/<recipe> shows.

examples:
  evenkeel snapshot list
  evenkeel snapshot list --json
"""

_VERIFY = """\
Prove what snapshots hold: every file is compared with the manifest that was written when the
snapshot was taken, and the manifest with the commit, where this repository has it.

examples:
  evenkeel snapshot verify                                 # the newest of every recipe
  evenkeel snapshot verify sft-llama3.2-1b-1n8g-fsdp2tp1   # the newest of this one
  evenkeel snapshot verify 20260102-030405-1a2b3c          # all of this launch

exit status: 0 all are as they were taken; 1 one is not; 2 bad input
"""

_PRUNE = """\
Remove the launches of all but the newest nights, with their results, and the code that no launch
needs any more. A launch stays while one of its jobs is pending or running, and while Slurm says
nothing of it.

examples:
  evenkeel snapshot prune --keep-nights 14 --dry-run
  evenkeel snapshot prune --keep-nights 14
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = add_action(actions, "list", "every launch of every recipe", _LIST)
    verify = add_action(actions, "verify", "compare snapshots with their manifests", _VERIFY)
    verify.add_argument("what", nargs="*", metavar="RECIPE|LAUNCH", help="default: the newest")
    prune = add_action(actions, "prune", "remove the launches of older nights", _PRUNE)
    prune.add_argument(
        "--keep-nights", type=int, required=True, metavar="N", help="nights of which all is kept"
    )
    prune.add_argument("--dry-run", action="store_true", help="say what it would remove")
    for action in (listing, verify, prune):
        action.add_argument("--root", type=Path, default=Path(), help="the repository")
        action.add_argument("--snapshot-dir", metavar="DIR", help="instead of code_snapshots")
        action.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Do the action; the exit status of the CLI."""
    root = _repository(args.root)
    folder = snapshots_dir(root, args.snapshot_dir, os.environ).absolute()
    if args.action == "list":
        return _list(args, folder)
    if args.action == "verify":
        return _verify(args, root, folder)
    return _prune(args, folder)


def _repository(around: Path) -> Path:
    try:
        return toplevel_of(around)
    except InputError:
        raise InputError(
            "snapshots are kept beside the code they are of, and there is no git repository here",
            path=around.absolute(),
            fix="call from inside the repository, or pass --root DIR",
        ) from None


def _list(args: argparse.Namespace, folder: Path) -> int:
    found, unreadable = launches(folder)
    rows = [
        {
            "recipe": submission.name,
            "launch": launch.launch_id,
            "newest": is_newest(submission, folder),
            "created": launch.created,
            "user": launch.user,
            "commit": launch.commit,
            "suite": launch.suite,
            "recording": launch.recording is not None,
            "tree": submission.tree.name,
            "folder": str(submission.launch_dir),
        }
        for launch in found
        for submission in launch.submissions()
    ]
    if args.json:
        _print_json({"launches": rows, "unreadable": [str(path) for path in unreadable]})
        return EXIT_OK
    width = max((len(str(row["recipe"])) for row in rows), default=0)
    for row in rows:
        mark = "*" if row["newest"] else " "
        commit = str(row["commit"])[:12]
        what = "  for a baseline" if row["recording"] else ""
        print(f"{mark} {row['recipe']:<{width}}  {row['launch']}  {commit}  {row['user']}{what}")
    for path in unreadable:
        print(f"? {path}: not a launch that this version understands")
    if not rows and not unreadable:
        print(f"no launches in {folder}")
    return EXIT_OK


def _verify(args: argparse.Namespace, root: Path, folder: Path) -> int:
    found, _ = launches(folder)
    results = [
        snapshot_care.verify(folder, root, tree, _results(found, tree))
        for tree in _wanted_trees(args.what, found, folder)
    ]
    if args.json:
        _print_json({"trees": [vars(result) for result in results]})
    else:
        for result in results:
            proof = "as committed" if result.commit_known else "commit not in this repository"
            state = _count(len(result.problems), "difference") if result.problems else "intact"
            about = f"{result.num_files} files, commit {result.commit[:12]} ({proof})"
            print(f"{result.tree}: {state}; {about}")
            for problem in result.problems:
                print(f"  {problem}")
        if not results:
            print(f"no launches in {folder}")
    return EXIT_FINDING if any(result.problems for result in results) else EXIT_OK


def _wanted_trees(what: list[str], found: list[LaunchRecord], folder: Path) -> list[str]:
    trees: dict[str, None] = {}
    for word in what or sorted({name for launch in found for name in launch.names}):
        by_id = [launch for launch in found if launch.launch_id == word]
        named = [launch for launch in found if word in launch.names]
        if by_id:
            trees.update(dict.fromkeys(recipe.tree for recipe in by_id[0].recipes))
        elif named:
            newest = [n for n in named if is_newest(n.submission(word), folder)] or named
            trees[newest[0].recipe(word).tree] = None
        else:
            known = {launch.launch_id for launch in found}
            known |= {name for launch in found for name in launch.names}
            raise InputError(
                f"no launch and no launched recipe is called {word!r}{did_you_mean(word, known)}",
                fix="evenkeel snapshot list shows them all",
            )
    return list(trees)


def _results(found: list[LaunchRecord], tree: str) -> list[str]:
    return [
        str(recipe.driver.with_suffix(""))
        for launch in found
        for recipe in launch.recipes
        if recipe.tree == tree
    ]


def _prune(args: argparse.Namespace, folder: Path) -> int:
    if args.keep_nights < 0:
        raise InputError(f"--keep-nights is {args.keep_nights}, and must be at least 0")
    done = snapshot_care.prune(folder, args.keep_nights, Cluster(), args.dry_run)
    if args.json:
        _print_json(
            {
                "launches": [launch.launch_id for launch in done.launches],
                "trees": list(done.trees),
                "kept": {launch.launch_id: reason for launch, reason in done.kept},
                "unreadable": [str(path) for path in done.unreadable],
                "dry_run": args.dry_run,
            }
        )
        return EXIT_OK
    verb = "would remove" if args.dry_run else "removed"
    for launch in done.launches:
        recipes = _count(len(launch.recipes), "recipe")
        print(f"{verb} launch {launch.launch_id}: {recipes} with all results")
    for launch, reason in done.kept:
        print(f"kept launch {launch.launch_id}: its jobs are {reason}")
    for path in done.unreadable:
        print(f"kept {path} and all code: not a launch that this version understands")
    num_launches = _count(len(done.launches), "launch", "es")
    print(f"{verb} {num_launches} and {_count(len(done.trees), 'tree')} of code")
    return EXIT_OK


def _count(number: int, word: str, plural: str = "s") -> str:
    return f"{number} {word}{'' if number == 1 else plural}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
