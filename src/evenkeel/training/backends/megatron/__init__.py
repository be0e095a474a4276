"""Megatron backend: megatron-core's GPT models, parallel state, schedules and optimizer."""

import logging
import os
import warnings
from unittest import mock

import torch

# Kernels of one stream start in the order of the calls, so that communication overlaps with
# computation; the library warns where this is not set before CUDA starts.
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")


def _uncompiled(function=None, **_):  # type: ignore[no-untyped-def]
    return function if function is not None else _uncompiled


# While it is imported, the library says for each part of Transformer Engine and apex that it does
# not find what it uses instead, and torch that there is no CUDA: nothing that a user can act on.
# It also wraps small functions in torch.compile, which pulls in the compiler: five times the import
# time, for functions that only run on GPUs.
_extensions = logging.getLogger("torch.utils.cpp_extension")
_level = _extensions.level
_extensions.setLevel(logging.ERROR)
_compile = torch.compile if torch.cuda.is_available() else _uncompiled
with warnings.catch_warnings(), mock.patch.object(torch, "compile", _compile):
    warnings.simplefilter("ignore")
    import megatron.core.distributed
    import megatron.core.models.gpt.gpt_layer_specs
    import megatron.core.models.multimodal.llava_model
    import megatron.core.models.vision.vit_layer_specs
    import megatron.core.optimizer
    import megatron.core.pipeline_parallel  # noqa: F401
_extensions.setLevel(_level)
