# %% [markdown]
# # 02 · Attention by hand
#
# A patch knows nothing of the other patches. Attention is the one place in a transformer where tokens learn of each
# other, and all of it is an average: each token asks, all tokens answer, and those whose answer fits count for more.
#
# $$ \mathrm{softmax}(q\, k^{\top} \cdot \mathrm{scale})\; v \qquad \mathrm{scale} = 1 / \sqrt{D} $$
#
# That is `ops.attention`; in the paper $Q$, $K$, $V$ and $\sqrt{d_k}$ (Vaswani et al. 2017, section 3.2.1).
#
# - $q$, a *query*: what a token is looking for
# - $k$, a *key*: what a token can be found by
# - $v$, a *value*: what a token hands out to those who find it
#
# Letters: $B$ batch, $H$ heads, $T$ queries, $S$ keys, $D$ numbers in each of them.

# %%
import math

import numpy as np

import minivl
from minivl import Blip2ForConditionalGeneration, Blip2Processor, tutorial
from minivl.models import blocks

ops = minivl.ops.get("plain")


def rows(*numbers):
    """A few rows as the ops want them: one in the batch, one head."""
    return np.array(numbers, np.float64)[None, None]  # (1, 1, rows, D)


# %% [markdown]
# ## Two keys, with pencil and paper
#
# One query and two keys, $D = 4$. A score is the product of a query and a key, number by number, added up, and divided
# by $\sqrt{4} = 2$. The first key points where the query points, the second one elsewhere:
#
# $$ \frac{2 \cdot 1 + 0 + 0 + 0}{2} = 1 \qquad \frac{2 \cdot 0 + 0 + 0 + 0}{2} = 0 $$
#
# The softmax makes shares of the scores, positive ones that add up to 1. Here $e^1 / (e^1 + e^0)$ is the first share
# and $e^0 / (e^1 + e^0)$ the second.
#
# **Predict, then run:** $e$ is about 2.7. What is the share of the first key, roughly?

# %%
q = rows([2, 0, 0, 0])
k = rows([1, 0, 0, 0], [0, 1, 0, 0])
weights = ops.attention_weights(q, k)  # (B, H, T, S)
print(weights)
assert np.allclose(weights, [math.e / (math.e + 1), 1 / (math.e + 1)])  # 2.7 / 3.7, about 0.73

# %% [markdown]
# **Predict, then run:** the first key hands out 10, the second 20. Does the query leave with 10, with 15, or with
# something between?

# %%
v = rows([10], [20])
print(ops.attention(q, k, v))
assert np.allclose(ops.attention(q, k, v), 10 * 0.731 + 20 * 0.269, atol=0.01)

# %% [markdown]
# **Predict, then run:** and if the query fits none of the keys, or all of them equally well?

# %%
assert np.allclose(ops.attention(rows([0, 0, 1, 0]), k, v), 15)  # the plain average
assert np.allclose(ops.attention(rows([7, 7, 0, 0]), k, v), 15)

# %% [markdown]
# ## Two things about the softmax
#
# **Predict, then run:** we add 100 to all scores. What happens to the shares? And $e^{1000}$ is more than any float can
# hold: what becomes of a score of 1000?

# %%
scores = np.array([1.0, 0.0, -2.0])
assert np.allclose(ops.softmax(scores + 100), ops.softmax(scores))  # e¹⁰⁰ is in every term, above and below
assert np.allclose(ops.softmax(np.array([1000.0, 999.0])), ops.softmax(np.array([1.0, 0.0])))
# so the package subtracts the largest score first, and nothing overflows

# %% [markdown]
# ## Why divide by $\sqrt{D}$?
#
# A score is a sum of $D$ products. If each is about 1 in size with either sign, the sum is about $\sqrt{D}$ in size:
# the longer the rows, the larger the scores. Large scores make a softmax that sees one key only.
#
# **Predict, then run:** 16 keys drawn by chance. What share does the best of them get, with the division and without,
# as $D$ grows?

# %%
rng = np.random.default_rng(0)
for D in (4, 64, 1024):
    q, k = rng.normal(size=(1, 1, 500, D)), rng.normal(size=(1, 1, 16, D))
    divided, plain = (ops.attention_weights(q, k, scale=scale).max(-1).mean() for scale in (None, 1.0))
    print(f"D = {D:4}   the best of 16 keys gets {divided:.2f} with the division, {plain:.2f} without")
    assert divided < 0.4  # always about the same
assert plain > 0.9  # one key takes nearly everything, and the other fifteen go unheard

