"""A baseline for people: its runs, and per metric the band, the noise and what it would find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evenkeel.convergence import comparison, matched
from evenkeel.convergence.baseline import Baseline, as_metrics, dumps
from evenkeel.convergence.comparison import Options
from evenkeel.convergence.results import MetricResult
from evenkeel.report.comparison_text import percent, print_plot
from evenkeel.report.terminal import PLAIN_WIDTH, number, print_table, print_words

_MAX_PLOTS = 4


def numbers(baseline: Baseline, options: Options, only: Sequence[str] = ()) -> dict[str, Any]:
    """What ``show --json`` prints: provenance, and per metric and summary what it would find.

    Args:
        baseline: to show.
        options: by which its runs are judged.
        only: these metrics; all where there are none.
    """
    return {
        "recipe": baseline.recipe,
        "fingerprint": baseline.fingerprint,
        "platform": dict(baseline.platform),
        "runs": [vars(run) for run in baseline.runs],
        "twins": [vars(twin) for twin in baseline.twins],
        "accepted": vars(baseline.accepted),
        "retired": vars(baseline.retired) if baseline.retired else None,
        "metrics": [one.to_json() for one in _results(baseline, options, only)],
    }


def print_baseline(
    baseline: Baseline, name: str, options: Options, only: Sequence[str] = ()
) -> None:
    """Runs, a table of all metrics, and a plot of the first few."""
    console = _console()
    whose = f"{escape(baseline.recipe)}: " if baseline.recipe else ""
    num_runs = "1 run" if len(baseline.runs) == 1 else f"{len(baseline.runs)} runs"
    print_words(console, f"{whose}{num_runs} in {escape(name)}")
    if baseline.twins:
        console.print(f"numeric twins of {_originals(baseline)}")
    accepted = baseline.accepted
    by, why = escape(accepted.by), escape(accepted.reason) or "-"
    print_words(console, f"accepted by {by} on {accepted.date}: {why}")
    if baseline.retired:
        date, why = baseline.retired.date, escape(baseline.retired.reason)
        print_words(console, f"[bold yellow]retired[/] {date}: {why}")
    if options.budget.num_recipes > 1:
        console.print(f"judged as one of {options.budget.num_recipes} recipes of a night")
    results = _results(baseline, options, only)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", overflow="fold")
    table.add_column("summary")
    for column in ("mean", "passes from", "to", "detectable", "runs needed"):
        table.add_column(column, justify="right")
    for one in results:
        needed = "-" if not one.coarse else str(one.runs_needed or "> 30")
        table.add_row(escape(one.metric), one.summary, number(one.baseline), number(one.low),
                      number(one.high), percent(one.minimum_detectable_change, sign=False),
                      needed)  # fmt: skip
    print_table(console, table)
    plotted: set[str] = set()
    for one in results:
        if one.picture and one.metric not in plotted and len(plotted) < _MAX_PLOTS:
            plotted.add(one.metric)
            console.print(f"{escape(one.metric)} (o the mean, ░ where a run usually is)")
            print_plot(console, one.picture)


def print_difference(before: Baseline, after: Baseline) -> None:
    """Provenance and settings that changed, and the change of every metric both have."""
    console = _console()
    if dumps(before) == dumps(after):
        console.print("no difference")
        return
    old_words, new_words = _words(before), _words(after)
    for what in dict.fromkeys((*old_words, *new_words)):
        old, new = old_words.get(what, "-"), new_words.get(what, "-")
        if old != new:
            print_words(console, f"{what}: {escape(old)} -> {escape(new)}")
    if _values(before) == _values(after):
        console.print("the same values in all runs")
        return
    for name in sorted(before.curves.keys() ^ after.curves.keys()):
        side = "before" if name in before.curves else "after"
        console.print(f"{escape(name)}: only {side}")
    old_results = {
        (one.metric, one.summary): one
        for one in _results(before, Options(directions=before.directions))
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", overflow="fold")
    table.add_column("summary")
    for column in ("before", "after", "change", "detectable before", "after"):
        table.add_column(column, justify="right")
    for one in _results(after, Options(directions=after.directions)):
        old_one = old_results.get((one.metric, one.summary))
        if old_one is None or old_one.baseline is None or one.baseline is None:
            continue
        change = one.baseline / old_one.baseline - 1 if old_one.baseline else None
        table.add_row(escape(one.metric), one.summary, number(old_one.baseline),
                      number(one.baseline), percent(change),
                      percent(old_one.minimum_detectable_change, sign=False),
                      percent(one.minimum_detectable_change, sign=False))  # fmt: skip
    print_table(console, table)


def _words(one: Baseline) -> dict[str, str]:
    """What a baseline is, but for its curves, as a person reads it."""
    accepted, retired = one.accepted, one.retired
    found: dict[str, Any] = {
        "recipe": one.recipe or "-",
        "fingerprint": one.fingerprint or "-",
        "runs": len(one.runs),
        "numeric twins": len(one.twins),
        "accepted": f"by {accepted.by} on {accepted.date}: {accepted.reason or '-'}",
        "retired": f"by {retired.by} on {retired.date}: {retired.reason}" if retired else "no",
        "bit for bit": "yes" if one.bit_exact else "no",
    }
    found |= {f"direction of {name}": side for name, side in one.directions.items()}
    for key, value in one.platform.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        found |= {f"platform {key} {part}".rstrip(): each for part, each in parts}
    return {what: str(value) for what, value in found.items()}


def _values(one: Baseline) -> list[tuple[str, list[int], str]]:
    """Metric, steps and values of every run and twin; as text, in which NaN is the same as NaN."""
    return [
        (name, curve.steps.tolist(), str(curve.values.tolist()))
        for found in (one.curves, one.twin_curves)
        for name, curve in sorted(found.items())
    ]


def _results(baseline: Baseline, options: Options, only: Sequence[str] = ()) -> list[MetricResult]:
    """Every check of a future run, measured on the baseline's own mean.

    Of metrics that are asked for, too, as they are where all share the budget.
    """
    runs = [as_metrics(baseline, i) for i in range(len(baseline.runs))]
    mean = {
        name: dict(zip(curve.steps.tolist(), curve.values.mean(axis=0).tolist(), strict=True))
        for name, curve in baseline.curves.items()
    }
    options = replace(options, picture_all=True)
    found = list(comparison.compare_runs(runs, [mean], options).results)
    if only:
        found = [one for one in found if one.metric in only]
    pairs = matched.pairs_of(baseline, only)
    for seed in sorted({twin.seed for twin in baseline.twins if twin.seed is not None}):
        run = runs[pairs.seeds.index(seed)]
        found += matched.compare_matched(pairs, run, seed, baseline.directions)
    return found


def _originals(baseline: Baseline) -> str:
    """The runs that have twins, with how many."""
    seeds = [twin.seed for twin in baseline.twins]
    return ", ".join(
        f"{run.name} (seed {run.seed}, {seeds.count(run.seed)})"
        for run in baseline.runs
        if run.seed in seeds
    )


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
