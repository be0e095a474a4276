"""Runs in a folder of results, each judged by what belongs to it: its driver and its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evenkeel import run_record
from evenkeel.convergence import judgement as judgements
from evenkeel.convergence.verdict import Judgement, with_comparison
from evenkeel.errors import InputError
from evenkeel.recipes import config_block, driver_checks
from evenkeel.run_paths import Repository, RunPaths


@dataclass(frozen=True)
class Terms:
    """By what runs are judged; what is not given, a run's driver and repository say.

    Args:
        checks: instead of those of its driver.
        max_steps: the step to reach, instead of MAX_STEPS of its driver.
        baseline: a baseline file, or a folder with one per run, ``<name of the run>.json``.
        repository: whose drivers and baselines serve a run that lies in no repository.
        num_runs: that share the night's chance of a false alarm where ``baseline`` is given.
    """

    checks: tuple[str, ...] = ()
    max_steps: int | None = None
    baseline: Path | None = None
    repository: Repository | None = None
    num_runs: int = 1


def runs_below(root: Path) -> list[Path]:
    """The run directories below ``root``.

    Raises:
        InputError: there is none.
    """
    found = {path.parent for name in ("run.json", "metrics.json") for path in root.rglob(name)}
    runs = sorted(path for path in found if not _is_evidence(path))
    if not runs:
        raise InputError(
            "no run below this folder" if root.is_dir() else "no such folder",
            path=root,
            fix="name a folder with run directories: each has a metrics.json or a run.json",
        )
    return runs


def _is_evidence(run: Path) -> bool:
    """Runs that confirm another one, or make up a baseline, are part of another judgement."""
    return RunPaths(run).is_beside or ".baseline/" in run.as_posix()


def names_of(paths: Sequence[Path]) -> list[str]:
    """What each run is called: its directory, or bare file, with as many folders as it takes.

    Args:
        paths: all different.
    """
    tails = [_parts(path) for path in paths]
    names = []
    for parts in tails:
        lengths = range(1, len(parts) + 1)
        shortest = next(
            (n for n in lengths if sum(other[-n:] == parts[-n:] for other in tails) == 1),
            len(parts),
        )
        names.append("/".join(parts[-shortest:]))
    return names


def _parts(path: Path) -> tuple[str, ...]:
    if path.name == "metrics.json":
        return path.parent.parts
    return path.with_suffix("").parts if path.suffix == ".json" else path.parts


def judge(path: Path, terms: Terms) -> Judgement:
    """Judge a run directory, or a bare metrics file.

    Raises:
        InputError: it does not exist or is damaged, or ``terms`` hold something that is no check
            or no baseline.
    """
    if not path.exists():
        raise InputError("no such run", path=path, fix="name a results directory or a metrics.json")
    directory = path.parent if path.is_file() else path
    paths = RunPaths(directory)
    bare = path.is_file() and (path.name != "metrics.json" or not paths.run_json.exists())
    repository = _repository(directory) or terms.repository
    driver = _driver(paths, repository, bare)
    checks, max_steps = terms.checks, terms.max_steps
    if driver is not None:
        checks = checks or tuple(driver_checks.read(driver))
        max_steps = config_block.read(driver).max_steps if max_steps is None else max_steps
    baseline = _baseline(path, terms)
    if bare:
        judged = judgements.judge_metrics(path, checks, max_steps)
    else:
        judged = judgements.judge_run(
            paths, checks, max_steps, repository=repository, by_own_baseline=baseline is None
        )
    return judged if baseline is None else _compared(judged, path, baseline, terms.num_runs)


def _baseline(path: Path, terms: Terms) -> Path | None:
    """The file that the terms name for this run."""
    given = terms.baseline
    if given is None or not given.is_dir():
        return given
    own = given / f"{_parts(path)[-1]}.json"
    return own if own.is_file() else None


def _repository(directory: Path) -> Repository | None:
    try:
        return Repository.around(directory)
    except InputError:
        return None


def _driver(paths: RunPaths, repository: Repository | None, bare: bool) -> Path | None:
    """The driver beside the run; of results that lie elsewhere, that of their recipe."""
    beside = paths.root.with_name(f"{paths.name}.sh")
    if beside.is_file():
        return beside
    recipe = None if bare else run_record.read(paths.run_json).get("recipe")
    if repository is None or recipe is None:
        return None
    found = _drivers(repository).get(str(recipe), [])
    return found[0] if len(found) == 1 else None


@cache
def _drivers(repository: Repository) -> dict[str, list[Path]]:
    return repository.drivers_by_name()


def _compared(judged: Judgement, path: Path, baseline: Path, num_runs: int) -> Judgement:
    """With the comparison with a baseline that is not the recipe's own."""
    from evenkeel.convergence import baseline_judgement
    from evenkeel.convergence.comparison import Options
    from evenkeel.convergence.error_budget import Budget
    from evenkeel.convergence.run_evidence import read_evidence

    comparison = baseline_judgement.compare_evidence(
        baseline_judgement.read_baseline([baseline]),
        [read_evidence(path)],
        Options(budget=Budget(num_recipes=num_runs)),
    )
    return with_comparison(judged, comparison)
