# %% [markdown]
# # 13 · int8: what it saves and what it costs
#
# A weight in float32 takes four bytes. BLIP-2 with OPT-2.7b has 3.7 billion of them, 15 GB. This tutorial puts each
# into one byte and looks at what goes wrong: LLM.int8() (Dettmers et al. 2022), see `minivl/ops/quantised.py`.
# Letters: $C$ width, $F$ another width.

# %%
from itertools import islice

import numpy as np

import minivl
from minivl import Blip2ForConditionalGeneration, Blip2Processor, tutorial
from minivl.demo import world
from minivl.ops import plain

# %% [markdown]
# ## A row in whole numbers
#
# One signed byte holds the whole numbers from -127 to 127 (and -128, which is not used). So each row of a matrix is
# stretched until its largest magnitude is 127, and rounded:
#
# $$ \mathrm{rows} = \mathrm{round}(w \cdot 127 / \mathrm{scale}) \qquad \mathrm{scale} = \max |w| $$
#
# The paper calls this absmax quantization (section 2), and one scale for each row vector-wise (section 3.1).
#
# **Predict, then run:** the largest magnitude of this row is 1. What becomes of -1, of 0.25, and of 0.003?

# %%
w = np.array([[-1, 0.25, 0.003, 0.8]], np.float32)  # (F, C)
rows, scale = plain.quantise_rows(w)
print(rows, rows.dtype, scale)
assert rows[0, :3].tolist() == [-127, 32, 0]  # 0.25 · 127 = 31.75; and 0.003 is lost

# %% [markdown]
# Read back, a number is $\mathrm{rows} \cdot \mathrm{scale} / 127$. Rounding moves it by half a step at most, that is
# by $\mathrm{scale} / 254$.
#
# **Predict, then run:** we make one number of the row ten times as large. What happens to the errors of the *others*?


# %%
def worst(w):
    """The largest rounding error of each row."""
    rows, scale = plain.quantise_rows(w)
    error = np.abs(rows * (scale / 127)[:, None] - w).max(-1)
    assert (error <= scale / 254 * 1.001).all()
    return error


rng = np.random.default_rng(0)
w = rng.normal(size=(2, 1000)).astype(np.float32)
before = worst(w)
w[0, 0] = 10 * np.abs(w[0]).max()
print("before:", before, " after:", worst(w))
assert worst(w)[0] > 5 * before[0]  # the steps are ten times as wide
assert worst(w)[1] == before[1]  # but only in this row: that is why each has its own scale

# %% [markdown]
# ## What it saves
#
# `load_in_8bit="weight-only"` keeps the matrices like that and widens them, a tile at a time, while they are
# multiplied. `load_in_8bit=True` is LLM.int8(), of which more below. bfloat16 is simply the upper half of each float32.
#
# **Predict, then run:** how much memory do the weights take in each, beside the first?

# %%
ways = {"float32": {}, "bfloat16": {"dtype": "bfloat16"}}
ways |= {"weight-only": {"load_in_8bit": "weight-only"}, "LLM.int8()": {"load_in_8bit": True}}
models = {name: Blip2ForConditionalGeneration.from_pretrained("demo", **how) for name, how in ways.items()}


def size(tree):
    """The bytes of a tree of weights."""
    if isinstance(tree, dict | list):
        return sum(size(part) for part in (tree.values() if isinstance(tree, dict) else tree))
    return getattr(tree, "nbytes", 0)


sizes = {name: size(model.params) for name, model in models.items()}
for name, bytes_ in sizes.items():
    print(f"{name:12} {bytes_ / 1e6:5.2f} MB, {sizes['float32'] / bytes_:.1f} times smaller")
assert 1.9 < sizes["float32"] / sizes["bfloat16"] < 2 and 3.5 < sizes["float32"] / sizes["weight-only"] < 4

# %% [markdown]
# Not quite a half and a quarter: biases, norms and places stay as they are, and each row brings a scale. The larger the
# model, the less that counts.
#
# ## LLM.int8(): the product in whole numbers too
#
# A machine that multiplies bytes faster than floats wants both sides in bytes. So the activations $x$ are rounded in
# the same way, row by row, and
#
# $$ x\, w^{\top} \approx (A\, W^{\top}) \cdot \mathrm{scale}_x \, \mathrm{scale}_w / 127^2 $$
#
# where $A$ and $W$ are the whole numbers ($X_{i8}$, $W_{i8}$ in the paper). Weights are tame. Activations are not: in
# large language models a few columns hold numbers that are many times larger than all others. We make one:

# %%
w = models["float32"].params["language"]["layers"][0]["mlp"]["up"]["w"]  # (F, C)
W, scale = plain.quantise_rows(w)
x = rng.normal(size=(8, 128)).astype(np.float32)
x[:, 5] = 60


