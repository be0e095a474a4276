"""What a recipe can ask for and the trainer cannot do: refused, because ignoring it would train
something else under the recipe's name.

Said once, for the trainers and for ``evenkeel recipe fit``. What depends on the model's shape
stands in ``model_support``.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, fields
from operator import attrgetter

from evenkeel.errors import InputError
from evenkeel.recipes.config import DEFAULT, ResolvedRecipe
from evenkeel.recipes.schema import (
    Algorithm,
    Backend,
    Generation,
    GenerationBackend,
    Parallel,
    Policy,
    Precision,
    Recipe,
)

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

ON_TORCH = frozenset(
    {
        "tensor_parallel_size",
        "sequence_parallel",
        "expert_parallel_size",
        "expert_tensor_parallel_size",
    }
)
"""Fields of ``policy.parallel`` that the torch backend does without a pipeline."""
ON_TORCH_STAGES = frozenset(
    {
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
    }
)
"""Those that it does with one."""


@dataclass(frozen=True)
class Refusal:
    """A field that this version would have to ignore."""

    key: str
    what: str
    """What the field asks for, as a sentence goes on from its key."""
    fix: str

    def message(self, backend: Backend) -> str:
        """In a sentence."""
        return (
            f"{self.key} {self.what}, which this version does not train with "
            f"policy.backend={backend.value}"
        )


def check_supported(resolved: ResolvedRecipe) -> None:
    """Raise an error for the first field that this version would have to ignore.

    Raises:
        InputError: with the place that asked for it.
    """
    for refusal in _refusals(resolved.recipe):
        origin = next(
            place
            for dotted, place in resolved.origins.items()
            if dotted == refusal.key or dotted.startswith(f"{refusal.key}.")
        )
        is_said = origin.path != DEFAULT  # an empty section holds only defaults
        raise InputError(
            refusal.message(resolved.recipe.policy.backend),
            path=origin.path if is_said else resolved.path,
            line=origin.line,
            fix=refusal.fix,
        )


def check_recipe(recipe: Recipe, num_replicas: int) -> None:
    """Raise an error for the first thing that no trainer does, whatever the model's shape.

    Args:
        recipe: also one that no file holds, so that no place is named.
        num_replicas: data-parallel ranks.

    Raises:
        InputError: with the key and the value that works.
    """
    policy = recipe.policy
    for refusal in _refusals(recipe):
        raise InputError(refusal.message(policy.backend), fix=refusal.fix)
    if policy.backend is Backend.FSDP2:
        has_stages = policy.parallel.pipeline_parallel_size > 1
        check_parallel(policy, ON_TORCH_STAGES if has_stages else ON_TORCH)
        check_low_rank(policy)
        check_chunks(policy)
        check_compiled(policy)
    else:
        check_pieces(policy.parallel)
    if recipe.algorithm is Algorithm.GRPO:
        check_generation(policy, num_replicas)
    if recipe.algorithm is Algorithm.DISTILLATION:
        check_teacher(recipe)


def _refusals(recipe: Recipe) -> Iterator[Refusal]:
    policy = recipe.policy
    if policy.backend is Backend.FSDP2 and policy.moe is not None:
        asks = "asks for options of a mixture of experts"
        yield Refusal("policy.moe", asks, "remove the section")
    if policy.backend is not Backend.FSDP2:
        for field, what in _ONLY_FSDP2.items():
            if getattr(policy, field):
                fix = "remove it, or choose fsdp2"
                yield Refusal(f"policy.{field}", f"asks for {what}", fix)
    if policy.warm_start is not None and recipe.algorithm in _ONLY_SUPERVISED:
        asks = f"asks {recipe.algorithm.value} for supervised steps before its own"
        yield Refusal("policy.warm_start", asks, "remove the section")
    if _generates_beside_a_pipeline(policy):
        # each stage would start an engine, and their answers to one prompt may differ by rounding
        fix = f"set policy.generation.backend={GenerationBackend.TRANSFORMERS}"
        asks = "asks for vllm beside a pipeline"
        yield Refusal("policy.generation.backend", asks, fix)
    if policy.backend is Backend.FSDP2 and policy.parallel.pipeline_parallel_size > 1:
        yield from _refusals_of_stages(recipe)
    if policy.precision is Precision.FP8:
        known = " or ".join(kind for kind in Precision if kind is not Precision.FP8)
        yield Refusal("policy.precision", "is fp8", f"set it to {known}")


def _refusals_of_stages(recipe: Recipe) -> Iterator[Refusal]:
    if recipe.algorithm not in _ONLY_SUPERVISED:
        asks = f"asks {recipe.algorithm.value} for a pipeline"
        fix = "set it to 1, or choose megatron"
        yield Refusal("policy.parallel.pipeline_parallel_size", asks, fix)
    for field, what in _NOT_IN_STAGES.items():
        if attrgetter(field)(recipe.policy):
            fix = "remove it, or set policy.parallel.pipeline_parallel_size=1"
            yield Refusal(f"policy.{field}", f"asks for {what} beside a pipeline", fix)


def _generates_beside_a_pipeline(policy: Policy) -> bool:
    return (
        policy.generation is not None
        and policy.generation.backend is GenerationBackend.VLLM
        and policy.parallel.pipeline_parallel_size > 1
    )


def check_parallel(policy: Policy, supported: Set[str]) -> None:
    """Raise an error for a kind of parallelism that the torch backend would otherwise ignore.

    Args:
        policy: of the recipe.
        supported: keys of ``policy.parallel`` that it knows.

    Raises:
        InputError: with the key and the value that works.
    """
    for parallel in fields(Parallel):
        value, only = getattr(policy.parallel, parallel.name), parallel.default
        if value != only and parallel.name not in supported:
            raise InputError(
                f"policy.parallel.{parallel.name} is {value}, and the fsdp2 backend cannot do that",
                fix=f"set policy.parallel.{parallel.name}={'null' if only is None else only}",
            )


def check_low_rank(policy: Policy) -> None:
    """Raise an error where the layout splits matrices that low-rank updates are of.

    Raises:
        InputError: with the value that works.
    """
    if policy.lora is not None and policy.parallel.tensor_parallel_size > 1:
        raise InputError(
            "policy.lora and policy.parallel.tensor_parallel_size = "
            f"{policy.parallel.tensor_parallel_size} do not go together in this version",
            fix="set policy.parallel.tensor_parallel_size=1",
        )


def check_chunks(policy: Policy) -> None:
    """Raise an error where logits in chunks are asked for and tokens are shared out over ranks.

    Raises:
        InputError: with the values that work.
    """
    if policy.logits_chunk_size is not None and policy.parallel.sequence_parallel:
        raise InputError(
            "policy.logits_chunk_size and policy.parallel.sequence_parallel do not go together",
            fix="set one of them to null or false",
        )


def check_compiled(policy: Policy) -> None:
    """Raise an error where layers cannot be compiled as the recipe asks.

    Raises:
        InputError: with what it does not go together with.
    """
    for wanted, what in (
        (policy.parallel.tensor_parallel_size > 1, "policy.parallel.tensor_parallel_size above 1"),
        (policy.vision is not None, "policy.vision"),
        (policy.lora is not None, "policy.lora"),
    ):
        if policy.torch_compile and wanted:
            raise InputError(
                f"policy.torch_compile and {what} do not go together in this version",
                fix="set policy.torch_compile=false",
            )


def check_pieces(parallel: Parallel) -> None:
    """Raise an error where stages are to be interleaved and there is one.

    Raises:
        InputError: with the value that works.
    """
    pieces = parallel.virtual_pipeline_parallel_size or 1
    if pieces > 1 and parallel.pipeline_parallel_size == 1:
        raise InputError(
            f"policy.parallel.virtual_pipeline_parallel_size is {pieces} without a pipeline",
            fix="set policy.parallel.pipeline_parallel_size to 2 or more, or remove it",
        )


def check_generation(policy: Policy, num_replicas: int) -> None:
    """Raise an error where answers cannot be sampled as the recipe asks.

    Args:
        policy: without a section ``generation``, its defaults count.
        num_replicas: data-parallel ranks.

    Raises:
        InputError: the section asks for what its engine cannot do.
    """
    settings = policy.generation or Generation()
    if not settings.colocated.enabled:
        raise InputError(
            "policy.generation.colocated.enabled is false, and generation has no nodes of its own "
            "in this version",
            fix="set policy.generation.colocated.enabled=true",
        )
    if settings.precision not in (None, policy.precision):
        raise InputError(
            f"policy.generation.precision is {settings.precision.value}, and the policy has "
            f"{policy.precision.value}",
            fix="set policy.generation.precision=null",
        )
    if settings.backend is GenerationBackend.VLLM:
        if policy.vision is not None:
            raise InputError(
                "policy.generation.backend is vllm, which gets no images in this version",
                fix="set policy.generation.backend=transformers",
            )
        return
    if settings.tensor_parallel_size not in (1, policy.parallel.tensor_parallel_size):
        raise InputError(
            f"policy.generation.tensor_parallel_size is {settings.tensor_parallel_size}, and the "
            "training model, which generates here, is split over "
            f"{policy.parallel.tensor_parallel_size}",
            fix="remove it, or set policy.generation.backend=vllm",
        )
    experts = policy.parallel.expert_parallel_size
    if policy.backend is Backend.MEGATRON and experts > 1 and num_replicas > 1:
        # ranks that share experts keep step, and those with other prompts write other lengths;
        # on the torch backend they have the same prompts
        raise InputError(
            f"policy.parallel.expert_parallel_size is {experts} over {num_replicas} data-parallel "
            "ranks, whose answers differ in length: the built-in generation cannot do that",
            fix="set policy.parallel.expert_parallel_size=1, or policy.generation.backend=vllm",
        )


def check_teacher(recipe: Recipe) -> None:
    """Raise an error where a teacher is to be split otherwise than its student.

    Raises:
        InputError: with the sizes.
    """
    assert recipe.distillation is not None
    size = recipe.distillation.teacher.tensor_parallel_size
    if size not in (1, recipe.policy.parallel.tensor_parallel_size):
        raise InputError(
            f"distillation.teacher.tensor_parallel_size is {size}, and "
            f"the student is split over {recipe.policy.parallel.tensor_parallel_size} ranks, which "
            "the teacher shares",
            fix="remove it",
        )
