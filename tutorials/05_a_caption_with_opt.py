# %% [markdown]
# # 05 · A caption with OPT
#
# The picture has become eight soft words. Now a language model writes, one token at a time: it reads everything so far,
# gives every word of its vocabulary a score, one of them is chosen, and it reads on. This is OPT (Zhang et al. 2022),
# in `minivl/models/opt.py`; what chooses is in `minivl/generate/`.
#
# Letters: $B$ rows, $T$ tokens of this call, $S$ tokens so far, $C$ width, $V$ vocabulary.

# %%
import numpy as np

from minivl import Blip2ForConditionalGeneration, Blip2Processor, generate, tutorial
from minivl.models import blip2, blocks, opt

processor = Blip2Processor.from_pretrained("demo")
model = Blip2ForConditionalGeneration.from_pretrained("demo")
ops, config, p = model.ops, model.config.text_config, model.params["language"]
picture = tutorial.picture("red_triangle_above_yellow_star.png")
pixels = processor(images=picture, return_tensors="np").pixel_values
tutorial.show([picture])

soft_words = blip2.see(ops, model.params, pixels, model.config)  # (B, 8, C)
ids = np.array([[config.bos_token_id]])  # every text begins with this token
embeds, mask = blip2.prompt(ops, model.params, soft_words, ids, np.ones_like(ids))
print("what OPT reads first:", embeds.shape)

# %% [markdown]
# ## The next word
#
# The layers are those of tutorial 03, `blocks.pre_ln_layer`, with `causal=True`: a token sees what was before it. The
# last state is compared with every row of the table of words. That gives the scores, or *logits*:
#
# ```
# logits = LN(x) tokensᵀ
# ```
#
# and the softmax makes probabilities of them.

# %%
x = blocks.last(opt.states(ops, p, embeds, mask, config))  # (B, T, C), after the last norm
logits = opt.logits(ops, p, x)  # (B, T, V)
assert logits.shape == (1, 9, len(p["tokens"])) and np.allclose(logits, x @ p["tokens"].T, atol=1e-4)


def likeliest(scores, count=2):
    """The most probable words.   scores (V,)"""
    share = ops.softmax(scores)
    return [(processor.tokenizer.decode([int(i)]), round(float(share[i]), 3)) for i in np.argsort(-share)[:count]]


# %% [markdown]
# ## Greedy
#
# Take the most probable word, read it, and go on until the end token. `opt.Reader` reads: `step(None)` the prompt,
# `step(token)` one token more. `model.generate` does just that, unless it is told otherwise.

# %%
reader = opt.Reader(ops, p, embeds, mask, config)
scores, written = reader.step(None), []
while config.eos_token_id not in written:
    best = scores.argmax(-1)  # (B,)
    print(f"{processor.tokenizer.decode(written)!r:48} then {likeliest(scores[0])}")
    written.append(int(best[0]))
    scores = reader.step(best)
out = model.generate(pixels)
assert out[0].tolist() == [config.bos_token_id, *written]

# %% [markdown]
# **Predict, then run:** we let the model read the whole caption at once. A token sees only what was before it. What are
# the most probable words at all of its places?

# %%
whole = model(pixels, out, output_attentions=True)
assert whole.logits[0, 8:-1].argmax(-1).tolist() == written  # each place says the next word

# %% [markdown]
# **Predict, then run:** in tutorial 04, soft words 0 and 4 stood for the triangle, 1 and 5 for the star. Which of them
# does the first layer look at before it writes *red*, and which before *yellow*?

# %%
first = whole.language_model_outputs.attentions[0]  # (B, H, S, S)
looks = first[0, :, 8:-1, :8].mean(0)  # from the places of the text to the soft words, the mean of the heads
triangle, star = looks[:, [0, 4]].sum(-1), looks[:, [1, 5]].sum(-1)
assert (triangle > star)[1:4].all() and (star > triangle)[6:9].all()  # "large red triangle", "small yellow star"
if plt := tutorial.pyplot():
    plt.figure(figsize=(4, 3), layout="constrained")
    plt.imshow(looks, cmap="Blues")
    plt.yticks(range(len(looks)), [f"before {processor.tokenizer.decode([i])!r}" for i in written])
    plt.xlabel("soft word")
    plt.show()

# %% [markdown]
# ## The cache
#
# To write the next word, a token needs the keys and values of all before it. These do not change any more: a token
# never sees what comes later. So each layer keeps them (`minivl/models/blocks.py`), and each step computes one token.
#
# **Predict, then run:** we look at the shapes in `ops.attention` while it writes. How many queries are there in the
# first step, and in those after it? How many keys?

