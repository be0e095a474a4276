"""Layers through torch.compile (Ansel et al. 2024, doi:10.1145/3620665.3640366), where asked for.

What runs of a layer is compiled, not the layer: FSDP's hooks stay around it, and recomputation
calls what is compiled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Policy
from evenkeel.recipes.support import check_compiled

COMPILERS = ("g++", "clang++")
"""What torch compiles layers with on a CPU, unless ``CXX`` names another."""


def install(layers: Iterable[nn.Module], policy: Policy, device_type: str) -> None:
    """Compile each of ``layers`` with its first rows, where ``policy.torch_compile`` says so.

    Raises:
        InputError: this recipe or this machine cannot.
    """
    if not policy.torch_compile:
        return
    check_compiled(policy)
    if device_type == "cpu" and not has_compiler():
        raise InputError(
            "policy.torch_compile is true, and this machine has no C++ compiler",
            fix="install g++, name one in CXX, or set policy.torch_compile=false",
        )
    for layer in layers:
        layer.forward = torch.compile(layer.forward)


def has_compiler() -> bool:
    """Whether layers can be compiled for a CPU here."""
    named = os.environ.get("CXX")
    return any(shutil.which(program) for program in ((named,) if named else COMPILERS))


def uncompiled(policy: Policy) -> AbstractContextManager[object]:
    """Inside, layers run as they are written: lengths that grow token by token compile badly."""
    return torch.compiler.set_stance("force_eager") if policy.torch_compile else nullcontext()
