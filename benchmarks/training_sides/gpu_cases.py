"""What both sides of ``benchmarks/gpu_training.py`` train: models and batches by size.

Rows are full: supervised samples are longer than a row, prompts of reinforcement equally long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evenkeel.recipes import config
from training_sides import cases
from training_sides.cases import Case, Report
from training_sides.evenkeel_side import ROOT

ANSWER_LENGTH = "mean_gen_tokens_per_sample"
"""Random weights earn nothing; that answers are equally long is what both sides must agree in."""
CHAT_TOKENS = 6
"""What the built-in chat template adds to a prompt: begin, two roles with their marks, an end."""


@dataclass(frozen=True)
class Size:
    """A model with its batches."""

    model: Mapping[str, Any]
    """In transformers' keys."""
    cases: Mapping[str, Case]
    """Algorithm → steps, batch, length."""
    num_answer_tokens: int
    """Of reinforcement, at most; what is left of a row is the prompt."""
    num_prompts: int
    """Of a step of reinforcement."""


def _published(name: str) -> dict[str, Any]:
    file = ROOT / f"examples/configs/models/{name}.yaml"
    return dict(config.load(file, []).recipe.policy.model_config)


def sizes() -> dict[str, Size]:
    """By name: 1B for one H100 or H200, and one for any machine."""
    return {
        "1b": Size(
            _published("llama3.2-1b"),
            {
                "sft": Case("sft", 10, 16, 2, 4096, 1e-5, 1.0),
                "grpo": Case("grpo", 6, 64, 16, 512, 1e-6, 1.0, final_metric=ANSWER_LENGTH),
            },
            num_answer_tokens=256,
            num_prompts=8,
        ),
        "tiny": Size(
            cases.MODEL,
            {
                "sft": Case("sft", 4, 4, 2, 256, 1e-3, 1.0),
                "grpo": Case("grpo", 4, 16, 8, 96, 1e-4, 1.0, final_metric=ANSWER_LENGTH),
            },
            num_answer_tokens=32,
            num_prompts=4,
        ),
    }


@dataclass(frozen=True)
class Measured:
    """One side of one case."""

    steps: Report
    passed_tokens: list[int]
    """Tokens that passed through the model in training, of the measured steps."""
    peak_gib: float
    """On CUDA what torch allocated at most, on CPU resident memory."""
    device: str

    @property
    def passed_tokens_per_s(self) -> float:
        """What the model FLOPs utilisation goes by."""
        return sum(self.passed_tokens) / sum(self.steps.step_times_s)


def write_measured(measured: Measured, path: Path) -> None:
    path.write_text(json.dumps(asdict(measured)))


def read_measured(path: Path) -> Measured:
    found = json.loads(path.read_text())
    return Measured(**{**found, "steps": Report(**found["steps"])})


def write_records(size: Size, case: Case, path: Path) -> None:
    """The records of a case, one JSON object a line."""
    lines = (json.dumps(record) for record in _records(size, case))
    path.write_text("\n".join(lines) + "\n")


def _records(size: Size, case: Case) -> Iterator[dict[str, str]]:
    count = cases.num_records(case)
    if case.algorithm == "sft":
        for record in cases.supervised_records(count, case.max_length):
            text = record["response"] + " "
            response = text * (case.max_length // len(text) + 2)
            yield {"prompt": record["prompt"], "response": response}
        return
    num_bytes = case.max_length - size.num_answer_tokens - CHAT_TOKENS
    for record in cases.supervised_records(count, case.max_length):
        prompt = (record["response"] * num_bytes)[:num_bytes]
        answer = prompt[: size.num_answer_tokens]
        yield {"prompt": prompt, "response": answer, "answer": answer}


def overrides(size: Size, case: Case, device: str, compiled: bool) -> list[str]:
    """What ``evenkeel_side.resolve`` does not set, or sets for the CPU."""
    settings: dict[str, Any] = {
        "cluster.device": device,
        "policy.precision": "bfloat16",
        "policy.torch_compile": compiled,
    }
    for key, value in size.model.items():
        settings[f"++policy.model_config.{key}"] = value
    if case.algorithm == "grpo":
        settings |= {
            "policy.generation.max_new_tokens": size.num_answer_tokens,
            "grpo.num_prompts_per_step": size.num_prompts,
            "grpo.num_generations_per_prompt": case.global_batch_size // size.num_prompts,
        }
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
