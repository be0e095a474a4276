"""``evenkeel suite``: what the suites hold, what it costs, and how it last went."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError, did_you_mean
from evenkeel.launch.plan import rounded_hours
from evenkeel.recipes import config_block, name_exception, suite, vocabulary
from evenkeel.recipes import name as names
from evenkeel.recipes.config_block import ConfigBlock
from evenkeel.recipes.name import RecipeName
from evenkeel.recipes.suite import Entry, Listing
from evenkeel.recipes.vocabulary import Vocabulary
from evenkeel.run_paths import Repository, RunPaths

EXAMPLES = """\
examples:
  evenkeel suite list
  evenkeel suite show nightly
  evenkeel suite show nightly release --algo grpo --backend megatron --max-gpu-hours 50
  evenkeel suite show --model llama --json

list   one line per suite: recipes, GPU-hours, budget, hardware, and how its recipes last went
show   one line per recipe, and what all of them cost
--algo, --backend and the like leave recipes out of both.

exit status: 0 good; 1 an entry names no file, or a driver cannot be read; 2 bad input. What a name
             lacks is 'evenkeel lint's to say
"""

_UNBOUNDED = 10_000
"""Columns where there is no terminal: a file or a pipe has no edge to wrap at."""


@dataclass(frozen=True)
class Row:
    """One recipe of a suite, as far as its files can be read."""

    suite: str
    entry: Entry
    driver: str | None
    """Relative to the root; None: there is no such file."""
    name: RecipeName | None
    block: ConfigBlock | None
    verdict: str | None
    error: str | None

    def to_json(self) -> dict[str, Any]:
        """One element of ``recipes``; null where a file does not say."""
        block = self.block
        return {
            "suite": self.suite,
            "name": self.entry.name,
            "driver": self.driver or self.entry.text,
            "algo": self.name.algo if self.name else None,
            "model": self.name.model if self.name else None,
            "backend": self.name.strategy.backend if self.name else None,
            "num_nodes": block.num_nodes if block else None,
            "gpus_per_node": block.gpus_per_node if block else None,
            "num_runs": block.num_runs if block else None,
            "num_minutes": block.num_minutes if block else None,
            "gpu_hours": block.gpu_minutes / 60 if block else None,
            "verdict": self.verdict,
            "note": self.entry.note or None,
            "error": self.error,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EXAMPLES
    parser.add_argument("action", choices=["list", "show"], help="see below")
    parser.add_argument("suites", nargs="*", metavar="NAME", help="suites (default: all)")
    parser.add_argument("--algo", help="only recipes of this algorithm, such as grpo or vlm_grpo")
    parser.add_argument("--backend", help="only recipes whose name states this backend")
    parser.add_argument("--model", help="only recipes whose model begins with or contains this")
    parser.add_argument("--verdict", help="only recipes with this last verdict, such as PASS")
    parser.add_argument(
        "--max-gpu-hours", type=_hours, metavar="H", help="only recipes that cost at most this"
    )
    parser.add_argument("--root", type=Path, help="the repository (default: around you)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _hours(text: str) -> Fraction:
    try:
        hours = Fraction(text)
    except (ValueError, ZeroDivisionError):
        hours = Fraction(-1)
    if hours < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours, such as 50 or 0.5")
    return hours


def run(args: argparse.Namespace) -> int:
    """Print suites or recipes."""
    repository = Repository(args.root) if args.root else Repository.around(Path.cwd())
    if not repository.suites_dir.is_dir():
        raise InputError(f"no folder {repository.suites_dir}", fix="pass the root of a repository")
    found = (
        [suite.find(repository.root, name) for name in args.suites]
        if args.suites
        else suite.listings(repository.root)
    )
    words = vocabulary.load(repository.root)
    read = [(listing, _rows(listing, repository, words)) for listing in found]
    _refuse_unknown(args, words, [row for _, rows in read for row in rows])
    by_suite = [(listing, [row for row in rows if _wanted(row, args)]) for listing, rows in read]
    if args.action == "list":
        _print_suites(by_suite, as_json=args.json)
    else:
        _print_recipes([row for _, rows in by_suite for row in rows], as_json=args.json)
    broken = any(row.error for _, rows in by_suite for row in rows)
    return EXIT_FINDING if broken else EXIT_OK


def _rows(listing: Listing, repository: Repository, words: Vocabulary) -> list[Row]:
    return [_row(listing, entry, repository, words) for entry in listing.entries]


def _row(listing: Listing, entry: Entry, repository: Repository, words: Vocabulary) -> Row:
    driver = suite.resolve(entry, repository)
    block, exception, errors = None, None, []
    if driver is None:
        errors.append("no such file")
    else:
        path = repository.root / driver
        try:
            text = config_block.read_text(path)
            exception = name_exception.find(text, path)
            block = config_block.parse(text, path)
        except InputError as error:
            errors.append(error.message)
    name = _name(entry.name, exception is not None, words)
    verdict = _last_verdict(repository.root / driver) if driver else None
    return Row(listing.name, entry, driver, name, block, verdict, "; ".join(errors) or None)


def _name(text: str, declared: bool, words: Vocabulary) -> RecipeName | None:
    """The name, also where it would need a declaration: those of other teams may be shorter."""
    for tolerated in (declared, True):
        with contextlib.suppress(names.InvalidNameError):
            return names.parse(text, declared=tolerated, grammar=words.grammar)
    return None


def _last_verdict(driver: Path) -> str | None:
    """What the run beside ``driver`` was last judged to be."""
    kept = RunPaths(driver.with_name(driver.name.removesuffix(".sh"))).verdict
    try:
        verdict = json.loads(kept.read_text(encoding="utf-8")).get("verdict")
    except (OSError, ValueError, AttributeError):
        return None
    return verdict if isinstance(verdict, str) else None


def _refuse_unknown(args: argparse.Namespace, words: Vocabulary, rows: Sequence[Row]) -> None:
    """Raise for a filter that no recipe can pass, whatever the suites hold.

    Raises:
        InputError: an algorithm or backend that neither the vocabulary nor a recipe has, or
            something else than a verdict.
    """
    named = [row.name for row in rows if row.name]
    algorithms = {*words.algorithms, *(name.algo for name in named)}
    backends = {*words.grammar.backends.values()}
    for option, given, valid in (
        ("--algo", args.algo, algorithms | {f"vlm_{algo}" for algo in algorithms}),
        ("--backend", args.backend, backends),
        ("--verdict", args.verdict and args.verdict.upper(), {one.value for one in Verdict}),
    ):
        if given and given not in valid:
            raise InputError(
                f"{option} {given!r}: there is none of that name{did_you_mean(given, valid)}",
                fix=f"one of: {', '.join(sorted(valid))}",
            )


def _wanted(row: Row, args: argparse.Namespace) -> bool:
    name = row.name
    if args.algo and (name is None or args.algo not in (name.algo, "vlm_" * name.vlm + name.algo)):
        return False
    if args.backend and (name is None or name.strategy.backend != args.backend):
        return False
    if args.model and (name is None or args.model.lower() not in name.model.lower()):
        return False
    if args.verdict and (row.verdict or "").upper() != args.verdict.upper():
        return False
    if args.max_gpu_hours is not None:
        return row.block is not None and row.block.gpu_minutes <= 60 * args.max_gpu_hours
    return True


def _minutes(rows: Sequence[Row]) -> int:
    return sum(row.block.gpu_minutes for row in rows if row.block)


def _hardware(listing: Listing) -> str:
    declared = listing.declared
    gpus = "/".join(map(str, declared.gpus_per_node or ()))
    said = [declared.device or "", f"{gpus} per node" if gpus else ""]
    return ", ".join(part for part in said if part) or "-"


def _print_suites(found: Sequence[tuple[Listing, list[Row]]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"suites": [_suite_json(*one) for one in found]}, indent=2))
        return
    rows = [
        [
            listing.name,
            str(len(rows)),
            rounded_hours(_minutes(rows)),
            _budget(listing),
            _hardware(listing),
            _tally(rows),
        ]
        for listing, rows in found
    ]
    _print_table(["suite", "recipes", "GPU-hours", "budget a night", "hardware", "last"], rows)


def _suite_json(listing: Listing, rows: list[Row]) -> dict[str, Any]:
    declared = listing.declared
    return {
        "name": listing.name,
        "path": str(listing.path),
        "disabled": listing.is_disabled,
        "num_recipes": len(rows),
        "gpu_hours": _minutes(rows) / 60,
        "device": declared.device,
        "gpus_per_node": declared.gpus_per_node,
        "max_minutes": declared.max_minutes,
        "budget_gpu_hours_per_night": _number(declared.budget_gpu_hours_per_night),
        "budget_gpu_hours_per_week": _number(declared.budget_gpu_hours_per_week),
    }


def _number(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _budget(listing: Listing) -> str:
    budget = listing.declared.budget_gpu_hours_per_night
    return "-" if budget is None else f"{float(budget):g}"


def _tally(rows: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        if row.verdict:
            counts[row.verdict] = counts.get(row.verdict, 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "-"


def _print_recipes(rows: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        recipes = [row.to_json() for row in rows]
        print(json.dumps({"recipes": recipes, "total_gpu_hours": _minutes(rows) / 60}, indent=2))
        return
    lines = [
        [
            row.suite,
            row.entry.name,
            f"{row.block.num_nodes}n{row.block.gpus_per_node}g" if row.block else "?",
            rounded_hours(row.block.gpu_minutes) if row.block else "?",
            row.verdict or "-",
        ]
        for row in rows
    ]
    _print_table(["suite", "recipe", "allocation", "GPU-hours", "last"], lines)
    for row in rows:
        if row.error:
            print(f"{row.entry.text}: {row.error}")
    plural = "" if len(rows) == 1 else "s"
    print(f"{len(rows)} recipe{plural}, {rounded_hours(_minutes(rows))} GPU-hours")


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from evenkeel.report.terminal import print_table

    console = Console()
    if not console.is_terminal:
        console.width = _UNBOUNDED
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        is_number = heading in ("recipes", "GPU-hours", "budget a night")
        # a name that is cut off can be copied nowhere
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    print_table(console, table)
