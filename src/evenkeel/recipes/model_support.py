"""Which models a backend trains in which layout: said once, for what is predicted and what is
trained. What does not depend on the model stands in ``support``.

Nothing here knows transformers: numbers have the names that they have in a ``config.json``.
"""

from __future__ import annotations

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Algorithm, Backend, Moe, Parallel, Policy, Recipe
from evenkeel.recipes.schema import TokenDispatcher as Dispatcher

TORCH_MIXTURES = ("mixtral", "qwen3_moe")
"""Model types whose experts torch's ranks share: layers but for the experts are those of dense
decoders."""
TORCH_STAGES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that torch cuts into stages: their layers are all that lies between the embedding and
the norm before the output layer."""

MEGATRON_MIXTURES = ("mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3")
MEGATRON_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", *MEGATRON_MIXTURES)
"""Model types of transformers whose every feature has its counterpart on megatron-core."""
MEGATRON_VISION = ("llava",)
"""Model types with images that megatron-core has a model of, too."""

ONE_DIMENSIONAL = ("llava",)
"""Types in which an image's tokens have positions and see each other like those of a text, so that
samples can share a row."""
TRAINED_WITH_IMAGES = (Algorithm.SFT, Algorithm.GRPO)

EXPERT = "policy.parallel.expert_parallel_size"
TENSOR = "policy.parallel.tensor_parallel_size"


def check_tensor_ranks(
    size: int,
    *,
    num_attention_heads: int,
    num_key_value_heads: int,
    intermediate_size: int | None,
    vocab_size: int,
) -> None:
    """Raise an error where the language model cannot be split evenly.

    Args:
        size: ranks that share each matrix.
        num_attention_heads: of the language model.
        num_key_value_heads: of the language model.
        intermediate_size: of a feed-forward part; None where none is split.
        vocab_size: tokens.

    Raises:
        InputError: heads, the MLP or the vocabulary are not multiples of ``size``.
    """
    amounts = {
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "intermediate_size": intermediate_size or 0,
        "vocab_size": vocab_size,
    }
    for key, amount in amounts.items():
        if amount % size:
            raise InputError(
                f"{TENSOR} is {size}, which does not divide the model's {key} = {amount}",
                fix=f"set it to a number that divides {amount}",
            )


def check_tower_ranks(
    size: int, *, num_attention_heads: int, intermediate_size: int, hidden_size: int
) -> None:
    """Raise an error where megatron-core cannot split a vision tower and its projector evenly.

    Args:
        size: ranks that share each matrix.
        num_attention_heads: of the tower.
        intermediate_size: of the tower.
        hidden_size: of the language model.

    Raises:
        InputError: one of them is no multiple of ``size``.
    """
    amounts = {
        "vision_config.num_attention_heads": num_attention_heads,
        "vision_config.intermediate_size": intermediate_size,
        "text_config.hidden_size": hidden_size,
    }
    for key, amount in amounts.items():
        if amount % size:
            raise InputError(
                f"{TENSOR} is {size}, which does not divide the "
                f"model's {key} = {amount}; megatron-core splits tower and projector, too",
                fix=f"set it to a number that divides {amount}, or policy.backend=fsdp2",
            )


def check_shared_experts(parallel: Parallel, model_type: str, count: int) -> None:
    """Raise an error where experts cannot lie on the torch backend's ranks as the recipe asks.

    Args:
        parallel: of the recipe.
        model_type: of the language model.
        count: experts of a layer that has them; 0 for a dense model.

    Raises:
        InputError: with the sizes that work.
    """
    experts, tensor = parallel.expert_parallel_size, parallel.tensor_parallel_size
    within = parallel.expert_tensor_parallel_size
    if within is not None and (within > 1 or experts == 1):
        raise InputError(
            f"policy.parallel.expert_tensor_parallel_size is {within} and expert_parallel_size "
            f"{experts}, and the fsdp2 backend keeps every expert whole",
            fix="set policy.parallel.expert_tensor_parallel_size=null",
        )
    _check_has_experts(experts, model_type, count)
    if not count or experts == tensor == 1:
        return
    if model_type not in TORCH_MIXTURES:
        raise InputError(
            f"{TENSOR} is {tensor} and expert_parallel_size {experts}, and the fsdp2 backend "
            f"does not know how to split {model_type} models",
            fix="set both to 1, choose policy.backend=megatron, or train one of "
            + ", ".join(TORCH_MIXTURES),
        )
    if experts != tensor:
        alone = f"set {TENSOR}={experts}, or {EXPERT}=1"
        raise InputError(
            f"{TENSOR} is {tensor} and expert_parallel_size {experts}; on the fsdp2 backend "
            "the ranks that share attention's matrices share the experts, too",
            fix=f"set {EXPERT}={tensor}" if tensor > 1 else alone,
        )
    if count % experts:
        raise InputError(
            f"{EXPERT} is {experts}, which does not divide the model's {count} experts",
            fix=f"set it and {TENSOR} to a number that divides {count}",
        )


def check_experts_on_megatron(policy: Policy, model_type: str, count: int, *, on_gpu: bool) -> None:
    """Raise an error where megatron-core cannot train experts as the recipe asks.

    Args:
        policy: of the recipe.
        model_type: of the language model.
        count: experts of a layer that has them; 0 for a dense model.
        on_gpu: whether ranks have one.

    Raises:
        InputError: with the values that work.
    """
    parallel, options = policy.parallel, policy.moe or Moe()
    experts = parallel.expert_parallel_size
    _check_has_experts(experts, model_type, count)
    if not count:
        return
    if count % experts:
        raise InputError(
            f"{EXPERT} is {experts}, which does not divide the model's {count} experts",
            fix=f"set it to a number that divides {count}",
        )
    if not on_gpu and options.token_dispatcher is not Dispatcher.ALLGATHER:
        raise InputError(
            f"policy.moe.token_dispatcher is {options.token_dispatcher.value}, which needs a GPU",
            fix="set policy.moe.token_dispatcher=allgather",
        )
    if not on_gpu and options.grouped_gemm:
        raise InputError(
            "policy.moe.grouped_gemm is true, which needs a GPU",
            fix="set policy.moe.grouped_gemm=false",
        )
    if parallel.tensor_parallel_size > 1 and not parallel.sequence_parallel:
        raise InputError(
            "megatron-core trains experts with tensor parallelism only if tokens are split, too",
            fix="set policy.parallel.sequence_parallel=true",
        )
    if gathers_tokens(policy, count) and policy.dynamic_batching.enabled:
        raise InputError(
            "policy.dynamic_batching gives ranks micro-batches of different sizes, and ranks that "
            "share experts through policy.moe.token_dispatcher=allgather need equal ones",
            fix="set policy.dynamic_batching.enabled=false, or on GPUs "
            "policy.moe.token_dispatcher=alltoall",
        )


def gathers_tokens(policy: Policy, count: int) -> bool:
    """Whether megatron's ranks that share ``count`` experts gather each other's tokens, and so need
    equally many."""
    dispatcher = (policy.moe or Moe()).token_dispatcher
    shares_experts = policy.parallel.expert_parallel_size > 1
    return count > 0 and shares_experts and dispatcher is Dispatcher.ALLGATHER


def _check_has_experts(experts: int, model_type: str, count: int) -> None:
    if experts > 1 and not count:
        raise InputError(
            f"{EXPERT} is {experts}, and a {model_type} model has no experts",
            fix=f"set {EXPERT}=1",
        )


def check_stages(model_type: str) -> None:
    """Raise an error for a model that the torch backend cannot cut into stages.

    Raises:
        InputError: its type is unknown there.
    """
    if model_type not in TORCH_STAGES:
        raise InputError(
            f"policy.parallel.pipeline_parallel_size is above 1, and the fsdp2 backend does not "
            f"know the stages of a {model_type} model",
            fix="set policy.parallel.pipeline_parallel_size=1, or train one of "
            + ", ".join(TORCH_STAGES),
        )


def check_megatron_family(model_type: str) -> None:
    """Raise an error for a language model that megatron-core would train as something else.

    Raises:
        InputError: with the model types that it trains.
    """
    if model_type not in MEGATRON_FAMILIES:
        raise InputError(
            f"policy.backend is megatron, which does not train models of type {model_type!r}",
            fix=f"set policy.backend=fsdp2, or choose one of {', '.join(MEGATRON_FAMILIES)}",
        )


def check_megatron_biases(*, has_biases: bool) -> None:
    """Raise an error for biases in the output projection of attention or in the MLP.

    Raises:
        InputError: the model has them.
    """
    if has_biases:
        raise InputError(
            "the model has biases in its output projection or MLP, which the megatron backend "
            "does not train",
            fix="set policy.backend=fsdp2",
        )


def check_images(recipe: Recipe, model_type: str, *, sees: bool) -> None:
    """Raise an error where recipe and model do not agree on whether there are images.

    Args:
        recipe: with or without ``policy.vision``.
        model_type: of the whole model.
        sees: whether it is a vision-language model.

    Raises:
        InputError: with the key to change.
    """
    policy = recipe.policy
    if policy.vision is None:
        if sees:
            raise InputError(
                f"{model_type} is a vision-language model, and the recipe has no policy.vision",
                fix="set policy.vision={}, also where the data is text alone",
            )
        return
    if not sees:
        raise InputError(
            f"the recipe has policy.vision, and {model_type} sees no images",
            fix="remove the section, or name a vision-language model",
        )
    seen = policy.vision
    if seen.freeze_vision_tower and seen.freeze_projector and seen.freeze_language_model:
        raise InputError(
            "vision tower, projector and language model are all frozen, so nothing is trained",
            fix="set one of policy.vision.freeze_* to false",
        )
    if policy.backend is Backend.MEGATRON:
        _check_images_on_megatron(policy, model_type)
    if recipe.algorithm not in TRAINED_WITH_IMAGES:
        raise InputError(
            f"vision-language models are not trained by {recipe.algorithm.value}",
            fix=f"use {' or '.join(TRAINED_WITH_IMAGES)}",
        )
    if policy.sequence_packing.enabled and model_type not in ONE_DIMENSIONAL:
        raise InputError(
            f"images of a {model_type} cannot be packed: their tokens do not see each "
            "other, or count positions, as those of a text do",
            fix="set policy.sequence_packing.enabled=false; policy.dynamic_batching works",
        )
    shares = policy.parallel.sequence_parallel and policy.parallel.tensor_parallel_size > 1
    # the torch backend would run whole rows again for each token, and forget their images
    forgets = shares and policy.backend is Backend.FSDP2
    if forgets and recipe.algorithm is Algorithm.GRPO:
        raise InputError(
            "a vision-language model with sequence parallelism cannot generate",
            fix="set policy.parallel.sequence_parallel=false",
        )


def _check_images_on_megatron(policy: Policy, model_type: str) -> None:
    if model_type not in MEGATRON_VISION:
        raise InputError(
            f"policy.backend is megatron, and megatron-core has no model that sees images as a "
            f"{model_type} does",
            fix=f"set policy.backend=fsdp2, or describe a {' or '.join(MEGATRON_VISION)}",
        )
    if policy.parallel.context_parallel_size > 1:
        raise InputError(
            f"policy.parallel.context_parallel_size is {policy.parallel.context_parallel_size}, "
            "and megatron-core shares rows with images out through Transformer Engine and "
            "megatron.training, which it does not bring",
            fix="set policy.parallel.context_parallel_size=1",
        )
