"""Recording a baseline runs the driver once per seed, and goes on where it was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import EvenkeelError, InputError
from evenkeel.launch import baseline_runs

DRIVER = """\
set -eu
echo "${*:-own-seed}" >> "$(dirname "$0")/calls"
[ "$*" != "${FAILS_AT:-never}" ] || exit 7
mkdir -p "$EVENKEEL_EXP_DIR"
echo '{"train/loss": {"1": 2.5}}' > "$EVENKEEL_EXP_DIR/metrics.json"
echo '{"schema_version": 1, "attempts": [{"exit_status": 0}]}' > "$EVENKEEL_EXP_DIR/run.json"
echo '{"verdict": "NO_BASELINE"}' > "$EVENKEEL_EXP_DIR/verdict.json"
exit 1
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    path = tmp_path / "sft-x-1n1g-fsdp2tp1.sh"
    path.write_text(DRIVER)
    return path


def calls(driver: Path) -> list[str]:
    return driver.with_name("calls").read_text().split()


def test_each_seed_has_its_own_results(driver: Path) -> None:
    made = baseline_runs.record(driver, 3, num_twins=1)
    folder = driver.with_name("sft-x-1n1g-fsdp2tp1.baseline")
    names = ("own-seed", "seed1001", "seed1002", "twin1")
    assert made == [folder / name / driver.stem for name in names]
    assert calls(driver) == ["own-seed", "seed=1001", "seed=1002", "policy.numeric_twin=1"]
    assert all((path / "metrics.json").exists() for path in made)


def test_finished_runs_are_kept_after_a_failure(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_AT", "seed=1002")
    with pytest.raises(EvenkeelError, match="run 3 of 3, seed1002 ended with status 7"):
        baseline_runs.record(driver, 3, tmp_path / "evidence")
    monkeypatch.delenv("FAILS_AT")
    assert len(baseline_runs.record(driver, 3, tmp_path / "evidence")) == 3
    assert calls(driver) == ["own-seed", "seed=1001", "seed=1002", "seed=1002"]


SEVERAL_STARTS = """\
set -eu
mkdir -p "$EVENKEEL_EXP_DIR"
cd "$EVENKEEL_EXP_DIR"
echo start >> calls
step=$(($(cat step 2>/dev/null || echo 0) + ${STEPS_PER_RUN}))
echo "$step" > step
echo '{"train/loss": {"1": 2.5}}' > metrics.json
echo '{"schema_version": 1, "attempts": [{"exit_status": 0}]}' > run.json
echo "{\\"verdict\\": \\"INCOMPLETE\\", \\"last_step\\": $step, \\"max_steps\\": 10}" > verdict.json
exit 1
"""


def test_a_run_of_several_starts_is_trained_to_its_last_step(
    driver: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.write_text(SEVERAL_STARTS)
    monkeypatch.setenv("STEPS_PER_RUN", "4")
    (made,) = baseline_runs.record(driver, 1)
    assert (made / "calls").read_text() == "start\n" * 3
    assert "run 1 of 1, own-seed: 2 steps are left\n" in capsys.readouterr().err
    monkeypatch.setenv("STEPS_PER_RUN", "0")
    with pytest.raises(EvenkeelError, match="seed1001 ended with status 1"):
        baseline_runs.record(driver, 2)


def test_no_runs_are_refused(driver: Path) -> None:
    with pytest.raises(InputError, match="--runs is 0"):
        baseline_runs.record(driver, 0)
    with pytest.raises(InputError, match="--twins is -1"):
        baseline_runs.record(driver, 1, num_twins=-1)
