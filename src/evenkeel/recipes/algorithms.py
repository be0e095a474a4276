"""The sections of a recipe that belong to one algorithm each, and what all of them share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evenkeel.recipes.declaration import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    SHARE,
    Bounds,
    layout_only,
    shapes_curve,
)


@dataclass(kw_only=True)
class TrainLoop:
    """What every algorithm's loop needs to know."""

    max_num_steps: int = layout_only(100, AT_LEAST_1)
    """Optimizer steps; a run that stops earlier is not finished."""
    steps_per_run: int | None = layout_only(None, AT_LEAST_1)
    """Steps of one start of the trainer: it then saves a checkpoint and ends, and the next start
    continues; absent: all of them."""
    val_period: int = layout_only(0, AT_LEAST_0)
    """Steps between validations; 0: only after the last step."""
    val_at_start: bool = layout_only(False)
    """Validate before the first step, too."""
    val_global_batch_size: int = layout_only(64, AT_LEAST_1)
    """Samples of one validation batch, over all ranks; ``dpo`` counts pairs, here and below."""
    val_micro_batch_size: int | None = layout_only(None, AT_LEAST_1)
    """At most so many samples of it go through the model at once on one rank; absent: as many as
    in training (``grpo``: answers to prompts, as many as a step samples at once)."""


@dataclass(kw_only=True)
class Sft(TrainLoop):
    """Supervised fine-tuning: cross-entropy on the tokens of the assistant's turns."""


@dataclass(kw_only=True)
class Pretrain(TrainLoop):
    """Language modelling: cross-entropy on every token."""


@dataclass(kw_only=True)
class WarmStart:
    """A short supervised training on the recipe's own data, for a model without pretrained
    weights; the optimizer then starts anew. Linear warm-up over a tenth of the steps, then a
    cosine down to a tenth of ``lr``."""

    num_steps: int = shapes_curve(100, AT_LEAST_1)
    """Optimizer steps."""
    lr: float = shapes_curve(1e-3, POSITIVE)
    """Peak learning rate."""
    global_batch_size: int = shapes_curve(64, AT_LEAST_1)
    """Samples of one optimizer step, over all ranks."""


class PreferenceLoss(StrEnum):
    """What is done with the margin between the chosen and the rejected answer."""

    DPO = "dpo"
    """-log sigmoid of the margin (Rafailov et al. 2023, arXiv:2305.18290)."""
    IPO = "ipo"
    """Squared distance from a fixed margin (Azar et al. 2023, arXiv:2310.12036)."""


@dataclass(kw_only=True)
class Dpo(TrainLoop):
    """Preference optimisation on pairs of a chosen and a rejected answer."""

    preference_loss: PreferenceLoss = shapes_curve(PreferenceLoss.DPO)
    reference_policy_kl_penalty: float = shapes_curve(0.05, POSITIVE)
    """Beta: how much a deviation from the reference policy costs."""
    preference_loss_weight: float = shapes_curve(1.0, AT_LEAST_0)
    """Weight of the preference loss."""
    sft_loss_weight: float = shapes_curve(0.0, AT_LEAST_0)
    """Weight of the cross-entropy on the chosen answer, added to it."""
    label_smoothing: float = shapes_curve(0.0, Bounds(minimum=0, below=0.5))
    """Share of pairs that are taken to be labelled the wrong way round."""
    preference_average_log_probs: bool = shapes_curve(False)
    """Log probabilities are means over an answer's tokens instead of sums."""
    sft_average_log_probs: bool = shapes_curve(False)
    """The same for the added cross-entropy."""


class KlEstimator(StrEnum):
    """Per-token estimate of the divergence from samples (Schulman 2020, "Approximating KL")."""

    K1 = "k1"
    """The log ratio: unbiased, of high variance."""
    K2 = "k2"
    """Half the squared log ratio."""
    K3 = "k3"
    """Ratio minus 1 minus log ratio: unbiased and never negative."""


