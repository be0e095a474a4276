"""Bytes that a forward pass keeps for the backward pass.

After Korthikanti et al. 2022 (arXiv:2205.05198), section 4, whose layer has biases, dropout, GELU,
layer norms and attention scores in memory. Here a layer has a gated feed-forward part of width i
(Shazeer 2020, arXiv:2002.05202), key and value heads of their own number (Ainslie et al. 2023,
arXiv:2305.13245), RMS norms that compute in fp32, and attention that keeps its inputs, its output
and one number a row instead of scores (Dao 2023, arXiv:2307.08691). Of one token in one layer, with
numbers of w bytes, hidden width h, query width a, key width k and tensor-parallel size t:

    attention part    (4 + w) h  norm    w h  input    w (2 a + 2 k) / t  query, key, value, output
    feed-forward      (4 + w) h  norm    w h  input    4 w i / t  gate, its activation, up, product

Norms are divided by t with sequence parallelism. The inputs of column-wise layers are as well on
megatron, which gathers them again in the backward pass; fsdp2 keeps them whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.recipes.memory_fit.architecture import TextModel, VisionTower
from evenkeel.recipes.memory_fit.layout import Layout
from evenkeel.recipes.schema import Backend, TokenDispatcher

FP32 = 4


@dataclass(frozen=True)
class Pass:
    """One micro-batch on one rank."""

    rows: int
    seq_length: int
    """Of the whole sequence, also where ranks share it."""
    element_size: int
    layout: Layout
    is_masked: bool = False
    """Attention gets a mask: packed rows, or sequences longer than a sliding window."""
    lora_rank: int = 0
    """Of updates beside frozen weights; 0: there are none."""
    is_frozen: bool = False
    """The layers' own weights are not trained: gradients only pass through them."""
    dispatcher: TokenDispatcher = TokenDispatcher.ALLTOALL

    @property
    def tokens(self) -> float:
        """Of this rank."""
        return self.rows * self.seq_length / self.layout.cp

    @property
    def on_megatron(self) -> bool:
        """Whether layers are megatron-core's."""
        return self.layout.backend is Backend.MEGATRON

    @property
    def keeps_inputs(self) -> bool:
        """Whether linear layers keep their input: for the gradient of a weight or an update."""
        return not self.is_frozen or self.lora_rank > 0

    @property
    def input_split(self) -> int:
        """Ranks that share what column-wise layers keep of their input."""
        return self.layout.sequence_split if self.on_megatron else 1

    @property
    def expert_split(self) -> int:
        """Ranks that share each matrix of an expert."""
        return self.layout.etp if self.on_megatron else 1

    @property
    def routed_share(self) -> float:
        """Tokens whose way to experts a rank keeps, for one of its own; torch's ranks keep rows
        for all that they route, also for those whose experts lie elsewhere."""
        return self.layout.etp / self.layout.sequence_split if self.on_megatron else 1.0


def norm(width: float, run: Pass, *, is_gemma: bool = False) -> float:
    """Bytes a token of an RMS norm: its input in fp32, and what its weight is multiplied with."""
    normalised = FP32 if is_gemma else run.element_size
    return width * (FP32 + (0 if run.is_frozen else normalised))


def layer_bytes(text: TextModel, layer: int, run: Pass) -> float:
    """Kept by one decoder layer."""
    is_gemma = text.model_type.startswith("gemma")
    norms = text.norms_per_layer * norm(text.hidden_size, run, is_gemma=is_gemma)
    inputs = 2 * run.element_size * text.hidden_size if run.keeps_inputs else 0
    per_token = norms / run.layout.sequence_split + inputs / run.input_split
    per_token += _latent_attention(text, run) if text.latent else _attention(text, run)
    per_token += _mixture(text, run) if text.is_sparse(layer) else _gated(text.ffn_size, run)
    if run.lora_rank:
        per_token += 7 * run.element_size * run.lora_rank
    return run.tokens * per_token + _mask(run)


def checkpoint_bytes(text: TextModel, run: Pass) -> float:
    """Kept of one decoder layer that is computed again: its input (section 5 of the paper)."""
    return run.tokens * run.element_size * text.hidden_size / run.layout.sequence_split


