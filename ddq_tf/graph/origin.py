"""Which layer of a user's model a layer comes from that was made in its place."""

from __future__ import annotations

from typing import Any

_ORIGIN = "_ddq_origin"


def origin_of(layer: Any) -> Any:
    """Returns the layer of the float model that a layer comes from; often itself."""
    return getattr(layer, _ORIGIN, layer)


def set_origin(made: Any, original: Any) -> None:
    """Notes where a layer comes from: from where the original does.

    Not by setattr: Keras would take the original for a part of the layer.
    """
    object.__setattr__(made, _ORIGIN, origin_of(original))
