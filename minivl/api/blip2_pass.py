"""One pass of BLIP-2, with everything that transformers gives back: picture, queries, and the language model's logits.

The language model comes in two forms, OPT and T5. Each is checked when it is made, from what the caller gave, and run
once the picture has become soft prompt tokens:

    text = PASSES["t5"](config, rows, labels, decoder_input_ids, decoder_attention_mask)
    loss, logits, outputs = text(ops, params, embeds, mask, output_attentions, output_hidden_states)

loss is None without labels. Letters: B batch, S soft prompt tokens and prompt, T labels, V vocabulary, C width.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..inputs import same_rows, to_floats, to_ids, to_prompt, without_placeholders
from ..models import blip2, opt, qformer, t5, vit
from ..outputs import Blip2Output, CausalLMOutput, QFormerOutput, Seq2SeqLMOutput, VisionOutput
from ..tracing import Watch


def run(
    model: Any,
    pixel_values: Any,
    input_ids: Any,
    attention_mask: Any,
    given: tuple[Any, Any, Any],
    output_attentions: bool,
    output_hidden_states: bool,
) -> Blip2Output:
    """What Blip2ForConditionalGeneration's call promises.   given: labels, decoder_input_ids, decoder_attention_mask"""
    ops, p, c = model.ops, model.params, model.config
    ids, mask = without_placeholders(*to_prompt(input_ids, attention_mask), c.image_token_index, c.num_query_tokens)
    text = PASSES[c.text_config.model_type](c.text_config, len(ids), *given)
    vision, answers = look(model, pixel_values, output_attentions, output_hidden_states)
    soft_words = ops.linear(answers.last_hidden_state, **p["projection"])
    same_rows(soft_words.shape[0], len(ids))
    embeds, mask = blip2.prompt(ops, p, soft_words, ops.from_numpy(ids), ops.from_numpy(mask))
    loss, logits, said = text(ops, p["language"], embeds, mask, output_attentions, output_hidden_states)
    return Blip2Output(loss, logits, vision, answers, said)


def look(model: Any, pixel_values: Any, attentions: bool, hidden_states: bool) -> tuple[VisionOutput, QFormerOutput]:
    """The vision tower and the Q-Former, with the states and maps that were asked for."""
    ops, p, c = model.ops, model.params, model.config
    pixels = ops.from_numpy(to_floats(pixel_values, "pixel_values", 4))
    watch = Watch(ops, attentions, hidden_states)
    last = watch.run(lambda ops: vit.states(ops, p["vision"], pixels, c.vision_config))
    image = ops.layer_norm(last, **p["vision"]["ln"])
    vision = VisionOutput(image, vit.pool(ops, p["vision"], image), watch.hidden_states, watch.attentions)
    watch = Watch(ops, attentions, hidden_states)
    last = watch.run(lambda ops: qformer.states(ops, p["qformer"], p["queries"], image, c.qformer_config))
    own, cross = watch.attentions, None
    if own is not None:  # each layer first attends to itself, then, if it can, to the picture
        maps = iter(own)
        pairs = [(next(maps), next(maps) if "cross" in layer else None) for layer in p["qformer"]["layers"]]
        own, cross = tuple(a for a, _ in pairs), tuple(b for _, b in pairs if b is not None)
    return vision, QFormerOutput(last, last[:, 0], watch.hidden_states, own, cross)


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
