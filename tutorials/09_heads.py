# %% [markdown]
# # 09 · Heads: matching, contrast, masked words
#
# After the bridges (tutorial 08) there is a state for every word and every patch. A *head* is a small layer on top that
# makes an answer of them. The demo has all heads of BridgeTower:
#
# | head | question | from | gives |
# |---|---|---|---|
# | matching | do text and picture belong together? | the pair | no and yes, two scores |
# | masked words | which word is hidden? | the text's states | a score for every word |
# | contrast | how close are they? | each tower alone | a vector for each |
#
# All three are in `minivl/models/bridgetower.py`, a few lines each.
#
# Letters: $B$ pairs, $T$ words, $C$ width, $K$ width of the contrastive vectors, $V$ vocabulary.

# %%
import numpy as np

from minivl import BridgeTowerForMaskedLM, BridgeTowerForMatchingAndContrast, BridgeTowerProcessor, tutorial

processor = BridgeTowerProcessor.from_pretrained("demo-bridgetower")
model = BridgeTowerForMatchingAndContrast.from_pretrained("demo-bridgetower")
ops, p = model.ops, model.params


def pairs(pictures, texts):
    return processor(pictures, texts, padding=True, return_tensors="np")


# %% [markdown]
# ## Matching
#
# One vector for the pair, then one matrix. The vector has two halves: the text's first token `<s>` and the picture's
# class token, each through a layer of its own and a $\tanh$. All other tokens have had their say in the attention. The
# chance of yes is the softmax (tutorial 02) over the two scores.
#
# **Predict, then run:** which of these are true of the picture?

# %%
picture = tutorial.picture("red_triangle_above_yellow_star.png")
texts = [
    "a large red triangle above a small yellow star",
    "a large red triangle below a small yellow star",
    "a large blue triangle above a small yellow star",
    "there is a star",
    "two stars",
]
out = model(**pairs([picture] * 5, texts))
yes = ops.softmax(out.matching.logits)[:, 1]  # (B,)
for text, chance in zip(texts, yes, strict=True):
    print(f"{chance:7.2%}  {text}")
assert (yes > 0.5).tolist() == [True, False, False, True, False]

# %% [markdown]
# A head learns from pairs whose answer is known. Its loss is the cross entropy: how surprised it is by the right
# answer, $-\log$ of the chance it gave to that. With `labels` the model says what it is.
#
# **Predict, then run:** is the loss near 0 for the right labels? And with all labels turned round?

# %%
for given in (np.array([1, 0, 0, 1, 0]), np.array([0, 1, 1, 0, 1])):
    loss = model(**pairs([picture] * 5, texts), labels=given).loss
    print(f"{loss:.4f}")
    assert np.allclose(loss, -np.log(np.where(given == 1, yes, 1 - yes)).mean(), rtol=1e-2)
assert loss > 5  # it was sure, and it would have been wrong every time

# %% [markdown]
# ## Contrast
#
# Matching has to see every pair. With a thousand pictures and a thousand texts that is a million pairs. The contrastive
# heads stand on the *towers*: each text becomes a vector of length 1 by itself, each picture likewise, and a product of
# the two says how close they are (Radford et al. 2021, section 2.3). That is a thousand and a thousand passes through a
# single tower.

# %%
captions = {
    "red_circle": "a small red circle",
    "two_teal_rings": "two teal rings",
    "black_cross": "a large black cross",
    "black_ring": "a small black ring",
    "red_triangle_above_yellow_star": texts[0],
    "blue_circle_left_of_green_circle": "a small blue circle left of a small green circle",
}
pictures = [tutorial.picture(f"{name}.png") for name in captions]
inputs = pairs(pictures, list(captions.values()))
text = model.get_text_features(inputs.input_ids, inputs.attention_mask)  # (B, K)
image = model.get_image_features(inputs.pixel_values)  # (B, K)
assert np.allclose((text**2).sum(-1), 1, atol=1e-5)

# %% [markdown]
# **Predict, then run:** the table below has a text in each row and a picture in each column. Where are the large ones?

# %%
close = text @ image.T
print(close.round(2))
tutorial.show([close], ["texts \\ pictures"])
assert close.argmax(0).tolist() == close.argmax(1).tolist() == list(range(6))  # on the diagonal

