from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.config import RecipeError, load, load_untyped

TEXT = (
    "sft:\n  max_num_steps: 30\npolicy:\n  optimizer: {betas: [0.8, 0.9]}\n  model_config: {a: 1}\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        (["sft.max_num_steps=20"], "sft.max_num_steps", 20),
        (["sft.max_num_steps=20", "sft.max_num_steps=21"], "sft.max_num_steps", 21),
        (["sft.val_period=3"], "sft.val_period", 3),
        (["policy.optimizer.lr=1e-4"], "policy.optimizer.lr", 1e-4),
        (["policy.optimizer.betas=[0.1, 0.2]"], "policy.optimizer.betas", [0.1, 0.2]),
        (["policy.optimizer={lr: 1, eps: 1}"], "policy.optimizer.betas", [0.8, 0.9]),
        (["++policy.model_config.b.c=x=y"], "policy.model_config.b.c", "x=y"),
        (["+policy.model_config.b=1"], "policy.model_config.b", 1),
        (["++policy.model_config.a=2"], "policy.model_config.a", 2),
        (["policy.model_name=null"], "policy.model_name", None),
        (["policy.model_name="], "policy.model_name", None),
        (["policy.model_name='a: b'"], "policy.model_name", "a: b"),
        (["~sft.max_num_steps"], "sft.max_num_steps", 100),
        (["~sft"], "sft.max_num_steps", 100),
        (["policy.train_global_batch_size=${sft.max_num_steps}"], "policy.train_global_batch_size", 30),
    ],
)  # fmt: skip
def test_an_override_sets_what_it_says(
    path: Path, overrides: list[str], key: str, expected: object
) -> None:
    value: object = load(path, overrides).values
    for part in key.split("."):
        assert isinstance(value, dict)
        value = value[part]
    assert value == expected


def test_a_deleted_free_key_is_gone(path: Path) -> None:
    assert load(path, ["~policy.model_config.a"]).values["policy"]["model_config"] == {}
    assert "policy" not in load_untyped(path, ["~policy"]).values


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sft.max_num_step=20", "sft has no key 'max_num_step' (did you mean 'max_num_steps'?)"),
        ("stf.max_num_steps=20", "there is no key 'stf' (did you mean 'sft'?)"),
        ("~sft.nothing", "sft has no key 'nothing'"),
        ("++sft.nothing=1", "unknown key 'sft.nothing'"),
        ("policy.model_config.b=1", "policy.model_config has no key 'b'"),
        ("+policy.model_config.a=1", "policy.model_config.a is there already"),
        ("sft.max_num_steps.x=1", "sft.max_num_steps is a value (30, "),
        ("sft.max_num_steps=[1", "the value is not YAML"),
        ("sft.max_num_steps=ten", "sft.max_num_steps: wants int, got text 'ten'"),
        ("sft.max_num_steps=", "sft.max_num_steps: wants int, got null"),
        ("sft.max_num_steps=0", "sft.max_num_steps: must be at least 1, got 0"),
        ("sft.max_num_steps", "is not an override"),
        ("~sft.max_num_steps=3", "is not an override"),
        ("=3", "is not an override"),
        ("a b=3", "is not an override"),
        ("sft..x=3", "has an empty part between its dots"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_written(path: Path, override: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load(path, [override])
    assert caught.value.path == "command line"
    assert caught.value.message.startswith(f"{override!r}")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("sft.max_num_step=20", "sft has: max_num_steps, steps_per_run, "),
        ("stf.max_num_steps=20", "a recipe has: algorithm, seed, "),
        ("~sft.nothing", "sft has: max_num_steps, "),
    ],
)
def test_a_key_that_cannot_be_added_is_not_offered_to_be(
    path: Path, override: str, fix: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(path, [override])
    assert (caught.value.fix or "").startswith(fix)
    assert "++" not in (caught.value.fix or "")


def test_a_free_key_is_offered_to_be_added(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(path, ["policy.model_config.b=1"])
    assert (caught.value.fix or "").endswith("or add the key with '++policy.model_config.b=...'")


def test_untyped_trees_know_only_their_own_keys(path: Path) -> None:
    with pytest.raises(InputError, match="sft has no key 'val_period'"):
        load_untyped(path, ["sft.val_period=3"])
    assert load_untyped(path, ["++sft.val_period=3"]).values["sft"]["val_period"] == 3


def test_mistakes_of_file_and_overrides_come_together(path: Path) -> None:
    with pytest.raises(RecipeError, match="2 mistakes"):
        load(path, ["seed=x", "policy.backend=y"])