def off(y):
    """How far a product is from the true one, on average, in percent of its size."""
    return 100 * float(np.abs(y - x @ w.T).mean() / np.abs(x @ w.T).mean())


# %% [markdown]
# **Predict, then run:** all of $x$ is rounded now, the large column among it. By how many steps are the ordinary
# numbers, which are about 1, told apart? Does the error grow a little, or several times?

# %%
A, scale_x = plain.quantise_rows(x)
everything = (A.astype(int) @ W.T.astype(int)) * scale_x[:, None] * scale / 127**2
apart = plain.int8_linear(x, W, scale)
print(f"everything in bytes: {off(everything):.1f} % off; the large column apart: {off(apart):.1f} % off")
assert abs(A[:, :5]).max() <= 8  # 127 / 60 is about 2: a number of 1 becomes 2, and one of 0.2 becomes 0
assert off(everything) > 3 * off(apart)

# %% [markdown]
# That is the trick of the paper (section 3.2): the columns in which any $|x|$ is 6 or more are multiplied as they are,
# the rest in bytes, and the two are added. `plain.quantise_activations` does so:

# %%
small, scale_x, outlying = plain.quantise_activations(x)
assert np.flatnonzero(outlying).tolist() == [5] and not small[:, 5].any() and scale_x.max() < 6

# %% [markdown]
# ## What it costs
#
# Every product is a little off now, and the next layer works with what came out of the one before. We run all four
# models on the same pictures, keep what flows, and compare.
#
# **Predict, then run:** which is nearest to float32? Do the errors explode on the way through ten layers?

# %%
processor = Blip2Processor.from_pretrained("demo")
scenes = list(islice(world.scenes("test", seed=2026), 24))  # pictures that training cannot have seen
pixels = processor(images=[world.draw(scene) for scene in scenes], return_tensors="np").pixel_values
flows = {}
for name, model in models.items():
    with minivl.trace(model) as flows[name]:
        model(pixels[:8], np.full((8, 1), model.config.text_config.bos_token_id))

places = ["vision.patch", *(f"vision.layers.{i}" for i in range(4)), *(f"qformer.layers.{i}.mlp_ln" for i in range(3))]
places += ["projection", *(f"language.layers.{i}" for i in range(3)), "language.head"]
true = flows["float32"]
errors = {
    name: [float(np.linalg.norm(flow[place] - true[place]) / np.linalg.norm(true[place])) for place in places]
    for name, flow in flows.items()
}
for name, error in errors.items():
    print(f"{name:12} " + " ".join(f"{100 * e:4.1f}" for e in error), "% off")
assert errors["bfloat16"][-1] < errors["weight-only"][-1] < errors["LLM.int8()"][-1]
assert max(errors["LLM.int8()"]) < 0.05  # they do not: norms and sums keep them small
if plt := tutorial.pyplot():
    plt.figure(figsize=(6, 3.2), layout="constrained")
    for name, error in list(errors.items())[1:]:
        plt.plot(places, 100 * np.array(error), marker="o", label=name)
    plt.xticks(rotation=75, fontsize=7)
    plt.ylabel("% off")
    plt.legend(fontsize=8)
    plt.show()

# %% [markdown]
# **Predict, then run:** scores that are 1 % off: how many of 24 captions become wrong?


# %%
def right(model):
    said = processor.batch_decode(model.generate(pixels, max_new_tokens=24), skip_special_tokens=True)
    return sum(text.strip() == world.caption(scene) for text, scene in zip(said, scenes, strict=True))


for name, model in models.items():
    print(f"{name:12} {right(model)} of {len(scenes)} captions are right to the last word")
    assert right(model) >= 22  # hardly any: few wrong words have a score near the best

# %% [markdown]
# Nearly three quarters of the memory are saved, and hardly a caption is lost. And time? On NumPy the whole numbers are
# multiplied as floats, since its product knows no bytes, so LLM.int8() is there to give the numbers of a GPU, not its
# speed. `minivl bench` measures what a token takes in each form on your machine, and `minivl inspect` says how much
# memory a model needs before it is loaded.
#
# ## Exercises
#
# 1. To which whole number is 1 rounded in a row whose largest magnitude is 254? (The rule for ties is in `round_rows`.)
# 2. A matrix of 2560 x 2560 in int8 with a float32 scale for each row: how many bytes?
# 3. Rows of `x` share the columns that are set apart. If one row of a batch has an outlier, do the others' results
#    change? Try it with `plain.int8_linear`, and answer yes or no.

# %%
tutorial.check(None, "1cd5f08c")
tutorial.check(None, "fddc0a73")
tutorial.check(None, "fd17a251")
