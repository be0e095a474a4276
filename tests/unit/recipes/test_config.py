from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes import config, schema
from evenkeel.recipes.config import Origin, RecipeError, load, load_untyped

CONFIGS = Path(__file__).parents[3] / "examples" / "configs"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[tuple[str, int | None, str]]:
    with pytest.raises(InputError) as caught:
        load(path, overrides)
    found = caught.value.problems if isinstance(caught.value, RecipeError) else (caught.value,)
    return [(Path(problem.path or "").name, problem.line, problem.message) for problem in found]


def test_a_recipe_has_everything_its_files_and_the_schema_say(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "seed: 7\nsft:\n  max_num_steps: 30\n  val_period: 5\n")
    path = write(tmp_path, "mine.yaml", "defaults: base.yaml\nsft:\n  val_period: 10\n")

    resolved = load(path, ["sft.val_at_start=true"])

    assert resolved.name == "mine"
    assert resolved.recipe.seed == 7
    assert resolved.recipe.sft == schema.Sft(max_num_steps=30, val_period=10, val_at_start=True)
    assert resolved.recipe.policy.optimizer == schema.Optimizer()
    assert resolved.values["sft"] == {
        "max_num_steps": 30,
        "steps_per_run": None,
        "val_period": 10,
        "val_at_start": True,
        "val_global_batch_size": 64,
        "val_micro_batch_size": None,
    }
    assert resolved.origins["seed"] == Origin(str(tmp_path / "base.yaml"), 1, 1)
    assert resolved.origins["sft.val_period"] == Origin(str(path), 3, 3)
    assert resolved.origins["sft.val_at_start"].path == "command line"
    assert resolved.origins["sft.val_global_batch_size"].path == "default"
    assert resolved.origins["policy.optimizer.betas"].path == "default"


def test_the_own_algorithm_has_its_section_and_others_have_none(tmp_path: Path) -> None:
    for text in ("seed: 1\n", "seed: 1\nsft:\n", "algorithm: sft\nsft: {}\n"):
        resolved = load(write(tmp_path, "mine.yaml", text))
        assert resolved.recipe.sft == schema.Sft()
        assert resolved.values["sft"]["max_num_steps"] == 100
        assert set(resolved.values) & set(schema.Algorithm) == {"sft"}


def test_values_do_not_share_state_between_recipes(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "policy:\n  optimizer:\n    betas: [0.8, 0.9]\n")
    path = write(tmp_path, "mine.yaml", "defaults: base.yaml\n")
    first = load(path)
    first.values["policy"]["optimizer"]["betas"].append("spoiled")
    first.values["policy"]["model_config"]["spoiled"] = 1
    assert load(path).values["policy"]["optimizer"]["betas"] == [0.8, 0.9]
    assert load(path).values["policy"]["model_config"] == {}


def test_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    text = "policy:\n  optimizer:\n    lr: 1e-3\n    eps: 1E-08\n  max_grad_norm: 1\n"
    optimizer = load(write(tmp_path, "mine.yaml", text)).recipe.policy
    assert (optimizer.optimizer.lr, optimizer.optimizer.eps) == (1e-3, 1e-8)
    assert type(optimizer.max_grad_norm) is float


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("sft:\n  max_num_step: 3\n", 2, "unknown key 'sft.max_num_step' (did you mean 'max_num_steps'?)"),
        ("lr: 1\n", 1, "unknown key 'lr' (did you mean 'policy.optimizer.lr'?)"),
        ("seed: true\n", 1, "seed: wants int, got a boolean True"),
        ("seed: 1.5\n", 1, "seed: wants int, got a number 1.5"),
        ("seed: 1e3\n", 1, "seed: wants int, got a number 1000.0"),
        ("seed: '7'\n", 1, "seed: wants int, got text '7'"),
        ("sft:\n  val_at_start: 1\n", 2, "sft.val_at_start: wants bool, got an integer 1"),
        ("policy:\n  max_grad_norm: .nan\n", 2, "policy.max_grad_norm: wants float, got a number nan"),
        ("policy:\n  backend: fsdp\n", 2, "policy.backend: wants one of fsdp2, megatron, got text 'fsdp' (did you mean 'fsdp2'?)"),
        ("algorithm: DPO\n", 1, "algorithm: wants one of pretrain, sft, dpo, grpo, distillation, got text 'DPO' (did you mean 'dpo'?)"),
        ("sft.max_num_steps: 3\n", 1, "unknown key 'sft.max_num_steps'"),
        ("data:\n  dataset: 3\n", 2, "data.dataset: wants str, got an integer 3"),
        ("data:\n  dataset: ???\n", 2, "data.dataset: wants str, got text '???'"),
        ("data:\n  options: [1]\n", 2, "data.options: wants a mapping, got a list [1]"),
        ("policy:\n  optimizer:\n    betas: 0.9\n", 3, "policy.optimizer.betas: wants a list of float, got a number 0.9"),
        ("policy:\n  optimizer:\n    betas: [0.9]\n", 3, "policy.optimizer.betas: wants 2 elements, got 1"),
        ("policy:\n  optimizer:\n    betas: [0.9, 1]\n", 3, "policy.optimizer.betas: must be below 1, got 1"),
        ("policy:\n  train_global_batch_size: 0\n", 2, "policy.train_global_batch_size: must be at least 1, got 0"),
        ("policy:\n  optimizer:\n    lr: 0\n", 3, "policy.optimizer.lr: must be above 0, got 0"),
        ("cluster: 8\n", 1, "cluster: wants a section, got an integer 8"),
        ("policy:\n  parallel:\n", 2, "policy.parallel: wants a section, got null"),
        ("seed: ${sead}\n", 1, "seed: interpolates a key that is not there: there is no 'sead' (did you mean 'seed'?)"),
        ("seed: ${seed}\n", 1, "seed: interpolation cycle: seed → seed"),
        ("seed: ${pow:2,3}\n", 1, "seed: no function 'pow' for interpolations; there are oc.env, add, sub, mul, div, max, min"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, expected: str
) -> None:
    assert problems(write(tmp_path, "mine.yaml", text)) == [("mine.yaml", line, expected)]


