"""Layers that torch.compile has compiled, for real, train the curve of those that it has not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from training_runs import losses, train, train_on_two_ranks

from evenkeel.training.backends import compiled_layers

# torch's own compiler looks at the gradients of whatever it meets
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

COMPILED = "policy.torch_compile=true"
SHORT = ("sft.max_num_steps=3", "checkpointing.enabled=false")
PACKED = ("policy.sequence_packing.enabled=true", "policy.train_micro_batch_size=2")
RECOMPUTED = "policy.activation_checkpointing=true"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip where there is none, but never where a green result is relied upon."""
    # one process compiles: a pool of them would cost more than these few layers
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if compiled_layers.has_compiler():
        return
    if os.environ.get("CI"):
        pytest.fail("a C++ compiler is part of this test run, and there is none")
    pytest.skip("not installed: a C++ compiler")


@pytest.mark.usefixtures("compiler")
def test_one_process_follows_the_uncompiled_curve(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    variants = {"plain": (), "packed, recomputed": (*PACKED, RECOMPUTED)}
    for name, overrides in variants.items():
        torch.compiler.reset()
        counters.clear()
        assert train(tmp_path / name / "eager", *SHORT, *overrides) == 0
        assert counters["frames"]["ok"] == 0
        assert train(tmp_path / name / "compiled", *SHORT, *overrides, COMPILED) == 0
        # of training and of validation, without a part that falls back to Python
        assert counters["frames"]["ok"] >= 2
        assert not counters["graph_break"]
        expected = pytest.approx(losses(tmp_path / name / "eager"), rel=1e-6)
        assert losses(tmp_path / name / "compiled") == expected


@pytest.mark.usefixtures("compiler")
def test_two_ranks_follow_the_uncompiled_curve(tmp_path: Path) -> None:
    variants = {"plain": (), "packed, recomputed": (*PACKED, RECOMPUTED)}
    runs = [
        (tmp_path / name / folder, [*SHORT, *overrides, *more])
        for name, overrides in variants.items()
        for folder, more in (("eager", ()), ("compiled", (COMPILED,)))
    ]
    assert train_on_two_ranks(runs) == [0] * len(runs)
    for name in variants:
        expected = pytest.approx(losses(tmp_path / name / "eager"), rel=1e-6)
        assert losses(tmp_path / name / "compiled") == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("++policy.lora.rank=4",), "policy.torch_compile and policy.lora do not go together"),
        ((), "this machine has no C++ compiler"),
    ],
)
def test_what_would_not_work_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    assert train(tmp_path, *SHORT, COMPILED, *overrides) == 2
    assert message in capsys.readouterr().err
