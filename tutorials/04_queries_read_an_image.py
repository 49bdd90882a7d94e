# %% [markdown]
# # 04 · Queries read an image
#
# The eye of tutorial 03 leaves 65 tokens about a picture; BLIP-2's real eye leaves 257. BLIP-2 does not hand them to
# its language model. A small network in between, the *Q-Former*, asks a few learned questions, and only the answers go
# on (Li et al. 2023, section 3.1; `minivl/models/qformer.py`).
#
# Letters: $B$ pictures, $Q$ queries, $N$ tokens of the picture, $C$ width of a query, $H$ heads.

# %%
import numpy as np

from minivl import Blip2ForConditionalGeneration, Blip2Processor, generate, tutorial
from minivl.models import blip2, blocks, opt, qformer, vit

processor = Blip2Processor.from_pretrained("demo")
model = Blip2ForConditionalGeneration.from_pretrained("demo")
ops, config, p = model.ops, model.config, model.params
names = ["red_triangle_above_yellow_star", "blue_circle_left_of_green_circle"]
names += ["blue_star_teal_rectangle_green_rectangle_black_ring", "red_circle"]
pictures = [tutorial.picture(f"{name}.png") for name in names]
pixels = processor(images=pictures, return_tensors="np").pixel_values
tutorial.show(pictures, ["star", "circles", "four things", "one"])
STAR, CIRCLES, FOUR, ONE = range(4)

image = vit.encode(ops, p["vision"], pixels, config.vision_config)  # (B, N, C)
print("queries", p["queries"].shape, " image", image.shape)

# %% [markdown]
# ## The same questions for every picture
#
# The queries are weights. They were learned, like any matrix, and are there before there is a picture. A layer of the
# Q-Former is a post-LN one, `blocks.post_ln_layer`:
#
# ```
# x = LN(x + attend(x))            the queries look at each other
# x = LN(x + attend(x, memory))    they look at the picture: its tokens are the memory
# x = LN(x + mlp(x))               each thinks for itself
# ```
#
# In the middle line $q$ comes from the queries and $k$, $v$ come from the picture. That is called cross-attention; it
# is the same `blocks.attend` with another memory.
#
# **Predict, then run:** we follow the queries from layer to layer. After which layer do they begin to differ from
# picture to picture?

# %%
states = list(qformer.states(ops, p["qformer"], p["queries"], image, config.qformer_config))  # (B, Q, C) each
differ = [float(np.abs(x - x[:1]).max()) for x in states]
print(np.round(differ, 2))
assert differ[0] == 0 < differ[1]  # the first layer already looks at the picture

# %% [markdown]
# **Predict, then run:** we shuffle the tokens of the picture before the queries read them. What happens to the answers?

# %%
order = np.random.default_rng(0).permutation(image.shape[1])
answers = qformer.encode(ops, p["qformer"], p["queries"], image, config.qformer_config)
shuffled = qformer.encode(ops, p["qformer"], p["queries"], image[:, order], config.qformer_config)
assert np.allclose(shuffled, answers, atol=1e-4)
# nothing: where a patch stood has been in the patch since tutorial 01

# %% [markdown]
# **Predict, then run:** and if all tokens of a picture were the same, what could the attention weights change?

# %%
same = np.repeat(image[:, 10:11], 65, axis=1)
cross, heads = p["qformer"]["layers"][0]["cross"], config.qformer_config.num_attention_heads
many, one = (blocks.attend(ops, cross, states[0], heads, memory) for memory in (same, same[:, :1]))
assert np.allclose(many, one, atol=1e-4)  # nothing: an average of equal things is that thing

# %% [markdown]
# ## Where they look
#
# `output_attentions=True` gives the weights that were used. In the last layer:

# %%
out = model(pixels, np.full((4, 1), config.text_config.bos_token_id), output_attentions=True)
maps = out.qformer_outputs.cross_attentions  # one (B, H, Q, N) for each layer
last = maps[-1].mean(1)  # (B, Q, N), the mean of the heads
for which in (STAR, FOUR):
    panels = [query[1:].reshape(8, 8) for query in last[which]]
    tutorial.show(panels, [f"query {i}" for i in range(8)], over=pictures[which], columns=4, title=names[which])

# %% [markdown]
# Two queries look at the triangle, two at the star. The others look nowhere in particular: in one head of the last
# layer most of their weight lies on the class token, which belongs to no patch.

# %%
looks_at = last[STAR, :, 1:].argmax(-1)  # the patch that each query looks at most
print("row and column of the patch:", [divmod(int(n), 8) for n in looks_at[[0, 4, 1, 5]]])
assert looks_at[0] == looks_at[4] and looks_at[1] == looks_at[5] and looks_at[0] != looks_at[1]
on_class_token = maps[-1][STAR, 3, :, 0]  # head 3
assert on_class_token[[0, 1, 4, 5]].max() < 0.01 and on_class_token[[2, 3, 6, 7]].min() > 0.7

