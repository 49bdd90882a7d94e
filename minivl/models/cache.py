"""The keys and values of tokens already read, so that each new token is computed once."""

from __future__ import annotations

from typing import Any


class KeyValueCache:
    """One layer's keys and values, (B, H, S, D) each, growing along S.

    The buffers double when they are full, so appending one token at a time costs a constant amount on average.
    """

    def __init__(self):
        self.length = 0
        self._keys: Any = None
        self._values: Any = None

    def append(self, ops, k, v):
        """Add k, v (B, H, T, D); give back all keys and values so far, (B, H, S, D) each, as views of the buffers."""
        end = self.length + k.shape[2]
        if self._keys is None or end > self._keys.shape[2]:
            self._keys = self._grown(ops, self._keys, k)
            self._values = self._grown(ops, self._values, v)
        self._keys[:, :, self.length : end] = k
        self._values[:, :, self.length : end] = v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def reorder(self, rows):
        """From now on row i holds what row rows[i] held; rows may repeat, and be more or fewer than before."""
        if self._keys is not None:
            self._keys, self._values = self._keys[rows], self._values[rows]

    def _grown(self, ops, buffer, new):
        """A buffer with room for twice what there will be; only its first `length` tokens mean anything."""
        room = ops.concat([new, new], 2)
        return (
            room if buffer is None else ops.concat([buffer[:, :, : self.length], room, buffer[:, :, : self.length]], 2)
        )
