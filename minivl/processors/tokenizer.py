"""Text to ids and back: a thin coat over the `tokenizers` library, with the calling habits of transformers 4.37."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import replacing, show
from ..errors import InputError, TokenizerError
from . import calls
from . import tokenizer_files as text_files
from .calls import BatchFeature, check_kind, tensors

if TYPE_CHECKING:
    import tokenizers

# What English writes without a blank and 4.37 joins again after decoding, in its order.
JOINED = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")]
JOINED += [(" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]


@dataclass
class Tokenizer:
    """Text -> input_ids and attention_mask; ids -> text.

    `backend` is a `tokenizers.Tokenizer`, which puts the BOS before a text (OPT), the EOS behind it (T5) or both around
    it (RoBERTa) by itself.
    `padding_side` is "left" for a model that goes on writing where the text ends, "right" for an encoder.

    A special token's name inside a text ("</s>", "<pad>", "<image>") becomes that token, as it does in transformers;
    with `split_special_tokens`, for the text of strangers, it is read as the letters that it is written with.
    """

    backend: tokenizers.Tokenizer
    bos_token: str | None = None
    eos_token: str | None = None
    unk_token: str | None = None
    pad_token: str | None = None
    mask_token: str | None = None
    padding_side: str = "right"
    truncation_side: str = "right"
    model_max_length: int = text_files.NO_LIMIT
    clean_up_tokenization_spaces: bool = True
    split_special_tokens: bool = False

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], family: str | None = None) -> Tokenizer:
        """Read a folder's tokenizer.json, or its vocab.json and merges.txt; `text_files.load` says what counts."""
        backend, settings = text_files.load(Path(folder), family)
        return cls(backend, **settings)

    def __len__(self) -> int:
        """How many tokens there are, the added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_token_id(self) -> int | None:
        return self._id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return self._id(self.eos_token)

    @property
    def unk_token_id(self) -> int | None:
        return self._id(self.unk_token)

    @property
    def pad_token_id(self) -> int | None:
        return self._id(self.pad_token)

    @property
    def mask_token_id(self) -> int | None:
        return self._id(self.mask_token)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.backend.token_to_id(token)

    def __call__(
        self,
        text: str | list[str],
        text_pair: str | list[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """A text or a list of texts -> a batch of `input_ids` and `attention_mask` (1 for text, 0 for padding).

        text_pair       a second text for each, read in the same row behind the first.
        padding         True or "longest": to the longest row; "max_length": to max_length; False: not at all.
                        None, the default, pads a list to its longest row whenever tensors are asked for, because
                        rows of different lengths make no tensor; without tensors the rows stay as they are.
        truncation      True cuts a row to max_length tokens, special ones included and kept; False never cuts.
                        None cuts if max_length is given, except beside padding="max_length", which then only pads.
                        Of a pair the longer text is cut until both are as long, then both; "only_first" or
                        "only_second" cuts that one alone.
        max_length      the longest row in tokens; the tokenizer's own `model_max_length` if left out.
        return_tensors  "np" or "pt": int64 (B, T), also for a single text; None: lists of ints, flat for a single text.
        """
        check_kind(return_tensors)
        texts = calls.rows(text, text_pair)
        if padding is None and return_tensors and not isinstance(text, str):
            padding = True
        if truncation is None:
            truncation = max_length is not None and padding != "max_length"
        limit = self._limit(max_length)
        ways = ("longest_first", "only_first", *(() if text_pair is None else ("only_second",)))
        cut = limit if calls.choice("truncation", truncation, ways, "do_not_truncate") else None
        rows = [self._encode(row, add_special_tokens, cut, truncation, f"text[{i}]") for i, row in enumerate(texts)]

        width = 0
        if calls.choice("padding", padding or False, ("longest", "max_length"), "do_not_pad"):
            width = max(len(row) for row in rows)
            if padding == "max_length":
                if limit is None:
                    raise InputError('padding="max_length" needs max_length: the tokenizer has none of its own')
                width = limit
        elif return_tensors and len(lengths := sorted({len(row) for row in rows})) > 1:
            raise InputError(f"padding=False leaves rows of {show(lengths)} tokens, no tensor: use padding=True")
        ids, mask = self._padded(rows, width)
        if isinstance(text, str) and return_tensors is None:
            return BatchFeature(input_ids=ids[0], attention_mask=mask[0])
        return BatchFeature(
            input_ids=tensors(ids, return_tensors, "int64"), attention_mask=tensors(mask, return_tensors, "int64")
        )

    def _limit(self, max_length: int | None) -> int | None:
        if max_length is None:
            return self.model_max_length if self.model_max_length < text_files.NO_LIMIT else None
        if isinstance(max_length, bool) or not hasattr(max_length, "__index__") or int(max_length) < 1:
            raise InputError(f"max_length: wanted a whole number above 0, found {show(max_length)}")
        return int(max_length)

    def _encode(
        self, texts: tuple[str, ...], add_special_tokens: bool, cut: int | None, truncation: Any, name: str
    ) -> list[int]:
        """The ids of one text or a pair.  What is cut off comes from the texts, never from the special tokens."""
        with text_files.guarded(name):
            self.backend.encode_special_tokens = self.split_special_tokens
            parts = [self.backend.encode(text, add_special_tokens=False) for text in texts]
            if cut is not None:
                room = cut - self.backend.num_special_tokens_to_add(len(parts) == 2) * add_special_tokens
                kept = calls.shares([len(part) for part in parts], max(room, 0), truncation, name)
                for part, length in zip(parts, kept, strict=True):
                    part.truncate(length, direction=self.truncation_side)
            second = parts[1] if len(parts) == 2 else None
            return self.backend.post_process(parts[0], second, add_special_tokens).ids

    def _padded(self, rows: list[list[int]], width: int) -> tuple[list[list[int]], list[list[int]]]:
        """(ids, mask), each row filled up to `width` with the padding token and zeros."""
        pad = self.pad_token_id
        if pad is None and any(len(row) < width for row in rows):
            raise TokenizerError("padding needs a padding token: name one as pad_token in tokenizer_config.json")

        def fill(row: list[int], value: int) -> list[int]:
            gap = [value] * (width - len(row))
            return gap + row if self.padding_side == "left" else row + gap

        return [fill(row, pad or 0) for row in rows], [fill([1] * len(row), 0) for row in rows]

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of one row of ids (a list, an array, a tensor or one int).

        An id beyond the vocabulary gives no text, as in transformers: models have more rows than their tokenizers.
        Blanks before "." and the like are taken out unless clean_up_tokenization_spaces is False.
        """
        with text_files.guarded("decode"):
            text = self.backend.decode(calls.one_row(ids), skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return joined(text) if clean_up_tokenization_spaces else text

    def batch_decode(
        self,
        sequences: Iterable[Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """`decode` for each row."""
        return [self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces) for ids in sequences]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write tokenizer.json and tokenizer_config.json, each whole or not at all; transformers reads them too."""
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for name in (*text_files.SPECIAL, *text_files.OPTIONS):
            if getattr(self, name) is not None:
                settings[name] = getattr(self, name)
        if not self.backend.num_special_tokens_to_add(False):
            settings["add_bos_token"] = False  # else OPT's habit would be assumed when this is read back
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "tokenizer.json") as file:
            file.write(self.backend.to_str().encode())
        with replacing(folder / "tokenizer_config.json") as file:
            file.write((json.dumps(settings, indent=2) + "\n").encode())


def joined(text: str) -> str:
    """The text without the blanks that English does not write."""
    for apart, together in JOINED:
        text = text.replace(apart, together)
    return text