# %% [markdown]
# What a query has looked at is not yet what it says. The tutorial's last part tries that out.
#
# ## From answers to soft words
#
# One matrix takes the answers to the width of the language model's words (`p["projection"]`). `blip2.see` is all of it:
# eye, queries, projection. What comes out stands in the place of words, but is none: *soft words*.
#
# **Predict, then run:** the picture is 3 x 64 x 64 numbers. Through how many must everything pass that the language
# model will ever know of it?

# %%
soft_words = blip2.see(ops, p, pixels, config)  # (B, Q, C)
assert np.allclose(soft_words, ops.linear(answers, **p["projection"]), atol=1e-5)
assert (pixels[0].size, soft_words[0].size) == (12288, 8 * 128)

# %% [markdown]
# How much are the eight alike? Cosines, 1 where two say the same:

# %%
unit = soft_words / np.linalg.norm(soft_words, axis=-1, keepdims=True)
alike = unit @ unit.swapaxes(1, 2)  # (B, Q, Q)
tutorial.show(list(alike), ["star", "circles", "four things", "one"], signed=True, title="soft words among themselves")
assert alike[STAR, 0, 4] > 0.95 and alike[STAR, 1, 5] > 0.95 and abs(alike[STAR, 0, 1]) < 0.2
empty = alike[STAR][np.ix_([2, 3, 6, 7], [2, 3, 6, 7])]
assert empty.min() > 0.95  # four times the same: there is no third thing

# %% [markdown]
# In this tiny model the queries have shared out the things among them: 0 to 3 say what is there from left to right, 4
# to 7 say it from top to bottom. The triangle is both leftmost and highest, so queries 0 and 4 agree. That is what this
# model was trained to (`minivl/demo/pool.py`); the queries of the real Q-Former were left to find their own way.

# %%
rows, columns = np.divmod(last[FOUR, :, 1:].argmax(-1), 8)  # where each query looks, with four things
print("columns of queries 0 to 3:", columns[:4], " rows of queries 4 to 7:", rows[4:])
assert (np.diff(columns[:4]) >= 0).all() and (np.diff(rows[4:]) >= 0).all()

# %% [markdown]
# ## Words that can be exchanged
#
# If a soft word stands for a thing, we can take it from one picture and put it into another. The language model then
# writes about a picture that nobody has seen. (`opt.Reader` and `generate.run` are the subject of tutorial 05.)


# %%
def say(soft_words):
    """What the language model writes about these soft words.   soft_words (B, Q, C)"""
    text = config.text_config
    ids = np.full((len(soft_words), 1), text.bos_token_id)
    reader = opt.Reader(ops, p["language"], *blip2.prompt(ops, p, soft_words, ids, np.ones_like(ids)), text)
    tokens = generate.Tokens(text.bos_token_id, text.eos_token_id, text.pad_token_id)
    ids = generate.run(reader, len(ids), generate.Settings(), tokens)
    return [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]


print(*say(soft_words), sep="\n")

# %% [markdown]
# **Predict, then run:** we take the soft words of the star's picture, but queries 0 and 4 (the triangle) from the one
# with the circles. What will it say stands above the star?

# %%
mixed = soft_words[[STAR]].copy()
mixed[0, [0, 4]] = soft_words[CIRCLES, [0, 4]]
(said,) = say(mixed)
print(said)
assert said == "a small blue circle above a small yellow star"

# %% [markdown]
# **Predict, then run:** the four queries that look nowhere are taken from the circles too. And then the same eight soft
# words in another order. What changes?

# %%
mixed = soft_words[[STAR]].copy()
mixed[0, [2, 3, 6, 7]] = soft_words[CIRCLES, [2, 3, 6, 7]]
turned = soft_words[[STAR]][:, np.random.default_rng(0).permutation(8)]
assert say(mixed) == say(turned) == say(soft_words)[:1]  # nothing

# %% [markdown]
# ## Exercises
#
# 1. In the picture with four things, which query says the same as query 3? (Look at `alike[FOUR]`.)
# 2. BLIP-2 has 32 queries, and its eye leaves 257 tokens. How many numbers does a head of its cross-attention hold in
#    `weights`?
# 3. What does it say if queries 1 and 5 come from the circles? Name the shape that is no longer there.

# %%
tutorial.check(None, "4d1e1d1b")
tutorial.check(None, "99246d65")
tutorial.check(None, "a3995f2e")
