"""Bugs in the model: its weights' ties, its modes, its architecture, its split over ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mutants.registry import Patch, mutant


@mutant(
    "embeddings-untied",
    breaks="the output layer gets a copy of the embedding and goes its own way",
    seen="class: weights moved or cast one by one, which breaks a tie without a word",
    needs=("sft", "tied"),
)
def _untied(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def build(recipe: Any, config: Any) -> Any:
            from torch import nn

            model = original(recipe, config)
            head = model.get_output_embeddings()
            head.weight = nn.Parameter(head.weight.detach().clone())
            return model

        return build

    patch("models:build", make)


def _forced_mode(patch: Patch, target: str, training: bool) -> None:
    def make(original: Any) -> Any:
        def forced(self: Any, *arguments: Any) -> Any:
            model = self.model
            model.train = lambda mode=True: type(model).train(model, training)
            try:
                return original(self, *arguments)
            finally:
                del model.train

        return forced

    patch(target, make)


@mutant(
    "dropout-in-evaluation",
    breaks="validation runs with dropout on",
    seen="class: a missing model.eval()",
    needs=("dropout",),
)
def _dropout_in_evaluation(patch: Patch) -> None:
    _forced_mode(patch, "backends.fsdp2:Fsdp2Backend.read", True)


@mutant(
    "dropout-off-in-training",
    breaks="training runs without dropout",
    seen="class: a missing model.train() after validation or generation",
    needs=("dropout",),
)
def _dropout_off(patch: Patch) -> None:
    _forced_mode(patch, "backends.fsdp2:Fsdp2Backend.forward_backward", False)


@mutant(
    "random-numbers-equal-on-all-ranks",
    breaks="every data-parallel rank draws the same dropout masks",
    seen="class: one seed for all ranks; it takes some of the noise out of a gradient, no more",
    needs=("dp", "dropout"),
)
def _equal_random_numbers(patch: Patch) -> None:
    patch(
        "random_state:seed",
        lambda original: lambda seed, data_parallel_rank, step=0: original(seed, 0, step),
    )


def _change_config(patch: Patch, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    patch(
        "models:described_config", lambda original: lambda keys: original({**keys, **change(keys)})
    )


@mutant(
    "rope-base-ignored",
    breaks="rotary positions use another base than the architecture says",
    seen="class: rope_theta lost in a conversion between libraries",
    needs=("sft",),
)
def _rope_base(patch: Patch) -> None:
    _change_config(patch, lambda _: {"rope_theta": 1e6})


@mutant(
    "initial-spread-ignored",
    breaks="weights begin with the library's spread of 0.02 instead of the recipe's",
    seen="class: a field of the architecture under another name",
    needs=("pretrain",),
)
def _initial_spread(patch: Patch) -> None:
    _change_config(patch, lambda _: {"initializer_range": 0.02})


@mutant(
    "activation-swapped",
    breaks="the MLP's gate uses GELU instead of SiLU",
    seen="class: hidden_act against hidden_activation in configurations of one family",
    needs=("pretrain",),
)
def _activation(patch: Patch) -> None:
    _change_config(patch, lambda _: {"hidden_act": "gelu"})


@mutant(
    "fewer-heads",
    breaks="the keys and values of all heads but one are shared",
    seen="class: a number of key/value heads lost in a conversion",
    needs=("sft",),
)
def _fewer_heads(patch: Patch) -> None:
    _change_config(patch, lambda _: {"num_key_value_heads": 1})


@mutant(
    "tensor-parallel-bias-on-every-rank",
    breaks="each rank adds the whole bias before the sum over ranks",
    seen="class: row-parallel layers; Megatron-LM adds the bias after its reduction for it",
    needs=("tp", "bias"),
)
def _bias_on_every_rank(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def parallelize(model: Any, mesh: Any, sequence_parallel: bool) -> None:
            original(model, mesh, sequence_parallel)
            for name, module in model.named_modules():
                if name.endswith(("o_proj", "down_proj")):

                    def again(module: Any, _: Any, output: Any) -> Any:
                        return output + (mesh.size() - 1) * module.bias.to_local()

                    module.register_forward_hook(again)

        return parallelize

    patch("backends.tensor_parallel:parallelize", make)


@mutant(
    "tensor-parallel-half-of-the-heads",
    breaks="the second rank's attention does not reach the residual stream",
    seen="class: a missing all-reduce after a row-parallel layer",
    needs=("tp",),
)
def _half_of_the_heads(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def parallelize(model: Any, mesh: Any, sequence_parallel: bool) -> None:
            original(model, mesh, sequence_parallel)
            alive = float(mesh.get_local_rank() == 0)
            for name, module in model.named_modules():
                if name.endswith("v_proj"):
                    module.register_forward_hook(lambda _m, _i, output: output * alive)

        return parallelize

    patch("backends.tensor_parallel:parallelize", make)
