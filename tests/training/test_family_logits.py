"""Split over two ranks, every family computes what transformers computes with the same weights.

``test_megatron_models.py`` holds the megatron backend to it on one process, where the torch backend
is transformers' own model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from logits_on_ranks import LAYOUTS, VISION, recipes
from training_runs import environment, free_port

MAX_DIFFERENCE = 2e-6
"""Of log probabilities in fp32; 9.5e-7 was seen."""
NOT_SPLIT = {
    "mixtral": "mlp.experts",
    "qwen3_moe": "mlp.experts",
    "deepseek_v2, yarn": "self_attn.kv_a_proj_with_mqa",
    "deepseek_v3": "self_attn.q_a_proj",
}
"""What the torch backend's plan of tensor parallelism does not know; megatron-core's does."""
CASES = [
    (layout, family)
    for layout, (backend, parallel) in LAYOUTS.items()
    for family in recipes(backend, parallel)
]


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float | str]]:
    """By layout and family: the largest difference, or what was said."""
    script = Path(__file__).with_name("logits_on_ranks.py")
    ports = json.dumps([free_port() for _ in LAYOUTS])
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), ports],
            env={**environment(rank, 2, 0), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    table: dict[str, dict[str, float | str]] = json.loads(outputs[0][0].splitlines()[-1])
    return table


def test_every_layout_was_measured(measured: dict[str, dict[str, float | str]]) -> None:
    found = [(layout, family) for layout, families in measured.items() for family in families]
    assert found == CASES
    assert set(VISION) < set(measured["torch tp2"])


@pytest.mark.parametrize(("layout", "family"), CASES)
def test_logits(measured: dict[str, dict[str, float | str]], layout: str, family: str) -> None:
    found = measured[layout][family]
    if layout.startswith("torch") and family in NOT_SPLIT:
        assert str(found).startswith("tensor parallelism does not know how to split model.layers.")
        assert str(found).endswith(NOT_SPLIT[family])
        return
    assert isinstance(found, float), found
    assert found < MAX_DIFFERENCE
