"""A result in doubt, looked at again: which runs confirm it, and the judgement of all together."""

from __future__ import annotations

from evenkeel import run_record
from evenkeel.convergence import judgement
from evenkeel.convergence.error_budget import MAX_LOOKS
from evenkeel.convergence.run_evidence import RunEvidence, read_evidence
from evenkeel.convergence.verdict import Judgement, Verdict
from evenkeel.errors import InputError
from evenkeel.run_paths import Repository, RunPaths

_TELLS_NOTHING = (Verdict.CRASHED, Verdict.WALLTIME, Verdict.INFRA, Verdict.INCOMPLETE)


def confirming_runs(paths: RunPaths, first: RunEvidence) -> list[RunEvidence]:
    """The runs in ``<run>.confirm1`` and ``.confirm2`` that tell something about ``first``.

    One that did not come to its end tells nothing, and neither does one of other code, such as a
    folder that is left of an earlier run.
    """
    found = []
    for number in range(1, MAX_LOOKS):
        place = paths.confirming(number)
        kept = judgement.read(place)
        if not place.metrics.exists() or (kept and Verdict(kept["verdict"]) in _TELLS_NOTHING):
            continue
        run = read_evidence(place.root)
        if first.record.get("git") == run.record.get("git"):
            found.append(run)
    return found


def wanted_confirmation(paths: RunPaths) -> int | None:
    """Number (from 1) of the confirming run that a judged run asks for; None: it asks for none."""
    kept = judgement.read(paths)
    comparison = kept.get("comparison") if kept else None
    if not isinstance(comparison, dict) or not comparison.get("asks_for_confirmation"):
        return None
    return int(comparison["num_new_runs"])


def seeds_of(paths: RunPaths) -> list[int]:
    """The seed of a run, where its ``run.json`` tells."""
    config = run_record.read(paths.run_json).get("config")
    seed = config.get("seed") if isinstance(config, dict) else None
    return [seed] if isinstance(seed, int) else []


def judge_again(paths: RunPaths, repository: Repository | None = None) -> Judgement:
    """Judge a run together with its confirming runs, by the checks of its last judgement.

    Raises:
        InputError: it was never judged.
    """
    kept = judgement.read(paths)
    if kept is None:
        raise InputError("the run was never judged", path=paths.verdict)
    checks = [str(check["check"]) for check in kept["checks"]]
    result = judgement.judge_run(paths, checks, kept["max_steps"], repository=repository)
    judgement.write(result, paths)
    return result
