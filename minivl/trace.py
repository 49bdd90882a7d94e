"""What flows through a model, seen from outside: a record of ops can be wrapped, and the model does not notice."""

from __future__ import annotations

from typing import Any

from .ops import Ops


def watch_attention(ops: Ops, maps: list[Any]) -> Ops:
    """A record that also appends the attention weights (B, H, T, S) of every attention call to `maps`."""

    def attention(q, k, v, **how):
        maps.append(ops.attention_weights(q, k, **how))
        return ops.attention(q, k, v, **how)

    return ops._replace(attention=attention)
