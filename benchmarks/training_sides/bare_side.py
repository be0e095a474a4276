"""A bare training loop around a transformers model, as one would write it by hand.

float32 weights, ``torch.autocast`` to the type of the recipe, SDPA attention, AdamW (fused on a
GPU), clipping. It gets weights, tokens and reward from our code, ready-made: nothing but the loop
is timed, and batches cost it nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from evenkeel.recipes.schema import Precision, Recipe
from evenkeel.training import models
from evenkeel.training.algorithms.optimizer_step import train_batches
from evenkeel.training.backends.interface import DataParallelPlace
from evenkeel.training.data.batches import MicroBatch, open_dataset
from evenkeel.training.data.prompts import Prompt, open_prompts, stop_ids
from evenkeel.training.data.tokenizers import load_tokenizer
from evenkeel.training.rewards import Judged, token_overlap
from training_sides.cases import Case, Steps


class BareLoop:
    """A model, its optimizer, and a step of either algorithm."""

    def __init__(self, recipe: Recipe, case: Case, device: torch.device) -> None:
        self.case, self.recipe, self.device = case, recipe, device
        self.tokenizer: Any = load_tokenizer(recipe)
        self.model: Any = models.build(recipe, models.load_config(recipe.policy)).to(device)
        settings = recipe.policy.optimizer
        self._reference: Any = None
        if case.algorithm == "grpo":
            self._reference = copy.deepcopy(self.model).eval()
        if recipe.policy.torch_compile:
            for _, block in models.transformer_blocks(self.model):
                block.compile()
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.lr,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=device.type == "cuda",
        )
        self._prompts = (
            open_prompts(recipe, self.tokenizer, "train") if case.algorithm == "grpo" else None
        )
        self._stop_ids = sorted(stop_ids(self.tokenizer))

    def train(self, num_steps: int) -> tuple[Steps, list[int]]:
        """Train so many steps; and the tokens that passed through the model in each."""
        steps, passed = Steps(), []
        batches = self._supervised_batches(num_steps) if self._prompts is None else None
        for step in range(num_steps):
            if batches is not None:
                final, tokens, num_passed = self._supervised_step(next(batches))
            else:
                final, tokens, num_passed = self._reinforcement_step(step)
            steps.tokens.append(tokens)
            steps.finals.append(final)
            passed.append(num_passed)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            steps.end()
        return steps, passed

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.recipe.policy.precision is Precision.BFLOAT16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _supervised_batches(self, num_steps: int) -> Iterator[list[MicroBatch]]:
        samples = open_dataset(self.recipe, self.tokenizer, "train")
        place = DataParallelPlace(0, 1)
        source = train_batches(self.recipe, place, samples, self.tokenizer.pad_token_id)
        return iter([source.global_batch(step) for step in range(1, num_steps + 1)])

    def _supervised_step(self, batches: Sequence[MicroBatch]) -> tuple[float, int, int]:
        """Loss, tokens, and tokens that passed through the model."""
        num_trained = sum(batch.num_trained_tokens for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            with self._autocast():
                logits = self.model(input_ids=batch.input_ids.to(self.device)).logits
            labels = batch.labels.to(self.device).flatten()
            losses = F.cross_entropy(
                logits.float().flatten(0, 1), labels, ignore_index=-100, reduction="sum"
            )
            loss = losses / num_trained
            loss.backward()
            total += loss.detach()
        self._update()
        num_tokens = sum(int(batch.attention_mask.sum()) for batch in batches)
        return float(total), num_tokens, num_tokens

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.policy.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _reinforcement_step(self, step: int) -> tuple[float, int, int]:
        """Answers' mean length, their tokens, and those that passed through in training."""
        assert self._prompts is not None and self.recipe.grpo is not None
        settings = self.recipe.grpo
        count, group = settings.num_prompts_per_step, settings.num_generations_per_prompt
        prompts = [self._prompts[step * count + number] for number in range(count)]
        ids = torch.tensor([prompt.token_ids for prompt in prompts], device=self.device)
        ids = ids.repeat_interleave(group, dim=0)  # shape: (answers, prompt)
        whole = self._generate(ids)  # shape: (answers, prompt + answer)
        answered = _until_stop(whole[:, ids.shape[1] :], self._stop_ids)
        rewards = self._rewards(whole[:, ids.shape[1] :], answered, prompts, group)
        grouped = rewards.view(count, group)
        spread = grouped.std(dim=1, keepdim=True) + 1e-6
        advantages = ((grouped - grouped.mean(dim=1, keepdim=True)) / spread).flatten()
        size, num_tokens = self.case.micro_batch_size, answered.sum()
        for first in range(0, len(whole), size):
            part = slice(first, first + size)
            self._policy_loss(
                whole[part], answered[part], advantages[part].to(self.device), num_tokens
            ).backward()
        self._update()
        # an answer's last token is only a label
        num_passed = whole.shape[0] * (ids.shape[1] - 1) + int(num_tokens)
        return int(num_tokens) / len(whole), int(num_tokens), num_passed

    def _generate(self, ids: Tensor) -> Tensor:
        generation = self.recipe.policy.generation
        assert generation is not None
        self.model.eval()
        with self._autocast(), torch.no_grad():
            found: Tensor = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=generation.max_new_tokens,
                eos_token_id=self._stop_ids,
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
            )
        self.model.train()
        return found

    def _rewards(
        self, answers: Tensor, answered: Tensor, prompts: Sequence[Prompt], group: int
    ) -> Tensor:
        rewards = []
        rows = zip(answers.tolist(), answered.sum(dim=1).tolist(), strict=True)
        for number, (tokens, length) in enumerate(rows):
            text = self.tokenizer.decode(tokens[:length], skip_special_tokens=True)
            task = prompts[number // group].task
            rewards.append(token_overlap(Judged(text, length, len(tokens), True, task)))
        return torch.tensor(rewards)

    def _policy_loss(
        self, whole: Tensor, answered: Tensor, advantages: Tensor, num_tokens: Tensor
    ) -> Tensor:
        """Clipped ratio (1 before the only update) and k3 divergence, by token."""
        assert self.recipe.grpo is not None
        num_new = answered.shape[1]
        current = self._log_probs(self.model, whole, num_new)
        with torch.no_grad():
            reference = self._log_probs(self._reference, whole, num_new)
        ratio = (current - current.detach()).exp()
        log_ratio = reference - current
        divergence = log_ratio.exp() - 1 - log_ratio
        losses = -ratio * advantages[:, None]
        losses = losses + self.recipe.grpo.reference_policy_kl_penalty * divergence
        return (losses * answered).sum() / num_tokens

    def _log_probs(self, model: Callable[..., Any], whole: Tensor, num_new: int) -> Tensor:
        """(rows, new) of the answers' tokens."""
        with self._autocast():
            logits = model(input_ids=whole[:, :-1], logits_to_keep=num_new).logits
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), whole[:, -num_new:].flatten(), reduction="none"
        )
        return -losses.view(-1, num_new)


def _until_stop(answers: Tensor, stop_ids: Sequence[int]) -> Tensor:
    """(rows, new): whether each token belongs to its answer, the one that ends it included."""
    stops = torch.isin(answers, torch.tensor(stop_ids, device=answers.device))
    return stops.cumsum(dim=1) - stops.int() == 0
