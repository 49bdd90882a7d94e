# %% [markdown]
# # 03 · A vision transformer
#
# Tutorial 01 made tokens of a picture, tutorial 02 let them look at each other. A vision transformer does the second
# thing several times, and after each time lets every token think for itself. This is BLIP-2's eye, in
# `minivl/models/vit.py`.
#
# Letters: $B$ pictures, $N$ tokens (class token and patches), $C$ their width, $F$ the width inside the MLP, $L$
# layers.

# %%
import copy

import numpy as np

import minivl
from minivl import Blip2ForConditionalGeneration, Blip2Processor, tutorial
from minivl.models import blocks, vit

processor = Blip2Processor.from_pretrained("demo")
model = Blip2ForConditionalGeneration.from_pretrained("demo")
ops, config, p = model.ops, model.config.vision_config, model.params["vision"]
picture = tutorial.picture("red_triangle_above_yellow_star.png")
pixels = processor(images=picture, return_tensors="np").pixel_values

states = list(vit.states(ops, p, pixels, config))
print(len(states), "states of shape", states[0].shape)
assert len(states) == 1 + len(p["layers"]) == 5  # x_0, the patches and their places, then one for each layer

# %% [markdown]
# ## One layer
#
# ```
# x = x + attend(LN(x))
# x = x + mlp(LN(x))
# ```
#
# These are equations 2 and 3 of Dosovitskiy et al. 2021, who write $z$ for our `x`, $\mathrm{MSA}$ for our `attend`.
# The function is `blocks.pre_ln_layer`; *pre* because the norm comes before the work. Here are its two lines, by hand:

# %%
layer, heads, x = p["layers"][0], config.num_attention_heads, states[0]  # (B, N, C)
found = blocks.attend(ops, layer["self"], ops.layer_norm(x, **layer["self_ln"]), heads)  # (B, N, C)
thought = blocks.mlp(ops, layer["mlp"], ops.layer_norm(x + found, **layer["mlp_ln"]), "gelu")  # (B, N, C)
assert np.array_equal(x + found + thought, states[1])

# %% [markdown]
# ## LN, the layer norm
#
# $$ y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \mathrm{eps}}} \cdot w + b $$
#
# Each token is shifted and scaled for itself, over its $C$ numbers (Ba et al. 2016, section 3.1). `eps` is a tiny
# number that keeps the root away from 0; $w$ and $b$ are learned.
#
# **Predict, then run:** leave $w$ and $b$ out of it (ones and zeros). What are the mean and the variance of each token
# afterwards? And what changes if all numbers were ten times as large before?

# %%
plain = {"w": np.ones(config.hidden_size), "b": np.zeros(config.hidden_size), "eps": 1e-12}
y = ops.layer_norm(x.astype(np.float64), **plain)
assert np.allclose(y.mean(-1), 0) and np.allclose(y.var(-1), 1)
assert np.allclose(ops.layer_norm(10 * x.astype(np.float64), **plain), y)  # nothing: how loud a token was is forgotten

# %% [markdown]
# ## The MLP
#
# ```
# W_down act(W_up x)
# ```
#
# From $C$ numbers to $F = 4 C$, through a bent function, and back. Without the bend, two matrices in a row would be no
# more than one. The bend is the GELU (Hendrycks and Gimpel 2016): large numbers pass, those far below 0 do not, and
# between them it is smooth.
#
# **Predict, then run:** what does it make of -8, 0 and 8?

# %%
print(ops.gelu(np.linspace(-3, 3, 7)).round(2))
assert np.allclose(ops.gelu(np.array([-8.0, 0.0, 8.0])), [0, 0, 8])

# %% [markdown]
# **Predict, then run:** we change one token of 65. How many tokens does the MLP change? How many does attention?

# %%
other = x.copy()
other[0, 40] = -other[0, 40]


def moved(function):
    return int((~np.isclose(function(x), function(other), atol=1e-6).all(-1)).sum())


assert moved(lambda x: blocks.mlp(ops, layer["mlp"], x, "gelu")) == 1
assert moved(lambda x: blocks.attend(ops, layer["self"], x, heads)) == 65

# %% [markdown]
# ## The stream
#
# Nothing ever overwrites `x`: everything is *added* to it. So what a token holds at the end is a sum, of what it began
# with and of everything that attention and the MLPs had to say. `minivl.trace` keeps all of them under their names.
#
# **Predict, then run:** add them up. What is missing?

