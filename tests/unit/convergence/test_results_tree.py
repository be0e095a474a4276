"""Which folders below one of results are runs to judge."""

from __future__ import annotations

from pathlib import Path

from evenkeel.convergence.results_tree import runs_below

NAME = "sft-a-1n1g-fsdp2tp1"


def test_runs_that_are_evidence_for_others_are_not_judged_by_themselves(tmp_path: Path) -> None:
    for name in (
        NAME,
        f"{NAME}.v2",
        f"{NAME}.confirm1",
        f"{NAME}.own-seed",
        f"{NAME}.seed1001",
        f"{NAME}.twin1",
        f"{NAME}.baseline/seed1001/{NAME}",
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.json").write_text("{}")
    assert runs_below(tmp_path) == [tmp_path / NAME, tmp_path / f"{NAME}.v2"]