# %% [markdown]
# ### How it learns
#
# Each text should find its picture among all of the batch. So a row of the table, times a scale, goes into a softmax,
# and the loss is the cross entropy with the diagonal as the right answer. The scale is $e^{s}$ with a learned $s$ (in
# CLIP the temperature, $e^{t}$). BridgeTower's class adds two more tables, with the vector of the *pair* as a third
# party.
#
# **Predict, then run:** the captions go one picture to the right. What happens to this loss?

# %%
scale, right = np.exp(p["itc"]["scale"]), np.arange(6)
good, bad = ops.cross_entropy(close * scale, right), ops.cross_entropy(np.roll(close, 1, 0) * scale, right)
print(f"scale {scale:.1f}   loss {good:.3f}, and {bad:.1f} with the captions moved")
assert good < 0.1 and bad > 5
third = model(**inputs).contrast.cross_embeds  # (B, K)
three = [ops.cross_entropy(a @ b.T * scale, right) for a, b in ((text, image), (text, third), (image, third))]
assert np.allclose(model(**inputs, return_loss=True).contrast.loss, np.mean(three), atol=1e-4)

# %% [markdown]
# ### What it costs to look separately
#
# **Predict, then run:** "above" becomes "below". Matching said no to that. How far does the *closeness* fall: below
# that of every text about another picture, or not as far?

# %%
two = pairs([picture] * 2, texts[:2])
above, below = model.get_text_features(two.input_ids, two.attention_mask) @ image[4]
others = np.sort(close[:, 4])[-2]
print(f"above {above:.2f}, below {below:.2f}, the best of the other captions {others:.2f}")
assert above > below > others  # not as far: a wrong text, but a near one

# %% [markdown]
# So a search goes in two steps: contrast chooses a few of very many, matching decides among the few.
#
# ## Masked words
#
# The third head has a score for every word of the vocabulary at every place (Devlin et al. 2019, section 3.1, task 1;
# here with a picture to look at). It was trained to guess the words behind `<mask>`.


# %%
filler = BridgeTowerForMaskedLM.from_pretrained("demo-bridgetower")


def guess(picture, text):
    """The two best words for the mask, with their chances; the place of the mask; all that the model gave."""
    inputs = pairs(picture, text)
    place = inputs.input_ids[0].tolist().index(processor.tokenizer.mask_token_id)
    out = filler(**inputs, output_attentions=True)
    chances = ops.softmax(out.logits[0, place])  # (V,)
    best = [(processor.decode([word]).strip(), round(float(chances[word]), 3)) for word in chances.argsort()[:-3:-1]]
    return best, place, out


# %% [markdown]
# **Predict, then run:** the same text, two pictures. Which words?

# %%
for name, wanted in (("red_circle", ("red",)), ("blue_circle_left_of_green_circle", ("blue", "green"))):
    words, _, _ = guess(tutorial.picture(f"{name}.png"), "there is a small <mask> circle")
    print(name, words)
    assert words[0][0] in wanted

# %% [markdown]
# **Predict, then run:** and where the text leaves open what *kind* of word it is? "small star" and "yellow star" are
# both true here. Are the chances shared?

# %%
words, place, out = guess(picture, "there is a <mask> star")
print(words)
assert words[0][0] == "small" and words[0][1] > 0.9  # one of them, and nearly sure: that there is another does not show

# %% [markdown]
# ### Where the mask looked
#
# The weights of the text's cross-attention, from the mask to the patches, the mean of the heads. They show where
# numbers were fetched from, and not why the answer is what it is: other words and the layers before took part too.
#
# **Predict, then run:** where does it look, in each layer? The star lies in 4 of the 64 patches.

# %%
maps = [layer[0][0, :, place, 1:].mean(0).reshape(8, 8) for layer in out.cross_attentions]
tutorial.show(maps, [f"layer {j}" for j in range(3)], over=picture, title="from the mask of the star to the picture")
on_star = [float(one[6:, 4:6].sum()) for one in maps]
print("on the star:", [f"{share:.0%}" for share in on_star])
assert on_star[0] < 0.5 < min(on_star[1:])  # first around, then at the thing that its word is about

# %% [markdown]
# ## Exercises
#
# 1. 300 pictures and 300 texts, each with each: how many pairs does the matching head see? And how many passes through
#    one tower does contrast need? Give the two numbers as a list.
# 2. Yes and no have the same score. What is the chance of yes, in percent?
# 3. `guess` the mask of "a large <mask> cross" in `black_cross.png`. Which word?

# %%
tutorial.check(None, "99801487")
tutorial.check(None, "b3073fba")
tutorial.check(None, "63de1347")
