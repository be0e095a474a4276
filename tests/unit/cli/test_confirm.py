"""``evenkeel confirm``: a run in doubt is trained again by its driver, and judged with it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from simulated_runs import run, scale

from evenkeel import run_record
from evenkeel.cli.main import main
from evenkeel.convergence import baseline as baseline_file
from evenkeel.convergence import baseline_recording, judgement
from evenkeel.convergence.baseline import Acceptance
from evenkeel.convergence.run_evidence import RunEvidence
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import EXIT_FINDING, EXIT_INPUT, EXIT_OK
from evenkeel.metrics import series
from evenkeel.run_paths import RunPaths

NAME = "sft-doubt-1n1g-fsdp2tp1"
STEPS = 300
IN_DOUBT = 1.018
"""Times a healthy curve: neither good nor bad by the baseline of ``folder``."""
DRIVER = """\
#!/usr/bin/env bash
# "trains" by taking what lies ready for its seed, and is judged like any other driver's run
seed=${{*: -1}}
[ -d {ready}/"$seed" ] || {{ echo "no data for $seed" >&2; exit "$(cat {ready}/status)"; }}
mkdir -p "$EVENKEEL_EXP_DIR"
cp {ready}/"$seed"/* "$EVENKEEL_EXP_DIR"
printf '%s\\n' "$@" >> "$EVENKEEL_EXP_DIR/arguments"
exec {python} -m evenkeel.cli.main driver judge --run-dir "$EVENKEEL_EXP_DIR" --max-steps {steps}
"""


class Recipe:
    """A recipe in a repository with a baseline of five runs, and what its driver will train."""

    def __init__(self, root: Path) -> None:
        self.paths = RunPaths(root / "tests" / "test_suites" / "llm" / NAME)
        self.driver = self.paths.root.with_name(f"{NAME}.sh")
        self.ready = root / "ready"
        self.ready.mkdir()
        (self.ready / "status").write_text("2")
        self.driver.parent.mkdir(parents=True)
        words = {"ready": shlex.quote(str(self.ready)), "python": shlex.quote(sys.executable)}
        self.driver.write_text(DRIVER.format(steps=STEPS, **words))
        runs = [RunEvidence("", run(seed), {}) for seed in range(5)]
        accepted = Acceptance(by="a test", date="2026-11-20", reason="five healthy runs")
        made = baseline_recording.of_evidence(runs, recipe=NAME, accepted=accepted)
        baseline_file.save(made, root / "tests" / "baselines" / "llm" / NAME / "cpu.json")

    def trained(self, place: Path, number: int, factor: float, seed: int) -> RunPaths:
        """The files of a finished run, with simulated curve ``number`` times ``factor``."""
        paths = RunPaths(place)
        series.save(paths.metrics, run(number, change=scale(factor)))
        run_record.add(paths.run_json, {"recipe": NAME, "config": {"seed": seed}})
        run_record.close_attempt(paths.run_json, run_record.open_attempt(paths.run_json, {}), 0)
        return paths

    def will_train(self, seed: int, number: int, factor: float = 1.0) -> None:
        self.trained(self.ready / f"seed={seed}", number, factor, seed)

    def judged(self, factor: float, seed: int = 42) -> Verdict:
        """Train the run itself and judge it; the verdict."""
        result = judgement.judge_run(self.trained(self.paths.root, 50, factor, seed), (), STEPS)
        judgement.write(result, self.paths)
        return result.verdict

    def verdict(self) -> dict[str, Any]:
        kept = judgement.read(self.paths)
        assert kept is not None
        return kept

    def arguments(self, number: int) -> list[str]:
        """Of all trainings of confirming run ``number``, one after the other."""
        return (self.paths.confirming(number).root / "arguments").read_text().split()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path)


def test_a_healthy_second_run_clears_the_doubt_and_nothing_is_trained_twice(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.judged(IN_DOUBT) is Verdict.INCONCLUSIVE
    recipe.will_train(2001, 51)
    confirm = ["confirm", str(recipe.paths.root), "sft.max_num_steps=300"]
    assert main(confirm) == EXIT_OK
    assert f"PASS {NAME}" in capsys.readouterr().out
    assert recipe.verdict()["verdict"] == "PASS"
    assert recipe.verdict()["comparison"]["num_new_runs"] == 2
    assert recipe.arguments(1) == ["sft.max_num_steps=300", "seed=2001"]
    assert main(confirm) == EXIT_OK
    assert "it asks for no confirming run" in capsys.readouterr().out
    assert len(recipe.arguments(1)) == 2


def test_runs_that_are_as_bad_make_a_regression_of_it(recipe: Recipe) -> None:
    assert recipe.judged(IN_DOUBT) is Verdict.INCONCLUSIVE
    recipe.will_train(2001, 50, 1.0001 * IN_DOUBT)
    recipe.will_train(2002, 50, 1.0002 * IN_DOUBT)
    confirm = ["confirm", str(recipe.paths.root)]
    assert main(confirm) == EXIT_FINDING
    assert recipe.verdict()["verdict"] == "INCONCLUSIVE"
    assert not recipe.paths.confirming(2).root.exists()
    assert main([*confirm, "--runs", "2"]) == EXIT_FINDING
    assert recipe.verdict()["verdict"] == "REGRESSED"
    assert recipe.verdict()["comparison"]["num_new_runs"] == 3
    assert [recipe.arguments(1), recipe.arguments(2)] == [["seed=2001"], ["seed=2002"]]


@pytest.mark.parametrize(
    ("factor", "verdict", "status"),
    [(1.0, Verdict.PASS, EXIT_OK), (1.2, Verdict.REGRESSED, EXIT_FINDING)],
)
def test_what_is_decided_is_not_trained_again(
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    factor: float,
    verdict: Verdict,
    status: int,
) -> None:
    assert recipe.judged(factor) is verdict
    assert main(["confirm", str(recipe.paths.root)]) == status
    assert f"{verdict} {NAME}" in capsys.readouterr().out
    assert not recipe.paths.confirming(1).root.exists()


def test_the_seed_of_the_run_itself_is_not_taken(recipe: Recipe) -> None:
    assert recipe.judged(IN_DOUBT, seed=2001) is Verdict.INCONCLUSIVE
    recipe.will_train(2002, 51)
    assert main(["confirm", str(recipe.paths.root)]) == EXIT_OK
    assert recipe.arguments(1) == ["seed=2002"]


def test_results_elsewhere_need_the_driver_named(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.judged(IN_DOUBT) is Verdict.INCONCLUSIVE
    recipe.will_train(2001, 51)
    elsewhere = RunPaths(tmp_path / "results" / "last-night")
    elsewhere.root.parent.mkdir()
    recipe.paths.root.rename(elsewhere.root)
    confirm = ["confirm", str(elsewhere.root)]
    assert main(confirm) == EXIT_INPUT
    error = capsys.readouterr().err
    assert f"{NAME}.sh: no such driver" in error
    assert f"name that of {NAME} with --driver FILE" in error
    assert main([*confirm, "--driver", str(recipe.driver)]) == EXIT_OK
    assert json.loads(elsewhere.verdict.read_text())["verdict"] == "PASS"
    assert elsewhere.confirming(1).metrics.exists()


def test_a_run_that_was_never_judged_is_refused(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.trained(recipe.paths.root, 50, IN_DOUBT, 42)
    assert main(["confirm", str(recipe.paths.root)]) == EXIT_INPUT
    assert "the run was never judged" in capsys.readouterr().err
    assert main(["confirm", str(recipe.paths.root / "none")]) == EXIT_INPUT
    assert "none: no such run" in capsys.readouterr().err


def test_a_driver_that_fails_leaves_the_doubt_and_the_next_call_goes_on(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.judged(IN_DOUBT) is Verdict.INCONCLUSIVE
    confirm = ["confirm", str(recipe.paths.root)]
    for status in (EXIT_INPUT, EXIT_FINDING):
        (recipe.ready / "status").write_text(str(status))
        assert main(confirm) == status
        error = capsys.readouterr().err
        assert f"confirming run 1, seed 2001 ended with status {status}" in error
        assert recipe.verdict()["verdict"] == "INCONCLUSIVE"
    recipe.will_train(2001, 51)
    assert main(confirm) == EXIT_OK