# %% [markdown]
# ## Who may see whom
#
# A `mask` is True where a query may see a key. `causal=True` is the mask of a writer: each token sees itself and what
# was before it, for what comes after is not there yet.

# %%
q, k, v = rng.normal(size=(3, 1, 1, 5, 4))
weights = ops.attention_weights(q, k, causal=True)[0, 0]
tutorial.show([weights, ops.attention_weights(q, k)[0, 0]], ["causal", "everybody"], title="queries down, keys across")
assert np.array_equal(weights > 0, np.tri(5, dtype=bool))

# %% [markdown]
# **Predict, then run:** what does the first token leave with, if it may only see itself? And if the last value changes,
# who notices?

# %%
out = ops.attention(q, k, v, causal=True)
assert np.allclose(out[..., 0, :], v[..., 0, :])  # its own value, whatever the scores are
other = v.copy()
other[..., -1, :] += 1
changed = ~np.isclose(ops.attention(q, k, other, causal=True), out).all(-1)
assert changed[0, 0].tolist() == [False, False, False, False, True]

# %% [markdown]
# ## Attention knows no order
#
# **Predict, then run:** we shuffle the keys, and their values with them. What changes?

# %%
order = rng.permutation(5)
assert np.allclose(ops.attention(q, k[:, :, order], v[:, :, order]), ops.attention(q, k, v))
# nothing: a sum does not care in which order it is added up. So places have to be in the tokens, as in tutorial 01.

# %% [markdown]
# ## Heads
#
# One average is little. So each token of $C$ numbers is cut into $H$ *heads* of $D = C / H$ numbers, and each head
# attends by itself (Vaswani et al. 2017, section 3.2.2). They run side by side and never meet:

# %%
x = rng.normal(size=(1, 5, 12))  # (B, T, C)
heads = blocks.split_heads(x, 3)  # (B, H, T, D)
together = ops.attention(heads, heads, heads)
alone = [ops.attention(heads[:, [h]], heads[:, [h]], heads[:, [h]]) for h in range(3)]
assert heads.shape == (1, 3, 5, 4) and np.allclose(together, np.concatenate(alone, 1))
assert np.array_equal(blocks.merge_heads(heads), x)

# %% [markdown]
# In a model, four matrices stand around this: three make $q$, $k$ and $v$ out of the tokens, and the last one mixes
# what the heads have found. `blocks.attend` is those five steps. Below it runs inside the eye of the tiny BLIP-2, and
# `minivl.trace` keeps the weights of every layer while it does.

# %%
processor = Blip2Processor.from_pretrained("demo")
model = Blip2ForConditionalGeneration.from_pretrained("demo")
picture = tutorial.picture("red_triangle_above_yellow_star.png")
inputs = processor(images=picture, return_tensors="np")


def caption(model):
    return processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0].strip()


with minivl.trace(model, attentions=True) as flow:
    print(caption(model))
maps = [flow[f"vision.layers.{layer}.self.weights"] for layer in range(4)]  # (B, H, T, S) each
patch = 2 * 8 + 3  # in the triangle: row 2, column 3
panels = [one[0, head, 1 + patch, 1:].reshape(8, 8) for one in maps for head in range(4)]
titles = [f"layer {layer}, head {head}" for layer in range(4) for head in range(4)]
tutorial.show(panels, titles, over=picture, columns=4, title="where a patch of the triangle looks")
assert maps[0].shape == (1, 4, 65, 65) and np.allclose(maps[0].sum(-1), 1, atol=1e-5)

# %% [markdown]
# ## Is it needed?
#
# The functions of a model are handed to it in a record, so any of them can be another.
#
# **Predict, then run:** in this one every query takes the plain average of all it may see. That is what a `scale` of 0
# does. Does the caption survive?

# %%
model.ops = ops._replace(attention=lambda q, k, v, **how: ops.attention(q, k, v, **how | {"scale": 0.0}))
print(repr(caption(model)))
assert caption(model) != "a large red triangle above a small yellow star"
model.ops = ops

# %% [markdown]
# ## Exercises
#
# 1. Two keys have the scores $\ln(3)$ and $0$. What share does the first get, in percent?
# 2. The real ViT of BLIP-2 has 257 tokens and 16 heads. How many numbers does one layer's `weights` hold?
# 3. Of how many numbers is each query in it made, with $C = 1408$?

# %%
tutorial.check(None, "1e38ce13")
tutorial.check(None, "f2ce612e")
tutorial.check(None, "0f541ce7")
