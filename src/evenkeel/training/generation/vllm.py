"""Generation by vLLM on the GPUs of the training: each data-parallel rank has an engine.

vLLM is started inside the ranks that torchrun made (its "external launcher"), sleeps while the
policy trains, and takes the policy's weights before each generation.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import Any

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Precision
from evenkeel.training.algorithms.interface import Ingredients
from evenkeel.training.generation.interface import (
    Completion,
    GenerationEngine,
    Request,
    Sampling,
)

GPU_SHARE = 0.4
"""Of a GPU's memory, for vLLM's weights and cache; the rest trains."""


class VllmEngine(GenerationEngine):
    """An engine beside the policy."""

    def __init__(self, ingredients: Ingredients, stop_ids: Collection[int]) -> None:
        """Start vLLM with the recipe's model; its weights come later.

        Raises:
            InputError: vLLM is not installed, or the recipe names no model that it could build.
        """
        try:
            vllm: Any = importlib.import_module("vllm")
        except ImportError as error:
            raise InputError(
                "policy.generation.backend is vllm, which is not installed",
                fix="install vllm beside evenkeel, or set policy.generation.backend=transformers",
            ) from error
        recipe = ingredients.recipe
        policy, settings = recipe.policy, recipe.policy.generation
        assert settings is not None
        source = policy.hf_path or policy.model_name
        if source is None:
            raise InputError(
                "vLLM builds models that have a name, and policy.model_name is not set",
                fix="set policy.generation.backend=transformers",
            )
        self._vllm = vllm
        self._backend = ingredients.backend
        self._stop_ids = sorted(stop_ids)
        self._llm: Any = vllm.LLM(
            model=source,
            load_format="dummy",
            dtype="bfloat16" if policy.precision is Precision.BFLOAT16 else "float32",
            tensor_parallel_size=settings.tensor_parallel_size,
            distributed_executor_backend="external_launcher",
            max_model_len=policy.max_total_sequence_length,
            gpu_memory_utilization=GPU_SHARE,
            enable_sleep_mode=True,
            seed=recipe.seed,
        )
        self._llm.sleep(level=1)

    def hand_over_weights(self) -> None:
        """See ``GenerationEngine``."""
        self._llm.wake_up()
        runner = self._llm.llm_engine.model_executor.driver_worker.model_runner
        runner.model.load_weights(self._backend.whole_weights())
        self._llm.reset_prefix_cache()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See ``GenerationEngine``."""
        prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
        outputs = self._llm.generate(
            prompts, [self._parameters(request, sampling) for request in requests], use_tqdm=False
        )
        self._llm.sleep(level=1)
        return [_completion(output.outputs[0]) for output in outputs]

    def _parameters(self, request: Request, sampling: Sampling) -> Any:
        return self._vllm.SamplingParams(
            max_tokens=request.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=-1 if sampling.top_k is None else sampling.top_k,
            seed=request.seed % 2**31,
            stop_token_ids=self._stop_ids,
            logprobs=0,
        )


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    pairs = zip(ids, output.logprobs, strict=True)
    return Completion(
        ids, [float(ranked[token].logprob) for token, ranked in pairs],
        output.finish_reason == "stop",
    )  # fmt: skip
