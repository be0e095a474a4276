"""Chains of jobs on a real Slurm: order, exactly once, and values that arrive as they were."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from launches import make_submission
from mini_cluster import MiniCluster, _wait

from evenkeel.launch.cluster import Cluster
from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.job_script import job_files, job_name
from evenkeel.launch.request import LaunchOptions, Submission
from evenkeel.launch.submission import (
    JobRecord,
    SubmitState,
    read_record,
    read_records,
    submit_chain,
)


def submit(submission: Submission) -> list[JobRecord]:
    return submit_chain(submission, SlurmSubmitter(), Cluster())


def ids(records: list[JobRecord]) -> list[int]:
    return [record.job_id for record in records if record.job_id is not None]


def all_jobs(cluster: MiniCluster) -> list[str]:
    return cluster.run("squeue", "-h", "-t", "all", "-o", "%j").split("\n")[:-1]


def test_a_chain_runs_in_order_whatever_the_end_of_each(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    driver = f"""
echo "begin $SLURM_JOB_ID" >> {log}
sleep 0.5
echo "end $SLURM_JOB_ID" >> {log}
[ "$(grep -c begin {log})" -ne 1 ] || exit 3
[ "$(grep -c begin {log})" -ne 2 ] || kill -KILL $$"""
    submission = make_submission(tmp_path, driver, runs=3)
    first, second, third = ids(submit(submission))
    assert cluster.wait_for(third, "COMPLETED") == "COMPLETED"
    assert cluster.state(first) == "FAILED"
    assert cluster.state(second) == "FAILED"
    expected = [f"{word} {job}" for job in (first, second, third) for word in ("begin", "end")]
    assert log.read_text().splitlines() == expected
    journal = [
        line.split("\t") for line in job_files(submission, 1).journal.read_text().split("\n")
    ]
    assert [line[0] for line in journal[:-1]] == ["start", "end"]
    assert journal[1][4] == "3"
    killed = job_files(submission, 2).journal.read_text().split("\n")[1].split("\t")
    assert (killed[0], killed[4]) == ("end", "137")


def test_submitting_again_changes_nothing(cluster: MiniCluster, tmp_path: Path) -> None:
    submission = make_submission(tmp_path, "exit 0", runs=2)
    once = submit(submission)
    assert submit(submission) == once
    assert sorted(all_jobs(cluster)).count(job_name(submission, 1)) == 1


def test_a_job_is_found_again_when_its_id_was_never_written_down(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    submission = make_submission(tmp_path, "sleep 1")
    (record,) = submit(submission)
    path = job_files(submission, 1).record
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "state": "intended", "job_id": None}))
    (found,) = submit(submission)
    assert found.job_id == record.job_id
    assert read_record(submission, 1) == found


def test_what_sbatch_refuses_is_kept_with_its_words(cluster: MiniCluster, tmp_path: Path) -> None:
    submission = make_submission(tmp_path, "exit 0", runs=2, options=LaunchOptions(partition="no"))
    (record,) = submit(submission)
    assert record.state is SubmitState.REFUSED
    assert record.error is not None
    assert "invalid partition" in record.error
    mended = replace(submission, options=LaunchOptions(partition="main"))
    job_files(submission, 1).script.unlink()
    assert [record.state for record in submit(mended)] == [SubmitState.SUBMITTED] * 2


NASTY = [
    "plain",
    "two words",
    'it\'s "quoted" `ls` $(ls) $HOME ${PATH}',
    "line one\nline two\n",
    "back\\slash \\n and tab\t|",
    "ünïcödé ✓ *?[a-z]{1,2} ~ # ! & ; < >",
    "",
]


def test_values_arrive_in_the_job_as_they_are(
    cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "seen.json"
    program = (
        "import json, os, sys; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w'))"
    )
    driver = f'{shlex.quote(sys.executable)} -c {shlex.quote(program)} "{out}" "$@"'
    monkeypatch.setenv("MY_TOKEN", "s3cret 'x'\n$y")
    submission = make_submission(
        tmp_path / 'it\'s a "path" $HOME %j;',
        driver,
        comment="what's \"this\" $HOME; {'a': 1}",
        options=LaunchOptions(
            script_args=tuple(NASTY),
            environment=tuple((f"NASTY_{n}", value) for n, value in enumerate(NASTY)),
            secret_names=("MY_TOKEN",),
        ),
    )
    (job,) = ids(submit(submission))
    assert cluster.wait_for(job, "COMPLETED", "FAILED") == "COMPLETED"
    arguments, environ = json.loads(out.read_text())
    assert arguments == NASTY
    assert [environ[f"NASTY_{n}"] for n in range(len(NASTY))] == NASTY
    assert environ["MY_TOKEN"] == "s3cret 'x'\n$y"
    comment = cluster.run("squeue", "-h", "-t", "all", "-j", str(job), "-o", "%k").strip()
    assert comment == submission.shape.comment
    assert job_files(submission, 1).output.exists()
    written = [path for path in submission.launch_dir.iterdir() if path.is_file()]
    assert written
    assert not [path for path in written if "s3cret" in path.read_text()]


def test_a_twin_of_a_job_costs_nothing(cluster: MiniCluster, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    submission = make_submission(tmp_path, f"echo x >> {marks}; sleep 2")
    (job,) = ids(submit(submission))
    cluster.wait_for(job, "RUNNING")
    _wait("the driver", marks.exists, 20)
    files = job_files(submission, 1)
    during = SlurmSubmitter().submit(files.script, tmp_path / "lock")
    cluster.wait_for(during, "COMPLETED")
    cluster.wait_for(job, "COMPLETED")
    after = SlurmSubmitter().submit(files.script, tmp_path / "lock")
    cluster.wait_for(after, "COMPLETED")
    assert marks.read_text() == "x\n"
    assert f"job {job} does this run" in files.output.read_text()
    assert f"job {job} has done this run already" in files.output.read_text()


DIVERGING = """
echo x >> marks
mkdir -p "${0%.sh}"
echo '{"attempts": [{"exit_status": 0}, {"exit_status": 76}]}' > "${0%.sh}/run.json"
exit 1"""


def test_a_job_after_a_diverged_one_does_nothing(cluster: MiniCluster, tmp_path: Path) -> None:
    submission = make_submission(tmp_path, DIVERGING, runs=2)
    _, second = ids(submit(submission))
    cluster.wait_for(second, "FAILED")
    assert (submission.tree / "marks").read_text() == "x\n"


def test_a_request_to_stop_comes_before_the_time_limit(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    driver = 'run=${0%.sh}; while [ ! -f "$run/stop_request" ]; do sleep 0.1; done; exit 75'
    submission = make_submission(tmp_path, driver)
    (job,) = ids(submit(submission))
    cluster.wait_for(job, "RUNNING")
    _wait("the journal", job_files(submission, 1).journal.exists, 20)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    assert cluster.wait_for(job, "FAILED", "COMPLETED") == "FAILED"
    lines = job_files(submission, 1).journal.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["start", "signal", "end"]
    assert lines[-1].split("\t")[4] == "75"
    assert (submission.run_dir / "stop_request").read_text().startswith("the time limit")


def test_strange_settings_of_the_caller_do_not_reach_the_job(
    cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_JOB_NAME", "other")
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    submission = make_submission(tmp_path, "exit 0")
    (record,) = submit(submission)
    assert record.job_id is not None
    reports = Cluster().reports({record.job_id: record.name})
    assert reports[record.job_id].name == record.name


# the import of nemo_run takes seconds, so the launcher that is killed is a fork of one that has it
KILLED_LAUNCHER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from launches import make_submission
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.executor import SlurmSubmitter, _nemo_run
from evenkeel.launch.submission import submit_chain
folder, names, chance = Path(sys.argv[2]), sys.argv[3:], random.Random(7)
_nemo_run(folder)

def launch():
    for name in names:
        driver = f"echo $SLURM_JOB_ID >> {folder}/ran"
        submission = make_submission(folder, driver, name=name, runs=2)
        submit_chain(submission, SlurmSubmitter(), Cluster())

for moment in range(20):
    child = os.fork()
    if child == 0:
        launch()
        os._exit(0)
    time.sleep(chance.uniform(0, 0.25))
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
launch()
"""