# %%
shapes = []


def watched(q, k, v, **how):
    shapes.append((q.shape[2], k.shape[2]))
    return ops.attention(q, k, v, **how)


reader = opt.Reader(ops._replace(attention=watched), p, embeds, mask, config)
generate.run(reader, 1, generate.Settings(), generate.Tokens(config.bos_token_id, config.eos_token_id, None))
print("(queries, keys):", *shapes[:: len(p["layers"])])  # every layer has the same
assert shapes[0] == (9, 9) and shapes[3:7] == [(1, 10), (1, 10), (1, 10), (1, 11)]

# %% [markdown]
# ## How probable is a text?
#
# Words follow one another, so their probabilities multiply, and their logarithms add up. `labels` makes the model give
# the mean of $-\log p$ over the words, the *loss*.
#
# **Predict, then run:** of these three captions, which is the least surprising for the model?

# %%
for change in ("", ""), ("large", "small"), ("above", "below"):
    text = "a large red triangle above a small yellow star".replace(*change)
    asked = processor(images=picture, text=text + "\n", return_tensors="np")
    loss = float(model(**asked, labels=asked.input_ids).loss)
    print(f"{text:50} loss {loss:.3f}, p = {np.exp(-loss * (asked.input_ids.shape[1] - 1)):.6f}")
    assert (loss < 0.01) == (text == "a large red triangle above a small yellow star")

# %% [markdown]
# ## When greedy is wrong
#
# The best beginning need not lead to the best text. To see it, a language of four words. `generate` writes with
# anything that has `step` and `reorder`. Here it is a table: the row is the last word, the columns are the
# probabilities of the next.

# %%
WORDS = ["<start>", "it", "there", "rains", "is", "."]
TABLE = np.full((6, 6), 1e-9)
TABLE[0, [1, 2]] = 0.6, 0.4  # the text begins with "it" or with "there"
TABLE[1, [3, 4, 5]] = 0.4, 0.35, 0.25  # after "it" nothing is certain
TABLE[2, 4] = 1.0  # after "there" comes "is"
TABLE[[3, 4], 5] = 1.0  # and then the end


class Table:
    def step(self, tokens):
        self.last = np.array([0]) if tokens is None else tokens
        return np.log(TABLE[self.last])

    def reorder(self, rows):
        self.last = self.last[rows]


def written_by(beams):
    ids = generate.run(Table(), 1, generate.Settings(num_beams=beams), generate.Tokens(0, 5, 5))[0]
    return [WORDS[i] for i in ids[1:]], round(float(TABLE[ids[:-1], ids[1:]].prod()), 3)


# %% [markdown]
# **Predict, then run:** greedy begins with the more probable word, "it". How probable is its text, and is there a
# better one?

# %%
print(written_by(1), written_by(2))
assert written_by(1) == (["it", "rains", "."], 0.24)  # 0.6 · 0.4 · 1
assert written_by(2) == (["there", "is", "."], 0.4)  # 0.4 · 1 · 1

# %% [markdown]
# Two *beams* are two beginnings side by side. At each step every beam could go on with every word; the best two of all
# those continuations are kept. Texts of different length are compared by $\log p / \mathrm{length}$, for otherwise
# short ones would win too often (`length_penalty` bends that). The rules are in `minivl/generate/beams.py`.
#
# ## A question
#
# A prompt is words behind the soft words. **Predict, then run:** a question, asked of the right picture and of a wrong
# one. Will it say of the wrong one that there is no star?

# %%
question = "Question: what is above the yellow star? Answer:"
for name in ("red_triangle_above_yellow_star", "two_teal_rings"):
    asked = processor(images=tutorial.picture(f"{name}.png"), text=question, return_tensors="np")
    answer = processor.batch_decode(model.generate(**asked), skip_special_tokens=True)[0].strip()
    print(f"{name:32} {answer}")
    assert (answer == "red triangle") == (name == "red_triangle_above_yellow_star") and "no" not in answer
# it never learned to say that it does not know

# %% [markdown]
# ## Exercises
#
# 1. OPT-2.7b has 32 layers of width 2560. How many numbers does its cache keep for one token, keys and values?
# 2. It writes 10 tokens after a prompt of 33. With the cache it reads 33 + 9 tokens (the last is never read). How many
#    would it read in all if it began from the start for each of the ten?

# %%
tutorial.check(None, "51f61b84")
tutorial.check(None, "925c7ba5")
