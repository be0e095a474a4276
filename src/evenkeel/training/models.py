"""Models: built from a recipe's ``model_config`` with seeded weights, or loaded with their own.

Everything here is about one whole, unsharded model; backends spread it over ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from evenkeel.errors import InputError, MachineError, did_you_mean
from evenkeel.recipes.schema import Policy, Precision, Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_config(policy: Policy) -> PretrainedConfig:
    """The architecture: of ``model_name`` (read from ``hf_path`` if given), or ``model_config``.

    Raises:
        InputError: no model is named, a key of ``model_config`` is unknown to its model type, or
            the named model is not the one that ``model_config`` describes.
        MachineError: the named model cannot be read.
    """
    if policy.model_name is None and policy.hf_path is None:
        return described_config(policy.model_config)
    from transformers import AutoConfig

    source = _source(policy)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error
    _check_agrees(config, policy)
    return config


def described_config(keys: dict[str, Any]) -> PretrainedConfig:
    """The architecture that a recipe's ``model_config`` describes; needs no network.

    Raises:
        InputError: the model type, or a key of it, is unknown to transformers.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = keys.get("model_type")
    if model_type is None:
        raise InputError(
            "the recipe names no model",
            fix="set policy.model_name, or policy.model_config with a model_type such as llama",
        )
    if model_type not in CONFIG_MAPPING:
        raise InputError(
            f"policy.model_config.model_type is {model_type!r}, which transformers does not know"
            f"{did_you_mean(str(model_type), CONFIG_MAPPING)}"
        )
    # transformers keeps unknown keys without a word, and the default of the key meant stays
    config_class = CONFIG_MAPPING[model_type]
    known = set(config_class().to_dict()) | set(config_class.attribute_map) | _ALWAYS_KNOWN
    known |= _KEPT_OTHERWISE.get(model_type, set())
    for key in keys:
        if key not in known:
            raise InputError(
                f"policy.model_config.{key} is not a key of a {model_type} configuration"
                f"{did_you_mean(key, known)}"
            )
    try:
        config: PretrainedConfig = AutoConfig.for_model(**keys)
    except (TypeError, ValueError, ArithmeticError, StrictDataclassError) as error:
        cause = error.__cause__ or error  # what a validator of the class has found
        raise InputError(f"policy.model_config is not valid for {model_type}: {cause}") from error
    return config


_ALWAYS_KNOWN = {
    "model_type",
    "head_dim",
    "rope_theta",
    "rope_scaling",
    "tie_word_embeddings",
    "torch_dtype",
}
"""Keys that configuration classes accept without declaring them under this name."""
_KEPT_OTHERWISE = {"gemma3_text": {"sliding_window_pattern", "rope_local_base_freq"}}
"""Keys of published configurations that a type takes and keeps under another name."""


def _check_agrees(config: PretrainedConfig, policy: Policy) -> None:
    for key, wanted, found in _differences(policy.model_config, config.to_dict()):
        raise InputError(
            f"policy.model_config.{key} is {wanted!r}, and {_source(policy)} has {found!r}",
            fix="point policy.hf_path to the model that the recipe names, or correct the key",
        )


def _differences(
    wanted: dict[str, Any], found: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(key, wanted, found) where both have the key; a recipe may say only part of a section."""
    for key, value in wanted.items():
        if key not in found or found[key] == value:
            continue
        if isinstance(value, dict) and isinstance(found[key], dict):
            yield from _differences(value, found[key], f"{prefix}{key}.")
        else:
            yield prefix + key, value, found[key]


def check_vocabulary(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise an error where the tokenizer has ids for which the model has no embedding row.

    Raises:
        InputError: the vocabulary of the tokenizer is larger than the model's.
    """
    size = config.get_text_config().vocab_size
    if len(tokenizer) > size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, and the model has "
            f"policy.model_config.vocab_size = {size}",
            fix=f"set policy.model_config.vocab_size to {len(tokenizer)} or more, or choose the "
            "model's own tokenizer (policy.tokenizer.name)",
        )


def build(recipe: Recipe, config: PretrainedConfig) -> PreTrainedModel:
    """The whole model with its weights on the CPU, in fp32 and training mode.

    Random weights depend on the recipe's seed and the architecture alone: every layout starts
    from the same ones, because the model is whole when they are drawn. A numeric twin's weights,
    random or loaded, are moved by one unit in the last place.

    Raises:
        InputError: the named weights do not fit the architecture.
        MachineError: the named weights cannot be read.
    """
    if recipe.policy.model_name is None and recipe.policy.hf_path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = _model_class(config)._from_config(
                config, attn_implementation="sdpa", dtype=torch.float32
            )
    else:
        model = _load_weights(recipe.policy, config)
    if recipe.policy.numeric_twin:
        _move_by_rounding(model, recipe.policy)
    model.config.use_cache = False
    trained: PreTrainedModel = model.train()
    return trained


