"""Tokens per second, model FLOPs utilisation and peak memory of one GPU (on CPU: one process)."""

from __future__ import annotations

import re
import resource
import sys
from dataclasses import dataclass

import torch

from evenkeel.recipes.schema import Precision

TERA = 1e12
GIB = 1 << 30

_FLOAT32, _BFLOAT16 = Precision.FLOAT32, Precision.BFLOAT16

_PEAKS: tuple[tuple[str, dict[Precision, float]], ...] = (
    (r"GB[23]00", {_BFLOAT16: 2500 * TERA, _FLOAT32: 80 * TERA}),
    (r"B200", {_BFLOAT16: 2250 * TERA, _FLOAT32: 75 * TERA}),
    (r"B300", {_BFLOAT16: 2250 * TERA}),
    (r"H[12]00 NVL", {_BFLOAT16: 835.5 * TERA, _FLOAT32: 60 * TERA}),
    (r"H100 PCIE", {_BFLOAT16: 756.5 * TERA, _FLOAT32: 51 * TERA}),
    (r"H100|H200|H800|GH200", {_BFLOAT16: 989.5 * TERA, _FLOAT32: 67 * TERA}),
    (r"A100|A800", {_BFLOAT16: 312 * TERA, _FLOAT32: 19.5 * TERA}),
    (r"L40S", {_BFLOAT16: 362.05 * TERA, _FLOAT32: 91.6 * TERA}),
)


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Dense peak of one GPU in FLOP/s, or None where it is not known.

    From NVIDIA's data sheets (A100; H100 SXM, PCIe and NVL; H200 SXM and NVL; HGX B200 and B300;
    GB200 and GB300 NVL72; L40S), which since Hopper state the tensor-core figure with sparsity:
    it is halved here, and divided by the number of GPUs where a sheet gives a whole system. The
    float32 figure is that of plain FP32, which is what torch computes unless TF32 is allowed.

    Args:
        device_name: as ``torch.cuda.get_device_name`` gives it. A slice of a card (MIG) has no
            figure of its own.
        precision: of the matrix products.
    """
    name = device_name.upper().replace("-", " ")
    if "MIG" in name.split():
        return None
    for pattern, peaks in _PEAKS:
        if re.search(rf"\b(?:{pattern})\b", name):
            return peaks.get(precision)
    return None


def train_flops_per_token(
    num_params_without_embedding: int, num_layers: int, attention_width: int, seq_length: int
) -> float:
    """Floating-point operations of forward and backward pass for one token.

    6N + 12·L·H·Q·T: PaLM, appendix B (Chowdhery et al. 2022, arXiv:2204.02311). Recomputation
    does not count, and neither does it matter that causal attention could skip half of its part:
    the formula is a convention, kept so that figures compare with others'.

    Args:
        num_params_without_embedding: N, the parameters that multiply every token.
        num_layers: L.
        attention_width: H·Q, heads times head dimension.
        seq_length: T, tokens of a sequence.
    """
    return 6.0 * num_params_without_embedding + 12.0 * num_layers * attention_width * seq_length


def num_params_without_embedding(model: torch.nn.Module) -> int:
    """Parameters but for the input embedding table, which is looked up and not multiplied.

    A table that is also the output matrix is multiplied there and counts.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    table = _weight(model, "get_input_embeddings")
    if table is None or table is _weight(model, "get_output_embeddings"):
        return total
    return total - table.numel()


def _weight(model: torch.nn.Module, getter: str) -> torch.nn.Parameter | None:
    method = getattr(model, getter, None)
    module = method() if callable(method) else None
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, torch.nn.Parameter) else None


def max_memory_gib(device: torch.device) -> float:
    """Most memory this process has held: on CUDA what torch allocated, on CPU resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage counts in KiB on Linux and in bytes on macOS
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB


@dataclass(frozen=True)
class Throughput:
    """Turns the tokens and seconds of a step into metrics."""

    world_size: int
    """GPUs (on CPU: processes) of the whole run."""
    flops_per_token: float
    """From ``train_flops_per_token``."""
    peak: float | None
    """From ``peak_flops``; without one there is no MFU."""

    def metrics(self, num_tokens: int, step_time_s: float) -> dict[str, float]:
        """``train/tokens_per_sec_per_gpu`` and, where the peak is known, ``train/mfu`` (0 to 1).

        Args:
            num_tokens: tokens that all ranks together passed through the model, padding apart.
            step_time_s: wall time of the step in seconds.
        """
        rate = num_tokens / step_time_s / self.world_size
        metrics = {"train/tokens_per_sec_per_gpu": rate}
        if self.peak is not None:
            metrics["train/mfu"] = rate * self.flops_per_token / self.peak
        return metrics