# %%
with minivl.trace(model) as flow:
    image = vit.encode(model.ops, p, pixels, config)  # (B, N, C)
print(*list(flow)[:11], sep="\n")
said = [flow[f"vision.layers.{i}.{part}"] for i in range(4) for part in ("self", "mlp")]
assert np.allclose(flow["vision.embeddings"] + sum(said), states[-1], atol=1e-4)  # nothing is missing
assert np.allclose(image, ops.layer_norm(states[-1], **p["ln"]), atol=1e-5)  # one last norm, as in equation 4

# %%
loud = [float(np.sqrt((x**2).mean())) for x in states]
print("how loud the stream is after each layer:", np.round(loud, 1))
assert loud[-1] > 2 * loud[0]  # sums grow: the norms in front of each part keep what it reads at one size
if plt := tutorial.pyplot():
    plt.figure(figsize=(4, 2.2), layout="constrained")
    plt.bar(range(8), [np.sqrt((part**2).mean()) for part in said], color=["steelblue", "orange"] * 4)
    plt.xticks(range(8), [f"{part} {i}" for i in range(4) for part in ("self", "mlp")], rotation=60)
    plt.title("what each part adds to the stream", fontsize=10)
    plt.show()

# %% [markdown]
# **Predict, then run:** the last matrix of each part, `out` and `down`, is set to zeros, and its bias too. What does
# the layer do then?

# %%
mute = copy.deepcopy(layer)
for leaf in (mute["self"]["out"], mute["mlp"]["down"]):
    leaf.update(w=np.zeros_like(leaf["w"]), b=np.zeros_like(leaf["b"]))
assert np.array_equal(blocks.pre_ln_layer(ops, mute, x, heads, "gelu"), x)  # nothing at all: x goes through

# %% [markdown]
# ## How many weights?
#
# Attention has four matrices of $C \times C$ (here three of them lie in one array, `qkv`), the MLP two of $C \times
# 4C$: that is $4 C^2 + 8 C^2 = 12 C^2$. Biases and norms add $13 C$, which is little.
#
# **Predict, then run:** how many is that for $C = 128$? (Without paper: $128^2$ is about 16 thousand.)


# %%
def count(tree):
    """How many numbers a tree of weights holds."""
    if isinstance(tree, dict | list):
        return sum(count(part) for part in (tree.values() if isinstance(tree, dict) else tree))
    return getattr(tree, "size", 0)  # an eps is no weight


C = config.hidden_size
print(f"{count(layer):,} in a layer, {count(p):,} in the eye, {count(model.params):,} in the whole model")
assert count(layer) == 12 * C**2 + 13 * C

# %% [markdown]
# ## What the layers do
#
# Below, the three directions in which the patches of a state differ most (its singular value decomposition) are shown
# as red, green and blue, so that patches with like numbers have like colours. At first the bare ones are all alike.
# Then they know where they are. At the end each thing has a colour, and the patches around it share in it.

# %%
panels = []
for x in states:
    middle = x[0, 1:] - x[0, 1:].mean(0)
    u, s, _ = np.linalg.svd(middle, full_matrices=False)
    three = (u * s)[:, :3]
    panels.append(((three - three.min(0)) / np.ptp(three, axis=0)).reshape(8, 8, 3))
tutorial.show([picture, *panels], ["picture", "x_0", *(f"after layer {i}" for i in range(4))])

# %% [markdown]
# **Predict, then run:** what if one of the four layers is left out? Does the model fall silent, does it say the same,
# or something between?


# %%
def caption(model):
    return processor.batch_decode(model.generate(pixels), skip_special_tokens=True)[0].strip()


whole, without = caption(model), copy.copy(model)
for i in range(4):
    fewer = p["layers"][:i] + p["layers"][i + 1 :]
    without.params = model.params | {"vision": p | {"layers": fewer}}
    print(f"without layer {i}: {caption(without)}")
    assert caption(without) != whole and "red" in caption(without) and "yellow star" in caption(without)

# %% [markdown]
# Something between: each layer adds to what the others said, and none of them carries everything.
#
# ## Exercises
#
# 1. BLIP-2's own eye has $C = 1408$ and $F = 6144$. How many numbers are in the six matrices of one layer?
# 2. It has 39 layers. How many times does it call `ops.attention` for a picture?

# %%
tutorial.check(None, "52aef485")
tutorial.check(None, "a9fa3a87")
