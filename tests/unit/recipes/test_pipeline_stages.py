"""Layers over pipeline stages."""

from __future__ import annotations

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.pipeline_stages import layers_of_stages


def test_every_layer_is_on_one_stage_in_order() -> None:
    assert layers_of_stages(3, 1) == [range(3)]
    assert layers_of_stages(6, 3) == [range(2), range(2, 4), range(4, 6)]
    assert layers_of_stages(27, 4, first=6) == [
        range(6),
        range(6, 13),
        range(13, 20),
        range(20, 27),
    ]
    assert layers_of_stages(5, 2, last=1) == [range(4), range(4, 5)]


def test_layers_that_do_not_divide_are_refused_with_what_to_set() -> None:
    with pytest.raises(InputError, match="27 layers do not divide over 4") as refused:
        layers_of_stages(27, 4)
    assert "num_layers_in_first_pipeline_stage" in str(refused.value)
    with pytest.raises(
        InputError, match="6 layers do not divide over 2 pipeline stages of 2 pieces"
    ):
        layers_of_stages(6, 2, vpp=2)
