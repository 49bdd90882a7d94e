"""Blip2ForConditionalGeneration: models/blip2.py behind the names and arguments of transformers 4.37."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import generate
from ..config import Blip2Config
from ..errors import ConfigError, InputError
from ..models import blip2, opt, qformer, vit
from ..outputs import Blip2Output, CausalLMOutput, QFormerOutput, VisionOutput
from ..trace import watch_attention
from ..weights import names, tree
from .inputs import same_rows, to_floats, to_ids, to_prompt
from .pretrained import Pretrained


class Blip2ForConditionalGeneration(Pretrained):
    """A picture, and perhaps the beginning of a text, becomes a text.

        model = Blip2ForConditionalGeneration.from_pretrained("demo")
        ids = model.generate(**processor(images=picture, return_tensors="np"))

    Source: Blip2ForConditionalGeneration in transformers 4.37.
    """

    config_class = Blip2Config
    ignored = names.BLIP2_IGNORED

    @classmethod
    def table(cls, config: Blip2Config) -> tree.Table:
        found = config.text_config.model_type
        if found != "opt":
            raise ConfigError(f"text_config.model_type is {found!r}: this version of minivl reads BLIP-2 with 'opt'")
        return names.blip2(config)

    def __call__(
        self,
        pixel_values: Any,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        labels: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = True,
    ) -> Blip2Output | tuple[Any, ...]:
        """One pass over pictures and texts.

        pixel_values (B, 3, Y, X)   input_ids, attention_mask, labels (B, T)
        logits (B, Q + T, V), the picture's Q positions first; with labels only the last T, and the loss of predicting
        each label but the first from what stands before it, in nats per token (labels of -100 do not count).
        """
        ops, p, c = self.ops, self.params, self.config
        ids, mask = to_prompt(input_ids, attention_mask)
        vision, answers = self._look(pixel_values, output_attentions, output_hidden_states)
        soft_words = ops.linear(answers.last_hidden_state, **p["projection"])
        same_rows(soft_words.shape[0], len(ids))
        embeds, mask = blip2.prompt(ops, p, soft_words, ops.from_numpy(ids), ops.from_numpy(mask))
        watch = Watch(ops, output_attentions, output_hidden_states)
        last = watch.run(lambda ops: opt.states(ops, p["language"], embeds, mask, c.text_config))
        logits, loss = opt.logits(ops, p["language"], last), None
        text = CausalLMOutput(None, logits, watch.hidden_states, watch.attentions)
        if labels is not None:
            wanted = to_ids(labels, "labels")
            if len(wanted) != len(ids) or wanted.shape[1] > logits.shape[1]:
                found = f"labels have shape {wanted.shape}"
                raise InputError(f"{found}, the {len(ids)} rows of logits have {logits.shape[1]} places each")
            targets = ops.from_numpy(wanted)
            logits = logits[:, -targets.shape[1] :]
            loss = ops.cross_entropy(logits[:, :-1], targets[:, 1:])
        output = Blip2Output(loss, logits, vision, answers, text)
        return output.to_tuple() if return_dict is False else output

    def generate(
        self,
        pixel_values: Any,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        max_new_tokens: int | None = None,
        max_length: int | None = None,
        min_length: int | None = None,
        min_new_tokens: int | None = None,
    ) -> np.ndarray:
        """The most probable text, token by token.

        pixel_values (B, 3, Y, X)
        input_ids, attention_mask (B, T), padded on either side; without them the model says what it sees
        ->  int64 ids (B, 1 + new): [BOS, new ...], the prompt not among them

        The default is at most 19 new tokens, as in transformers 4.37.
        """
        limits = generate.lengths(max_new_tokens, max_length, min_length, min_new_tokens)
        text = self.config.text_config
        if text.bos_token_id is None:
            raise ConfigError("text_config.bos_token_id is null: generate needs it as the first token of every answer")
        pixels = to_floats(pixel_values, "pixel_values", 4)
        if input_ids is None:
            input_ids = np.full((len(pixels), 1), text.bos_token_id)
        ids, mask = to_prompt(input_ids, attention_mask)
        same_rows(len(pixels), len(ids))
        step = self._step(pixels, ids, mask)
        return generate.greedy(
            step, len(ids), limits, bos=text.bos_token_id, eos=text.eos_token_id, pad=text.pad_token_id
        )

    def _step(self, pixels: np.ndarray, ids: np.ndarray, mask: np.ndarray):
        """The function that `generate.greedy` calls: first for the prompt, then for one token a row."""
        ops, p, c = self.ops, self.params, self.config
        cache = opt.new_cache(p["language"])
        soft_words = blip2.see(ops, p, ops.from_numpy(pixels), c)
        embeds, seen = blip2.prompt(ops, p, soft_words, ops.from_numpy(ids), ops.from_numpy(mask))
        end = (
            embeds.shape[1] - 1 - mask[:, ::-1].argmax(1)
        )  # (B,) the last real token: a right-padded prompt ends earlier

        def step(tokens):
            nonlocal seen
            if tokens is None:
                x = blip2.read(ops, p, embeds, seen, c, cache)[np.arange(len(end)), end]
            else:
                seen = ops.concat([seen, seen[:, :1]], 1)
                x = blip2.read(
                    ops, p, ops.embed(ops.from_numpy(tokens[:, None]), p["language"]["tokens"]), seen, c, cache
                )[:, 0]
            return ops.to_numpy(opt.logits(ops, p["language"], x))

        return step

    def _look(self, pixel_values: Any, attentions: bool, hidden_states: bool) -> tuple[VisionOutput, QFormerOutput]:
        ops, p, c = self.ops, self.params, self.config
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
