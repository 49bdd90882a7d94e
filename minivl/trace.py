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


class Watch:
    """Runs a generator of hidden states and keeps what was asked for: all the states, all the attention maps, or only
    the last state.
    """

    def __init__(self, ops: Any, attentions: bool, hidden_states: bool):
        self._maps: list[Any] | None = [] if attentions else None
        self._states: list[Any] | None = [] if hidden_states else None
        self.ops = ops if self._maps is None else watch_attention(ops, self._maps)

    def run(self, network):
        for x in network(self.ops):
            if self._states is not None:
                self._states.append(x)
        return x

    @property
    def attentions(self):
        return None if self._maps is None else tuple(self._maps)

    @property
    def hidden_states(self):
        return None if self._states is None else tuple(self._states)
