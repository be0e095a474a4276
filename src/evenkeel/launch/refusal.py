"""What sbatch refuses: found out before anything is submitted, and explained with what it takes.

``sbatch --test-only`` answers for each kind of job of a launch (jobs of one shape are of one
kind). Refusals that may pass, such as nodes that are drained today, are left to
the submit: what is accepted there waits in the queue.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from evenkeel.errors import InputError, MachineError, did_you_mean
from evenkeel.launch.cluster import Cluster, ClusterUnreachableError
from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.job_script import job_files
from evenkeel.launch.plan import Plan
from evenkeel.launch.request import JobShape, LaunchRequest, Submission


@dataclass(frozen=True)
class _Request:
    """What sbatch may refuse, and how to find out what it would take.

    Attributes:
        words: of sbatch's message, in lower case.
        option: the option of sbatch that asked for it.
        source: where its value comes from, in the launcher's terms.
        question: a command that lists what is valid.
    """

    words: str
    option: str
    source: str
    question: tuple[str, ...] = ()


_REQUESTS = (
    _Request(
        "invalid account",
        "account",
        "ACCOUNT",
        ("sacctmgr", "-nP", "show", "assoc", "user={user}", "format=account"),
    ),
    _Request(
        "invalid qos",
        "qos",
        "SBATCH_QOS or the profile's sbatch_options",
        ("sacctmgr", "-nP", "show", "qos", "format=name"),
    ),
    _Request("invalid partition", "partition", "PARTITION", ("sinfo", "-h", "-o", "%R")),
    _Request(
        "invalid feature",
        "constraint",
        "SBATCH_CONSTRAINT or the profile's sbatch_options",
        ("sinfo", "-h", "-o", "%f"),
    ),
    _Request(
        "invalid generic resource",
        "gres",
        "GPUS_PER_NODE (EXCLUDE_GRES=1 asks for none) or the profile's sbatch_options",
        ("sinfo", "-h", "-o", "%G"),
    ),
    _Request(
        "reservation is invalid",
        "reservation",
        "SBATCH_RESERVATION or the profile's sbatch_options",
        ("sinfo", "-h", "-T", "-o", "%i"),
    ),
    _Request("invalid node name", "exclude", "--exclude-node", ("sinfo", "-h", "-N", "-o", "%N")),
    _Request("license", "licenses", "the profile's sbatch_options"),
    _Request(
        "unrecognized option",
        "",
        "this Slurm has no such option; it comes from SEGMENT_SIZE or the profile's sbatch_options",
    ),
    _Request("policy", "", "the account or the QOS allows fewer jobs, less time or fewer nodes"),
    _Request("not permitted to use this partition", "partition", "PARTITION"),
)


def check(
    request: LaunchRequest, plan: Plan, submitter: SlurmSubmitter, environ: Mapping[str, str]
) -> None:
    """Ask sbatch about every kind of job of a launch; submits nothing.

    Raises:
        InputError: it would refuse some for what they ask; all their drivers are named.
        ClusterUnreachableError: the controller did not answer.
    """
    kinds: dict[JobShape, list[str]] = {}
    for recipe in plan.recipes:
        if recipe.shape is not None:
            kind = replace(recipe.shape, comment=None, num_runs=1, max_steps=1, steps_per_run=1)
            kinds.setdefault(kind, []).append(str(recipe.driver))
    refused: dict[str, list[str]] = {}
    for kind, drivers in kinds.items():
        header = submitter.header(_placeholder(request, kind), 1)
        said = _would_refuse(header, submitter)
        if said is not None:
            why = explain(said, header, environ, Cluster(environ))
            refused.setdefault(why, []).extend(drivers)
    if refused:
        count = sum(map(len, refused.values()))
        total = sum(map(len, kinds.values()))
        lines = [f"sbatch refuses {count} of {total} drivers, so nothing is submitted:"]
        for why, drivers in refused.items():
            more = f" and {len(drivers) - 3} more" if len(drivers) > 3 else ""
            lines += [f"  {', '.join(drivers[:3])}{more}:", f"    {why}"]
        raise InputError("\n".join(lines))


def _placeholder(request: LaunchRequest, shape: JobShape) -> Submission:
    """Some recipe of this shape: its name and places are nothing that sbatch would refuse."""
    return Submission(
        launch_id="test",
        name="test",
        driver=PurePosixPath("test.sh"),
        tree=request.root,
        launch_dir=request.snapshots_dir,
        shape=shape,
        options=request.options,
        commit="",
        runs=1,
    )


def explain(said: str, header: Sequence[str], environ: Mapping[str, str], cluster: Cluster) -> str:
    """sbatch's words, the value that it means, and what is valid.

    Args:
        said: by sbatch.
        header: the ``#SBATCH`` lines of the job.
        environ: of sbatch; ``SBATCH_QOS`` and the like ask for things, too.
        cluster: asked for the valid values; an answer is not essential.
    """
    said = re.sub(r"^sbatch failed with status \d+: ", "", said.strip())
    said = re.sub(
        r"(sbatch: |error: |allocation failure: |Batch job submission failed: )", "", said
    )
    said = said.splitlines()[0]
    known = next((one for one in _REQUESTS if one.words in said.lower()), None)
    if known is None:
        return said
    if not known.option:
        return f"{said}: {known.source}"
    value = _value(known.option, header, environ)
    shown = f"no --{known.option}" if value is None else f"--{known.option}={value}"
    valid = cluster.names(known.question) if known.question else []
    takes = f"; valid: {', '.join(valid[:20])}" if valid else ""
    guess = did_you_mean(value, valid) if value else ""
    return f"{said}: {shown}{guess} comes from {known.source}{takes}"


def header_of(submission: Submission, run: int) -> list[str]:
    """The ``#SBATCH`` lines of a written script; none where it is gone."""
    try:
        text = job_files(submission, run).script.read_text(encoding="utf-8")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.startswith("#SBATCH ")]


def _would_refuse(header: Sequence[str], submitter: SlurmSubmitter) -> str | None:
    """sbatch's words about what no time will mend; None where it would take the job."""
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as folder:
        script = Path(folder) / "test.sh"
        script.write_text("\n".join(["#!/bin/bash", *header, "exit 0", ""]), encoding="utf-8")
        try:
            submitter.test(script)
        except ClusterUnreachableError:
            raise
        except MachineError as error:
            said = error.message
            return said if any(one.words in said.lower() for one in _REQUESTS) else None
    return None


def _value(option: str, header: Sequence[str], environ: Mapping[str, str]) -> str | None:
    for line in header:
        for word in shlex.split(line.removeprefix("#SBATCH "), comments=False):
            if word.startswith(f"--{option}="):
                return word.partition("=")[2]
    return environ.get(f"SBATCH_{option.upper()}")
