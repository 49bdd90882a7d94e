# %% [markdown]
# # 07 · Two towers
#
# BLIP-2 lets a language model read a picture. BridgeTower does something else: it compares a picture with a text. It
# begins with two towers that know nothing of each other. RoBERTa reads the text, CLIP's vision transformer looks at the
# picture. The files are `minivl/models/roberta.py` and `minivl/models/clip_vit.py`, and the pair is described in Xu et
# al. 2023, section 3.
#
# Letters: $B$ pairs, $T$ words, $N$ patches and the class token, $C$ width.

# %%
import numpy as np

from minivl import BridgeTowerConfig, BridgeTowerModel, BridgeTowerProcessor, tutorial
from minivl.models import blocks, bridgetower, clip_vit, roberta

processor = BridgeTowerProcessor.from_pretrained("demo-bridgetower")
model = BridgeTowerModel.from_pretrained("demo-bridgetower")
ops, p, config = model.ops, model.params, model.config
picture = tutorial.picture("red_triangle_above_yellow_star.png")


def read(*texts):
    """The text tower's states, one after the other, and what the processor gave it."""
    inputs = processor([picture] * len(texts), list(texts), padding=True, return_tensors="np")
    return bridgetower.text_tower(ops, p, inputs.input_ids, inputs.attention_mask, config), inputs


# %% [markdown]
# ## The reader
#
# Words become numbers, with `<s>` in front and `</s>` behind. In a batch the shorter text is filled up with `<pad>`.
#
# Each token is a row of the table of words, plus a row of the table of places. Places are counted from `pad + 1`, and
# all padding has place `pad`. That is a habit of RoBERTa's code (the model is that of Liu et al. 2019).
#
# **Predict, then run:** `pad` is 1. Which places have the four tokens `<s>`, "two", " rings", `</s>` and a pad behind?

# %%
states, inputs = read("two rings", "a small red ring left of a large blue star")
for ids, mask in zip(inputs.input_ids, inputs.attention_mask, strict=True):
    print([processor.decode([token]) for token in ids], mask)
places = roberta.positions(inputs.input_ids[:1, :5], pad=config.text_config.pad_token_id)
assert places.tolist() == [[2, 3, 4, 5, 1]]

# %% [markdown]
# **Predict, then run:** does a text mean something else because a longer one stands below it in the batch?

# %%
alone, _ = read("two rings")
T = alone[0].shape[1]
assert all(np.allclose(one[:1, :T], other, atol=1e-5) for one, other in zip(states, alone, strict=True))  # no: padding
# is hidden from the words by the mask

# %% [markdown]
# ## A post-LN layer
#
# ```
# x = LN(x + attend(x))
# x = LN(x + mlp(x))
# ```
#
# These are the layers of the first transformer (Vaswani et al. 2017, section 3.1:
# $\mathrm{LayerNorm}(x + \mathrm{Sublayer}(x))$). The norm stands *behind* the sum. The
# function is `blocks.post_ln_layer`; by hand:

# %%
layer, x, heads = p["text"]["layers"][0], alone[0], config.text_config.num_attention_heads
found = blocks.attend(ops, layer["self"], x, heads)  # (B, T, C)
seen = ops.add_layer_norm(x, found, **layer["self_ln"])  # (B, T, C)
thought = blocks.mlp(ops, layer["mlp"], seen, "gelu")  # (B, T, C)
assert np.allclose(ops.add_layer_norm(seen, thought, **layer["mlp_ln"]), alone[1], atol=1e-5)

# %% [markdown]
# ## Words in their company
#
# **Predict, then run:** "a red ring" and "a blue ring". The token " ring" stands at the same place in both. How alike
# are its two states before the first layer? And after the last?


# %%
def alike(a, b):
    """The cosine: 1 where two vectors point the same way."""
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


rings, _ = read("a red ring", "a blue ring")
cosines = [alike(x[0, 3], x[1, 3]) for x in rings]
print("two rings, layer by layer:", np.round(cosines, 3))
assert cosines[0] > 0.9999  # the same row of the table, at the same place
assert cosines[-1] < 0.95  # each has heard of its colour

# %% [markdown]
# RoBERTa reads both ways: unlike the voice of BLIP-2, a word sees those after it too.
#
# **Predict, then run:** only the last word differs here. Which states of the *first* token, `<s>`, change?

