"""The mutation table: for people, for documents (Markdown), and as JSON."""

from __future__ import annotations

from typing import Any

from evenkeel.convergence.mutation_score import GOLDEN_TOLERANCE, Alarms, Judged, Score


def table(score: Score) -> str:
    """Scores and false alarms of the judges side by side, then every mutant; Markdown."""
    total, large = len(score.mutants), len(score.detectable)
    widened = f"one golden curve ± {score.widened_tolerance:.0%}"
    judges = [
        ("evenkeel", "ours", score.runs.ours, score.nights.ours),
        ("hand-typed thresholds", "thresholds", score.runs.thresholds, score.nights.thresholds),
        (
            f"one golden curve ± {GOLDEN_TOLERANCE:.0%}",
            "golden",
            score.runs.golden,
            score.nights.golden,
        ),
        (f"{widened} (no more alarms than ours)", "golden_widened", None, None),
    ]
    lines = [
        "| judge | mutants found | of those above the detectable change "
        "| healthy runs flagged | nights with an alarm |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label, key, runs, nights in judges:
        lines.append(
            f"| {label} | {_share(score.found(key), total)} "
            f"| {_share(score.found(key, detectable=True), large)} "
            f"| {_alarms(runs, score.runs)} | {_alarms(nights, score.nights)} |"
        )
    lines += ["", "| mutant | recipe | evenkeel | runs | effect | thresholds | golden |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    lines += [_row(one) for one in score.mutants]
    if score.without_runs:
        lines += ["", f"Not judged, for want of healthy runs: {', '.join(score.without_runs)}."]
    return "\n".join(lines)


def _row(one: Judged) -> str:
    flags = ["found" if flag else "-" for flag in (one.by_thresholds, one.by_golden)]
    effect = ">99" if one.effect > 99 else f"{one.effect:.1f}"
    return (
        f"| {one.mutant} | {one.recipe} | {one.verdict.value} | {one.num_runs} | {effect} "
        f"| {flags[0]} | {flags[1]} |"
    )


def _share(found: int, total: int) -> str:
    return f"{found} of {total} ({found / total:.0%})" if total else "-"


def _alarms(found: int | None, alarms: Alarms) -> str:
    return "" if found is None else _share(found, alarms.num)


def as_json(score: Score) -> dict[str, Any]:
    """What ``evenkeel mutate --json`` prints."""
    judges = ("ours", "thresholds", "golden", "golden_widened")
    return {
        "mutants": [_one(one) for one in score.mutants],
        "num_mutants": len(score.mutants),
        "num_detectable": len(score.detectable),
        "found": {judge: score.found(judge) for judge in judges},
        "found_detectable": {judge: score.found(judge, detectable=True) for judge in judges},
        "healthy_runs": vars(score.runs),
        "nights": vars(score.nights),
        "family_error": score.family_error,
        "golden_tolerance": GOLDEN_TOLERANCE,
        "golden_widened_tolerance": score.widened_tolerance,
        "flagged_healthy": [_one(one) for one in score.healthy if one.found],
        "not_judged": list(score.without_runs),
    }


def _one(one: Judged) -> dict[str, Any]:
    finite = {key: value if value < 1e9 else None for key, value in
              (("effect", one.effect), ("golden_deviation", one.deviation))}  # fmt: skip
    return {
        "mutant": one.mutant,
        "recipe": one.recipe,
        "verdict": one.verdict.value,
        "reason": one.reason,
        "num_runs": one.num_runs,
        "found": {
            "ours": one.found,
            "thresholds": one.by_thresholds,
            "golden": one.by_golden,
        },
        **finite,
    }
