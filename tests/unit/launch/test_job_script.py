"""The batch script: a stored example, and what must never be in it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.launch import job_script
from evenkeel.launch.job_script import job_files, job_name, render, sbatch_options
from evenkeel.launch.request import JobShape, LaunchOptions, Submission

STORED = Path(__file__).with_name("job_script.expected.sh")


def submission(**more: object) -> Submission:
    base = Submission(
        launch_id="20260102T030405-abcdef",
        name="sft-llama3.2-1b-2n8g-fsdp2tp1.v2",
        driver=PurePosixPath("tests/test_suites/llm/sft-llama3.2-1b-2n8g-fsdp2tp1.v2.sh"),
        tree=Path("/shared/my code/code_snapshots/.trees/1"),
        launch_dir=Path("/shared/my code/code_snapshots/.launches/20260102T030405-abcdef/0"),
        shape=JobShape(
            num_nodes=2,
            gpus_per_node=8,
            num_runs=3,
            num_minutes=90,
            max_steps=300,
            steps_per_run=100,
            comment='{"reaper": {"exemptIdleTimeMins": "60"}}',
        ),
        options=LaunchOptions(
            account="team",
            partition="batch",
            container="/images/it's.sqsh",
            mounts=("/data:/data:ro",),
            environment=(("GREETING", "it's $HOME; `x`"),),
            secret_names=("HF_TOKEN",),
            script_args=("sft.max_num_steps=20", "logger.wandb.name=two words"),
            segment_size=2,
            job_suffix="-try",
            sbatch_options=("--qos=high", "--nice"),
            exclude_nodes=("n7", "n9"),
        ),
        commit="0123456789abcdef0123456789abcdef01234567",
        runs=3,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def test_the_whole_script_reads_as_stored() -> None:
    one = submission()
    options = sbatch_options(one, 2)
    header = [
        f"#SBATCH --{key}" + ("" if value is True else f"={shlex.quote(str(value))}")
        for key, value in sorted(options.items())
    ]
    text = render(header, one, 2, Path("/venv/bin/python3"))
    # the digest in the name of the body changes with the body
    text = re.sub(r"job_body-[0-9a-f]+", "job_body-DIGEST", text)
    if os.environ.get("UPDATE_STORED"):
        STORED.write_text(text)
    assert text == STORED.read_text()


def test_a_run_beside_the_own_one_says_where_its_results_go() -> None:
    own, beside = submission(), submission().beside("confirm1", ["seed=2001"])
    script = render([], beside, 1, Path(sys.executable))
    assert f"export EVENKEEL_EXP_DIR={shlex.quote(str(beside.run_dir))}\n" in script
    assert script.count("EVENKEEL_EXP_DIR") == 1
    assert (
        "driver_arguments=(sft.max_num_steps=20 'logger.wandb.name=two words' seed=2001)" in script
    )
    assert "EVENKEEL_EXP_DIR" not in render([], own, 1, Path(sys.executable))
    assert job_name(beside, 1) != job_name(own, 1)


def test_what_is_not_asked_for_is_not_in_the_header() -> None:
    one = submission(
        options=LaunchOptions(exclude_gres=True, sbatch_options=("--no-requeue",)),
        shape=JobShape(1, 8, 1, 5, 10, 10),
    )
    assert sbatch_options(one, 1) == {
        "job-name": job_name(one, 1),
        "nodes": "1",
        "ntasks-per-node": "1",
        "time": "00:05:00",
        "exclusive": True,
        "signal": "B:USR1@75",
        "output": str(job_files(one, 1).output),
        "open-mode": "append",
        "export": "ALL",
        "no-requeue": True,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": LaunchOptions(environment=(("A B", "1"),))}, "not the name of a variable"),
        ({"options": LaunchOptions(sbatch_options=("-p x",))}, "not an option of sbatch"),
        ({"options": LaunchOptions(account="a\n#SBATCH --uid=0")}, "several lines"),
        ({"shape": JobShape(1, 8, 1, 5, 10, 10, comment="a\nb")}, "several lines"),
    ],
)
def test_what_cannot_stand_in_a_script_is_refused(change: dict[str, object], words: str) -> None:
    one = submission(**change)
    with pytest.raises(InputError, match=words):
        sbatch_options(one, 1)
        render([], one, 1, Path(sys.executable))


def test_names_of_jobs_differ_whatever_the_names_of_recipes() -> None:
    names = ["a b", "a_b", "a;b", "ünï", "a" * 300]
    found = [job_name(submission(name=name), run) for name in names for run in (1, 2)]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9._+=@:-]+", name) for name in found)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@given(arguments=st.lists(TEXT, max_size=4), value=TEXT)
def test_any_argument_and_value_arrives_unchanged(
    tmp_path_factory: pytest.TempPathFactory, arguments: list[str], value: str
) -> None:
    """The lines that set up the job are run by bash, which shows what it made of them."""
    options = LaunchOptions(script_args=tuple(arguments), environment=(("VALUE", value),))
    text = render([], submission(options=options), 1, Path(sys.executable))
    head = text.partition("\nsource ")[0] + "\n"
    show = 'printf "%s\\0" "$VALUE" "$tree" "${driver_arguments[@]}"'
    script = tmp_path_factory.mktemp("script") / "head.sh"
    script.write_text(head + show)
    done = subprocess.run(["bash", script], capture_output=True)
    tree = str(submission().tree)
    expected = "\0".join([value, tree, *(arguments or [])]) + "\0"
    if not arguments:  # printf repeats its format for no argument at all
        expected = f"{value}\0{tree}\0"
    assert done.stdout.decode() == expected
    assert done.stderr == b""


def test_the_body_is_valid_bash() -> None:
    text = render([], submission(), 1, Path(sys.executable))
    body = Path(job_script.__file__).with_name("job_body.sh").read_text()
    for part in (text, body):
        done = subprocess.run(["bash", "-n"], input=part, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
