"""Which tensor of a Hub checkpoint is which weight of ours: one table for each model, written out for a configuration.

Each function yields an entry for every tensor (Hub name, our path, shape), so the table is also the proof of what a
checkpoint must hold. Paths say what a weight is for: self, cross, mlp are the parts of a layer; w and b a matrix and
its bias; ln a norm with its eps. Source of the Hub's names: the state dicts of transformers 4.37.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .tree import Constant, Entry

Entries = Iterator[Entry | Constant]


def linear(hub: str, path: str, out: int, into: int, bias: bool = True) -> Entries:
    yield Entry(f"{hub}.weight", f"{path}.w", (out, into))
    yield Entry(f"{hub}.bias", f"{path}.b", (out,), "zeros") if bias else Constant(f"{path}.b", None)


def norm(hub: str, path: str, width: int, eps: float, affine: bool = True) -> Entries:
    yield (
        Entry(f"{hub}.weight", f"{path}.w", (width,), "ones")
        if affine
        else Constant(f"{path}.w", np.ones(width, np.float32))
    )
    yield (
        Entry(f"{hub}.bias", f"{path}.b", (width,), "zeros")
        if affine
        else Constant(f"{path}.b", np.zeros(width, np.float32))
    )
    yield Constant(f"{path}.eps", eps)


def within(hub: str, path: str, table: Entries) -> Entries:
    """The same table one level deeper: `hub` before every Hub name, `path` before every path of ours."""
    for entry in table:
        if isinstance(entry, Constant):
            yield entry._replace(path=f"{path}.{entry.path}")
        else:
            yield entry._replace(hub=f"{hub}.{entry.hub}", path=f"{path}.{entry.path}")


def vit(c) -> Entries:
    """Blip2VisionModel."""
    C, F, P = c.hidden_size, c.intermediate_size, c.patch_size
    yield Entry("embeddings.class_embedding", "class_token", (1, 1, C))
    yield Entry("embeddings.position_embedding", "positions", (1, (c.image_size // P) ** 2 + 1, C))
    yield Entry("embeddings.patch_embedding.weight", "patch.w", (C, 3, P, P))
    yield Entry("embeddings.patch_embedding.bias", "patch.b", (C,), "zeros")
    for i in range(c.num_hidden_layers):
        hub, layer = f"encoder.layers.{i}", f"layers.{i}"
        yield from norm(f"{hub}.layer_norm1", f"{layer}.self_ln", C, c.layer_norm_eps)
        yield from linear(f"{hub}.self_attn.qkv", f"{layer}.self.qkv", 3 * C, C, bias=c.qkv_bias)
        yield from linear(f"{hub}.self_attn.projection", f"{layer}.self.out", C, C)
        yield from norm(f"{hub}.layer_norm2", f"{layer}.mlp_ln", C, c.layer_norm_eps)
        yield from linear(f"{hub}.mlp.fc1", f"{layer}.mlp.up", F, C)
        yield from linear(f"{hub}.mlp.fc2", f"{layer}.mlp.down", C, F)
    yield from norm("post_layernorm", "ln", C, c.layer_norm_eps)


def bert_attention(hub: str, path: str, c, memory: int, inner: str) -> Entries:
    """One attention of a BERT layer and the norm after it; `inner` is what the Hub calls the part that holds q, k and
    v.
    """
    C = c.hidden_size
    yield from linear(f"{hub}.{inner}.query", f"{path}.q", C, C)
    yield from linear(f"{hub}.{inner}.key", f"{path}.k", C, memory)
    yield from linear(f"{hub}.{inner}.value", f"{path}.v", C, memory)
    if c.position_embedding_type != "absolute":
        shape = (2 * c.max_position_embeddings - 1, C // c.num_attention_heads)
        yield Entry(f"{hub}.{inner}.distance_embedding.weight", f"{path}.distance.w", shape)
        yield Constant(f"{path}.distance.both", c.position_embedding_type == "relative_key_query")
    yield from linear(f"{hub}.output.dense", f"{path}.out", C, C)
    yield from norm(f"{hub}.output.LayerNorm", f"{path}_ln", C, c.layer_norm_eps)


def qformer(c) -> Entries:
    """Blip2QFormerModel. Its cross-attention stands in every layer whose number cross_attention_frequency divides."""
    C, F = c.hidden_size, c.intermediate_size
    yield from norm("layernorm", "ln", C, c.layer_norm_eps)
    for i in range(c.num_hidden_layers):
        hub, layer = f"encoder.layer.{i}", f"layers.{i}"
        yield from bert_attention(f"{hub}.attention", f"{layer}.self", c, C, "attention")
        if i % c.cross_attention_frequency == 0:
            yield from bert_attention(f"{hub}.crossattention", f"{layer}.cross", c, c.encoder_hidden_size, "attention")
        yield from linear(f"{hub}.intermediate_query.dense", f"{layer}.mlp.up", F, C)
        yield from linear(f"{hub}.output_query.dense", f"{layer}.mlp.down", C, F)
        yield from norm(f"{hub}.output_query.LayerNorm", f"{layer}.mlp_ln", C, c.layer_norm_eps)


OPT_EPS = 1e-5  # torch's default: OPT's configuration has no entry for it


def opt(c) -> Entries:
    """OPTForCausalLM. A layer's "final_layer_norm" is the norm of its MLP; the decoder's stands after all layers."""
    C, F, affine = c.hidden_size, c.ffn_dim, c.layer_norm_elementwise_affine
    yield Entry("model.decoder.embed_tokens.weight", "tokens", (c.vocab_size, C))
    yield Entry("model.decoder.embed_positions.weight", "positions", (c.max_position_embeddings + 2, C))
    for i in range(c.num_hidden_layers):
        hub, layer = f"model.decoder.layers.{i}", f"layers.{i}"
        for theirs, ours in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "out")):
            yield from linear(f"{hub}.self_attn.{theirs}", f"{layer}.self.{ours}", C, C, bias=c.enable_bias)
        yield from norm(f"{hub}.self_attn_layer_norm", f"{layer}.self_ln", C, OPT_EPS, affine)
        yield from linear(f"{hub}.fc1", f"{layer}.mlp.up", F, C, bias=c.enable_bias)
        yield from linear(f"{hub}.fc2", f"{layer}.mlp.down", C, F, bias=c.enable_bias)
        yield from norm(f"{hub}.final_layer_norm", f"{layer}.mlp_ln", C, OPT_EPS, affine)
    if c.do_layer_norm_before and not c._remove_final_layer_norm:
        yield from norm("model.decoder.final_layer_norm", "ln", C, OPT_EPS, affine)
    if not c.tie_word_embeddings:
        yield Entry("lm_head.weight", "head.w", (c.vocab_size, C))


def blip2(c) -> Entries:
    """Blip2ForConditionalGeneration with OPT."""
    q = c.qformer_config
    yield Entry("query_tokens", "queries", (1, c.num_query_tokens, q.hidden_size))
    yield from within("vision_model", "vision", vit(c.vision_config))
    yield from within("qformer", "qformer", qformer(q))
    yield from linear("language_projection", "projection", c.text_config.hidden_size, q.hidden_size)
    yield from within("language_model", "language", opt(c.text_config))


# Names that a BLIP-2 file may hold and that say nothing new: a copy of a tied head, and position numbers that were
# saved until transformers 4.30.
BLIP2_IGNORED = (
    "language_model.lm_head.weight",
    "qformer.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
    "language_model.model.decoder.embed_positions.position_ids",
)
