"""``evenkeel lint``: name, CONFIG block, recipe, listing and checks against each other."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError, did_you_mean
from evenkeel.recipes.lint import fixes, git
from evenkeel.recipes.lint.engine import Report, Selection, lint
from evenkeel.recipes.lint.registry import RULES
from evenkeel.recipes.lint.tree import CONFIGS, RECIPES, SUITES
from evenkeel.report.lint_formats import Format, render

_ROUNDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="files or folders; none: the whole tree"
    )
    parser.add_argument(
        "--root", type=Path, help="the tree to look at, anyone's; default: the one around here"
    )
    parser.add_argument(
        "--format", choices=[str(one) for one in Format], default="text", help="of the report"
    )
    parser.add_argument(
        "--fix", action="store_true", help="repair what is certain, report the rest"
    )
    parser.add_argument("--select", action="append", default=[], metavar="CODES", help="only these")
    parser.add_argument("--ignore", action="append", default=[], metavar="CODES", help="not these")
    parser.add_argument(
        "--explain", metavar="CODE", help="say what a rule is for, and exit; 'all' lists them"
    )
    parser.add_argument(
        "--base", metavar="REV", help="git revision whose recipes count as released (rule EK410)"
    )
    parser.add_argument(
        "--changed-since", metavar="REV", help="only files that differ from this git revision"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes; default: as many as pay")
    parser.epilog = (
        "examples:\n"
        "  evenkeel lint\n"
        "  evenkeel lint --root ../their-repository --format json\n"
        "  evenkeel lint tests/test_suites/llm/sft-llama3.2-1b-1n8g-fsdp2tp1.sh --fix\n"
        "  evenkeel lint --select EK1,EK304 --ignore EK107\n"
        "  evenkeel lint --changed-since origin/main --format github\n"
        "\n"
        "waive a finding in place, with a reason:\n"
        "  # evenkeel: allow EK504: the first steps after a restart are what is tested\n"
        "\n"
        "exit status: 0 nothing found; 1 findings; 2 bad usage"
    )


def run(args: argparse.Namespace) -> int:
    """Look, repair where asked, and report."""
    if args.explain is not None:
        print(_explain(args.explain), end="")
        return EXIT_OK
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: at least 1 process is needed", fix="leave it out")
    root = (args.root or find_root(Path.cwd())).resolve()
    if not root.is_dir():
        raise InputError("there is no such folder", path=root, fix="name a tree with --root DIR")
    selection = Selection(_codes(args.select), _codes(args.ignore))
    paths = _paths(root, args)
    report = lint(root, paths, selection, base=args.base, jobs=args.jobs)
    if args.fix:
        report = _repair(root, paths, selection, args, report)
    sys.stdout.write(render(report, Format(args.format)))
    return EXIT_FINDING if report.findings else EXIT_OK


def _repair(
    root: Path,
    paths: list[str] | None,
    selection: Selection,
    args: argparse.Namespace,
    report: Report,
) -> Report:
    """Repair until nothing certain is left: one repair may bring out the next."""
    for _ in range(_ROUNDS):
        repaired = fixes.apply(root, report.findings)
        for finding in repaired:
            print(
                f"{finding.path}:{finding.line}: repaired {finding.code} {finding.message}",
                file=sys.stderr,
            )
        if not repaired:
            break
        report = lint(root, paths, selection, base=args.base, jobs=args.jobs)
    return report


def find_root(start: Path) -> Path:
    """The nearest folder, from ``start`` upwards, that holds suites or recipes; else ``start``."""
    for folder in (start, *start.parents):
        if (folder / SUITES).is_dir() or (folder / RECIPES).is_dir():
            return folder
    return start


def _codes(options: list[str]) -> list[str]:
    return [
        code.strip().upper() for option in options for code in option.split(",") if code.strip()
    ]


def _paths(root: Path, args: argparse.Namespace) -> list[str] | None:
    """Files to which findings are limited, relative to the root; None: all."""
    chosen: set[str] | None = None
    if args.paths:
        chosen = set()
        for given in args.paths:
            chosen.update(_files_of(root, given))
    if args.changed_since is not None:
        commit = git.base_of(root, args.changed_since)
        changed = set() if commit is None else set(git.changed_since(root, commit, SUITES, CONFIGS))
        changed = {path for path in changed if (root / path).is_file()}
        chosen = changed if chosen is None else chosen & changed
    return None if chosen is None else sorted(chosen)


def _files_of(root: Path, given: str) -> list[str]:
    """A file, or the files below a folder, that the user names from here or from the root."""
    for candidate in (Path.cwd() / given, root / given):
        if candidate.exists() or candidate.is_symlink():
            # links are kept: a driver may be one
            path = candidate.parent.resolve() / candidate.name
            if candidate.is_dir():
                path = candidate.resolve()
            if path != root and root not in path.parents:
                raise InputError(
                    f"{given} is not below {root}", fix="name its tree with --root DIR"
                )
            if path.is_dir():
                return _files_below(root, path)
            return [path.relative_to(root).as_posix()]
    raise InputError(f"there is no file {given}", fix=f"name files below {root}")


def _files_below(root: Path, folder: Path) -> list[str]:
    """The files of the tree's two folders that lie below ``folder``."""
    found: list[str] = []
    for part in (root / SUITES, root / CONFIGS):
        start = folder if part in (folder, *folder.parents) else part
        if start == folder or folder in part.parents:
            found.extend(
                file.relative_to(root).as_posix()
                for file in start.rglob("*")
                if file.is_file() or file.is_symlink()
            )
    return found


def _explain(code: str) -> str:
    if code.lower() == "all":
        return "".join(f"{rule.code}  {rule.title}\n" for _, rule in sorted(RULES.items()))
    rule = RULES.get(code.upper())
    if rule is None:
        raise InputError(
            f"there is no rule {code!r}{did_you_mean(code.upper(), RULES)}",
            fix="'evenkeel lint --explain all' lists the rules",
        )
    repaired = "\n--fix repairs it where that is certain." if rule.fixable else ""
    return (
        f"{rule.code} ({rule.severity}): {rule.title}\n\n{rule.reason}\n\n"
        f"fix: {rule.fix}{repaired}\n"
        f"waive: # evenkeel: allow {rule.code}: <reason>\n"
    )
