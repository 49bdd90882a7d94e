"""The language models at their real size: reading a prompt, and writing token after token, in every form of weights.

Each side reads the same 40 embedded tokens and is then given the same tokens to go on with, so that scores can be
compared: chosen by the model itself, nearly equal scores would part the sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ... import ops as ops_records
from ...config.blip2 import OPTConfig, T5Config
from ...models import opt, t5
from ...ops import quantised as quant
from ...weights import names
from . import others, sizes, weights
from .clock import TOLERANCES, Side, measure
from .machine import product_limit, reading_limit
from .rows import Plan

TOKENS = tuple(range(100, 108))  # what is written, one by one
SMALLER = 0.005  # spread of T5's weights: its scores are not divided by √D, and large ones magnify every rounding
Prompt = tuple[np.ndarray, np.ndarray]


def opt_rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """prefill and decode, in float32 and bfloat16."""
    config = OPTConfig(**sizes.opt(plan.layers))
    table = list(names.opt(config))
    full, half = weights.draw(table), weights.draw(table, "BF16")
    p = weights.tree_of(table, full)
    writers: dict[str, Any] = {}
    if plan.others:
        writers = {"transformers float32": _their_opt(plan, full), "transformers bfloat16": _their_opt(plan, half)}
    writers["minivl float32"] = Ours(opt.Reader, p, config)
    writers["minivl bfloat16"] = Ours(opt.Reader, weights.tree_of(table, half, "bfloat16"), config, narrow=True)
    yield from _both(plan, "", f"OPT-2.7b, {config.num_hidden_layers} layers", config.hidden_size, writers, p)


def opt_8bit_rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """prefill and decode with weights in 8 bits, beside bfloat16."""
    import gc

    config = OPTConfig(**sizes.opt(plan.layers))
    table = list(names.opt(config))
    half = weights.draw(table, "BF16")
    writers: dict[str, Any] = {}
    if plan.others:
        writers["transformers bfloat16"] = _their_opt(plan, half)
        writers["torch int8"] = _their_opt(plan, half, others.in_8_bits)
    p = weights.tree_of(table, half, "weight-only")
    writers["minivl weight-only"] = Ours(opt.Reader, p, config, narrow=True)
    writers["minivl int8"] = Ours(opt.Reader, weights.tree_of(table, half, "int8"), config, narrow=True)
    gc.collect()
    yield from _both(plan, "-8bit", f"OPT-2.7b, {config.num_hidden_layers} layers", config.hidden_size, writers, p)


def t5_rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """t5-decode."""
    config = T5Config(**sizes.t5(plan.layers))
    table = list(names.t5(config))
    full, half = weights.draw(table, "F32", SMALLER), weights.draw(table, "BF16", SMALLER)
    p = weights.tree_of(table, full)
    writers: dict[str, Any] = {}
    if plan.others:
        writers = {"transformers float32": TheirT5(plan, full), "transformers bfloat16": TheirT5(plan, half)}
    writers["minivl float32"] = Ours(t5.Reader, p, config)
    writers["minivl bfloat16"] = Ours(t5.Reader, weights.tree_of(table, half, "bfloat16", "t5"), config, narrow=True)
    what = f"Flan-T5-XL, {config.num_decoder_layers} + {config.num_layers} layers, a token more"
    yield _decoding("t5-decode", what, plan, config.d_model, writers, read_by_t5(p))


def _both(plan: Plan, suffix: str, model: str, width: int, writers: Any, p: Any) -> Iterator[dict[str, Any]]:
    arrays = weights.leaves([p["layers"], p["tokens"]])
    if (row := f"prefill{suffix}") in plan.rows:
        embeds, mask = prompt(width)
        matrices = sum(array.size for array in weights.leaves(p["layers"]) if array.ndim == 2)
        work = 2.0 * (sizes.PROMPT * matrices + np.prod(p["tokens"].shape))
        sides = [_reading(name, writer, (embeds, mask), work) for name, writer in writers.items()]
        sides.append(product_limit(plan.others))
        yield measure(row, f"{model}, reading {sizes.PROMPT} tokens", sides, plan.rounds, limit="products")
    if (row := f"decode{suffix}") in plan.rows:
        yield _decoding(row, f"{model}, a token more", plan, width, writers, arrays)


def _decoding(row: str, what: str, plan: Plan, width: int, writers: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    sides = [_writing(name, writer, prompt(width), arrays) for name, writer in writers.items()]
    return measure(row, what, [*sides, reading_limit(arrays, plan.threads)], plan.rounds, limit="reading")


def prompt(width: int) -> Prompt:
    """What every side reads first: embedded tokens and their mask."""
    embeds = np.random.default_rng(1).normal(0, 0.5, (1, sizes.PROMPT, width)).astype(np.float32)
    return embeds, np.ones((1, sizes.PROMPT), np.int64)


def read_by_t5(p: Any) -> list[np.ndarray]:
    """The weights that a token of T5 needs: of the encoder only the keys and values that are there already."""
    layers = [
        {**layer, "cross": {name: part for name, part in layer["cross"].items() if name not in ("k", "v")}}
        for layer in p["decoder"]["layers"]
    ]
    return weights.leaves([layers, p["head"]])


# ---- sides -----------------------------------------------------------------------------------------------------------
def _kind(name: str) -> float:
    form = name.split()[1]
    return TOLERANCES.get(form, TOLERANCES["int8"])


def _whose(name: str) -> str:
    return "minivl" if name.startswith("minivl") else "other"


def _reading(name: str, writer: Any, given: Prompt, work: float) -> Side:
    return Side(name, _whose(name), lambda: writer.read(*given)[0], tolerance=_kind(name), work=work)


def _writing(name: str, writer: Any, given: Prompt, arrays: list[np.ndarray]) -> Side:
    """The prompt is read beforehand; each run goes on from there."""
    numbers = sum(array.size for array in arrays)
    work = numbers * {"float32": 4.0, "bfloat16": 2.0}.get(name.split()[1], 1.0)
    prepare: Callable[[], tuple[Any, ...]] = lambda: (writer.read(*given)[1],)  # noqa: E731
    return Side(name, _whose(name), writer.write, prepare, _kind(name), work, units=len(TOKENS))


class Ours:
    """One of our readers, as generate() uses it."""

    def __init__(self, make: Any, p: Any, config: Any, narrow: bool = False):
        ops = ops_records.get("numpy")
        self.make, self.p, self.config = make, p, config
        self.ops = quant.reading(ops) if narrow else ops

    def read(self, embeds: np.ndarray, mask: np.ndarray) -> tuple[Any, Any]:
        reader = self.make(self.ops, self.p, embeds, mask, self.config)
        return reader.step(None), reader

    def write(self, reader: Any) -> Any:
        for token in TOKENS:
            scores = reader.step(np.array([token]))
        return scores


class TheirOPT:
    """OPTForCausalLM with its own cache."""

    def __init__(self, module: Any):
        self.module, self.read, self.write = module, others.frozen(self._read), others.frozen(self._write)

    def _read(self, embeds: np.ndarray, mask: np.ndarray) -> tuple[Any, Any]:
        import torch

        x = torch.from_numpy(embeds).to(next(self.module.parameters()).dtype)
        out = self.module(inputs_embeds=x, attention_mask=torch.from_numpy(mask), use_cache=True, logits_to_keep=1)
        return out.logits[:, -1], out.past_key_values

    def _write(self, cache: Any) -> Any:
        import torch

        for token in TOKENS:
            out = self.module(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
        return out.logits[:, -1]


def _their_opt(plan: Plan, tensors: weights.Tensors, make: Callable[..., Any] = weights.module_of) -> TheirOPT:
    import transformers

    return TheirOPT(make(transformers.OPTForCausalLM, transformers.OPTConfig(**sizes.opt(plan.layers)), tensors))


class TheirT5:
    """T5ForConditionalGeneration with its own cache."""

    def __init__(self, plan: Plan, tensors: weights.Tensors):
        import transformers

        config = transformers.T5Config(**sizes.t5(plan.layers))
        self.module = weights.module_of(transformers.T5ForConditionalGeneration, config, tensors)
        self.read, self.write = others.frozen(self._read), others.frozen(self._write)

    def _read(self, embeds: np.ndarray, mask: np.ndarray) -> tuple[Any, Any]:
        import torch

        x, seen = torch.from_numpy(embeds).to(self.module.dtype), torch.from_numpy(mask)
        encoded = self.module.encoder(inputs_embeds=x, attention_mask=seen)
        scores, cache = self._step(encoded, seen, None, self.module.config.decoder_start_token_id)
        return scores, (encoded, seen, cache)

    def _write(self, state: Any) -> Any:
        encoded, seen, cache = state
        for token in TOKENS:
            scores, cache = self._step(encoded, seen, cache, token)
        return scores

    def _step(self, encoded: Any, seen: Any, cache: Any, token: int) -> tuple[Any, Any]:
        import torch

        given = {"encoder_outputs": encoded, "attention_mask": seen, "past_key_values": cache, "use_cache": True}
        out = self.module(**given, decoder_input_ids=torch.tensor([[token]]))
        return out.logits[:, -1], out.past_key_values
