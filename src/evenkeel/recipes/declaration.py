"""How the schema declares a field: default, bounds, and whether it shapes the loss curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SHAPES_CURVE = "shapes_curve"
BOUNDS = "bounds"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a field's value must keep to, beside its type; for a list, each of its elements."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    length: int | None = None
    """Elements of a list."""

    def complaint(self, value: Any) -> str | None:
        """What ``value`` should be, where it is not."""
        if self.minimum is not None and value < self.minimum:
            return f"must be at least {self.minimum}"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum}"
        if self.above is not None and value <= self.above:
            return f"must be above {self.above}"
        if self.below is not None and value >= self.below:
            return f"must be below {self.below}"
        return None


AT_LEAST_0 = Bounds(minimum=0)
AT_LEAST_1 = Bounds(minimum=1)
POSITIVE = Bounds(above=0)
SHARE = Bounds(minimum=0, maximum=1)


def shapes_curve(default: Any, bounds: Bounds | None = None) -> Any:
    """A field that belongs to the fingerprint."""
    return _declared(default, True, bounds)


def layout_only(default: Any, bounds: Bounds | None = None) -> Any:
    """A field that may change how a run is carried out, not what it computes."""
    return _declared(default, False, bounds)


def _declared(default: Any, relevant: bool, bounds: Bounds | None) -> Any:
    metadata = {SHAPES_CURVE: relevant, BOUNDS: bounds}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)