def _attention(text: TextModel, run: Pass) -> float:
    w, tp = run.element_size, run.layout.tp
    query, kv = text.query_width, text.kv_width
    total = FP32 * text.num_heads / tp  # log-sum-exp of each row of scores
    if text.has_head_norms:
        gemma = text.model_type.startswith("gemma")
        total += norm(query + kv, run, is_gemma=gemma) / tp
    if run.on_megatron:
        # values are a view, which keeps all that one layer made of query, key and value; with
        # several rows the output is copied into the library's order of dimensions
        copies = 2 if run.rows > 1 else 1
        of_others = 2 * kv * run.layout.cp if run.layout.cp > 1 else kv
        rotary = 4 * w * text.head_dim / run.rows
        return total + w * (query + 2 * kv + query + of_others + copies * query) / tp + rotary
    expanded = query if run.is_masked else kv  # with a mask, keys are repeated for every query head
    return total + w * (2 * query + 2 * expanded) / tp


def _latent_attention(text: TextModel, run: Pass) -> float:
    latent = text.latent
    assert latent is not None
    w, tp = run.element_size, run.layout.tp
    compressed = latent.kv_rank + latent.rope_size
    made = text.num_heads * (latent.nope_size + latent.value_size)
    # query and key are written once more when their rotated part joins the rest
    wide = 3 * text.query_width + made + (2 if run.rows > 1 else 1) * text.value_width
    low_rank = norm(latent.kv_rank, run) + 2 * w * compressed
    return FP32 * text.num_heads / tp + w * wide / tp + low_rank


def _gated(width: float, run: Pass) -> float:
    kept = 4 if run.keeps_inputs else 3
    return kept * run.element_size * width / run.layout.tp


def _mixture(text: TextModel, run: Pass) -> float:
    """Tokens go to the ranks of their experts; every rank is taken to get its fair share.

    On torch they stay, and experts that lie elsewhere leave their rows empty.
    """
    experts, layout, w = text.experts, run.layout, run.element_size
    assert experts is not None
    etp, share = run.expert_split, run.routed_share
    routed = share * experts.per_token
    router = 3 * FP32 * experts.count * share / etp
    travelling = 2 * w * text.hidden_size * routed  # sorted by expert, and their results
    # as in a gated part, and on megatron the product once more, weighed by the router, whose
    # weights torch gives to the results
    parts = 5 if run.on_megatron else 4
    inside = parts * w * experts.ffn_size / etp * routed
    shared = _gated(experts.shared_ffn_size, run)
    if run.dispatcher is TokenDispatcher.ALLGATHER:
        router *= layout.ep
        travelling += w * text.hidden_size * share * layout.ep
    return router + travelling + inside + shared


def _mask(run: Pass) -> float:
    """A mask that is added to scores, which each layer makes of the boolean one."""
    is_masked = run.is_masked or run.layout.cp > 1
    return run.element_size * run.tokens * run.seq_length if is_masked else 0.0


def head_bytes(text: TextModel, run: Pass) -> float:
    """Kept between the last layer and the logits."""
    is_gemma = text.model_type.startswith("gemma")
    kept = norm(text.hidden_size, run, is_gemma=is_gemma) / run.layout.sequence_split
    inputs = 0 if run.is_frozen else run.element_size * text.hidden_size / run.input_split
    return run.tokens * (kept + inputs)


def vision_layer_bytes(tower: VisionTower, num_patches: float, run: Pass) -> float:
    """Kept by one layer of a vision tower; only megatron's tensor parallelism splits it.

    Qwen's has RMS norms and a gated feed-forward part; the others' layer norms keep their input as
    it is, and GELU its own input and output.
    """
    w, h = run.element_size, tower.hidden_size
    split = run.layout.tp if run.on_megatron else 1
    attention = 4 * w * h / split + w * h
    if tower.model_type == "qwen2_5_vl":
        return num_patches * (attention + 2 * h * (FP32 + w) + w * h + 4 * w * tower.ffn_size)
    activations = 3 if tower.model_type == "llava" else 2  # quick GELU is made of two products
    return num_patches * (attention + 2 * w * h + w * h + activations * w * tower.ffn_size / split)


def projector_bytes(tower: VisionTower, num_patches: float, run: Pass) -> float:
    """Kept by a LLaVA's projector: what its two layers and the activation between them are given.

    Those of other models have one layer, and are left out.
    """
    if tower.model_type != "llava":
        return 0.0
    split = run.layout.tp if run.on_megatron else 1
    return num_patches * run.element_size * (tower.hidden_size + 2 * tower.output_size / split)
