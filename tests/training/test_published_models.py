"""The architectures that recipes name have as many parameters as their publishers say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from evenkeel.recipes.config import load

MODELS = Path(__file__).parents[2] / "examples" / "configs" / "models"

# billions, tied matrices counted once
NUM_PARAMETERS = {
    "deepscaler-1.5b": 1.777,
    "deepseek-v2-lite": 15.706,
    "gemma3-1b-it": 1.000,
    "gemma3-4b-it": 4.3,
    "gemma3-12b-it": 12.2,
    "gemma3-27b-it": 27.4,
    "llama-0.1m": 0.000124,
    "llama-0.9m": 0.000888,
    "llama3.1-8b": 8.030,
    "llama3.1-8b-instruct": 8.030,
    "llama3.1-70b": 70.554,
    "llama3.2-1b": 1.236,
    "llama3.2-1b-instruct": 1.236,
    "llava-0.3m": 0.000272,
    "llava1.5-7b": 7.063,
    "mixtral-0.3m": 0.000248,
    "moonlight-16ba3b": 15.960,
    "qwen2.5-1.5b-instruct": 1.544,
    "qwen2.5-32b": 32.764,
    "qwen2.5-7b-instruct": 7.616,
    "qwen2.5-math-1.5b-instruct": 1.544,
    "qwen2.5-vl-3b-instruct": 3.755,
    "qwen2.5-vl-7b-instruct": 8.292,
    "qwen3-0.6b": 0.596,
    "qwen3-1.7b": 1.721,
    "qwen3-4b": 4.022,
    "qwen3-8b": 8.191,
    "qwen3-30ba3b": 30.532,
    "smolvlm2-2.2b-instruct": 2.247,
}


def test_every_model_of_the_tree_is_known() -> None:
    assert {path.stem for path in MODELS.glob("*.yaml")} == set(NUM_PARAMETERS)


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_number_of_parameters(name: str) -> None:
    keys = dict(load(MODELS / f"{name}.yaml").recipe.policy.model_config)
    model_class = AutoModelForImageTextToText if "text_config" in keys else AutoModelForCausalLM
    config = AutoConfig.for_model(keys.pop("model_type"), **keys)
    with torch.device("meta"):
        model = model_class.from_config(config)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters / 1e9 == pytest.approx(NUM_PARAMETERS[name], rel=0.005)
