# %% [markdown]
# # 01 · Pixels to patches
#
# A transformer reads rows of numbers, one row for each *token*. A picture is no such thing. One trick makes it one: cut
# the picture into squares, write the numbers of each square as one long row, and multiply that row by a matrix.
#
# Letters: $B$ pictures, $N$ tokens of a picture, $C$ numbers in a token, $P$ pixels along the edge of a patch.

# %%
import copy

import numpy as np

from minivl import Blip2ForConditionalGeneration, Blip2Processor, tutorial
from minivl.models import blocks

processor = Blip2Processor.from_pretrained("demo")
model = Blip2ForConditionalGeneration.from_pretrained("demo")
ops = model.ops  # the dozen functions that every model here is made of
picture = tutorial.picture("red_triangle_above_yellow_star.png")

pixels = processor(images=picture, return_tensors="np").pixel_values
print(picture.size, "->", pixels.shape)
tutorial.show([picture], ["what we see"])

# %% [markdown]
# ## What the processor does
#
# It makes the picture as large as the model wants it, puts the three colours in front, and turns each level $0 \ldots
# 255$ into a number near 0:
#
# $$ \mathrm{pixel} = \frac{\mathrm{level} / 255 - \mathrm{mean}}{\mathrm{std}} $$
#
# `mean` and `std` are one number for each colour. They were measured once, on many photographs, and belong to the model
# since then.
#
# **Predict, then run:** the ground is nearly white, the triangle red, the star yellow. Red, yellow and white all have
# one thing in common. Which of the three colours hardly changes over the picture?

# %%
spread = pixels[0].std((1, 2))
for colour, number in zip(("red", "green", "blue"), spread, strict=True):
    print(f"{colour:6} {number:.2f}")
assert spread.argmin() == 0  # all three are full of red
levels = np.asarray(picture)
greys = [np.repeat(levels[..., [i]], 3, axis=-1) for i in range(3)]
tutorial.show(greys, ["red", "green", "blue"], title="white: much of it")

# %%
image = processor.image_processor
level = levels[0, 0]  # the pixel in the upper left corner
mean, std = np.array(image.image_mean), np.array(image.image_std)
assert np.allclose(pixels[0, :, 0, 0], (level / 255 - mean) / std)

# %% [markdown]
# ## Squares
#
# A patch of $P \times P$ pixels in three colours is a row of $3 P^2$ numbers.
#
# **Predict, then run:** the picture is 64 pixels wide and $P = 8$. How many patches are there, and how long is the row
# of each?

# %%
p = model.params["vision"]["patch"]  # the weights of this step: a matrix w and a bias b
C, colours, P, _ = p["w"].shape
length = colours * P * P
only_cut = np.eye(length, dtype=np.float32)  # a matrix that changes nothing
only_cut = only_cut.reshape(length, colours, P, P)
patches = ops.patch_embed(pixels, only_cut)  # (B, N, 3·P·P)
assert patches.shape == (1, 64, 192)
upper_left = pixels[0, :, :P, :P]  # the first patch, which is a row of numbers now
assert np.array_equal(patches[0, 0], upper_left.reshape(-1))

# %%
squares = [picture.crop((x, y, x + P, y + P)) for y in range(0, 64, P) for x in range(0, 64, P)]
tutorial.show(squares, columns=8, title="64 patches, in reading order")

# %% [markdown]
# ## One matrix for all of them
#
# $$ y_n = w \, \mathrm{patch}_n + b $$
#
# The paper (Dosovitskiy et al. 2021, equation 1) calls the matrix $\mathbf{E}$. Here it is `p["w"]`, with $C = 128$
# rows of $3 P^2 = 192$ numbers. Other programs call this step a convolution whose stride is its size, which is the same
# thing. The package has it as `ops.patch_embed`, and that is nothing but cutting and `ops.linear`:

# %%
y = ops.patch_embed(pixels, **p)  # (B, N, C)
print(patches.shape, "->", y.shape)
assert np.allclose(y, ops.linear(patches, p["w"].reshape(C, -1), p["b"]), atol=1e-5)

# %% [markdown]
# **Predict, then run:** we paint one single pixel of the picture. How many of the 64 rows of $y$ change?

# %%
painted = pixels.copy()
painted[0, :, 20, 30] = 0
changed = (ops.patch_embed(painted, **p) != y).any(-1)
assert changed.sum() == 1
# a patch knows nothing of the others: to learn of them is the work of attention

# %% [markdown]
# ## A place for each
#
# The upper left corner of this picture is bare, and so is the lower left one. Their patches are the same, and so are
# their rows of $y$. But a model that is to say *above* has to tell them apart. So a learned row is added to each token,
# one for each place (the paper's $\mathbf{E}_{pos}$). And one more token is put in front, the *class token*, which
# belongs to no patch. `blocks.embed_picture` does it all.

# %%
x = blocks.embed_picture(ops, model.params["vision"], pixels, 64)  # (B, 1 + N, C)
assert x.shape == (1, 1 + 64, C)
upper, lower = 0, 56  # the patches in the upper left and in the lower left corner
assert np.array_equal(y[0, upper], y[0, lower])
assert not np.allclose(x[0, 1 + upper], x[0, 1 + lower], atol=0.1)

# %% [markdown]
# **Predict, then run:** the places were learned, and nobody told the model what lies beside what. Is the row of a place
# more like those of its neighbours than like those far away?


# %%
def alike(rows):
    """The cosine of the angle between each two rows: 1 same direction, 0 nothing in common, -1 opposite."""
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit @ unit.T


places = model.params["vision"]["positions"][0, 1:]  # (N, C), without the class token's
at = np.stack(np.divmod(np.arange(64), 8), -1)  # the row and the column of each patch
steps = np.abs(at[:, None] - at).sum(-1)  # how many steps it is from one to the other
near, far = alike(places)[steps == 1].mean(), alike(places)[steps > 6].mean()
print(f"beside each other {near:.2f}, more than 6 steps apart {far:.2f}")
assert near > 0.8 and far < 0
maps = [alike(places)[place].reshape(8, 8) for place in (9, 36, 63)]
tutorial.show(maps, ["like place 9", "like place 36", "like place 63"], signed=True)

# %% [markdown]
# **Predict, then run:** what if every place were the same? We give a copy of the model rows of zeros as places and ask
# for a caption. Will it still see red and yellow? Will it still know how many things there are, and which is above?

# %%
blind = copy.copy(model)
nowhere = np.zeros_like(model.params["vision"]["positions"])
blind.params = model.params | {"vision": model.params["vision"] | {"positions": nowhere}}
for one in (model, blind):
    caption = processor.batch_decode(one.generate(pixels), skip_special_tokens=True)[0].strip()
    print(caption)
assert "red triangle" in caption and "yellow star" in caption and "above" not in caption

# %% [markdown]
# ## Exercises
#
# 1. BLIP-2's real eye reads 224 x 224 pixels in patches of 14. How many tokens does it have, with the class token?
# 2. How many numbers does the matrix `w` hold in the real one, where $C = 1408$?
# 3. Which patch (counted from 0, in reading order) holds the pixel in row 20 and column 30 that was painted above?

# %%
tutorial.check(None, "eaedd22e")
tutorial.check(None, "cc8a71e1")
tutorial.check(None, "91379a75")
