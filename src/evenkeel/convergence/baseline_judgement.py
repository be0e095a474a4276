"""From files to a comparison: read a baseline, ask whether it may judge, and let it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evenkeel.convergence import baseline as baseline_file
from evenkeel.convergence import baseline_files, baseline_match, baseline_recording, matched, pool
from evenkeel.convergence.baseline import Acceptance, Baseline
from evenkeel.convergence.baseline_match import Level, Match
from evenkeel.convergence.comparison import Options, compare
from evenkeel.convergence.error_budget import Budget
from evenkeel.convergence.exactness import first_bit_difference
from evenkeel.convergence.metric_kinds import Direction, Family, kind_of
from evenkeel.convergence.platforms import node_type
from evenkeel.convergence.results import Comparison
from evenkeel.convergence.run_evidence import RunEvidence, is_baseline, read_evidence
from evenkeel.convergence.second_look import confirming_runs
from evenkeel.convergence.statistics import Prior
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.schema import Algorithm
from evenkeel.run_paths import Repository, RunPaths


def read_baseline(paths: Sequence[Path]) -> Baseline:
    """A baseline file, or one made on the spot from metrics files or run directories.

    Raises:
        InputError: a file is missing or is neither.
    """
    if len(paths) == 1 and (not paths[0].exists() or is_baseline(paths[0])):
        return baseline_file.load(paths[0])
    if any(is_baseline(path) for path in paths):
        raise InputError(
            "a baseline file among several paths",
            fix="give one baseline file, or only metrics files and run directories",
        )
    evidence = [read_evidence(path) for path in paths]
    recipe = str(evidence[0].record.get("recipe") or "")
    accepted = Acceptance(by="", date="", reason="given on the command line")
    return baseline_recording.of_evidence(evidence, recipe=recipe, accepted=accepted, exact=True)


def pooled_priors(folders: Iterable[Path], baseline: Baseline) -> dict[str, Prior]:
    """Priors from the baselines of similar recipes below ``folders``; empty without any."""
    found = [
        one.curves for folder in folders for one in pool.read(folder) if _is_similar(one, baseline)
    ]
    return pool.priors(found, baseline.curves) if found else {}


def _is_similar(one: Baseline, other: Baseline) -> bool:
    """Not where their names tell two algorithms, whose losses have little in common."""
    algorithms = {each.recipe.partition("-")[0] for each in (one, other)} & set(Algorithm)
    return len(algorithms) < 2


def compare_evidence(
    baseline: Baseline, evidence: Sequence[RunEvidence], options: Options
) -> Comparison:
    """Match recipe and platform, then compare; what does not match is ``INCOMPARABLE``.

    Confirming runs that are copies of another one are left out.
    """
    notes: list[str] = []
    evidence, copies = _without_copies(evidence)
    notes += copies
    matches = [baseline_match.match(baseline, one) for one in evidence]
    for found in matches:
        if not found.comparable:
            return _incomparable(found.reason, baseline, evidence, options)
        notes += [note for note in found.notes if note not in notes]
    if not options.directions and baseline.directions:
        options = replace(options, directions=baseline.directions)
    curves = baseline.curves
    other = _other_node(baseline, evidence)
    if other:
        curves = {name: one for name, one in curves.items() if not _is_speed(name)}
        if not curves:
            return _incomparable(other, baseline, evidence, options)
        notes += [other] if len(curves) < len(baseline.curves) else []
    comparison = compare(curves, [one.metrics for one in evidence], options)
    comparison = _with_matched(comparison, baseline, evidence, matches, options)
    if matches[0].level is Level.SAME_NUMERICS:
        comparison = _with_bits(comparison, baseline, evidence[0], notes)
    return replace(comparison, notes=(*notes, *comparison.notes))


def _without_copies(evidence: Sequence[RunEvidence]) -> tuple[list[RunEvidence], list[str]]:
    """Runs that tell something new, and a note of each that does not."""
    if len(evidence) < 2:
        return list(evidence), []
    kept: list[RunEvidence] = []
    notes = []
    for one in evidence:
        twice = next((other for other in kept if _convergence(other) == _convergence(one)), None)
        if twice is None:
            kept.append(one)
        else:
            names = [Path(each.source).name for each in (one, twice)]
            notes.append(f"{names[0]} does not count: it is the same as {names[1]}")
    return kept, notes


def _convergence(run: RunEvidence) -> dict[str, str]:
    """Its curves but for speed and memory, which differ between copies, too; all where it has only
    those. As text, in which NaN is the same as NaN."""
    names = [name for name in run.metrics if kind_of(name).family is Family.CONVERGENCE]
    return {name: repr(dict(run.metrics[name])) for name in names or run.metrics}


def _other_node(baseline: Baseline, evidence: Sequence[RunEvidence]) -> str:
    """Why speeds cannot be compared; empty where the nodes are alike, or nobody says."""
    recorded = baseline.platform
    for one in evidence:
        if recorded and one.platform and node_type(recorded) != node_type(one.platform):
            here = node_type(one.platform)
            return f"speed is not judged: recorded on {node_type(recorded)}, this is {here}"
    return ""


def _is_speed(name: str) -> bool:
    return kind_of(name).family is Family.SPEED


def compare_run(
    paths: RunPaths, name: str, repository: Repository, max_steps: int | None
) -> Comparison | None:
    """Compare a run with the baseline of its recipe and platform.

    Confirming runs are found beside it; the options are those of the repository.

    Returns:
        None where all of the recipe's baselines are retired.

    Raises:
        InputError: a baseline is damaged.
    """
    loaded = [baseline_file.load(path) for path in baseline_files.of_recipe(repository, name)]
    current = [one for one in loaded if one.retired is None]
    if not current:
        return None
    first = read_evidence(paths.root)
    evidence = [first, *confirming_runs(paths, first)]
    order = list(Level)
    matches = [(baseline_match.match(one, evidence[0]), one) for one in current]
    # the most alike platform judges; where none is comparable, the first says why
    match, baseline = min(
        matches, key=lambda pair: (not pair[0].comparable, order.index(pair[0].level))
    )
    options = replace(options_in(repository, baseline), with_advice=False)
    last = max(int(curve.steps[-1]) for curve in baseline.curves.values())
    if match.comparable and max_steps is not None and max_steps < last:
        reason = f"it was to end at step {max_steps}, the runs of its baseline at {last}"
        return _incomparable(reason, baseline, evidence, options)
    return compare_evidence(baseline, evidence, options)


def options_in(repository: Repository, baseline: Baseline) -> Options:
    """As runs of this repository are judged.

    All of its recipes that have a baseline share the night's budget, and their baselines tell how
    much runs usually vary.
    """
    recipes = {path.parent for path in repository.baselines_dir.glob("*/*/*.json")}
    return Options(
        budget=Budget(num_recipes=max(1, len(recipes))),
        directions=baseline.directions,
        priors=pooled_priors([repository.baselines_dir], baseline),
    )


def _incomparable(
    reason: str, baseline: Baseline, evidence: Sequence[RunEvidence], options: Options
) -> Comparison:
    return Comparison(
        verdict=Verdict.INCOMPARABLE,
        message=reason,
        results=(),
        budget=options.budget,
        num_new=len(evidence),
        num_baseline=len(baseline.runs),
    )


def _with_matched(
    comparison: Comparison,
    baseline: Baseline,
    evidence: Sequence[RunEvidence],
    matches: Sequence[Match],
    options: Options,
) -> Comparison:
    """With what runs of the baseline's own seeds tell, where it has numeric twins."""
    pairs = matched.pairs_of(baseline, options.only)
    for one, match in zip(evidence, matches, strict=True):
        rounding, seed = match.rounding, one.seed
        if rounding is not None and seed is not None and pairs.judges(seed):
            found = matched.compare_matched(pairs, one.metrics, seed, options.directions, rounding)
            comparison = matched.joined(comparison, found, rounding)
    return comparison


