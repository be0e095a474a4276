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
SIZES = "policy.parallel.tensor_parallel_size is 2 and expert_parallel_size "
SHARED = f"{SIZES}1; on the fsdp2 backend the ranks that share"
UNKNOWN = f"{SIZES}{{}}, and the fsdp2 backend does not know how to split {{}} models"
REFUSED = {
    ("torch tp2", "mixtral"): SHARED,
    ("torch tp2", "qwen3_moe"): SHARED,
    ("torch tp2", "deepseek_v2, yarn"): UNKNOWN.format(1, "deepseek_v2"),
    ("torch tp2", "deepseek_v3"): UNKNOWN.format(1, "deepseek_v3"),
    ("torch tp2, ep2", "deepseek_v2, yarn"): UNKNOWN.format(2, "deepseek_v2"),
    ("torch tp2, ep2", "deepseek_v3"): UNKNOWN.format(2, "deepseek_v3"),
}
"""How the message of a refusal begins, also with sequence parallelism."""
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
    if refusal := REFUSED.get((layout.removesuffix(" + sp"), family)):
        assert str(found).startswith(refusal)
        return
    assert isinstance(found, float), found
    assert found < MAX_DIFFERENCE
