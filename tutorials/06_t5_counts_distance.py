# %% [markdown]
# # 06 · T5 counts distance
#
# BLIP-2 has two voices. One is OPT, of tutorial 05, which *adds* a place to every word. The other is T5, whose words do
# not know where they stand. T5 looks at how far apart two words are, and changes their score:
#
# $$ \mathrm{softmax}(q\, k^{\top} + \mathrm{bias})\; v $$
#
# One number for each head and each range of distances: that is all its encoder knows about places (Raffel et al. 2020,
# section 2.1). The ranges are called *buckets*. The code is `minivl/models/t5.py`.
#
# Letters: $T$ words that look, $S$ words that are looked at, $H$ heads, $N$ buckets.

# %%
import copy

import numpy as np

import minivl
from minivl import Blip2ForConditionalGeneration, tutorial
from minivl.config.blip2 import T5Config
from minivl.errors import InputError
from minivl.models import blocks, t5
from minivl.weights import names, tree

ops = minivl.ops.get("plain")

# %% [markdown]
# ## Distances
#
# The place of the key less the place of the query: negative is further back, positive further ahead.

# %%
print(t5.distances(4, 4))  # (T, S), queries down and keys across
assert np.array_equal(t5.distances(4, 4)[3], [-3, -2, -1, 0])  # of the last word, all others are behind

# %% [markdown]
# ## Buckets
#
# A word has good use for knowing whether another stands 1 or 2 places back. Whether it is 91 or 92 hardly matters. So
# near distances get a bucket each, and far ones share, by and large the more of them the further they are. With $n$
# places back,
#
# $$ \mathrm{bucket} = n \quad (n < E) \qquad
#    E + \lfloor \frac{\log (n / E)}{\log (\mathrm{farthest} / E)} \cdot (N - E) \rfloor \quad (n \ge E) $$
#
# and never more than $N - 1$. $E$ is $N / 2$: half of the buckets are exact. T5 has $N = 32$ and
# $\mathrm{farthest} = 128$. This is the decoder, which writes and can only look back.
#
# **Predict, then run:** which bucket has the word 5 places back? The one 128 places back? The one 5000 places back?

# %%
N, farthest = 32, 128


def back(n):
    return t5.bucket(-np.asarray(n), N, farthest, both_ways=False)


assert back(5) == 5
assert back(128) == back(5000) == 31  # the last one has no end

# %% [markdown]
# **Predict, then run:** how many distances fall into the first bucket that is shared? Are there more in the next ones?

# %%
sizes = np.bincount(back(np.arange(128)), minlength=N)
print("distances up to 127 in each bucket:", sizes)
assert (sizes[:16] == 1).all()  # exact
assert sizes[16] == 3  # 16, 17 and 18 places back are the same to T5
assert sizes[31] == 15  # and so are 113, 114 ... 127, and everything beyond
if plt := tutorial.pyplot():
    plt.figure(figsize=(5, 2.4), layout="constrained")
    plt.step(np.arange(200), back(np.arange(200)), where="post")
    plt.xlabel("places back")
    plt.ylabel("bucket")
    plt.title("a ruler that is fine near by and coarse far away", fontsize=10)
    plt.show()

# %% [markdown]
# The encoder reads, and may look ahead. There half of the buckets are for the words ahead.
#
# **Predict, then run:** with $N = 32$, which buckets have the words 3 places back and 3 places ahead? Up to which
# distance are the buckets exact now?

# %%
assert t5.bucket(np.array([-3, 0, 3]), N, farthest, both_ways=True).tolist() == [3, 0, 16 + 3]
ahead = t5.bucket(np.arange(1, 128), N, farthest, both_ways=True)
assert (np.diff(ahead)[:7] == 1).all() and ahead[7] == ahead[8]  # up to 8; then 8 and 9 share, and so on

# %% [markdown]
# ## The table
#
# A stack (the encoder or the decoder) has one table, with a row for each bucket and a column for each head. There is no
# trained T5 in the package, so here is a small one with random weights. `place_bias` looks the rows up:

# %%
text = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
p = tree.random(names.t5(text), np.random.default_rng(0), std=0.3)
table = p["encoder"]["places"]  # (N, H)
bias = t5.place_bias(ops, table, t5.places(60, 60, text, both_ways=True))  # (H, T, S)
tutorial.show(list(bias - bias.min()), [f"head {h}" for h in range(4)], title="what each head adds to each score")
assert table.shape == (32, 4) and bias.shape == (4, 60, 60)

