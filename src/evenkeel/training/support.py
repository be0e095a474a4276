"""What a recipe can ask for and the trainer cannot do: refused, because ignoring it would train
something else under the recipe's name."""

from __future__ import annotations

from operator import attrgetter

from evenkeel.errors import InputError
from evenkeel.recipes.config import DEFAULT, ResolvedRecipe
from evenkeel.recipes.schema import Algorithm, Backend, GenerationBackend, Policy, Precision

_ONLY_FSDP2 = {
    "lora": "low-rank updates",
    "logits_chunk_size": "logits in chunks",
    "torch_compile": "torch.compile",
}
_NOT_IN_STAGES = {
    "lora": "low-rank updates",
    "vision": "a vision-language model",
    "torch_compile": "torch.compile",
    "dynamic_batching.enabled": "micro-batches of different shape",
    "parallel.sequence_parallel": "sequence parallelism",
}
"""Fields that the torch backend does not do beside a pipeline."""
_ONLY_SUPERVISED = (Algorithm.PRETRAIN, Algorithm.SFT)


def check_supported(resolved: ResolvedRecipe) -> None:
    """Raise an error for the first field that this version would have to ignore.

    Raises:
        InputError: with the place that asked for it.
    """
    policy = resolved.recipe.policy
    if policy.backend is Backend.FSDP2 and policy.moe is not None:
        asks = "asks for options of a mixture of experts"
        raise _refusal(resolved, "policy.moe", asks, "remove the section")
    if policy.backend is not Backend.FSDP2:
        for field, what in _ONLY_FSDP2.items():
            if getattr(policy, field):
                fix = "remove it, or choose fsdp2"
                raise _refusal(resolved, f"policy.{field}", f"asks for {what}", fix)
    if policy.warm_start is not None and resolved.recipe.algorithm in _ONLY_SUPERVISED:
        asks = f"asks {resolved.recipe.algorithm.value} for supervised steps before its own"
        raise _refusal(resolved, "policy.warm_start", asks, "remove the section")
    if _generates_beside_a_pipeline(policy):
        # each stage would start an engine, and their answers to one prompt may differ by rounding
        fix = f"set policy.generation.backend={GenerationBackend.TRANSFORMERS}"
        asks = "asks for vllm beside a pipeline"
        raise _refusal(resolved, "policy.generation.backend", asks, fix)
    if policy.backend is Backend.FSDP2 and policy.parallel.pipeline_parallel_size > 1:
        _check_stages(resolved)
    if policy.precision is Precision.FP8:
        known = " or ".join(kind for kind in Precision if kind is not Precision.FP8)
        raise _refusal(resolved, "policy.precision", "is fp8", f"set it to {known}")


def _check_stages(resolved: ResolvedRecipe) -> None:
    algorithm = resolved.recipe.algorithm
    if algorithm not in _ONLY_SUPERVISED:
        asks = f"asks {algorithm.value} for a pipeline"
        fix = "set it to 1, or choose megatron"
        raise _refusal(resolved, "policy.parallel.pipeline_parallel_size", asks, fix)
    for field, what in _NOT_IN_STAGES.items():
        if attrgetter(field)(resolved.recipe.policy):
            fix = "remove it, or set policy.parallel.pipeline_parallel_size=1"
            raise _refusal(resolved, f"policy.{field}", f"asks for {what} beside a pipeline", fix)


def _generates_beside_a_pipeline(policy: Policy) -> bool:
    return (
        policy.generation is not None
        and policy.generation.backend is GenerationBackend.VLLM
        and policy.parallel.pipeline_parallel_size > 1
    )


def _refusal(resolved: ResolvedRecipe, key: str, what: str, fix: str) -> InputError:
    origin = next(
        place
        for dotted, place in resolved.origins.items()
        if dotted == key or dotted.startswith(f"{key}.")
    )
    is_said = origin.path != DEFAULT  # an empty section holds only defaults
    return InputError(
        f"{key} {what}, which this version does not train with policy.backend="
        f"{resolved.recipe.policy.backend.value}",
        path=origin.path if is_said else resolved.path,
        line=origin.line,
        fix=fix,
    )