def test_a_launcher_killed_at_random_moments_can_be_picked_up(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    names = [f"sft-{letter}-1n1g-fsdp2tp1" for letter in "abcdef"]
    argv = [sys.executable, "-c", KILLED_LAUNCHER, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run([*argv, *names], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "9" in done.stdout.split()
    driver = f"echo $SLURM_JOB_ID >> {tmp_path}/ran"
    submissions = [make_submission(tmp_path, driver, name=name, runs=2) for name in names]
    expected = [job_name(submission, run) for submission in submissions for run in (1, 2)]
    assert sorted(name for name in all_jobs(cluster) if name in expected) == sorted(expected)
    records = [record for submission in submissions for record in read_records(submission)]
    for job in ids(records):
        cluster.wait_for(job, "COMPLETED")
    assert len((tmp_path / "ran").read_text().split()) == len(expected)


def test_a_submit_the_controller_has_forgotten_is_found_out_and_done_again(
    new_cluster: Callable[..., MiniCluster], tmp_path: Path
) -> None:
    from evenkeel.launch.submission import submit_forgotten

    cluster = new_cluster(nodes=1)
    marks = tmp_path / "marks"
    submission = make_submission(tmp_path, f"echo x >> {marks}")
    blocker = cluster.submit("sleep 300", "--exclusive")
    cluster.wait_for(blocker, "RUNNING")
    state = cluster.dir / "state" / "job_state"
    _wait("a saved state", lambda: state.exists() and state.stat().st_size > 200, 20)
    (record,) = submit(submission)
    cluster.kill_controller()  # before it saved the new job
    cluster.start_controller()
    assert record.job_id is not None
    # the id goes to another job, which must not be taken for ours
    other = cluster.submit("sleep 300", "--hold")
    if other == record.job_id:
        assert Cluster().reports({record.job_id: record.name}) == {}
        again = submit_forgotten(submission, 1, SlurmSubmitter(), Cluster())
        assert again.earlier_ids == (record.job_id,)
    else:  # it was quick enough to save it
        again = submit_forgotten(submission, 1, SlurmSubmitter(), Cluster())
        assert again.job_id == record.job_id
    cluster.run("scancel", str(blocker))
    assert again.job_id is not None
    assert cluster.wait_for(again.job_id, "COMPLETED") == "COMPLETED"
    assert marks.read_text() == "x\n"
    assert os.environ["SLURM_CONF"] == str(cluster.conf)
