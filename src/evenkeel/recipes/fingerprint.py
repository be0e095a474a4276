"""Which fields of a recipe shape its loss curve, and the hash over them.

The schema says it per field; a section's fields decide for it, and everything below a free-form
mapping counts as the mapping does. Fields without a value (null, an empty mapping) are left out,
so that a field added to the schema later leaves the fingerprints of existing recipes as they are.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from evenkeel.recipes import schema
from evenkeel.recipes.typed import FieldType, fields_of, known_keys

_ALGORITHMS = frozenset(schema.Algorithm)


@cache
def is_convergence_relevant(dotted_key: str) -> bool:
    """Whether a change of this key can change the curve. Unknown keys can: nobody knows better."""
    known = known_keys()
    parts = dotted_key.split(".")
    for length in range(len(parts), 0, -1):
        field_type = known.get(".".join(parts[:length]))
        if field_type is None:
            continue
        if length == len(parts) and field_type.is_section:
            prefix = f"{dotted_key}."
            return any(
                child.shapes_curve and not child.is_section
                for key, child in known.items()
                if key.startswith(prefix)
            )
        return True if field_type.is_section else field_type.shapes_curve
    return True


def convergence_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The convergence-relevant values by dotted key, sorted; free-form mappings are flattened.

    Args:
        values: ``ResolvedRecipe.values``.
    """
    found: dict[str, Any] = {}
    own = values.get("algorithm")
    for name, field_type in fields_of(schema.Recipe).items():
        if name in values and (name not in _ALGORITHMS or name == own):
            _collect(field_type, values[name], name, found)
    return dict(sorted(found.items()))


def _collect(field_type: FieldType, value: Any, dotted: str, found: dict[str, Any]) -> None:
    if field_type.is_section and isinstance(value, dict):
        for name, child in fields_of(field_type.kind).items():
            if name in value:
                _collect(child, value[name], f"{dotted}.{name}", found)
    elif field_type.shapes_curve:
        _flatten(value, dotted, found)


def _flatten(value: Any, dotted: str, found: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, child in value.items():
            _flatten(child, f"{dotted}.{key}", found)
    elif value is not None:
        found[dotted] = value


def fingerprint(values: dict[str, Any]) -> str:
    """SHA-256, as hex, over the convergence fields as JSON with sorted keys and no spaces."""
    text = json.dumps(convergence_fields(values), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
