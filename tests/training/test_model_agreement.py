"""A recipe's ``model_config`` against the configuration of the model that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import Gemma3Config

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Policy
from evenkeel.training.models import load_config

WANTED = {"model_type": "gemma3", "text_config": {"hidden_size": 64, "num_hidden_layers": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    text = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300}
    Gemma3Config(text_config=text, vision_config={"hidden_size": 32}).save_pretrained(path)
    return str(path)


def test_a_recipe_may_say_a_part_of_a_section(folder: str) -> None:
    config = load_config(Policy(model_name="x", hf_path=folder, model_config=WANTED))
    assert config.get_text_config().hidden_size == 64


def test_a_difference_inside_a_section_is_named(folder: str) -> None:
    wanted = {**WANTED, "text_config": {"hidden_size": 65}}
    with pytest.raises(InputError) as caught:
        load_config(Policy(model_name="x", hf_path=folder, model_config=wanted))
    assert caught.value.message == (
        f"policy.model_config.text_config.hidden_size is 65, and {folder} has 64"
    )
    assert Path(folder).is_dir()