# %% [markdown]
# The pictures are striped: along a diagonal, the distance is the same, and so is the number.
#
# **Predict, then run:** we cut off the first ten words. How does the bias between the others change?

# %%
fewer = t5.place_bias(ops, table, t5.places(50, 50, text, both_ways=True))
assert np.array_equal(bias[:, 10:, 10:], fewer)  # not at all

# %% [markdown]
# ## What a head can do with it
#
# Training finds the numbers. We write a table by hand to see what numbers can do. All keys are the same here, so only
# the bias speaks.
#
# **Predict, then run:** head 0 has 10 for bucket 1 and 0 elsewhere. Head 1 loses 1 with each bucket. Where do
# they look?

# %%
by_hand = np.zeros((N, 2))
by_hand[1, 0] = 10
by_hand[:, 1] = -np.arange(N)
bias = t5.place_bias(ops, by_hand, t5.places(12, 12, text, both_ways=False))[None]  # (1, H, T, S)
same = np.ones((1, 2, 12, 8))  # (B, H, T, D)
weights = ops.attention_weights(same, same, bias=bias, causal=True, scale=1.0)[0]  # (H, T, S)
tutorial.show(list(weights), ["head 0", "head 1"], title="queries down, keys across")
assert all(weights[0, t].argmax() == t - 1 for t in range(1, 12))  # at the word before
assert all(weights[1, t].argmax() == t for t in range(12))  # at itself, and a little less at each one before it
assert np.allclose(weights[1, 11, 10] / weights[1, 11, 11], np.exp(-1))  # the exponential makes a factor of the -1

# %% [markdown]
# ## Without the table
#
# **Predict, then run:** the table is set to zeros and the words are shuffled. What does the encoder make of them? And
# with the table as it was?

# %%
x = np.random.default_rng(0).normal(size=(1, 7, 32)).astype(np.float32)  # (B, S, C)
order = np.array([3, 0, 6, 2, 5, 1, 4])


def read(p, x):  # the encoder's last state
    return blocks.last(t5.encoder_states(ops, p, x, np.ones(x.shape[:2]), text))  # (B, S, C)


blind = copy.deepcopy(p)
blind["encoder"]["places"] = np.zeros_like(table)
assert np.allclose(read(blind, x)[:, order], read(blind, x[:, order]), atol=1e-4)  # the same, shuffled: a bag of words
assert not np.allclose(read(p, x)[:, order], read(p, x[:, order]), atol=1e-2)

# %% [markdown]
# ## No last place
#
# OPT has a table of places, and where that ends, it ends. The tiny OPT of the package has 96.
#
# **Predict, then run:** how long may a text be for T5?

# %%
opt = Blip2ForConditionalGeneration.from_pretrained("demo")
try:
    opt(np.zeros((1, 3, 64, 64), np.float32), input_ids=np.full((1, 200), 5))
except InputError as refusal:
    print(refusal)
else:
    raise AssertionError("OPT took it")
assert read(p, np.zeros((1, 500, 32), np.float32)).shape == (1, 500, 32)  # as long as you like

# %% [markdown]
# Whether it *understands* a long text is another matter. It answers without an error, and no more is shown here.
#
# ## Two more habits of T5
#
# - Scores are *not* divided by $\sqrt{D}$ (`scale=1.0` in `t5.attend`). The weights were trained to do without.
# - Norms do not shift: `ops.rms_norm` divides by the size of a token and leaves its mean where it is.
#
# **Predict, then run:** 3 is added to every number of a token. Which of the two norms notices?

# %%
one, zero = np.ones(32, np.float32), np.zeros(32, np.float32)
assert np.allclose(ops.layer_norm(x + 3, one, zero, 1e-6), ops.layer_norm(x, one, zero, 1e-6), atol=1e-4)
assert not np.allclose(ops.rms_norm(x + 3, one, 1e-6), ops.rms_norm(x, one, 1e-6), atol=0.1)
assert np.allclose((ops.rms_norm(x + 3, one, 1e-6) ** 2).mean(-1), 1, atol=1e-4)  # its size is 1 all the same

# %% [markdown]
# ## Exercises
#
# 1. Flan-T5 XL has 32 heads and 32 buckets. How many numbers do the tables of its two stacks hold together?
# 2. One row of the encoder's table is never read, whatever the text. Which? (Look at the buckets of the keys ahead.)
# 3. The decoder stands at place 100 and looks at place 64. Which bucket is that? (Try the formula, then `back`.)

# %%
tutorial.check(None, "8bd2dd4a")
tutorial.check(None, "69122173")
tutorial.check(None, "a04e571a")
