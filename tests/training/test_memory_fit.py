"""``evenkeel recipe fit`` against the real models: their weights, and what small trainings hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from evenkeel.recipes import config
from evenkeel.recipes.memory_fit.architecture import parse
from evenkeel.recipes.memory_fit.weights import weights_of
from evenkeel.training import models

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "configs" / "models"

STATES = {"weights", "gradients", "optimizer", "reference"}
SMALL = (
    "fsdp2 tp2 sp",
    "fsdp2 tp2 ep2 mixtral",
    "megatron tp2, validation 2 by 2",
    "fsdp2 dp2, validation 2 by 2",
    "fsdp2 dp2 bf16 recomputed",
    "fsdp2 dp2 dpo",
    "megatron tp2 llava, projector",
)
"""Cases of the benchmark."""


@pytest.mark.parametrize(
    "name",
    [
        "deepseek-v2-lite",
        "gemma3-1b-it",
        "gemma3-4b-it",
        "llama3.2-1b",
        "llava1.5-7b",
        "mixtral-0.3m",
        "moonlight-16ba3b",
        "qwen2.5-1.5b-instruct",
        "qwen2.5-vl-3b-instruct",
        "qwen3-30ba3b",
        "smolvlm2-2.2b-instruct",
    ],
)
def test_every_weight_of_each_family(name: str) -> None:
    keys = dict(config.load(MODELS / f"{name}.yaml").recipe.policy.model_config)
    counted = {weight.name: weight.shape for weight in weights_of(parse(keys))}
    architecture = AutoConfig.for_model(keys.pop("model_type"), **keys)
    model = models.build_on_meta(architecture)
    assert counted == {name: tuple(w.shape) for name, w in model.named_parameters()}


@pytest.fixture(scope="module")
def comparison() -> list[dict[str, float | str]]:
    """Predicted and measured, of the small cases of the benchmark."""
    script = ROOT / "benchmarks" / "memory_fit.py"
    cases = [word for name in SMALL for word in ("--case", name)]
    done = subprocess.run(
        [sys.executable, str(script), "--json", *cases], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, float | str]] = json.loads(done.stdout)
    assert {row["case"] for row in rows} == set(SMALL)
    return rows


def test_states_are_right_to_the_byte(comparison: list[dict[str, float | str]]) -> None:
    states = [row for row in comparison if row["what"] in STATES]
    assert len(states) == 3 * len(SMALL) + 1  # one has a reference
    assert [row for row in states if row["predicted"] != row["measured"]] == []


def test_peaks_are_near_the_predicted_ones(comparison: list[dict[str, float | str]]) -> None:
    peaks = [row for row in comparison if row["what"] not in STATES]
    assert len(peaks) == 2 * len(SMALL)
    wrong = [row for row in peaks if abs(_ratio(row) - 1) > _tolerance(str(row["case"]))]
    assert wrong == []


def _ratio(row: dict[str, float | str]) -> float:
    return float(row["predicted"]) / float(row["measured"])


def _tolerance(case: str) -> float:
    """Tensor parallelism gathers or sums in each layer, and when the buffers of these collectives
    are freed depends on their threads: measured peaks differ by a buffer or two from run to run."""
    return 0.3 if "tp2" in case else 0.15