@dataclass(kw_only=True)
class Grpo(TrainLoop):
    """Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300)."""

    num_prompts_per_step: int = shapes_curve(32, AT_LEAST_1)
    """Prompts that a step samples answers for."""
    num_generations_per_prompt: int = shapes_curve(16, Bounds(minimum=2))
    """Answers per prompt; their mean reward is the baseline."""
    num_inner_epochs: int = shapes_curve(1, AT_LEAST_1)
    """How often a step's answers are trained, in optimizer steps of
    ``policy.train_global_batch_size`` answers."""
    max_rollout_turns: int = shapes_curve(1, AT_LEAST_1)
    """Turns of a conversation with the environment."""
    rewards: dict[str, Any] = shapes_curve({"exact_match": 1.0})
    """Verifiers that score an answer, by name, and the weights of their sum."""
    normalize_rewards: bool = shapes_curve(True)
    """Advantages are divided by the group's standard deviation."""
    use_leave_one_out_baseline: bool = shapes_curve(True)
    """An answer's own reward does not count in its baseline."""
    use_dynamic_sampling: bool = shapes_curve(False)
    """Groups whose answers all score alike are replaced by others (Yu et al. 2025,
    arXiv:2503.14476)."""
    max_dynamic_sampling_rounds: int = shapes_curve(10, AT_LEAST_1)
    """Rounds of ``num_prompts_per_step`` prompts after which a step makes do with what it has."""
    overlong_filtering: bool = shapes_curve(False)
    """Answers that were cut at the length limit do not train."""
    reference_policy_kl_penalty: float = shapes_curve(0.01, AT_LEAST_0)
    """Weight of the divergence from the reference policy; 0: no reference policy is held."""
    kl_estimator: KlEstimator = shapes_curve(KlEstimator.K3)
    ratio_clip_min: float = shapes_curve(0.2, SHARE)
    """The probability ratio counts down to 1 - this (Schulman et al. 2017, arXiv:1707.06347)."""
    ratio_clip_max: float = shapes_curve(0.2, AT_LEAST_0)
    """The probability ratio counts up to 1 + this."""
    ratio_clip_c: float | None = shapes_curve(None, Bounds(above=1))
    """Lower bound of the loss for negative advantages, as a multiple (dual clip)."""
    token_level_loss: bool = shapes_curve(True)
    """Mean over all tokens of a batch; off: over each answer's tokens first."""
    use_importance_sampling_correction: bool = shapes_curve(False)
    """Weigh tokens by the ratio of the trainer's to the generator's probability."""
    importance_sampling_truncation: float | None = shapes_curve(None, POSITIVE)
    """Such weights count up to this; absent: in full."""

    def answers_per_rank(self, dp_size: int) -> int:
        """Answers of a step that one of ``dp_size`` data-parallel ranks samples."""
        return math.ceil(self.num_prompts_per_step / dp_size) * self.num_generations_per_prompt


class KlType(StrEnum):
    """Which of teacher and student the divergence is taken under."""

    FORWARD = "forward"
    REVERSE = "reverse"
    MIXED = "mixed"


@dataclass(kw_only=True)
class Teacher:
    """The model that is imitated."""

    model_name: str | None = shapes_curve(None)
    """Hugging Face name or folder."""
    hf_path: str | None = layout_only(None)
    """A local copy of ``model_name``."""
    model_config: dict[str, Any] = shapes_curve({})
    """As ``policy.model_config``."""
    tensor_parallel_size: int = layout_only(1, AT_LEAST_1)
    warm_start: WarmStart | None = shapes_curve(None)
    """Supervised steps that make a teacher of random weights; absent: none."""


@dataclass(kw_only=True)
class Distillation(TrainLoop):
    """A student learns the teacher's distribution over tokens (Hinton et al. 2015,
    arXiv:1503.02531)."""

    teacher: Teacher = shapes_curve(Teacher)
    kl_type: KlType = shapes_curve(KlType.FORWARD)
    mixed_kl_weight: float = shapes_curve(0.5, SHARE)
    """``mixed`` only: weight of the forward part."""
    temperature: float = shapes_curve(1.0, POSITIVE)
    """Both distributions' logits are divided by it."""
    num_top_logits: int | None = shapes_curve(None, AT_LEAST_1)
    """Only the teacher's highest logits count; absent: all."""
    sft_loss_weight: float = shapes_curve(0.0, AT_LEAST_0)
    """Weight of the cross-entropy on the data, added to the divergence."""
    on_policy: bool = shapes_curve(False)
    """The student's own answers are what it is corrected on; needs ``policy.generation``."""
