from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.launch.plan import (
    Plan,
    error_lines,
    format_hours,
    plan,
    recipe_name,
    report_lines,
    rounded_hours,
)

BLOCK = """#!/bin/bash
# ===== BEGIN CONFIG =====
NUM_NODES={nodes}
{gpus}STEPS_PER_RUN={steps}
MAX_STEPS={max_steps}
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES={minutes}
{more}# ===== END CONFIG =====
echo not run
"""


def driver(
    folder: Path,
    name: str,
    *,
    nodes: object = 1,
    gpus: str = "",
    steps: object = 50,
    max_steps: object = 100,
    minutes: object = 30,
    more: str = "",
) -> str:
    path = folder / f"{name}.sh"
    text = BLOCK.format(
        nodes=nodes, gpus=gpus, steps=steps, max_steps=max_steps, minutes=minutes, more=more
    )
    path.write_text(text)
    return str(path)


def plan_paths(*paths: str) -> Plan:
    return plan([(path, path) for path in paths])


def test_gpu_hours_are_exact(tmp_path: Path) -> None:
    first = driver(tmp_path, "a", nodes=4, steps=40, max_steps=100, minutes=7)  # 3 runs
    second = driver(tmp_path, "b", gpus="GPUS_PER_NODE=4\n", minutes=5)
    assert report_lines(plan_paths(first, second)) == [
        f"[INFO]: 11.2 GPUhrs to run {first}",
        f"[INFO]: 0.6666666666666666 GPUhrs to run {second}",
        "[INFO]: Total GPU hours: 11.866666666666667",
    ]


def test_no_value_leaks_into_the_next_driver(tmp_path: Path) -> None:
    with_gpus = driver(tmp_path, "a", gpus="GPUS_PER_NODE=4\n", more="JOB_COMMENT='only a'\n")
    without = driver(tmp_path, "b")
    for order in ([with_gpus, without], [without, with_gpus]):
        found = {recipe.name: recipe.shape for recipe in plan_paths(*order).recipes}
        assert found["a"].gpus_per_node == 4
        assert found["b"].gpus_per_node == 8
        assert (found["a"].comment, found["b"].comment) == ("only a", None)


def test_a_broken_driver_is_named_and_the_others_still_count(tmp_path: Path) -> None:
    good = driver(tmp_path, "good")
    evil = driver(tmp_path, "evil", nodes=f"$(touch {tmp_path}/ran)")
    missing = str(tmp_path / "missing.sh")
    found = plan_paths(evil, good, missing)
    assert [recipe.name for recipe in found.broken] == ["evil", "missing"]
    assert report_lines(found)[-2:] == [
        "[INFO]: 2 of 3 drivers are broken and not part of the total",
        "[INFO]: Total GPU hours: 8",
    ]
    errors = error_lines(found.broken)
    assert f"{evil}:3:" in errors[0]
    assert errors[1].startswith(f"[ERROR]: {missing} is broken")
    assert not (tmp_path / "ran").exists()


def test_json_of_good_and_broken(tmp_path: Path) -> None:
    good = driver(tmp_path, "good.v2", nodes=2, minutes=10)
    missing = str(tmp_path / "missing.sh")
    value = plan_paths(good, missing).to_json()
    assert value["total_gpu_hours"] == pytest.approx(16 / 3, abs=1e-12)
    first, second = value["recipes"]
    assert first == {
        "driver": good,
        "name": "good.v2",
        "num_nodes": 2,
        "gpus_per_node": 8,
        "num_runs": 2,
        "num_minutes": 10,
        "gpu_hours": 320 / 60,
        "error": None,
    }
    assert second["gpu_hours"] is None
    assert second["num_nodes"] is None
    assert "missing.sh" in second["error"]


def test_a_cpu_driver_costs_nothing(tmp_path: Path) -> None:
    value = plan_paths(driver(tmp_path, "cpu", gpus="GPUS_PER_NODE=0\n")).to_json()
    assert value["recipes"][0]["gpus_per_node"] == 0
    assert value["recipes"][0]["gpu_hours"] == 0


def test_order_changes_nothing(tmp_path: Path) -> None:
    drivers = [driver(tmp_path, f"d{i}", nodes=i + 1, minutes=7 * i + 1) for i in range(20)]
    total = plan_paths(*drivers).total_gpu_minutes
    random.Random(0).shuffle(drivers)
    assert plan_paths(*drivers).total_gpu_minutes == total


@given(st.integers(0, 10**30))
def test_hours_read_back_as_what_was_meant(minutes: int) -> None:
    text = format_hours(minutes)
    exact = Fraction(minutes, 60)
    assert "e" not in text
    if minutes % 3 == 0:
        assert Fraction(text) == exact
    elif minutes < 60 * 10**12:
        assert float(text) == minutes / 60
    else:
        assert abs(Fraction(text) - exact) < Fraction(1, 100)


@pytest.mark.parametrize(
    ("minutes", "text"),
    [(0, "0"), (1, "0.02"), (59, "0.98"), (60, "1"), (630, "10.5"), (5120, "85.33"),
     (6 * 10**6, "100000"), (10**30 + 7, "16666666666666666666666666666.78")],
)  # fmt: skip
def test_hours_for_people_have_two_decimals(minutes: int, text: str) -> None:
    assert rounded_hours(minutes) == text


@given(st.integers(0, 10**30))
def test_rounded_hours_tell_minutes_apart(minutes: int) -> None:
    text = rounded_hours(minutes)
    assert round(Fraction(text) * 60) == minutes
    assert abs(Fraction(text) - Fraction(minutes, 60)) <= Fraction(1, 200)


def test_names_keep_their_dots() -> None:
    assert recipe_name("./llm/grpo-qwen2.5-7b-4n8g-fsdp2tp4sp.v3.sh").endswith("tp4sp.v3")
