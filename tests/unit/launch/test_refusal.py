"""What is made of sbatch's refusals; the listing commands are stand-ins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenkeel.launch.cluster import Cluster
from evenkeel.launch.refusal import explain

HEADER = ["#SBATCH --account=taem", "#SBATCH --gres=gpu:8", "#SBATCH --nodes=2"]
REFUSED = "sbatch failed with status 1: sbatch: error: Batch job submission failed: "


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    for program, body in (
        ("sacctmgr", "case $* in *assoc*) echo root; echo team; echo team;; *) exit 1;; esac"),
        ("sinfo", "case $* in *%G*) echo '(null)';; *) echo 'No reservations here';; esac"),
    ):
        script = tmp_path / program
        script.write_text(f"#!/bin/bash\n{body}\n")
        script.chmod(0o755)
    return Cluster({"PATH": f"{tmp_path}:{os.environ['PATH']}"})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            f"{REFUSED}Invalid account or account/partition combination specified",
            "Invalid account or account/partition combination specified: --account=taem"
            " (did you mean 'team'?) comes from ACCOUNT; valid: root, team",
        ),
        (
            "allocation failure: Invalid qos specification",
            "Invalid qos specification: --qos=fast comes from SBATCH_QOS or the profile's"
            " sbatch_options",
        ),
        (
            f"{REFUSED}Invalid generic resource (gres) specification",
            "Invalid generic resource (gres) specification: --gres=gpu:8 comes from GPUS_PER_NODE"
            " (EXCLUDE_GRES=1 asks for none) or the profile's sbatch_options",
        ),
        (
            "Requested reservation is invalid",
            "Requested reservation is invalid: no --reservation comes from SBATCH_RESERVATION or"
            " the profile's sbatch_options",
        ),
        (
            "sbatch failed with status 255: sbatch: unrecognized option '--segment=4'\n"
            'Try "sbatch --help" for more information',
            "unrecognized option '--segment=4': this Slurm has no such option; it comes from"
            " SEGMENT_SIZE or the profile's sbatch_options",
        ),
        (f"{REFUSED}Something new", "Something new"),
    ],
)
def test_a_refusal_names_value_source_and_what_is_valid(
    cluster: Cluster, said: str, expected: str
) -> None:
    assert explain(said, HEADER, {"SBATCH_QOS": "fast"}, cluster) == expected
