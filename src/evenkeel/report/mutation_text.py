"""The mutation table: for people, for documents (Markdown), and as JSON."""

from __future__ import annotations

from typing import Any

from evenkeel.convergence.customary_judges import GOLDEN_TOLERANCE
from evenkeel.convergence.mutation_judge import Judged
from evenkeel.convergence.mutation_score import JUDGES, Score


def table(score: Score) -> str:
    """Scores and false alarms of the judges side by side, then every mutant; Markdown."""
    total, large = len(score.mutants), len(score.detectable)
    labels = {
        "ours": "evenkeel",
        "elsewhere": "evenkeel, as on another machine than the baseline's",
        "statistics": "evenkeel without the run of the same seed: statistics alone",
        "thresholds": "hand-typed thresholds",
        "golden": f"one golden curve ± {GOLDEN_TOLERANCE:.0%}",
        "golden_widened": f"one golden curve ± {score.widened_tolerance:.0%}"
        " (no more healthy runs flagged than ours)",
        "golden_same_seed": f"one golden curve ± {score.same_seed_tolerance:.0%}"
        " (no more harmless changes flagged than ours)",
    }
    lines = [
        "| judge | mutants found | of those above the detectable change | healthy runs flagged "
        "| harmless changes flagged | nights with an alarm |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for judge in JUDGES:
        alarms = [
            _share(getattr(one, judge), one.num) if hasattr(one, judge) else ""
            for one in (score.runs, score.changes, score.nights)
        ]
        lines.append(
            f"| {labels[judge]} | {_share(score.found(judge), total)} "
            f"| {_share(score.found(judge, detectable=True), large)} | {' | '.join(alarms)} |"
        )
    heads = ("recipe", "evenkeel", "runs", "same seed", "statistics", "effect", "thresholds")
    for title, judged in (("mutant", score.mutants), ("harmless change", score.harmless)):
        if judged:
            lines += ["", f"| {title} | {' | '.join(heads)} | golden |"]
            lines += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
            lines += [_row(one) for one in judged]
    if score.without_runs:
        lines += ["", f"Not judged, for want of healthy runs: {', '.join(score.without_runs)}."]
    return "\n".join(lines)


def _row(one: Judged) -> str:
    flags = ["found" if flag else "-" for flag in (one.by_thresholds, one.by_golden)]
    return (
        f"| {one.mutant} | {one.recipe} | {one.verdict.value} | {one.num_runs} "
        f"| {_ratio(one.ratio)} | {one.by_statistics.value} | {_ratio(one.effect)} "
        f"| {flags[0]} | {flags[1]} |"
    )


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return ">999" if value > 999 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _share(found: int, total: int) -> str:
    return f"{found} of {total} ({found / total:.0%})" if total else "-"


def as_json(score: Score) -> dict[str, Any]:
    """What ``evenkeel mutate --json`` prints."""
    return {
        "mutants": [_one(one) for one in score.mutants],
        "num_mutants": len(score.mutants),
        "num_detectable": len(score.detectable),
        "found": {judge: score.found(judge) for judge in JUDGES},
        "found_detectable": {judge: score.found(judge, detectable=True) for judge in JUDGES},
        "healthy_runs": vars(score.runs),
        "harmless_changes": vars(score.changes),
        "nights": vars(score.nights),
        "family_error": score.family_error,
        "golden_tolerance": GOLDEN_TOLERANCE,
        "golden_widened_tolerance": score.widened_tolerance,
        "golden_same_seed_tolerance": score.same_seed_tolerance,
        "flagged_healthy": [_one(one) for one in score.healthy if one.found],
        "harmless": [_one(one) for one in score.harmless],
        "not_judged": list(score.without_runs),
    }


def _one(one: Judged) -> dict[str, Any]:
    numbers = (
        ("same_seed_ratio", one.ratio),
        ("effect", one.effect),
        ("golden_deviation", one.deviation),
    )
    return {
        "mutant": one.mutant,
        "recipe": one.recipe,
        "verdict": one.verdict.value,
        "reason": one.reason,
        "num_runs": one.num_runs,
        "verdict_elsewhere": one.elsewhere.value,
        "verdict_of_statistics": one.by_statistics.value,
        "found": {
            "ours": one.found,
            "thresholds": one.by_thresholds,
            "golden": one.by_golden,
        },
        **{key: value if value is not None and value < 1e9 else None for key, value in numbers},
    }