def test_all_mistakes_come_at_once_each_with_its_own_file(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "seed: x\n")
    path = write(
        tmp_path, "mine.yaml", "defaults: base.yaml\n\nsfd: {}\npolicy:\n  precision: bf16\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(path, ["++sft.steps=3"])
    text = str(caught.value)
    assert "4 mistakes" in text
    assert f"{tmp_path / 'base.yaml'}:1:1: seed: wants int" in text
    assert f"{path}:3:1: unknown key 'sfd' (did you mean 'sft'?)" in text
    assert f"{path}:5:3: policy.precision: wants one of float32, bfloat16" in text
    assert "command line: '++sft.steps=3': unknown key 'sft.steps'" in text
    assert caught.value.exit_code == 2


def test_an_empty_file_is_no_recipe(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "---\n"):
        assert "empty" in problems(write(tmp_path, "mine.yaml", text))[0][2]


def test_interpolation_sees_defaults_and_overrides(tmp_path: Path) -> None:
    text = (
        "policy:\n"
        "  train_global_batch_size: ${mul:${cluster.gpus_per_node}, 4}\n"
        "  scheduler: {decay_steps: '${sft.max_num_steps}'}\n"
        "data: {options: '${policy.optimizer}', dataset: 'set-${seed}-${cluster.device}'}\n"
    )
    resolved = load(write(tmp_path, "mine.yaml", text), ["sft.max_num_steps=11", "seed=3"])
    assert resolved.recipe.policy.train_global_batch_size == 32
    assert resolved.recipe.policy.scheduler.decay_steps == 11
    assert resolved.recipe.data.dataset == "set-3-auto"
    assert resolved.recipe.data.options["betas"] == [0.9, 0.95]
    assert resolved.origins["data.options.betas"].line == 4


def test_untyped_keeps_what_it_cannot_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    text = (
        "grpo: {num_prompts_per_step: 32, num_generations_per_prompt: 16}\n"
        "policy:\n"
        "  train_global_batch_size: ${mul:${grpo.num_prompts_per_step}, ${grpo.num_generations_per_prompt}}\n"
        "  dtensor_cfg: {tensor_parallel_size: '${.context}', context: 2}\n"
        "  cache: ${oc.env:NOT_SET_ANYWHERE}/x\n"
        "  odd: ${team.resolver:a,b}\n"
        "  missing: ${nowhere}\n"
        "  mandatory: ???\n"
        "1: {null: 2024-01-01}\n"
    )
    resolved = load_untyped(write(tmp_path, "theirs.yaml", text), ["policy.dtensor_cfg.context=4"])
    assert resolved.values["policy"] == {
        "train_global_batch_size": 512,
        "dtensor_cfg": {"tensor_parallel_size": 4, "context": 4},
        "cache": "${oc.env:NOT_SET_ANYWHERE}/x",
        "odd": "${team.resolver:a,b}",
        "missing": "${nowhere}",
        "mandatory": "???",
    }
    assert resolved.values["1"] == {"null": "2024-01-01"}
    assert resolved.origins["policy.odd"].line == 6


@pytest.mark.parametrize("algorithm", list(schema.Algorithm))
def test_base_configs_say_the_schemas_defaults(algorithm: str, tmp_path: Path) -> None:
    base = CONFIGS / f"{algorithm}.yaml"
    resolved = load(base)
    unsaid = [key for key, origin in resolved.origins.items() if origin.path == config.DEFAULT]
    assert unsaid == []
    text = f"algorithm: {algorithm}\n"
    if algorithm == "grpo":
        text += "policy: {generation: {}}\n"
    bare = load(write(tmp_path, "bare.yaml", text))
    assert resolved.values == bare.values


def test_an_optional_section_is_whole_once_it_is_there(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", "policy: {moe: {freeze_router: true}}\n")
    assert load(path).recipe.policy.lora is None
    resolved = load(path, ["policy.lora.rank=8"])
    assert resolved.recipe.policy.lora == schema.Lora(rank=8)
    assert resolved.values["policy"]["lora"]["alpha"] == 32.0
    assert resolved.values["policy"]["moe"]["freeze_router"] is True
    assert resolved.values["policy"]["moe"]["grouped_gemm"] is True
    assert resolved.fingerprint != load(path).fingerprint
    assert load(path, ["policy.lora=null"]).fingerprint == load(path).fingerprint
