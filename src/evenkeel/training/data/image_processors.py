"""From an image to what a model takes in for it, and to the text that its tokens are made from.

A model that is loaded by name brings its own processor. For one that a recipe describes, this
module does what that architecture needs with numpy and pillow alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Policy, Vision
from evenkeel.training.data.tokenizers import IMAGE

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from transformers import PretrainedConfig

MEAN = STD = 0.5
"""Maps [0, 1] to [-1, 1]; of models that were not trained with other values."""

ImageInputs = Mapping[str, Tensor]
"""Arguments of the model's forward pass for one image or several, which follow one another in the
first dimension of every tensor."""


@dataclass(frozen=True)
class ProcessedImage:
    """One image, ready."""

    text: str
    """What takes the place of the image's placeholder; holds as many image tokens as the model
    has features of the image."""
    inputs: ImageInputs

    @property
    def num_numbers(self) -> int:
        """Of all tensors together."""
        return sum(tensor.numel() for tensor in self.inputs.values())


class ImageProcessor(Protocol):
    """Prepares images for one model."""

    placeholder: str
    """What the chat template writes where an image stands."""

    def __call__(self, image: PilImage) -> ProcessedImage:
        """Resize, normalise, and count."""
        ...


class FixedGrid:
    """Every image is scaled to the model's one size, so all have as many tokens."""

    placeholder = IMAGE

    def __init__(self, image_size: int, num_tokens: int) -> None:
        self._size, self._text = image_size, IMAGE * num_tokens

    def __call__(self, image: PilImage) -> ProcessedImage:
        """See ``ImageProcessor``; ``pixel_values`` is (1, 3, size, size), fp32."""
        from PIL import Image

        if image.size != (self._size, self._size):
            image = image.resize((self._size, self._size), Image.Resampling.BICUBIC)
        pixels = (np.asarray(image, dtype=np.float32) / 255 - MEAN) / STD
        # shape: (height, width, channel) -> (1, channel, height, width)
        channels_first = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        return ProcessedImage(self._text, {"pixel_values": channels_first})


class PatchGrid:
    """Images keep their proportions and are cut into patches, as Qwen 2 VL and later do."""

    placeholder = IMAGE

    def __init__(self, vision_config: Any, vision: Vision) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        merge = vision_config.spatial_merge_size
        cell = (vision_config.patch_size * merge) ** 2
        self._merge = merge
        self._process = cast(Any, Qwen2VLImageProcessorPil)(
            patch_size=vision_config.patch_size,
            temporal_patch_size=vision_config.temporal_patch_size,
            merge_size=merge,
            image_mean=[MEAN] * 3,
            image_std=[STD] * 3,
            size={
                "shortest_edge": vision.min_pixels or cell,
                "longest_edge": vision.max_pixels or 1280 * cell,
            },
        )

    def __call__(self, image: PilImage) -> ProcessedImage:
        """See ``ImageProcessor``; ``pixel_values`` is (patches, numbers of a patch)."""
        made = self._process(images=[image], return_tensors="pt")
        inputs = {name: made[name] for name in ("pixel_values", "image_grid_thw")}
        num_tokens = int(inputs["image_grid_thw"].prod()) // self._merge**2
        return ProcessedImage(IMAGE * num_tokens, inputs)


class Pretrained:
    """The processor that a model's publisher put beside its weights."""

    def __init__(self, source: str, vision: Vision) -> None:
        from transformers import AutoProcessor

        limits = {
            name: getattr(vision, name)
            for name in ("min_pixels", "max_pixels")
            if getattr(vision, name) is not None
        }
        try:
            load: Any = AutoProcessor.from_pretrained
            self._processor = load(source, **limits)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"cannot load the image processor of {source!r}: {reason}",
                fix="point policy.hf_path to a folder with preprocessor_config.json and the "
                "tokenizer's files; a processor that also takes videos needs torchvision",
            ) from error
        if not hasattr(self._processor, "image_processor"):
            raise InputError(f"{source!r} brings no image processor, so it sees only text")
        # of Gemma 3, where the template writes one token that is replaced by a whole sequence
        begins = getattr(self._processor, "boi_token", None)
        self.placeholder: str = begins or str(self._processor.image_token)
        self._names = set(self._processor.image_processor.model_input_names)

    @property
    def chat_template(self) -> str | None:
        """Of the publisher, where it stands with the processor and not with the tokenizer."""
        template: str | None = getattr(self._processor, "chat_template", None)
        return template

    def __call__(self, image: PilImage) -> ProcessedImage:
        """See ``ImageProcessor``."""
        made = self._processor(
            text=[self.placeholder],
            images=[image],
            add_special_tokens=False,
            return_tensors="pt",
        )
        inputs = {name: made[name] for name in made if name in self._names}
        if inputs["pixel_values"].ndim == 5:  # (1, tiles, 3, height, width) of one image
            inputs = {name: tensor[0] for name, tensor in inputs.items()}
        text: str = self._processor.tokenizer.decode(
            made["input_ids"][0], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return ProcessedImage(text, inputs)


def load_processor(policy: Policy, config: PretrainedConfig) -> ImageProcessor:
    """The processor of the recipe's model.

    Raises:
        InputError: it cannot be loaded, or how a described model sees images is not known.
    """
    assert policy.vision is not None
    if policy.hf_path is not None or policy.model_name is not None:
        return Pretrained(str(policy.hf_path or policy.model_name), policy.vision)
    see = cast(Any, config).vision_config
    if config.model_type.startswith(("qwen2_vl", "qwen2_5_vl", "qwen3_vl")):
        return PatchGrid(see, policy.vision)
    for name in ("min_pixels", "max_pixels"):
        if getattr(policy.vision, name) is not None:
            raise InputError(
                f"policy.vision.{name} does not apply to a described {config.model_type}, which "
                f"sees every image at {see.image_size} x {see.image_size}",
                fix="remove it",
            )
    return FixedGrid(see.image_size, _tokens_per_image(config))


def _tokens_per_image(config: Any) -> int:
    see = config.vision_config
    num_patches: int = (see.image_size // see.patch_size) ** 2
    if config.model_type == "llava":
        keeps_class_token = config.vision_feature_select_strategy == "full"
        return num_patches + int(keeps_class_token and see.model_type.startswith("clip"))
    if config.model_type == "gemma3":
        return int(config.mm_tokens_per_image)
    if config.model_type in ("smolvlm", "idefics3"):
        return int(num_patches // config.scale_factor**2)
    raise InputError(
        f"how a {config.model_type} sees images is known only from its publisher's processor",
        fix="set policy.model_name or policy.hf_path, or describe a llava",
    )
