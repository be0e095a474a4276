"""The one door to nemo_run: batch headers, submitting, and running without Slurm.

nemo_run is imported inside the functions, because that takes seconds and it is an optional
extra. Of its Slurm support this uses the request that turns a ``SlurmExecutor`` into ``#SBATCH``
lines, and the tunnel that runs ``sbatch``. The rest of its batch script is not used: it exports
variables unquoted under ``set -x``, so that secrets land in the log; it runs an ``srun`` before
every job, also before one that has nothing to do; and its experiment submits with ``--requeue``
whatever the executor says.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from evenkeel.errors import InputError, MachineError
from evenkeel.launch.cluster import classify_failure
from evenkeel.launch.job_script import job_files, sbatch_options
from evenkeel.launch.request import Submission

# environment variables win over #SBATCH lines, so a stray one would rename or redirect our jobs
KEPT_SBATCH_VARIABLES = {"SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_CONSTRAINT", "SBATCH_CLUSTERS"}


class SlurmSubmitter:
    """Submits batch scripts through nemo_run's local tunnel."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = submit_environment(os.environ if environ is None else environ)

    def header(self, submission: Submission, run: int) -> list[str]:
        """The ``#SBATCH`` lines of one job, sorted by option."""
        run_module = _nemo_run(submission.launch_dir)
        from nemo_run.core.execution.slurm import SlurmBatchRequest, SlurmJobDetails

        options = sbatch_options(submission, run)
        folder = str(submission.launch_dir)
        executor = run_module.SlurmExecutor(
            account=submission.options.account,
            partition=submission.options.partition,
            nodes=submission.shape.num_nodes,
            ntasks_per_node=1,
            tunnel=run_module.LocalTunnel(job_dir=folder),
            packager=run_module.Packager(),
            job_name_prefix="evenkeel.",
            job_details=SlurmJobDetails(job_name=str(options["job-name"]), folder=folder),
            additional_parameters={key.replace("-", "_"): v for key, v in options.items()},
        )
        executor.job_dir = folder
        request = SlurmBatchRequest(
            launch_cmd=["sbatch", "--parsable"],
            jobs=["evenkeel"],
            command_groups=[],
            executor=executor,
            max_retries=0,
            extra_env={},
        )
        lines = request.materialize().splitlines()
        return [line for line in lines if line.startswith("#SBATCH ")]

    def submit(self, script: Path, in_flight: Path, after: int | None = None) -> int:
        """Run ``sbatch``; the result is the job's id.

        Args:
            script: the batch script.
            in_flight: a file that is locked (shared) for as long as ``sbatch`` lives, even if
                this process dies: who holds it exclusively knows that no submit is under way.
            after: id of the job that must have ended before, whatever its end.

        Raises:
            MachineError: ``sbatch`` said no; nothing was submitted.
            ClusterUnreachableError: the controller gave no answer, so the outcome is unknown.
        """
        wait = [] if after is None else [f"--dependency=afterany:{after}"]
        words = ["sbatch", "--parsable", *wait, str(script)]
        if shutil.which("flock"):
            words = ["flock", "--shared", str(in_flight), *words]
        said = self._run(words, script.parent).strip()
        answer = said.split(";")[0]  # "id" or "id;cluster"
        if not answer.isdecimal():
            raise MachineError(f"sbatch answered {said!r} instead of a job id")
        return int(answer)

    def test(self, script: Path) -> None:
        """Ask ``sbatch`` whether it would take the script; submits nothing.

        Raises:
            MachineError: it would not now; what it says may pass.
            ClusterUnreachableError: the controller gave no answer.
        """
        self._run(["sbatch", "--test-only", str(script)], script.parent)

    def _run(self, words: Sequence[str], folder: Path) -> str:
        tunnel = _nemo_run(folder).LocalTunnel(job_dir=str(folder))
        done = tunnel.run(
            shlex.join(words), warn=True, in_stream=False, env=self._environ, replace_env=True
        )
        if done.exited:
            raise classify_failure("sbatch", done.exited, (done.stderr or done.stdout).strip())
        return str(done.stdout)


def submit_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment a job inherits, secrets included, without what would change the request."""
    return {
        key: value
        for key, value in environ.items()
        if not key.startswith("SBATCH_") or key in KEPT_SBATCH_VARIABLES
    }


def run_locally(submission: Submission, run: int) -> int:
    """Run one job's script on this machine and wait for it; the result is its exit status.

    Everything it prints lands in the job's output file.
    """
    files = job_files(submission, run)
    run_module = _nemo_run(submission.launch_dir)
    # a FAILED local job leaves nemo_run's own exit status at 0, so the script writes its own down
    status_file = files.folder / f"run-{run}.status"
    status_file.unlink(missing_ok=True)
    inline = (
        f"bash {shlex.quote(str(files.script))} >>{shlex.quote(str(files.output))} 2>&1\n"
        f"echo $? >{shlex.quote(str(status_file))}"
    )
    executor = run_module.LocalExecutor(packager=run_module.Packager())
    with _quiet(), run_module.Experiment(f"evenkeel-{run}", executor=executor) as experiment:
        experiment.add(run_module.Script(inline=inline), executor=executor, name="job")
        experiment.run(sequential=True, detach=False, tail_logs=False)
        states = experiment.status(return_dict=True)
    try:
        return int(status_file.read_text())
    except (OSError, ValueError) as error:
        raise MachineError(
            f"the local job {run} of {submission.name} left no exit status (nemo_run: {states})",
            path=files.output,
        ) from error
    finally:
        status_file.unlink(missing_ok=True)


def _nemo_run(folder: Path) -> Any:
    """The module. What it writes of its own accord goes below ``folder``, not into $HOME."""
    os.environ.setdefault("NEMORUN_HOME", str(folder / "nemo_run"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies warn of each other's deprecations
            import nemo_run
    except ImportError as error:
        raise InputError(
            f"launching needs nemo-run, which cannot be imported here: {error}",
            fix="install evenkeel with its launch extra: pip install 'evenkeel[launch]'",
        ) from error
    return nemo_run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress tables that nemo_run prints for people who look at one job."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
            yield
    finally:
        logging.disable(previous)
