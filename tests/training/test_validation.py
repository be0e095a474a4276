"""Validation runs in passes of a limited size, and their size does not change what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from training_runs import curves, train

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.backends.fsdp2 import Fsdp2Backend
from evenkeel.training.data.batches import MicroBatch
from evenkeel.training.generation.builtin import BuiltinEngine

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")


def recorded(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, size: Callable[[Any], list[int]]
) -> list[int]:
    """Sizes of the first argument of every call of a method from now on."""
    original, sizes = getattr(owner, name), []

    def recording(self: object, first: Any, *rest: Any, **options: Any) -> Any:
        sizes.extend(size(first))
        return original(self, first, *rest, **options)

    monkeypatch.setattr(owner, name, recording)
    return sizes


def rows(batches: Sequence[MicroBatch]) -> list[int]:
    return [len(batch.input_ids) for batch in batches]


def validated(folder: Path, algorithm: Algorithm, *overrides: str) -> dict[str, float]:
    """Metrics of the validation before the first step."""
    name = algorithm.value
    loop = (f"{name}.max_num_steps=1", f"{name}.val_at_start=true", "checkpointing.enabled=false")
    assert train(folder, *loop, *overrides, algorithm=algorithm) == 0
    found = {name: dict(steps)[0] for name, steps in curves(folder).items() if 0 in steps}
    assert found.keys() >= {"validation/loss"} or algorithm is Algorithm.GRPO
    return found


@pytest.mark.parametrize("backend", ["fsdp2", "megatron"])
@pytest.mark.parametrize(
    ("algorithm", "rows_per_sample"),
    [
        (Algorithm.PRETRAIN, 1),
        (Algorithm.SFT, 1),
        (Algorithm.DPO, 2),
        (Algorithm.DISTILLATION, 1),
    ],
)
def test_no_pass_is_larger_than_allowed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Algorithm,
    rows_per_sample: int,
    backend: str,
) -> None:
    owner: type = Fsdp2Backend
    if backend == "megatron":
        from evenkeel.training.backends.megatron.backend import MegatronBackend

        owner = MegatronBackend
    name, chosen = algorithm.value, f"policy.backend={backend}"
    at_once = validated(tmp_path / "at_once", algorithm, chosen, f"{name}.val_micro_batch_size=8")
    sizes = recorded(monkeypatch, owner, "read", rows)
    # the default: as many as in training
    in_parts = validated(tmp_path / "parts", algorithm, chosen, "policy.train_micro_batch_size=3")
    assert set(sizes) == {3 * rows_per_sample}
    assert in_parts == pytest.approx(at_once, rel=1e-6)


def test_answers_are_written_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = validated(tmp_path / "at_once", Algorithm.GRPO)
    sizes = recorded(monkeypatch, BuiltinEngine, "generate", lambda r: [len(r)])
    in_parts = validated(tmp_path / "parts", Algorithm.GRPO, "grpo.val_micro_batch_size=2")
    assert sizes[:3] == [2, 2, 2]
    assert in_parts == at_once
