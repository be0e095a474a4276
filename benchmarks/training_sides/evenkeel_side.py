"""Our trainers on a case of ``benchmarks/training.py``: as a user runs them."""

from __future__ import annotations

from pathlib import Path

import torch

from evenkeel.recipes import config
from evenkeel.training.distributed import joined
from evenkeel.training.loop import Log
from evenkeel.training.run import set_up
from evenkeel.training.stopping import StopRequest
from training_sides import cases
from training_sides.cases import Case, Report, Steps

ROOT = Path(__file__).parents[2]


class WatchedLog:
    """Passes everything on to the run's log, and notes the end of each step."""

    def __init__(self, log: Log, case: Case) -> None:
        self._log, self._case, self.steps = log, case, Steps()
        self.passed: list[int] = []
        """Tokens that passed through the model in training, by step."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._log.log(metrics, step)
        seconds = metrics["timing/train/total_step_time"]
        tokens = round(metrics["train/tokens_per_sec_per_gpu"] * seconds)
        self.passed.append(tokens)
        if self._case.algorithm == "grpo":
            num_answers = self._case.global_batch_size
            tokens = round(metrics["train/mean_gen_tokens_per_sample"] * num_answers)
        self.steps.tokens.append(tokens)
        self.steps.finals.append(metrics[f"train/{self._case.final_metric}"])

    def progress(self, step: int, total: int, metrics: dict[str, float]) -> None:
        self._log.progress(step, total, metrics)
        self.steps.end()


def measure(case: Case, folder: Path, model: Path) -> Report:
    """Train the case's steps in this process."""
    resolved = resolve(case, folder, model, case.num_steps + cases.WARM_UP_STEPS)
    return train(resolved, case).steps.report("evenkeel", torch.get_num_threads())


def train(resolved: config.ResolvedRecipe, case: Case) -> WatchedLog:
    """Train in this process, watched."""
    with joined(resolved.recipe) as world:
        loop, log = set_up(resolved, world, say=lambda text: None)
        watched = WatchedLog(log, case)
        loop.log = watched
        with log:
            loop.run(loop.resume(), StopRequest(None))
    return watched


def write_model(folder: Path, model: Path, warm_start: bool) -> None:
    """The weights that both sides begin with: seeded ones, for ``warm_start`` trained a little."""
    case = Case("sft", cases.WARM_START_STEPS, 16, 16, 128, 1e-3, 0.0)
    random_weights = [
        f"++policy.model_config.{key}={'null' if value is None else str(value).lower()}"
        for key, value in cases.MODEL.items()
    ]
    resolved = resolve(case, folder, None, case.num_steps, random_weights)
    with joined(resolved.recipe) as world:
        loop, log = set_up(resolved, world, say=lambda text: None)
        with log:
            if warm_start:
                loop.run(0, StopRequest(None))
        loop.backend.model.save_pretrained(model)


def resolve(
    case: Case, folder: Path, model: Path | None, num_steps: int, more: list[str] | None = None
) -> config.ResolvedRecipe:
    """The recipe of a case; it ends before the last step, which would validate."""
    settings = {
        "seed": cases.SEED,
        "policy.hf_path": "null" if model is None else model,
        "policy.tokenizer.name": "bytes",
        "policy.precision": "float32",
        "policy.max_total_sequence_length": case.max_length,
        "policy.train_global_batch_size": case.global_batch_size,
        "policy.train_micro_batch_size": case.micro_batch_size,
        "policy.sequence_packing.enabled": str(case.packed).lower(),
        "policy.optimizer.lr": case.learning_rate,
        "policy.scheduler.name": "constant",
        "data.dataset": "jsonl",
        "data.train_path": folder / "records.jsonl",
        "data.val_path": folder / "records.jsonl",
        "data.shuffle": "false",
        "checkpointing.enabled": "false",
        "logger.log_dir": folder / "logs",
        "cluster.device": "cpu",
        "cluster.gpus_per_node": 1,
        f"{case.algorithm}.max_num_steps": num_steps + 1,
        f"{case.algorithm}.steps_per_run": num_steps,
    }
    if case.algorithm == "dpo":
        settings["dpo.reference_policy_kl_penalty"] = cases.PREFERENCE_BETA
    if case.algorithm == "grpo":
        settings |= {
            "policy.generation.max_new_tokens": cases.MAX_ANSWER_TOKENS,
            "grpo.num_prompts_per_step": case.global_batch_size // cases.ANSWERS_PER_PROMPT,
            "grpo.num_generations_per_prompt": cases.ANSWERS_PER_PROMPT,
            "grpo.reference_policy_kl_penalty": cases.KL_BETA,
            "grpo.use_leave_one_out_baseline": "false",
            "++grpo.rewards": "{token_overlap: 1.0}",
        }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return config.load(
        ROOT / f"examples/configs/{case.algorithm}.yaml", [*overrides, *(more or [])]
    )