# %%
ends, _ = read("a small red ring", "a small red star")
moved = [not np.allclose(x[0, 0], x[1, 0], atol=1e-5) for x in ends]
assert moved == [False, True, True, True, True]  # all but x_0

# %% [markdown]
# ## The eye
#
# CLIP's vision transformer is that of tutorial 03, with three differences: a norm `ln_pre` in front of the first layer,
# a cheaper bend in the MLP, and heads of width 64 whatever the model's width.

# %%
pixels = inputs.pixel_values[:1]
embedded = clip_vit.embed(ops, p["vision"], pixels, config.vision_config)  # (B, N, C)
looks = bridgetower.image_tower(ops, p, embedded, config)
print(len(looks), "states of shape", looks[0].shape, "and", len(states), "of the text tower")

# %% [markdown]
# The bend is `quick_gelu`: $x \cdot \mathrm{sigmoid}(1.702\, x)$ in place of $x$ times the share of a normal
# distribution below $x$ (Hendrycks and Gimpel 2016, section 2).
#
# **Predict, then run:** how far apart are the two at most: 0.5, 0.02 or 0.0001?

# %%
line = np.linspace(-8, 8, 2001)
apart = np.abs(ops.quick_gelu(line) - ops.gelu(line)).max()
print(f"{apart:.4f}")
assert 0.01 < apart < 0.03  # little, but weights trained with one do not go with the other

# %% [markdown]
# ## Pre-LN and post-LN, side by side
#
# How loud is a state? We take the root of the mean square of its numbers.
#
# **Predict, then run:** in which of the towers does the loudness grow from layer to layer, and in which can it not?


# %%
def loud(x):
    return float(np.sqrt((x**2).mean()))


print("reader:", np.round([loud(x) for x in alone], 2), "  eye:", np.round([loud(x) for x in looks], 2))
assert all(0.8 < loud(x) < 1.2 for x in alone)  # post-LN: each layer ends with a norm, which makes it about 1 again
assert loud(looks[-1]) > 10 * loud(looks[0])  # pre-LN: nothing stops the sum
# so the eye's states are normed (ln_post) before anybody else reads them

# %% [markdown]
# ## What each layer sees
#
# One patch lies in the triangle. Which patches are like it, and after which layer? Blue is alike, red is opposite (the
# mean of all patches is taken away first).

# %%
row, column = 2, 3
grid = [x[0, 1:] - x[0, 1:].mean(0) for x in looks]  # (64, C) each
grid = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in grid]
maps = [(x @ x[8 * row + column]).reshape(8, 8) for x in grid]
tutorial.show([picture, *maps], ["picture", "x_0", *(f"layer {i}" for i in range(4))], signed=True)

# %% [markdown]
# **Predict, then run:** a patch of the ground, in the lower left corner, and the patch of the triangle: alike at first,
# or at the end, or never? And a patch in the middle of the star, which is another thing?

# %%
ground, star = ([float(one[at]) for one in maps] for at in ((7, 0), (6, 4)))
print("ground:", np.round(ground, 2), "  star:", np.round(star, 2))
assert max(ground) < 0  # never
assert star[0] < 0.5 < 0.7 < star[-1]  # alike in the end: first of all, this eye tells things from ground

# %% [markdown]
# ## Where the bridges begin
#
# In many models of two towers only the last states meet. Here the last *few* do, one pair for each cross-modal layer
# (Xu et al. 2023, section 3). The demo has 4 layers in each tower and 3 cross-modal ones.
#
# **Predict, then run:** the last states meet in the last cross-modal layer. Which state does the first one start from?

# %%
assert bridgetower.bridged(config) == (2, 2)  # states 2, 3 and 4 of either tower

# %% [markdown]
# The next tutorial crosses them.
#
# ## Exercises
#
# 1. BridgeTower-base, which `BridgeTowerConfig()` describes, has 12 layers in each tower and 6 cross-modal ones.
#    From which state of the text tower does its first cross-modal layer start? (By hand, then with `bridged`.)
# 2. It has 288 pixels in a row, in patches of 16. What is its $N$?
# 3. How many heads has its eye, with $C = 768$?

# %%
assert BridgeTowerConfig().num_hidden_layers == 6
tutorial.check(None, "242b5f2b")
tutorial.check(None, "a656b945")
tutorial.check(None, "e6c031ee")
