"""Which tensor of a Hub checkpoint is which weight of ours: one table for each model, written out for a configuration.

Each function yields an entry for every tensor (Hub name, our path, shape), so the table is also the proof of what a
checkpoint must hold. Paths say what a weight is for: self, cross, mlp are the parts of a layer; w and b a matrix and
its bias; ln a norm with its eps. Source of the Hub's names: the state dicts of transformers 4.37.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from .tree import Constant, Entry

Entries = Iterator[Entry | Constant]


def linear(hub: str, path: str, out: int, into: int, bias: bool = True) -> Entries:
    yield Entry(f"{hub}.weight", f"{path}.w", (out, into))
    yield Entry(f"{hub}.bias", f"{path}.b", (out,), 0.0) if bias else Constant(f"{path}.b", None)


def norm(hub: str, path: str, width: int, eps: float, affine: bool = True) -> Entries:
    yield (
        Entry(f"{hub}.weight", f"{path}.w", (width,), 1.0)
        if affine
        else Constant(f"{path}.w", np.ones(width, np.float32))
    )
    yield (
        Entry(f"{hub}.bias", f"{path}.b", (width,), 0.0)
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
            aliases = tuple(f"{hub}.{name}" for name in entry.aliases)
            yield entry._replace(hub=f"{hub}.{entry.hub}", path=f"{path}.{entry.path}", aliases=aliases)


def vit(c) -> Entries:
    """Blip2VisionModel."""
    C, F, P = c.hidden_size, c.intermediate_size, c.patch_size
    yield Entry("embeddings.class_embedding", "class_token", (1, 1, C))
    yield Entry("embeddings.position_embedding", "positions", (1, (c.image_size // P) ** 2 + 1, C))
    yield Entry("embeddings.patch_embedding.weight", "patch.w", (C, 3, P, P))
    yield Entry("embeddings.patch_embedding.bias", "patch.b", (C,), 0.0)
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
    """One attention of a BERT layer and the norm after it; `inner` is the Hub's word for the part with q, k and v."""
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


def bert_layer(hub: str, path: str, c, memory: int | None, inner: str = "self", suffix: str = "") -> Entries:
    """A BERT layer, with cross-attention to something `memory` wide unless that is None."""
    C, F = c.hidden_size, c.intermediate_size
    yield from bert_attention(f"{hub}.attention", f"{path}.self", c, C, inner)
    if memory is not None:
        yield from bert_attention(f"{hub}.crossattention", f"{path}.cross", c, memory, inner)
    yield from linear(f"{hub}.intermediate{suffix}.dense", f"{path}.mlp.up", F, C)
    yield from linear(f"{hub}.output{suffix}.dense", f"{path}.mlp.down", C, F)
    yield from norm(f"{hub}.output{suffix}.LayerNorm", f"{path}.mlp_ln", C, c.layer_norm_eps)


def qformer(c) -> Entries:
    """Blip2QFormerModel. Its cross-attention stands in every layer whose number cross_attention_frequency divides."""
    yield from norm("layernorm", "ln", c.hidden_size, c.layer_norm_eps)
    for i in range(c.num_hidden_layers):
        memory = None if i % c.cross_attention_frequency else c.encoder_hidden_size
        yield from bert_layer(f"encoder.layer.{i}", f"layers.{i}", c, memory, "attention", "_query")


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


def scale_of_norm(hub: str, path: str, c) -> Entries:
    yield Entry(f"{hub}.weight", f"{path}.w", (c.d_model,), 1.0)
    yield Constant(f"{path}.eps", c.layer_norm_epsilon)


def t5_attention(hub: str, path: str, c) -> Entries:
    """The heads together may be wider or narrower than the model."""
    inner = c.num_heads * c.d_kv
    for name in ("q", "k", "v"):
        yield from linear(f"{hub}.{name}", f"{path}.{name}", inner, c.d_model, bias=False)
    yield from linear(f"{hub}.o", f"{path}.out", c.d_model, inner, bias=False)


