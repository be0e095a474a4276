"""Printing what fits a budget, what runs tonight, and what past launches used."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from evenkeel.errors import EXIT_FINDING, EXIT_INPUT, EXIT_OK, InputError
from evenkeel.launch import budget as budgets
from evenkeel.launch.budget import Candidate, Rotation
from evenkeel.launch.drivers import DriverWord
from evenkeel.launch.options import snapshots_dir
from evenkeel.launch.plan import Plan, error_lines, plan, rounded_hours
from evenkeel.launch.run_history import PastLaunch, changed_since, read_history, usage_of
from evenkeel.recipes.suite import Declared


def print_history(args: argparse.Namespace, root: Path, words: Sequence[DriverWord]) -> int:
    """One line per recipe: planned, used at the median and the 95th percentile, proposal."""
    found = plan((word.word, word.path) for word in words)
    history = _history(args, root)
    rows = []
    for recipe in found.recipes:
        row = recipe.to_json()
        past = history.get(recipe.name)
        usage = usage_of(past) if past else None
        row["num_launches"] = usage.num_launches if usage else 0
        row["used_gpu_hours_median"] = usage and usage.median_gpu_minutes / 60
        row["used_gpu_hours_p95"] = usage and usage.p95_gpu_minutes / 60
        row["proposed_num_minutes"] = usage and usage.proposed_num_minutes
        row["num_cut_short"] = usage.num_cut_short if usage else 0
        rows.append(row)
    if args.json:
        print(json.dumps({**found.to_json(), "recipes": rows}, indent=2))
    else:
        print("\n".join(_history_lines(rows)))
    return EXIT_INPUT if found.broken else EXIT_OK


def _history_lines(rows: Sequence[dict[str, object]]) -> list[str]:
    width = max(len(str(row["name"])) for row in rows)
    lines = [
        f"{'recipe':<{width}}  launches  planned h  used h (median)  used h (p95)"
        "  NUM_MINUTES  proposed"
    ]
    for row in rows:
        if row["error"] is not None:
            lines.append(f"{row['name']:<{width}}  broken: {row['error']}")
            continue
        note = f"  ({row['num_cut_short']} jobs were cut short)" if row["num_cut_short"] else ""
        lines.append(
            f"{row['name']:<{width}}  {row['num_launches']:>8}  {_hours(row['gpu_hours']):>9}"
            f"  {_hours(row['used_gpu_hours_median']):>15}  {_hours(row['used_gpu_hours_p95']):>12}"
            f"  {row['num_minutes']:>11}  {row['proposed_num_minutes'] or '-':>8}{note}"
        )
    return lines


def _hours(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "-"


def print_budget(
    args: argparse.Namespace, root: Path, words: Sequence[DriverWord], declared: Declared | None
) -> int:
    """What fits, and with ``--nights`` who runs tonight; 1 where it does not fit."""
    found = _unbroken(words)
    minutes, whence = night_budget(args.budget, declared)
    night = _night(args.night)
    candidates = _candidates(args, root, found, night)
    if args.nights is None:
        return _print_fit(args, found, candidates, minutes, whence)
    rotation = budgets.rotate(candidates, minutes, args.nights, night.toordinal())
    if args.json:
        print(json.dumps(_rotation_json(rotation, night), indent=2))
    else:
        print(
            f"night of {night}, one of {args.nights}: {rounded_hours(rotation.spent)} of"
            f" {rounded_hours(minutes)} GPU-hours ({whence})"
        )
        for choice in rotation.choices:
            print(choice.explain())
    return EXIT_OK


def tonight(
    args: argparse.Namespace, root: Path, words: Sequence[DriverWord], declared: Declared | None
) -> list[DriverWord]:
    """The drivers of a suite that run tonight, by its rotation; says why on stderr."""
    found = _unbroken(words)
    minutes, _ = night_budget(args.budget, declared)
    night = datetime.date.today()
    candidates = _candidates(args, root, found, night)
    rotation = budgets.rotate(candidates, minutes, args.nights, night.toordinal())
    for choice in rotation.choices:
        print(f"[INFO]: {choice.explain()}", file=sys.stderr)
    chosen = {choice.candidate.name for choice in rotation.choices if choice.runs}
    pairs = zip(words, found.recipes, strict=True)
    return [word for word, recipe in pairs if recipe.name in chosen]


def _unbroken(words: Sequence[DriverWord]) -> Plan:
    found = plan((word.word, word.path) for word in words)
    if found.broken:
        raise InputError(
            "a budget cannot be planned with broken drivers:\n"
            + "\n".join(error_lines(found.broken))
        )
    return found


def night_budget(given: str | None, declared: Declared | None) -> tuple[int, str]:
    """GPU-minutes that one night may cost, rounded down, and where that comes from.

    Raises:
        InputError: not a number of hours, or none is given or declared.
    """
    if given:
        try:
            hours = Fraction(given)
        except (ValueError, ZeroDivisionError):
            hours = Fraction(0)
        if hours <= 0:
            raise InputError(f"--budget is {given!r}", fix="give a number of GPU-hours, as 4000")
        return int(hours * 60), "as given"
    limits = []
    if declared and declared.budget_gpu_hours_per_night is not None:
        limits.append((int(declared.budget_gpu_hours_per_night * 60), "the suite's night"))
    if declared and declared.budget_gpu_hours_per_week is not None:
        limits.append(
            (int(declared.budget_gpu_hours_per_week * 60 / 7), "a seventh of the suite's week")
        )
    if not limits:
        raise InputError(
            "no budget is given or declared",
            fix="--budget HOURS, or '#: budget_gpu_hours_per_night: HOURS' in the suite",
        )
    return min(limits)


def _print_fit(
    args: argparse.Namespace,
    found: Plan,
    candidates: Sequence[Candidate],
    minutes: int,
    whence: str,
) -> int:
    total = found.total_gpu_minutes
    fits = total <= minutes
    nights = budgets.fewest_nights(candidates, minutes)
    if args.json:
        value = {
            **found.to_json(),
            "budget_gpu_hours": minutes / 60,
            "fits": fits,
            "fewest_nights": nights,
        }
        print(json.dumps(value, indent=2))
        return EXIT_OK if fits else EXIT_FINDING
    verb = "fits" if fits else "does not fit"
    print(
        f"{verb}: {rounded_hours(total)} of {rounded_hours(minutes)} GPU-hours a night ({whence})"
    )
    if not fits and nights is not None:
        print(f"every recipe once in {nights} nights does: --nights {nights} shows tonight's share")
    for recipe in found.recipes:
        if (cost := recipe.gpu_minutes or 0) > minutes:
            print(f"never fits: {recipe.driver} costs {rounded_hours(cost)} GPU-hours alone")
    return EXIT_OK if fits else EXIT_FINDING


def _candidates(
    args: argparse.Namespace, root: Path, found: Plan, night: datetime.date
) -> list[Candidate]:
    history = _history(args, root)
    return [
        _candidate(root, recipe.name, recipe.gpu_minutes or 0, history.get(recipe.name), night)
        for recipe in found.recipes
    ]


def _candidate(
    root: Path, name: str, minutes: int, past: list[PastLaunch] | None, night: datetime.date
) -> Candidate:
    earlier = [launch for launch in past or () if launch.night < night]
    if not earlier:
        return Candidate(name, minutes)
    last = earlier[0]
    return Candidate(
        name,
        minutes,
        nights_since=(night - last.night).days,
        changed=changed_since(root, last.submission),
        failed=last.failed,
    )


def _history(args: argparse.Namespace, root: Path) -> dict[str, list[PastLaunch]]:
    return read_history(snapshots_dir(root, args.snapshot_dir, os.environ))


def _night(text: str | None) -> datetime.date:
    if text is None:
        return datetime.date.today()
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--night is {text!r}", fix="give a date, as 2026-01-31") from None


def _rotation_json(rotation: Rotation, night: datetime.date) -> dict[str, object]:
    return {
        "night": night.isoformat(),
        "num_nights": rotation.num_nights,
        "budget_gpu_hours": rotation.budget / 60,
        "spent_gpu_hours": rotation.spent / 60,
        "recipes": [
            {
                "name": choice.candidate.name,
                "gpu_hours": choice.candidate.gpu_minutes / 60,
                "runs": choice.runs,
                "reason": choice.reason.name,
                "turn": choice.turn,
                "explanation": choice.explain(),
            }
            for choice in rotation.choices
        ],
    }
