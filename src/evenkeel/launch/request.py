"""What a launch asks for, as frozen data: one request per call, one submission per recipe.

``LaunchRequest`` (the whole call) → plan → snapshot → ``Submission`` (one recipe, ready to run).
A submission says everything that is needed to run its recipe once more, years later, except the
values of secrets: those stand in the environment and nowhere else, so what it holds may be
written to disk.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from evenkeel.run_paths import RunPaths

LAUNCH_SCHEMA_VERSION = 1


class ExecutorKind(enum.Enum):
    """Where the jobs of a launch run."""

    SLURM = "slurm"
    LOCAL = "local"


class DryRun(enum.Enum):
    """How far a launch goes; the values are those of the variable ``DRYRUN``."""

    OFF = 0
    ESTIMATE = 1
    PREPARE = 2


@dataclass(frozen=True)
class JobShape:
    """What the CONFIG block of a driver asks for.

    ``num_minutes`` is the limit of one job; ``num_runs`` jobs follow each other in a chain.
    """

    num_nodes: int
    gpus_per_node: int
    num_runs: int
    num_minutes: int
    max_steps: int
    steps_per_run: int
    comment: str | None = None


@dataclass(frozen=True)
class LaunchOptions:
    """What holds for every job of one launch.

    Attributes:
        environment: (name, value) pairs for the job; never holds a secret.
        secret_names: variables whose values go to the job through the environment only
            (``sbatch --export`` by name); their values are no part of any request.
        script_args: further arguments of the driver, one item per argument.
        mounts: ``source:destination[:flags]``, for the container.
        exclude_gres: ask for no GPUs by ``--gres`` (clusters without that plugin).
        segment_size: nodes per block of the network topology (``--segment``).
        job_suffix: appended to the Slurm job name.
        sbatch_options: further ``--option=value`` words of sbatch, from a profile.
        exclude_nodes: nodes that must not be used (``--exclude``).
    """

    executor: ExecutorKind = ExecutorKind.SLURM
    account: str | None = None
    partition: str | None = None
    container: str | None = None
    mounts: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    secret_names: tuple[str, ...] = ()
    script_args: tuple[str, ...] = ()
    exclude_gres: bool = False
    segment_size: int | None = None
    job_suffix: str = ""
    sbatch_options: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()
    is_release: bool = False

    @property
    def variables(self) -> dict[str, str]:
        """The non-secret environment as a dict."""
        return dict(self.environment)


@dataclass(frozen=True)
class Recording:
    """What is trained where a launch is made for a baseline: seeds, and numeric twins."""

    runs: int
    twins: int


@dataclass(frozen=True)
class LaunchRequest:
    """One call of the launcher: which drivers, how far, where to.

    Attributes:
        root: the repository, absolute.
        drivers: driver scripts, absolute, in the order asked for.
        suite: the listing they came from, where they came from one.
        snapshots_dir: where snapshots and launch records are kept, absolute.
        resume: pick up an interrupted launch of the same drivers instead of starting one.
        fresh: start a new launch although one of the same suite was interrupted.
        include_dirty: the snapshot holds uncommitted changes too, and records them.
        max_nodes: the most nodes of one job, where a profile says so.
        max_gpus_per_node: GPUs that a node has, where a profile says so.
        max_minutes: the longest job, where the suite says so.
        recording: the runs of a baseline, instead of one run of each driver.
    """

    root: Path
    drivers: tuple[Path, ...]
    snapshots_dir: Path
    options: LaunchOptions = field(default_factory=LaunchOptions)
    suite: str | None = None
    dry_run: DryRun = DryRun.OFF
    watch: bool = False
    resume: bool = False
    fresh: bool = False
    include_dirty: bool = False
    max_nodes: int | None = None
    max_gpus_per_node: int | None = None
    max_minutes: int | None = None
    recording: Recording | None = None


@dataclass(frozen=True)
class Submission:
    """One recipe of one launch, ready to run: ``shape.num_runs`` jobs in a chain.

    Attributes:
        launch_id: of the launch it belongs to; sorts by time.
        name: the recipe.
        driver: the script, relative to ``tree``.
        tree: the snapshot's code, absolute; a job's working directory. Read-only but for the
            folder of the driver, where results land.
        launch_dir: absolute; job scripts and Slurm's output files of this recipe go here.
        commit: the git commit that ``tree`` shows.
        runs: how many jobs to chain; NUM_RUNS on launch, 1 for a continuation.
        first_run: number of the first of them, counted from 1 over the life of the recipe's
            results, so that no token and no output file is used twice.
        variant: empty for the run of the launch; else which run of the same code with further
            arguments this is (``confirm1``), whose results lie beside its own.
    """

    launch_id: str
    name: str
    driver: PurePosixPath
    tree: Path
    launch_dir: Path
    shape: JobShape
    options: LaunchOptions
    commit: str
    runs: int
    first_run: int = 1
    variant: str = ""

    @property
    def label(self) -> str:
        """The recipe, and for a run beside its own which one."""
        return f"{self.name}.{self.variant}" if self.variant else self.name

    @property
    def driver_path(self) -> Path:
        """The driver inside the snapshot, absolute."""
        return self.tree / self.driver

    @property
    def run_dir(self) -> Path:
        """Where the results land: beside the driver, in a directory of its name."""
        own = RunPaths(self.driver_path.with_suffix(""))
        return own.beside(self.variant).root if self.variant else own.root

    def beside(self, variant: str, arguments: Sequence[str] = ()) -> Submission:
        """A whole run of the same code with further arguments, and a folder of its own for all.

        Whoever picks up the launch finds its jobs again by the names that follow from ``variant``.
        """
        script_args = (*self.options.script_args, *arguments)
        return replace(
            self,
            launch_dir=self.launch_dir / variant,
            options=replace(self.options, script_args=script_args),
            runs=self.shape.num_runs,
            first_run=1,
            variant=variant,
        )


def options_to_json(options: LaunchOptions) -> dict[str, Any]:
    """As plain JSON values: the executor by its name, the environment as an object."""
    value = asdict(options)
    value["executor"] = options.executor.value
    value["environment"] = options.variables
    return value


def options_from_json(value: Mapping[str, Any]) -> LaunchOptions:
    """The inverse of ``options_to_json``."""
    fields: dict[str, Any] = dict(value)
    fields["executor"] = ExecutorKind(fields["executor"])
    fields["environment"] = tuple(fields["environment"].items())
    for name in ("mounts", "secret_names", "script_args", "sbatch_options", "exclude_nodes"):
        fields[name] = tuple(fields[name])
    return LaunchOptions(**fields)