def t5_stack(c, layers: int, cross: bool) -> Entries:
    """The encoder, or with `cross` the decoder. A block's parts are numbered; its table of places is the first's."""
    parts = [("SelfAttention", "self"), ("EncDecAttention", "cross")][: 1 + cross]
    table = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield Entry(table, "places", (c.relative_attention_num_buckets, c.num_heads))
    for i in range(layers):
        for j, (theirs, ours) in enumerate(parts):
            hub, path = f"block.{i}.layer.{j}", f"layers.{i}.{ours}"
            yield from t5_attention(f"{hub}.{theirs}", path, c)
            yield from scale_of_norm(f"{hub}.layer_norm", f"{path}_ln", c)
        hub, path = f"block.{i}.layer.{len(parts)}", f"layers.{i}.mlp"
        ups = {"wi_0": "gate", "wi_1": "up"} if c.is_gated_act else {"wi": "up"}
        for theirs, ours in ups.items():
            yield from linear(f"{hub}.DenseReluDense.{theirs}", f"{path}.{ours}", c.d_ff, c.d_model, bias=False)
        yield from linear(f"{hub}.DenseReluDense.wo", f"{path}.down", c.d_model, c.d_ff, bias=False)
        yield from scale_of_norm(f"{hub}.layer_norm", f"{path}_ln", c)
    yield from scale_of_norm("final_layer_norm", "ln", c)


def t5(c) -> Entries:
    """T5ForConditionalGeneration. The table of words has three names, and files keep one of them or all.

    A head of its own may be there whatever the configuration says: newer versions of transformers say of every T5 that
    its head is tied.
    """
    words, aliases = (c.vocab_size, c.d_model), ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    yield Entry("shared.weight", "tokens", words, aliases=aliases)
    yield from within("encoder", "encoder", t5_stack(c, c.num_layers, cross=False))
    yield from within("decoder", "decoder", t5_stack(c, c.num_decoder_layers, cross=True))
    yield Entry("lm_head.weight", "head.w", words, required=not c.tie_word_embeddings)


LANGUAGES = {"opt": opt, "t5": t5}


def blip2(c) -> Entries:
    """Blip2ForConditionalGeneration."""
    q = c.qformer_config
    yield Entry("query_tokens", "queries", (1, c.num_query_tokens, q.hidden_size))
    yield from within("vision_model", "vision", vit(c.vision_config))
    yield from within("qformer", "qformer", qformer(q))
    yield from linear("language_projection", "projection", c.text_config.hidden_size, q.hidden_size)
    yield from within("language_model", "language", LANGUAGES[c.text_config.model_type](c.text_config))


