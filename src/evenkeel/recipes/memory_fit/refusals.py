"""What the trainers refuse, found without them: by the rules that they themselves ask."""

from __future__ import annotations

from evenkeel.recipes import model_support, support
from evenkeel.recipes.memory_fit.architecture import Model, TextModel
from evenkeel.recipes.memory_fit.fit import Models
from evenkeel.recipes.memory_fit.layout import layout_of
from evenkeel.recipes.schema import Backend, Device, Recipe


def check_trainable(recipe: Recipe, models: Models) -> None:
    """Raise the trainers' error for a recipe that they would refuse because of its layout.

    Args:
        recipe: as a file or a mend describes it.
        models: its shapes.

    Raises:
        InputError: with the key and the values that work.
    """
    support.check_recipe(recipe, layout_of(recipe).dp)
    vision = models.policy.vision
    whole_type = models.policy.text.model_type if vision is None else vision.model_type
    model_support.check_images(recipe, whole_type, sees=vision is not None)
    for model in (models.policy, models.teacher):
        if model is not None and recipe.policy.backend is Backend.MEGATRON:
            _check_on_megatron(recipe, model)
        elif model is not None:
            _check_on_torch(recipe, model.text)


def _check_on_torch(recipe: Recipe, text: TextModel) -> None:
    parallel = recipe.policy.parallel
    if parallel.pipeline_parallel_size > 1:
        model_support.check_stages(text.model_type)
    model_support.check_shared_experts(parallel, text.model_type, _num_experts(text))
    is_dense_somewhere = not all(map(text.is_sparse, range(text.num_layers)))
    _check_tensor_ranks(parallel.tensor_parallel_size, text, splits_mlp=is_dense_somewhere)


def _check_on_megatron(recipe: Recipe, model: Model) -> None:
    text, policy = model.text, recipe.policy
    size = policy.parallel.tensor_parallel_size
    model_support.check_megatron_family(text.model_type)
    _check_tensor_ranks(size, text, splits_mlp=True)
    on_gpu = recipe.cluster.device is not Device.CPU
    count = _num_experts(text)
    model_support.check_experts_on_megatron(policy, text.model_type, count, on_gpu=on_gpu)
    model_support.check_megatron_biases(has_biases=text.attention_bias or text.ffn_bias)
    if model.vision is not None:
        model_support.check_tower_ranks(
            size,
            num_attention_heads=model.vision.num_heads,
            intermediate_size=model.vision.ffn_size,
            hidden_size=text.hidden_size,
        )


def _check_tensor_ranks(size: int, text: TextModel, *, splits_mlp: bool) -> None:
    model_support.check_tensor_ranks(
        size,
        num_attention_heads=text.num_heads,
        num_key_value_heads=text.num_kv_heads,
        intermediate_size=text.ffn_size if splits_mlp else None,
        vocab_size=text.vocab_size,
    )


def _num_experts(text: TextModel) -> int:
    return text.experts.count if text.experts is not None and text.experts.sparse_layers else 0
