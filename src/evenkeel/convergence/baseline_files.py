"""Where baselines lie in a repository, who accepts them, and what is doubtful about one."""

from __future__ import annotations

import getpass
import itertools
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evenkeel import run_record
from evenkeel.convergence import baseline_recording
from evenkeel.convergence.baseline import Acceptance, Baseline
from evenkeel.convergence.metric_kinds import Direction, Family, kind_of
from evenkeel.convergence.platforms import device_class
from evenkeel.convergence.run_evidence import RunEvidence
from evenkeel.errors import InputError, did_you_mean
from evenkeel.run_paths import Repository


def find(given: str, root: Path | None = None) -> Path:
    """The baseline file that is meant by a path or by a recipe's name.

    Raises:
        InputError: there is none, or a recipe has several and the platform must be named.
    """
    path = Path(given)
    if path.exists() or given.endswith(".json"):
        return path
    try:
        repository = Repository.around(root or Path.cwd())
    except InputError as error:
        raise InputError(
            f"no file {given}, and no repository here whose recipe it could be: {error.message}",
            fix="name a file of 'evenkeel baseline record'",
        ) from error
    found = of_recipe(repository, given)
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(one) for one in found)
        raise InputError(f"{given} has {len(found)} baselines: {listed}", fix="name the file")
    names = sorted({one.parent.name for one in repository.baselines_dir.rglob("*.json")})
    # a recipe that has none yet is not mistyped
    hint = "" if given in repository.drivers_by_name() else did_you_mean(given, names)
    raise InputError(
        f"no baseline of {given!r} below {repository.baselines_dir}{hint}",
        fix=f"record one: evenkeel baseline record {given} --runs 5",
    )


def of_recipe(repository: Repository, name: str) -> list[Path]:
    """The baseline files of a recipe, one per platform."""
    return sorted(repository.baselines_dir.glob(f"*/{name}/*.json"))


def repository_of(path: Path) -> Repository | None:
    """The one whose runs are judged by the baseline at ``path``; None where it lies elsewhere."""
    try:
        found = Repository.around(path.resolve().parent)
    except InputError:
        return None
    own = path.resolve().is_relative_to(found.baselines_dir.resolve())
    return found if own else None


def standard_path(baseline: Baseline, root: Path | None) -> Path:
    """``tests/baselines/{llm,vlm}/<recipe>/<platform>.json``.

    Raises:
        InputError: recipe or platform is not known, as for metrics of another project.
    """
    if not baseline.recipe or not baseline.platform:
        raise InputError(
            "these runs do not say of which recipe and platform they are",
            fix="say where to write the baseline: --output FILE",
        )
    repository = Repository.around(root or Path.cwd())
    kind = "vlm" if baseline.recipe.startswith("vlm_") else "llm"
    slug = re.sub(r"[^a-z0-9.]+", "-", device_class(baseline.platform))
    return repository.baselines_dir / kind / baseline.recipe / f"{slug}.json"


def acceptance(by: str | None, reason: str) -> Acceptance:
    """Signed with ``by``, else git's user name, else the login."""
    return Acceptance(by=by or _git_user() or getpass.getuser(), date=run_record.now(),
                      reason=reason)  # fmt: skip


def _git_user() -> str:
    try:
        done = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, text=True, check=False, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def with_directions(baseline: Baseline, directions: Mapping[str, Direction]) -> Baseline:
    """``baseline`` with overrides of the table of metric kinds."""
    return replace(baseline, directions={**baseline.directions, **directions})


def replaced(baseline: Baseline, evidence: Sequence[RunEvidence], accepted: Acceptance) -> Baseline:
    """``evidence`` in place of the baseline's runs; its settings and history are kept."""
    made = baseline_recording.of_evidence(
        evidence,
        recipe=baseline.recipe,
        accepted=accepted,
        exact=baseline.exact,
        bit_exact=baseline.bit_exact,
    )
    directions = {k: v for k, v in baseline.directions.items() if k in made.curves}
    return replace(made, directions=directions, history=(*baseline.history, baseline.accepted))


def doubts(baseline: Baseline) -> list[str]:
    """What a person should look at before trusting a baseline."""
    found = []
    if len(baseline.runs) < 3:
        what = "1 run" if len(baseline.runs) == 1 else "2 runs"
        found.append(f"{what}: how much healthy runs vary is a guess; record 5")
    copies = None if baseline.bit_exact else _first_copies(baseline)
    if copies is not None:
        names = " and ".join(baseline.runs[number].name for number in copies)
        found.append(f"{names} are the same in every value: copies tell nothing of how runs vary")
    seeds = [run.seed for run in baseline.runs if run.seed is not None]
    if len(set(seeds)) < len(seeds) and not baseline.bit_exact:
        found.append("runs of the same seed vary less than new runs of other seeds will")
    for name, curve in baseline.curves.items():
        if kind_of(name).family is not Family.CONVERGENCE:
            continue
        bad = ~np.isfinite(curve.values)
        if bad.any():
            number = int(bad.any(axis=1).argmax())
            step = int(curve.steps[bad[number].argmax()])
            found.append(
                f"{name} of {baseline.runs[number].name} is not finite at step {step}:"
                " such steps are not compared"
            )
    return found


def _first_copies(baseline: Baseline) -> tuple[int, int] | None:
    """Positions of two runs that are the same in all values."""
    for one, other in itertools.combinations(range(len(baseline.runs)), 2):
        if all(
            np.array_equal(curve.values[one], curve.values[other], equal_nan=True)
            for curve in baseline.curves.values()
        ):
            return one, other
    return None