def _with_bits(
    comparison: Comparison, baseline: Baseline, run: RunEvidence, notes: list[str]
) -> Comparison:
    """Say where a run differs in bits from a baseline run of its seed; decide where asked to."""
    reference = _same_seed(baseline, run)
    if reference is None or not baseline.exact:
        return comparison
    names = [name for name in baseline.curves if kind_of(name).family is Family.CONVERGENCE]
    earlier = baseline_file.as_metrics(baseline, reference)
    found = first_bit_difference(earlier, run.metrics, names)
    which = baseline.runs[reference].name
    if found is None:
        notes.append(f"bit for bit the same as {which}")
        return comparison
    text = (
        f"first bit difference from {which} at step {found.step}: {found.metric} is"
        f" {found.found!r}, was {found.expected!r}"
    )
    notes.append(text)
    if baseline.bit_exact and comparison.verdict.exit_code == 0:
        return replace(comparison, verdict=Verdict.REGRESSED, message=text)
    return comparison


def _same_seed(baseline: Baseline, run: RunEvidence) -> int | None:
    if baseline.bit_exact and run.seed is None:
        return 0
    seeds = [one.seed for one in baseline.runs]
    return seeds.index(run.seed) if run.seed is not None and run.seed in seeds else None


def parse_directions(pairs: Sequence[str], known: Collection[str]) -> dict[str, Direction]:
    """``NAME=SIDE`` texts as a mapping, of metrics that a baseline has.

    Raises:
        InputError: a metric or side that does not exist, or no ``=``.
    """
    found = sides_of(pairs)
    refuse_unknown(list(found), known)
    return found


def sides_of(pairs: Sequence[str]) -> dict[str, Direction]:
    """``NAME=SIDE`` texts as a mapping, whatever metrics there are.

    Raises:
        InputError: a side that does not exist, or no ``=``.
    """
    found = {}
    for pair in pairs:
        name, equals, side = pair.rpartition("=")
        if not equals:
            raise InputError(f"{pair!r} is not NAME=SIDE", fix="write train/loss=lower")
        if side not in set(Direction):
            sides = [str(one) for one in Direction]
            hint = did_you_mean(side, sides)
            raise InputError(f"side {side!r} of {name}{hint}; valid: {', '.join(sides)}")
        found[name] = Direction(side)
    return found


def refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    """Raise for a metric name that the baseline does not have.

    Raises:
        InputError: with the nearest name and those that exist.
    """
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known)[:8])
            raise InputError(
                f"the baseline has no metric {name!r}{did_you_mean(name, known)}; it has: {listed}"
            )


def metrics_of(baseline: Baseline) -> Mapping[str, Direction]:
    """The side of every metric of a baseline, overrides applied."""
    return {
        name: kind_of(name, baseline.directions.get(name)).direction for name in baseline.curves
    }