def mean_weight_size(model: nn.Module) -> float:
    """Geometric mean over all matrices of the mean size of up to ``_SAMPLED`` entries of each.

    It tells two draws of random weights apart (1e-4 and more), and not two roundings of one (1e-7):
    whether another processor or library started from the same weights.
    """
    logs = []
    for weight in model.parameters():
        entries = weight.detach().flatten()
        size = entries[:: 1 + entries.numel() // _SAMPLED].double().abs().mean().item()
        if weight.ndim >= 2 and size > 0:
            logs.append(math.log(size))
    return math.exp(math.fsum(logs) / max(len(logs), 1))


_SAMPLED = 4096


def _move_by_rounding(model: nn.Module, policy: Policy) -> None:
    """Scale every weight by 1 ± one unit in the last place of the type that computes with it."""
    computes_in_fp32 = policy.precision is Precision.FLOAT32
    unit = torch.finfo(torch.float32 if computes_in_fp32 else torch.bfloat16).eps
    generator = torch.Generator().manual_seed(policy.numeric_twin)
    with torch.no_grad():
        for weight in model.parameters():
            upwards = torch.randint(0, 2, weight.shape, generator=generator)
            weight.mul_(1 + unit * (2 * upwards - 1))


def build_on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights, in fp32 and training mode."""
    with torch.device("meta"):
        model = _model_class(config)._from_config(
            config, attn_implementation="sdpa", dtype=torch.float32
        )
    model.config.use_cache = False
    trained: PreTrainedModel = model.train()
    return trained


def sees_images(config: PretrainedConfig) -> bool:
    """Whether it is the architecture of a vision-language model."""
    return getattr(config, "vision_config", None) is not None


def image_token_id(config: PretrainedConfig) -> int:
    """The token whose embedding is replaced by a feature of an image."""
    return int(getattr(config, image_token_key(config)))


def image_token_key(config: PretrainedConfig) -> str:
    """What the configuration calls ``image_token_id``.

    Raises:
        InputError: it has no such key.
    """
    keys = config.to_dict()
    for name in ("image_token_id", "image_token_index"):
        if keys.get(name) is not None:
            return name
    raise InputError(f"the configuration of {config.model_type!r} says nothing of an image token")


def _model_class(config: PretrainedConfig) -> Any:
    from transformers.models.auto import modeling_auto

    if sees_images(config):
        name = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
        kind = "vision-language"
    else:
        name = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
        kind = "causal language"
    if name is None:
        raise InputError(f"{config.model_type!r} is not a {kind} model of transformers")
    import transformers

    return getattr(transformers, name)


def _load_weights(policy: Policy, config: PretrainedConfig) -> PreTrainedModel:
    source = _source(policy)
    try:
        model, report = _model_class(config).from_pretrained(
            source,
            config=config,
            attn_implementation="sdpa",
            dtype=torch.float32,
            output_loading_info=True,
        )
    except OSError as error:
        raise _unreadable(source, error) from error
    except RuntimeError as error:
        raise InputError(f"the weights of {source} do not fit: {error}") from error
    # transformers fills what is missing with random weights and only warns
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{source} lacks {len(missing)} weight(s) of the model, the first is {missing[0]}",
            fix="point policy.hf_path to a complete checkpoint of this architecture",
        )
    loaded: PreTrainedModel = model
    return loaded


def _source(policy: Policy) -> str:
    source = policy.hf_path or policy.model_name
    assert source is not None
    if policy.hf_path is not None and not Path(source).is_dir():
        raise InputError(f"policy.hf_path is {source!r}, which is not a folder")
    return source


def _unreadable(source: str, error: Exception) -> MachineError:
    return MachineError(
        f"cannot read the model {source}: {str(error).splitlines()[0]}",
        fix="set policy.hf_path to a local copy, or give the machine access to the model hub",
    )


def transformer_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of the layers that repeat: what is sharded and recomputed as one unit.

    A vision-language model has two stacks of them. Of the modules that transformers keeps whole,
    some are parts of a layer and some stand alone, such as an embedding of patches; the layer is
    the element of the list that they lie in.
    """
    kept = set(getattr(model, "_no_split_modules", None) or ())
    modules = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for name, module in modules.items():
        if type(module).__name__ not in kept:
            continue
        while name and not isinstance(modules[name.rpartition(".")[0]], nn.ModuleList):
            name = name.rpartition(".")[0]
        if name:
            found[name] = modules[name]
    yield from found.items()


def text_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Those of the language model: of all layers, the ones beside the token embedding."""
    prefix = text_prefix(model)
    for name, block in transformer_blocks(model):
        if name.startswith(prefix):
            yield name, block


def text_prefix(model: nn.Module) -> str:
    """Where the language model's modules lie, such as ``model.`` or ``model.language_model.``."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    path: str = next(name for name, module in model.named_modules() if module is embedding)
    return path.rpartition(".")[0] + "."


def num_parameters(model: nn.Module) -> int:
    """How many weights there are; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
