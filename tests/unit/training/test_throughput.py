from __future__ import annotations

import pytest
import torch

from evenkeel.recipes.schema import Precision
from evenkeel.training.throughput import (
    TERA,
    Throughput,
    max_memory_gib,
    num_params_without_embedding,
    peak_flops,
    train_flops_per_token,
)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GB300", 2500),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA A10", None),
        ("NVIDIA A1000", None),
        ("AMD EPYC", None),
        ("", None),
    ],
)
def test_peak_is_known_for_whole_cards_only(name: str, tflops: float | None) -> None:
    peak = peak_flops(name, Precision.BFLOAT16)
    assert peak == (None if tflops is None else tflops * TERA)


def test_plain_fp32_is_not_a_tensor_core_figure() -> None:
    assert peak_flops("NVIDIA H200", Precision.FLOAT32) == 67 * TERA
    assert peak_flops("NVIDIA B300", Precision.FLOAT32) is None


def test_flops_of_palm_540b() -> None:
    # table of appendix B: 540B parameters, 118 layers, 48 heads of 256, 2048 tokens, 238.3K
    # tokens/s on 6144 chips of 275 TFLOP/s gave 46.2 %
    flops = train_flops_per_token(540_350_000_000, 118, 48 * 256, 2048)
    metrics = Throughput(6144, flops, 275 * TERA).metrics(238_300, 1.0)
    assert metrics["train/mfu"] == pytest.approx(0.462, abs=0.005)
    assert metrics["train/tokens_per_sec_per_gpu"] == pytest.approx(238_300 / 6144)


def test_without_a_peak_there_is_no_mfu() -> None:
    assert Throughput(2, 1.0, None).metrics(100, 0.5) == {"train/tokens_per_sec_per_gpu": 100.0}


class Model(torch.nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)
        self.body = torch.nn.Linear(4, 4, bias=False)
        self.head = torch.nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.table

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_counts_only_where_it_is_multiplied(tied: bool) -> None:
    assert num_params_without_embedding(Model(tied)) == 4 * 4 + 4 * 10
    assert num_params_without_embedding(torch.nn.Linear(3, 3)) == 12


def test_memory_on_cpu_is_that_of_the_process() -> None:
    before = max_memory_gib(torch.device("cpu"))
    held = torch.ones(1 << 27, dtype=torch.uint8)
    assert 0.05 < before <= max_memory_gib(torch.device("cpu")) < 100
    assert held[-1] == 1
