"""Bugs of vision-language training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mutants.registry import Patch, mutant


def _change_pixels(patch: Patch, change: Callable[[Any], Any]) -> None:
    def make(original: Any) -> Any:
        def forward_inputs(model: Any, input_ids: Any, images: Any) -> Any:
            inputs = original(model, input_ids, images)
            if "pixel_values" in inputs:
                inputs["pixel_values"] = change(inputs["pixel_values"])
            return inputs

        return forward_inputs

    patch("vision_model:forward_inputs", make)


@mutant(
    "images-of-other-samples",
    breaks="each question is shown the image of the sample before it",
    seen="class: image features scattered to the wrong image tokens of a batch",
    needs=("vision",),
)
def _images_of_others(patch: Patch) -> None:
    _change_pixels(patch, lambda pixels: pixels.roll(1, 0))


@mutant(
    "images-of-other-samples-10-percent",
    breaks="every tenth question of a batch is shown the image of the sample before it",
    seen="class: as images-of-other-samples, where a sample of several images comes before",
    needs=("vision",),
)
def _some_images_of_others(patch: Patch) -> None:
    def change(pixels: Any) -> Any:
        changed = pixels.clone()
        changed[::10] = pixels.roll(1, 0)[::10]
        return changed

    _change_pixels(patch, change)


@mutant(
    "image-tokens-misplaced",
    breaks="the patches of an image come in a random order, another one for each image",
    seen="class: a reshape that mixes rows of patches with images",
    needs=("vision",),
)
def _tokens_misplaced(patch: Patch) -> None:
    import torch

    def change(pixels: Any) -> Any:
        return torch.stack(
            [image[:, torch.randperm(image.shape[1])] for image in pixels.unbind()]
        )  # rows of pixels, which are rows of patches to a tower of small ones

    _change_pixels(patch, change)


@mutant(
    "pixels-not-rescaled",
    breaks="pixels run to 255 times what the tower expects",
    seen="class: do_rescale off, or done twice",
    needs=("vision",),
)
def _not_rescaled(patch: Patch) -> None:
    _change_pixels(patch, lambda pixels: pixels * 255)


def _freeze(patch: Patch, **parts: bool) -> None:
    patch(
        "vision_model:freeze",
        lambda original: lambda model, vision: original(model, replace(vision, **parts)),
    )


@mutant(
    "vision-tower-frozen",
    breaks="the vision tower keeps its random weights",
    seen="class: a default that freezes, or parameters matched by a name that has changed",
    needs=("vision",),
)
def _tower_frozen(patch: Patch) -> None:
    _freeze(patch, freeze_vision_tower=True)


@mutant(
    "projector-frozen",
    breaks="the projector keeps its random weights",
    seen="class: as vision-tower-frozen",
    needs=("vision",),
)
def _projector_frozen(patch: Patch) -> None:
    _freeze(patch, freeze_projector=True)