# Names that a BLIP-2 file may hold and that say nothing new: a copy of OPT's tied head, position numbers that were
# saved until transformers 4.30, and a table of T5 that was never used.
BLIP2_IGNORED = (
    "language_model.lm_head.weight",
    "qformer.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
    "language_model.model.decoder.embed_positions.position_ids",
    "language_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)


def clip_vit(c) -> Entries:
    """BridgeTowerVisionModel. The separate norms of share_layernorm=false are in the file and read by nobody."""
    C, P = c.hidden_size, c.patch_size
    yield Entry("visual.embeddings.class_embedding", "class_token", (C,))
    yield Entry("visual.embeddings.patch_embedding.weight", "patch.w", (C, c.num_channels, P, P))
    yield Entry("visual.embeddings.position_embedding.weight", "positions", ((c.image_size // P) ** 2 + 1, C))
    yield from norm("visual.ln_pre", "ln_pre", C, c.layer_norm_eps)
    for i in range(c.depth):
        hub, layer = f"visual.transformer.resblocks.{i}", f"layers.{i}"
        yield from norm(f"{hub}.ln_1", f"{layer}.self_ln", C, c.layer_norm_eps)
        yield Entry(f"{hub}.attn.in_proj_weight", f"{layer}.self.qkv.w", (3 * C, C))
        yield Entry(f"{hub}.attn.in_proj_bias", f"{layer}.self.qkv.b", (3 * C,), 0.0)
        yield from linear(f"{hub}.attn.out_proj", f"{layer}.self.out", C, C)
        yield from norm(f"{hub}.ln_2", f"{layer}.mlp_ln", C, c.layer_norm_eps)
        yield from linear(f"{hub}.mlp.c_fc", f"{layer}.mlp.up", 4 * C, C)
        yield from linear(f"{hub}.mlp.c_proj", f"{layer}.mlp.down", C, 4 * C)
    yield from norm("visual.ln_post", "ln_post", C, c.layer_norm_eps)
    if not c.share_layernorm:
        for i in range(c.num_hidden_layers):
            yield from norm(f"visual.ln_separate.{i}", f"separate.{i}", C, c.layer_norm_eps)


def roberta(c) -> Entries:
    """BridgeTowerTextModel. Its pooler is in the file and read by nobody."""
    C = c.hidden_size
    yield Entry("embeddings.word_embeddings.weight", "words", (c.vocab_size, C))
    yield Entry("embeddings.position_embeddings.weight", "positions", (c.max_position_embeddings, C))
    yield Entry("embeddings.token_type_embeddings.weight", "types", (c.type_vocab_size, C))
    yield from norm("embeddings.LayerNorm", "ln", C, c.layer_norm_eps)
    for i in range(c.num_hidden_layers):
        yield from bert_layer(f"encoder.layer.{i}", f"layers.{i}", c, None)
    yield from linear("pooler.dense", "pooler", C, C)


def link_tower(hub: str, path: str, c) -> Entries:
    yield from norm(f"{hub}.LayerNorm", f"{path}.ln", c.hidden_size, c.layer_norm_eps)
    if c.link_tower_type == "scaled_add":
        yield Entry(f"{hub}.scaled_factor", f"{path}.scale", (), 1.0)
    if c.link_tower_type == "interpolate":
        yield Entry(f"{hub}.beta", f"{path}.beta", (), 0.5)


def one_or_many(make, hub: str, path: str, many: int | None) -> Entries:
    """The table make(hub, path) once, or with a number behind both names for each of `many`."""
    if many is None:
        yield from make(hub, path)
    else:
        for i in range(many):
            yield from make(f"{hub}.{i}", f"{path}.{i}")


def bridgetower(c) -> Entries:
    """BridgeTowerModel."""
    D, K, text = c.hidden_size, c.num_hidden_layers, c.text_config
    yield from within("text_model", "text", roberta(text))
    yield from within("vision_model", "vision", clip_vit(c.vision_config))
    yield Entry("token_type_embeddings.weight", "token_types", (2, D))
    for name, width in (("text", text.hidden_size), ("image", c.vision_config.hidden_size)):
        hub = f"cross_modal_{name}"
        transforms = None if c.share_cross_modal_transformer_layers else K
        links = None if c.share_link_tower_layers else K - 1
        yield from one_or_many(partial(linear, out=D, into=width), f"{hub}_transform", f"{name}_transform", transforms)
        yield from norm(f"{hub}_layernorm", f"{name}_ln", D, c.layer_norm_eps)
        yield from one_or_many(partial(bert_layer, c=text, memory=D), f"{hub}_layers", f"{name}_layers", K)
        yield from one_or_many(partial(link_tower, c=c), f"{hub}_link_tower", f"{name}_links", links)
        yield from linear(f"{hub}_pooler.dense", f"{name}_pooler", D, D)


def masked_lm_head(c) -> Entries:
    """mlm_score of BridgeTowerForMaskedLM; a tied decoder is the table of word embeddings."""
    D, V = c.hidden_size, c.text_config.vocab_size
    yield from linear("mlm_score.transform.dense", "mlm.dense", D, D)
    yield from norm("mlm_score.transform.LayerNorm", "mlm.ln", D, c.layer_norm_eps)
    if not c.tie_word_embeddings:
        yield Entry("mlm_score.decoder.weight", "mlm.decoder.w", (V, D))
    yield Entry("mlm_score.bias", "mlm.bias", (V,), 0.0)


def matching_head(c) -> Entries:
    """itm_score of BridgeTowerForImageAndTextRetrieval."""
    yield from linear("itm_score.fc", "itm", 2, 2 * c.hidden_size)


def contrastive_head(c) -> Entries:
    """The three heads of BridgeTowerForContrastiveLearning, and the logarithm of the scale of their products."""
    D, K = c.hidden_size, c.contrastive_hidden_size
    for hub, path, width in (("text", "text", D), ("image", "image", D), ("cross_modal", "cross", 2 * D)):
        yield from linear(f"itc_{hub}_head.fc", f"itc.{path}", K, width)
    yield Entry("logit_scale", "itc.scale", (), c.logit_scale_init_value)
