"""Blip2ForConditionalGeneration: models/blip2.py behind the names and arguments of transformers 4.37."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import generate
from ..config.blip2 import Blip2Config
from ..errors import ConfigError
from ..generate import Writing
from ..inputs import same_rows, to_floats, to_prompt, without_placeholders
from ..models import blip2
from ..ops.numpy import by_rows
from ..weights import files, names, tree
from .pretrained import Pretrained, Tensors

if TYPE_CHECKING:
    from ..outputs import Blip2Output
    from ..player import AttentionTrace


class Blip2ForConditionalGeneration(Pretrained):
    """A picture, and perhaps the beginning of a text, becomes a text.

        model = Blip2ForConditionalGeneration.from_pretrained("demo")
        ids = model.generate(**processor(images=picture, return_tensors="np"))

    Source: Blip2ForConditionalGeneration in transformers 4.37.
    """

    config_class = Blip2Config
    ignored = names.BLIP2_IGNORED

    @staticmethod
    def too_narrow(config: Blip2Config, dtype: str) -> bool:
        return dtype == "float16" and config.text_config.model_type == "t5"  # T5's sums outgrow it and become nan

    @classmethod
    def table(cls, config: Blip2Config) -> tree.Table:
        return names.blip2(config)

    @classmethod
    def adapted(cls, tensors: Tensors, config: Blip2Config, where: str) -> Tensors:
        """LAVIS keeps the biases of queries and values alone, for that of the keys is zero: here they are one."""
        found = dict(tensors)
        vectors = {name for name, stored in tensors.items() if stored.array.ndim == 1}
        for name in [name for name in tensors if name.endswith(".q_bias")]:
            layer = name.removesuffix("q_bias")
            if {name, f"{layer}v_bias"} <= vectors and f"{layer}qkv.bias" not in found:
                q, v = (found.pop(f"{layer}{part}").float32() for part in ("q_bias", "v_bias"))
                fused = np.concatenate([q, np.zeros_like(q), v])
                found[f"{layer}qkv.bias"] = files.Stored("F32", fused, f"{layer}qkv.bias")
        return found

    def __call__(
        self,
        pixel_values: Any,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        labels: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = True,
    ) -> Blip2Output | tuple[Any, ...]:
        """One pass over pictures and texts.

        pixel_values (B, 3, Y, X)   input_ids, attention_mask (B, T)

        OPT   labels (B, T), as long as the text: logits (B, Q + T, V), the picture's Q places first; with labels only
              the last T, and the loss of predicting each label but the first from what stands before it
        T5    labels or decoder_input_ids (B, U), and perhaps decoder_attention_mask: logits (B, U, V), and with labels
              the loss of predicting each; without decoder_input_ids the decoder reads the labels one place later

        The loss is in nats per label, and labels of -100 do not count.
        """
        from .blip2_pass import run

        given = labels, decoder_input_ids, decoder_attention_mask
        output = run(self, pixel_values, input_ids, attention_mask, given, output_attentions, output_hidden_states)
        return output.to_tuple() if return_dict is False else output

    def generate(
        self, pixel_values: Any, input_ids: Any = None, attention_mask: Any = None, **settings: Any
    ) -> np.ndarray:
        """Write a text about each picture, token by token.

        pixel_values (B, 3, Y, X)
        input_ids, attention_mask (B, T), padded on either side; without them the model says what it sees
        settings    fields of `generate.Settings`, where each is explained:
                    max_new_tokens, max_length, min_new_tokens, min_length (at most 19 new tokens, if nothing is said),
                    eos_token_id, pad_token_id, stop with tokenizer,
                    num_beams, length_penalty, early_stopping, num_return_sequences,
                    do_sample, temperature, top_k, top_p, seed, repetition_penalty, no_repeat_ngram_size, streamer
        ->  int64 ids (B · num_return_sequences, 1 + new): [first token, new ...], the prompt not among them

        The ids are those of transformers 4.37, token for token, wherever chance plays no part.
        """
        return generate.run(*self.writing(pixel_values, input_ids, attention_mask, **settings))

    def writing(self, pixel_values: Any, input_ids: Any = None, attention_mask: Any = None, **settings: Any) -> Writing:
        """What `generate` starts from: a reader of picture and prompt that has not begun to read, and the settings."""
        wanted, text = generate.Settings.of(**settings), self.config.text_config
        pixels, ids, mask = self.prompts(pixel_values, input_ids, attention_mask)
        tokens = generate.Tokens(blip2.language(self.config).first_token(text), text.eos_token_id, text.pad_token_id)
        return generate.Writing(self._reader(pixels, ids, mask), len(ids), wanted, tokens)

    def prompts(
        self, pixel_values: Any, input_ids: Any = None, attention_mask: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pictures and the beginnings of their texts, checked; without input_ids a text begins with its first token.

        ->  pixels (B, 3, Y, X), ids and mask (B, T)
        """
        text = self.config.text_config
        first = blip2.language(self.config).first_token(text)
        if first is None or (text.bos_token_id is None and input_ids is None):
            raise ConfigError("text_config.bos_token_id is null: generate needs it as the first token of every answer")
        pixels = to_floats(pixel_values, "pixel_values", 4)
        if input_ids is None:
            input_ids = np.full((len(pixels), 1), text.bos_token_id)
        places = self.config.num_query_tokens
        ids, mask = without_placeholders(*to_prompt(input_ids, attention_mask), self.config.image_token_index, places)
        same_rows(len(pixels), len(ids))
        return pixels, ids, mask

    def trace(
        self,
        pixel_values: Any,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        tokenizer: Any = None,
        **settings: Any,
    ) -> AttentionTrace:
        """What `generate` writes about one picture, with everything that was looked at on the way, as named arrays.

        tokenizer   a tokenizer or a processor: names the words; without it they are numbers
        settings    those of `generate`, without beams
        ->  AttentionTrace (player/record.py): named arrays that can be saved as a page and seen in a notebook
        """
        from ..player.blip2 import trace

        return trace(self, pixel_values, input_ids, attention_mask, tokenizer, **settings)

    def _reader(self, pixels: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> Any:
        """What minivl/generate asks for the next token: `step` and `reorder`, see models/opt.py's Reader."""
        ops, p, c = self.ops, self.without_gradients(), self.config
        soft_words = by_rows(ops, lambda pixels: blip2.see(ops, p, pixels, c), ops.from_numpy(pixels))
        embeds, seen = blip2.prompt(ops, p, soft_words, ops.from_numpy(ids), ops.from_numpy(mask))
        return blip2.language(c).Reader(ops, p["language"], embeds, seen, c.text_config)
