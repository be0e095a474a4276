"""TRL's trainers on a case of ``benchmarks/training.py``, with their defaults but for what makes
the work the same: float32, activations kept, a constant schedule, samples in the set's order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from evenkeel.training.data.records import Chat
from evenkeel.training.data.tokenizers import byte_tokenizer
from evenkeel.training.rewards import Judged, token_overlap
from training_sides import cases
from training_sides.cases import Case, Report, Steps

Fields = dict[str, Any]


class WatchedSteps(TrainerCallback):
    """Notes the end of each step, which is when it has been logged."""

    def __init__(self, final_metric: str) -> None:
        self.steps, self._final_metric = Steps(), final_metric

    def on_log(self, args: Any, state: Any, control: Any, logs: Fields, **_: Any) -> None:
        if self._final_metric in logs:  # the summary at the end has it not
            self.steps.finals.append(float(logs[self._final_metric]))
            self.steps.end()


def measure(case: Case, folder: Path, model: Path) -> Report:
    """Train the case's steps in this process."""
    records = cases.read_records(folder / "records.jsonl")
    trainer, tokens = _TRAINERS[case.algorithm](case, records, str(model), str(folder / "trl"))
    watched = WatchedSteps(case.final_metric)
    trainer.add_callback(watched)
    trainer.train()
    batches = cases.PACKED_ROWS if case.packed else 1
    for first in range(0, batches * watched.steps.number, batches):
        watched.steps.tokens.append(sum(tokens[first : first + batches]))
    return watched.steps.report("trl", torch.get_num_threads())


def sft_trainer(case: Case, records: list[Fields], model: str, folder: str) -> tuple[Any, Any]:
    """Packed: its own strategy over the whole set, one row of a step after the other."""
    rows = {"prompt": [], "completion": []}
    for record in records:
        rows["prompt"].append([_turn("user", record["prompt"])])
        rows["completion"].append([_turn("assistant", record["response"])])
    packing: Fields = {}
    if case.packed:
        packing = {"packing": True, "gradient_accumulation_steps": cases.PACKED_ROWS}
    arguments = SFTConfig(**_shared(case, folder), **_in_order(case), **packing)
    return _on_rows(SFTTrainer, arguments, model, rows)


def dpo_trainer(case: Case, records: list[Fields], model: str, folder: str) -> tuple[Any, Any]:
    """With a reference model that runs in each step, as ours does."""
    rows = {"prompt": [], "chosen": [], "rejected": []}
    for record in records:
        rows["prompt"].append([_turn("user", record["prompt"])])
        for answer in ("chosen", "rejected"):
            rows[answer].append([_turn("assistant", record[answer])])
    arguments = DPOConfig(**_shared(case, folder), **_in_order(case), beta=cases.PREFERENCE_BETA)
    return _on_rows(DPOTrainer, arguments, model, rows)


def grpo_trainer(case: Case, records: list[Fields], model: str, folder: str) -> tuple[Any, Any]:
    """One update per generation, token-level loss, divergence to a reference."""
    rows = {
        "prompt": [[_turn("user", record["prompt"])] for record in records],
        "answer": [record["answer"] for record in records],
    }
    tokens: list[int] = []

    def reward(
        completions: list[list[Fields]],
        completion_ids: list[list[int]],
        answer: list[str],
        **_: Any,
    ) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [
            token_overlap(
                Judged(turns[0]["content"], len(ids), cases.MAX_ANSWER_TOKENS, True, _task(text))
            )
            for turns, ids, text in zip(completions, completion_ids, answer, strict=True)
        ]

    arguments = GRPOConfig(
        **_shared(case, folder),
        num_generations=cases.ANSWERS_PER_PROMPT,
        max_completion_length=cases.MAX_ANSWER_TOKENS,
        beta=cases.KL_BETA,
        shuffle_dataset=False,
    )
    trainer = GRPOTrainer(
        model=model,
        args=arguments,
        reward_funcs=reward,
        train_dataset=Dataset.from_dict(rows),
        processing_class=byte_tokenizer(),
    )
    return trainer, tokens


_TRAINERS: dict[str, Callable[[Case, list[Fields], str, str], tuple[Any, list[int]]]] = {
    "sft": sft_trainer,
    "dpo": dpo_trainer,
    "grpo": grpo_trainer,
}


def _shared(case: Case, folder: str) -> Fields:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": case.micro_batch_size,
        "max_steps": case.num_steps + cases.WARM_UP_STEPS,
        "learning_rate": case.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "seed": cases.SEED,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _in_order(case: Case) -> Fields:
    """Samples as the set has them, cut at the length of ours."""
    return {"max_length": case.max_length, "train_sampling_strategy": "sequential"}


def _on_rows(trainer_class: Any, arguments: Any, model: str, rows: Fields) -> tuple[Any, list[int]]:
    """The trainer, and the tokens of its micro-batches as it takes them."""
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=byte_tokenizer(),
    )
    return trainer, _counted(trainer)


def _counted(trainer: Any) -> list[int]:
    """Tokens to be predicted of each micro-batch, in the order in which they are made."""
    collate, tokens = trainer.data_collator, []

    def counting(examples: list[Fields]) -> Fields:
        batch = collate(examples)
        if "attention_mask" in batch:
            mask = batch["attention_mask"]
            tokens.append(int(mask.sum()) - len(mask))
        else:  # a sample's first position, and padding, is numbered 0
            tokens.append(int((batch["position_ids"] > 0).sum()))
        return batch

    trainer.data_collator = counting
    return tokens


def _turn(role: str, content: str) -> Fields:
    return {"role": role, "content": content}


def _task(answer: str) -> Chat:
    return Chat((_turn("assistant", answer),), answer)
