"""One pass of BLIP-2's language model, in the two forms that there are: OPT and T5.

Each form is checked when it is made, from what the caller gave, and run once the picture has become soft words:

    text = PASSES["t5"](config, rows, labels, decoder_input_ids, decoder_attention_mask)
    loss, logits, outputs = text(ops, params, embeds, mask, output_attentions, output_hidden_states)

loss is None without labels. Letters: B batch, S soft words and prompt, T labels, V vocabulary, C width.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..inputs import same_rows, to_ids, to_prompt
from ..models import opt, t5
from ..outputs import CausalLMOutput, Seq2SeqLMOutput
from ..tracing import Watch


class OPTPass:
    """Every place predicts the word after it; with labels only the last T logits are given, and the loss is that of
    predicting each label but the first from what stands before it.
    """

    def __init__(
        self, config: Any, rows: int, labels: Any, decoder_input_ids: Any = None, decoder_attention_mask: Any = None
    ):
        given = {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name} is for T5, whose decoder reads words of its own; this language model is OPT")
        self.config, self.rows = config, rows
        self.labels = None if labels is None else to_ids(labels, "labels")

    def __call__(self, ops: Any, p: Any, embeds: Any, mask: Any, attentions: bool, hidden_states: bool) -> tuple:
        watch = Watch(ops, attentions, hidden_states)
        last = watch.run(lambda ops: opt.states(ops, p, embeds, mask, self.config))
        logits = opt.logits(ops, p, last)
        outputs = CausalLMOutput(None, logits, watch.hidden_states, watch.attentions)
        if self.labels is None:
            return None, logits, outputs
        if len(self.labels) != self.rows or self.labels.shape[1] > logits.shape[1]:
            found = f"labels have shape {self.labels.shape}"
            raise InputError(f"{found}, the {self.rows} rows of logits have {logits.shape[1]} places each")
        targets = ops.from_numpy(self.labels)
        logits = logits[:, -targets.shape[1] :]
        return ops.cross_entropy(logits[:, :-1], targets[:, 1:]), logits, outputs


class T5Pass:
    """The encoder reads soft words and prompt, the decoder `decoder_input_ids`, or the labels one place later; the loss
    is that of predicting each label.
    """

    def __init__(
        self, config: Any, rows: int, labels: Any, decoder_input_ids: Any = None, decoder_attention_mask: Any = None
    ):
        if labels is None and decoder_input_ids is None:
            raise InputError(
                "T5 writes with a decoder: give labels or decoder_input_ids for it to read, or let generate() write"
            )
        self.config = config
        self.labels = None if labels is None else to_ids(labels, "labels")
        words = t5.shift_right(self.labels, config) if decoder_input_ids is None else decoder_input_ids
        self.words, mask = to_prompt(words, decoder_attention_mask, "decoder_")
        self.mask = None if mask.all() else mask
        same_rows(rows, len(self.words))
        if self.labels is not None and self.labels.shape != self.words.shape:
            found = f"labels have shape {self.labels.shape}, decoder_input_ids {self.words.shape}"
            raise InputError(f"{found}: they must be equal")

    def __call__(self, ops: Any, p: Any, embeds: Any, mask: Any, attentions: bool, hidden_states: bool) -> tuple:
        config, inner, outer = self.config, *(Watch(ops, attentions, hidden_states) for _ in range(2))
        encoded = inner.run(lambda ops: t5.encoder_states(ops, p, embeds, mask, config))
        memory = t5.remember(ops, p, encoded, config)
        words = ops.embed(ops.from_numpy(self.words), p["tokens"])
        own = None if self.mask is None else ops.from_numpy(self.mask)
        last = outer.run(lambda ops: t5.decoder_states(ops, p, words, memory, mask, config, own))
        logits = t5.logits(ops, p, last, config)
        loss = None if self.labels is None else ops.cross_entropy(logits, ops.from_numpy(self.labels))
        maps = outer.attentions  # each layer first attends to the words so far, then to the memory
        own, cross = (None, None) if maps is None else (maps[::2], maps[1::2])
        heard = encoded, inner.hidden_states, inner.attentions
        return loss, logits, Seq2SeqLMOutput(loss, logits, outer.hidden_states, own, cross, *heard)


PASSES: dict[str, type[OPTPass] | type[T5Pass]] = {"opt": OPTPass, "t5": T5Pass}
