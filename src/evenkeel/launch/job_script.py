"""The batch script of one job, as text.

The header is what the executor says; the body is ``job_body.sh``, which it sources. That runs the
driver once, on the first node (the driver starts its trainer on all of them), and keeps a
*journal*: one line when the job starts, when a signal arrives and when the driver ends. The journal
tells the truth about a job where Slurm's accounts do not: the exit status, the nodes of every
start, and that it ended at all.

Every value that is not a constant of this file passes ``shlex.quote``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.launch.request import Submission
from evenkeel.run_paths import RunPaths
from evenkeel.run_record import TrainerExit

SIGNAL_LEAD_S = 120
"""Seconds before the time limit at which the trainer is asked to save and end. Slurm checks limits
every 30 s or so and may come up to a minute early."""
MAX_RESTARTS = 3
"""Requeues after which a job gives up: the cluster, or the job, has something that stays."""
STOP_AT_LIMIT = "the time limit of the job is near"

# exit statuses of the job script itself; the driver's own are passed through
EXIT_NO_TREE = 91
"""The snapshot is not where it was at launch."""
EXIT_TOO_MANY_RESTARTS = 92

BODY = Path(__file__).with_name("job_body.sh")
"""What all scripts have in common. It stands once beside a launch's folders, since a script that
fits into one block of the disk matters when there are hundreds."""


@dataclass(frozen=True)
class JobFiles:
    """The files of one job of a submission, all below its launch directory."""

    folder: Path
    run: int

    @property
    def script(self) -> Path:
        """The batch script."""
        return self.folder / f"run-{self.run}.sh"

    @property
    def body(self) -> Path:
        """The part that the scripts of a launch share; its name changes with its content."""
        digest = sha256(BODY.read_bytes()).hexdigest()[:8]
        return self.folder.parent / f"job_body-{digest}.sh"

    @property
    def record(self) -> Path:
        """What the launcher knows of the job: name, id, when it was submitted."""
        return self.folder / f"run-{self.run}.json"

    @property
    def journal(self) -> Path:
        """What the job wrote about itself."""
        return self.folder / f"run-{self.run}.journal"

    @property
    def claim(self) -> Path:
        """The id of the job that does this run; a twin finds it and ends at once."""
        return self.folder / f"run-{self.run}.claim"

    @property
    def output(self) -> Path:
        """What the job printed, over all its starts."""
        return self.folder / f"run-{self.run}.out"


def job_files(submission: Submission, run: int) -> JobFiles:
    """The files of job number ``run``."""
    return JobFiles(submission.launch_dir, run)


def job_name(submission: Submission, run: int) -> str:
    """The job's name in Slurm: the recipe for people, and its token for us.

    The token stands in the name and not in the comment, because the name is the one field that
    every version and every kind of accounting keeps, and the comment is the user's. Characters
    that a job completion file cannot hold (it splits at blanks) are replaced; where that happens
    a digest keeps names apart that differ in such characters only.
    """
    wanted = submission.label + submission.options.job_suffix
    safe = re.sub(r"[^A-Za-z0-9._+=@-]", "_", wanted)
    if safe != wanted:
        safe += "." + sha256(wanted.encode()).hexdigest()[:8]
    launch = re.sub(r"[^A-Za-z0-9._+=@-]", "_", submission.launch_id)
    return f"{safe}:{launch}:{run}"


def sbatch_options(submission: Submission, run: int) -> dict[str, str | bool]:
    """Options of sbatch by name; ``True`` stands for an option without a value.

    The dependency on the job before is none of them: its id is known only when it is submitted.

    Raises:
        InputError: an option of the profile, or a value, cannot stand in a batch script.
    """
    shape, options = submission.shape, submission.options
    lead_s = min(SIGNAL_LEAD_S, shape.num_minutes * 60 // 4)
    found: dict[str, str | bool | None] = {
        "job-name": job_name(submission, run),
        "account": options.account,
        "partition": options.partition,
        "nodes": str(shape.num_nodes),
        "ntasks-per-node": "1",
        "time": format_minutes(shape.num_minutes),
        "gres": None if options.exclude_gres else f"gpu:{shape.gpus_per_node}",
        "exclusive": True,
        "exclude": ",".join(options.exclude_nodes) or None,
        "comment": shape.comment or None,
        "segment": None if options.segment_size is None else str(options.segment_size),
        "signal": f"B:USR1@{lead_s}",
        "output": str(job_files(submission, run).output).replace("%", "%%"),
        "open-mode": "append",
        "export": "ALL",
        "requeue": True,
    }
    for word in options.sbatch_options:
        match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", word, re.DOTALL)
        if not match:
            raise InputError(f"not an option of sbatch: {word!r}", fix="write --option=value")
        if match[1] == "no-requeue":
            found["requeue"] = None
        if match[1] == "exclude" and match[2] and found["exclude"]:
            found["exclude"] = f"{found['exclude']},{match[2]}"
            continue
        found[match[1]] = True if match[2] is None else match[2]
    kept = {key: value for key, value in found.items() if value is not None}
    for key, value in kept.items():
        if isinstance(value, str) and re.search(r"[\n\r\0]", value):
            raise InputError(f"--{key} of {submission.label} spans several lines: {value!r}")
    return kept


def format_minutes(minutes: int) -> str:
    """``hours:minutes:00``, which every Slurm reads the same way."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def render(header: Sequence[str], submission: Submission, run: int, python: Path) -> str:
    """The whole script, but for ``JobFiles.body``, which it reads.

    Args:
        header: the ``#SBATCH`` lines.
        submission: the recipe to run.
        run: number of the job in the chain, counted from 1.
        python: the interpreter that has evenkeel's dependencies; its folder is put first on PATH.
    """
    files = job_files(submission, run)
    values = {
        "tree": submission.tree,
        "driver": submission.driver_path,
        "run_dir": submission.run_dir,
        "stop_request": RunPaths(submission.run_dir).stop_request,
        "journal": files.journal,
        "claim": files.claim,
        "job_name": job_name(submission, run),
        "stop_at_limit": STOP_AT_LIMIT,
        "run_json": RunPaths(submission.run_dir).run_json,
        "is_first": "yes" if run == submission.first_run else "",
        "max_restarts": MAX_RESTARTS,
        "exit_no_tree": EXIT_NO_TREE,
        "exit_too_many_restarts": EXIT_TOO_MANY_RESTARTS,
        "exit_diverged": TrainerExit.NON_FINITE.value,
    }
    settings = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
    arguments = " ".join(shlex.quote(word) for word in submission.options.script_args)
    label, launch = _comment(submission.label), _comment(submission.launch_id)
    return "\n".join(
        [
            "#!/bin/bash",
            *header,
            "",
            f"# Job {run} of {label}, launch {launch}.",
            "# Written by evenkeel; submit it with sbatch, or run it with bash where it lies.",
            *settings,
            f"driver_arguments=({arguments})",
            "",
            *_exports(submission, python),
            f"source {shlex.quote(str(files.body))}",
            f"exit {EXIT_NO_TREE}  # the body has gone, and so has the snapshot",
            "",
        ]
    )


def _exports(submission: Submission, python: Path) -> list[str]:
    """Lines that set the environment of the driver. No secret is among them."""
    options = submission.options
    variables = {
        "EVENKEEL_PYTHON": str(python),
        "EVENKEEL_LAUNCH_ID": submission.launch_id,
        "EVENKEEL_SNAPSHOT_COMMIT": submission.commit,
    }
    if options.container:
        variables["EVENKEEL_CONTAINER"] = options.container
        mounts = (f"{submission.tree}:{submission.tree}", *options.mounts)
        variables["EVENKEEL_MOUNTS"] = ",".join(mounts)
    if submission.variant:
        variables["EVENKEEL_EXP_DIR"] = str(submission.run_dir)
    variables |= options.variables
    for name in variables:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InputError(
                f"not the name of a variable: {name!r}",
                fix="EXTRA_ENV takes NAME=value words; names are letters, digits and _",
            )
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return [
        f"export PATH={shlex.quote(str(python.parent))}:$PATH",
        "# the package of the snapshot, not the one that lies where the launcher was installed",
        '[ ! -d "$tree/src/evenkeel" ] || export PYTHONPATH="$tree/src${PYTHONPATH:+:$PYTHONPATH}"',
        *lines,
        "",
    ]


def _comment(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)
