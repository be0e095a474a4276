"""megatron-core's LLaVA around the language model that recipes of text train, too.

The library's class holds CLIP's tower, the projector and the language model, and puts the
projector's features among the embeddings of the text. It calls itself work in progress.
"""

from __future__ import annotations

import copy
import logging
import sys
from typing import Any

import torch
from megatron.core.inference.contexts import BaseInferenceContext
from megatron.core.models.gpt import GPTModel
from megatron.core.models.multimodal import llava_model
from megatron.core.models.multimodal.llava_model import LLaVAModel
from megatron.core.models.vision.vit_layer_specs import get_vit_layer_with_local_spec
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.enums import AttnMaskType, ModelType
from megatron.core.transformer.mlp import MLPSubmodules
from torch import Tensor

from evenkeel.training.backends.megatron.layers import FusedAttention
from evenkeel.training.backends.megatron.vision_architecture import VisionArchitecture

# what it says whenever one is made stands in docs/training-megatron.md
logging.getLogger(llava_model.__name__).setLevel(logging.ERROR)


class Llava(LLaVAModel):  # type: ignore[misc]
    """What a rank holds of a vision-language model: the tower lies on the first pipeline stage."""

    def __init__(self, language_model: GPTModel, vision: VisionArchitecture) -> None:
        """Put tower and projector, without weights, beside the rank's part of the language model.

        Args:
            language_model: gives embeddings that are not shared out along the sequence, because
                features have to find their places among them.
            vision: what sees the images.
        """
        super().__init__(**_arguments(language_model, vision))
        self.config = config = language_model.config
        self.model_type = ModelType.encoder_or_decoder  # schedules ask; the class does not say
        self.add_decoder, self.language_model = True, language_model
        self.sequence_parallel_lm = config.sequence_parallel
        self._language_max_sequence_length = sys.maxsize  # rows are as long as they are to be
        # with a pipeline the library would fill rows up to the longest that the model can take;
        # here stages tell each other their length
        self._language_is_pipeline_parallel = False
        # A row has one token for each feature already. The library puts so many features in the
        # place of a token, and counts an image for each token.
        self.img_seq_len = 1

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        images: Tensor | None = None,
        inference_context: BaseInferenceContext | None = None,
        runtime_gather_output: bool | None = None,
    ) -> Tensor:
        """Logits, or what the next stage takes, as ``GPTModel`` gives them.

        Args:
            input_ids: (batch, seq), the image token for each feature of an image.
            position_ids: (batch, seq).
            attention_mask: see ``FusedAttention``.
            images: (images of all rows, 3, height, width); None: there are none.
            inference_context: keys and values of earlier tokens.
            runtime_gather_output: as of ``GPTModel``.
        """
        if self.add_encoder:
            like = self.vision_model.conv1.weight
            images = like.new_empty(0) if images is None else images.to(like.dtype)
        num_features = int((input_ids == self.image_token_index).sum())
        output, _ = super().forward(
            images,
            input_ids,
            position_ids,
            attention_mask,
            inference_context=inference_context,
            num_image_tiles=torch.ones(num_features, dtype=torch.int32, device=input_ids.device),
            runtime_gather_output=runtime_gather_output,
        )
        if inference_context is not None:
            # Where the cache has this note, the library takes later tokens the wrong way round:
            # (batch, seq) for (seq, batch).
            inference_context.key_value_memory_dict.pop("image_tokens_count", None)
        logits: Tensor = output
        return logits


def language_model(chunk: Any) -> GPTModel:
    """The decoder of a chunk of any model."""
    return chunk.language_model if isinstance(chunk, Llava) else chunk


def _arguments(language_model: GPTModel, vision: VisionArchitecture) -> dict[str, Any]:
    """Of the library's constructor, for a model that gets its language model afterwards."""
    # It would make one of its own, and refuses sequence parallelism unless attention in it is
    # Transformer Engine's; what it does with the tokens is the same.
    config = copy.copy(language_model.config)
    config.sequence_parallel = False
    return {
        "language_transformer_config": config,
        "language_transformer_layer_spec": None,
        "language_vocab_size": language_model.vocab_size,
        "language_max_sequence_length": language_model.max_sequence_length,
        "vision_transformer_config": vision.tower,
        "vision_transformer_layer_spec": _tower_layer(),
        "drop_vision_class_token": vision.drops_class_token,
        "vision_projection_config": vision.projector,
        "vision_projection_layer_spec": MLPSubmodules(
            linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear
        ),
        "share_embeddings_and_output_weights": language_model.share_embeddings_and_output_weights,
        "pre_process": language_model.pre_process,
        "post_process": language_model.post_process,
        "add_encoder": language_model.pre_process,
        "add_decoder": False,
        "img_h": vision.image_size,
        "img_w": vision.image_size,
        "patch_dim": vision.patch_size,
        "image_token_index": vision.image_token_id,
        "vp_stage": language_model.vp_stage,
    }


def _tower_layer() -> ModuleSpec:
    """The library's local layer, which masks a tower's patches as if they were a text's tokens."""
    layer = get_vit_layer_with_local_spec()
    attention = layer.submodules.self_attention
    attention.params = {"attn_mask_type": AttnMaskType.no_mask}
    attention.submodules.core_attention = FusedAttention
    return layer
