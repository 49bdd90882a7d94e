# %% [markdown]
# # 14 · Train your own tiny BLIP-2
#
# All tutorials so far used weights that somebody had trained. Here we train, in NumPy alone, and see what a training is
# made of: a loss, its slope, and a step down. The files are `minivl/demo/train_numpy.py` and `minivl/ops/tape.py`.
#
# Letters: $w$ weights, $g$ their gradient, $V$ vocabulary.

# %%
import random

import numpy as np

from minivl import Blip2ForConditionalGeneration, tutorial
from minivl.demo import train_numpy
from minivl.ops import tape
from minivl.weights import places, tree

# %% [markdown]
# ## A slope
#
# A `tape.Array` is an array that remembers what it was computed from. `backward` walks from the loss back to the
# weights and leaves each one's gradient in `grad`: how much the loss grows if the weight does (Linnainmaa 1970).
#
# **Predict, then run:** the loss is $(3 w - 6)^2$ and $w$ is 1. Its derivative is $2 \cdot (3 w - 6) \cdot 3$. What is
# that here? Should $w$ become larger or smaller?

# %%
w = tape.Array(np.array([1.0]))
loss = ((w * 3 + -6) ** 2).sum()
loss.backward()
print("loss", loss.value, "gradient", w.grad)
assert w.grad == -18  # negative: the loss falls as w grows, so w should grow, towards 2

# %% [markdown]
# The ops of the models have their slopes too, worked out by hand in `minivl/ops/backward.py`. They can be checked
# with no knowledge at all: move one number a little, and see how much the loss moves.
#
# **Predict, then run:** do the two agree, for a layer norm?

# %%
rng = np.random.default_rng(0)
x, scale, shift = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=4)


def squares(x):
    return (tape.OPS.layer_norm(x, scale, shift, 1e-5) ** 2).sum()


leaf, nudge, h = tape.Array(x), np.zeros_like(x), 1e-6
squares(leaf).backward()
nudge[1, 2] = h
measured = (squares(x + nudge) - squares(x - nudge)) / (2 * h)  # of ordinary arrays nothing is remembered
print(f"by hand {leaf.grad[1, 2]:.6f}, measured {measured:.6f}")
assert np.allclose(leaf.grad[1, 2], measured, rtol=1e-5)

# %% [markdown]
# ## A step
#
# $$ w \leftarrow w - \mathrm{rate} \cdot g $$
#
# **Predict, then run:** with $w = 1$ and $g = -18$, where does a rate of 0.05 take us, and where a rate of 1?

# %%
before, careful, wild = ((3 * w - 6) ** 2 for w in (1.0, 1 + 0.05 * 18, 1 + 1.0 * 18))
print(f"loss {before}, {careful:.2f} and {wild}")
assert careful < before < wild  # w is 1.9, nearly there; and 19, far beyond

# %% [markdown]
# One rate does not fit all weights: some have large gradients, others tiny ones. AdamW divides each gradient by its
# usual size, the root of the average of $g^2$ (Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm
# 2).
#
# **Predict, then run:** two weights have the gradients 1000 and 0.001. How far does the first step move each?

# %%
two = [tape.Array(np.array(0.0)) for _ in range(2)]
two[0].grad, two[1].grad = np.array(1000.0), np.array(0.001)
train_numpy.AdamW(two).step(rate=0.1)
print([float(w.value) for w in two])
assert np.allclose([float(w.value) for w in two], -0.1, atol=1e-4)  # equally far, by the rate

# %% [markdown]
# ## A newborn
#
# A BLIP-2 of the demo's shape with random weights. It is taught captions: at every place, the right next word should
# get the highest score. The loss is the cross entropy, the mean of $-\log$ of the chance that the right word got.
#
# **Predict, then run:** a newborn gives all $V = 436$ words about the same chance, $1 / 436$. What is its loss? And
# does the gradient of a loss about *words* reach the matrix that cuts the picture into patches, at the other end?

# %%
student = train_numpy.Blip2Student(places.find("demo"), seed=1)
pictures, captions = train_numpy.lessons(seed=1, size=4)()
print(*captions, sep="\n")
loss = student.loss((pictures, captions), random.Random(0))
print(f"loss {float(loss.value):.2f}, log V {np.log(436):.2f}")
assert abs(float(loss.value) - np.log(436)) < 0.3
loss.backward()
assert np.abs(student.params["vision"]["patch"]["w"].grad).max() > 0  # it does

# %% [markdown]
# ## Thirty steps
#
# Four new pictures each time, 120 in all. (BLIP-2 itself begins with an eye and a voice that are trained already, and
# leaves them as they are: Li et al. 2023, section 3. Here everything is new, and everything learns.)
#
# **Predict, then run:** it begins near 6. Where is the loss after 30 steps: near 6, near 1 or 2, or near 0?

# %%
student = train_numpy.Blip2Student(places.find("demo"), seed=1)
losses = train_numpy.learn(student, train_numpy.lessons(seed=1, size=4), steps=30, rate=5e-3)
if plt := tutorial.pyplot():
    plt.figure(figsize=(4.5, 2.2), layout="constrained")
    plt.plot(losses)
    plt.title("the loss, step by step", fontsize=10)
    plt.show()
assert losses[0] > 5.5 and np.mean(losses[-5:]) < 2.5

# %% [markdown]
# **Predict, then run:** so it can write. Does it see?


# %%
def plain(model):
    """The same model with ordinary arrays, which forget."""
    return Blip2ForConditionalGeneration(model.config, params=tree.map_leaves(tape.to_numpy, model.params))


def caption(model, name):
    inputs = student.processor(images=tutorial.picture(f"{name}.png"), return_tensors="np")
    ids = model.generate(**inputs, max_new_tokens=16)
    return student.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


student.model = plain(student.model)
names = ["red_circle", "two_teal_rings", "red_triangle_above_yellow_star"]
for name in names:
    print(f"{name:32}", caption(student.model, name))
pictures, captions = train_numpy.lessons(seed=99, size=12)()
others = pictures[1:] + pictures[:1]
right, wrong = (float(student.loss((shown, captions), random.Random(0))) for shown in (pictures, others))
print(f"loss {right:.3f}, and {wrong:.3f} beside other pictures")
assert abs(right - wrong) < 0.1  # no: which picture it is makes no difference yet. Sentences are learned first
trained = student.model = Blip2ForConditionalGeneration.from_pretrained("demo")
right, wrong = (float(student.loss((shown, captions), random.Random(0))) for shown in (pictures, others))
print(f"the trained demo: loss {right:.3f}, and {wrong:.3f} beside other pictures")
assert right < 0.1 and wrong > 3

# %% [markdown]
# ## Teach a trained one
#
# As in the paper, only the queries, the Q-Former and the projection learn; eye and voice stay. One picture, one new
# sentence, a few steps: the small red circle shall be called large.
#
# **Predict, then run:** it learns that. But do the *other* captions stay as they were, after small steps and after
# larger ones?

# %%
taught = ("queries", "qformer", "projection")
one = student.processor(images=tutorial.picture("red_circle.png"), text="a large red circle\n", return_tensors="np")


def teach(rate, steps):
    """A copy of the trained demo after a few steps with one picture."""
    params = {part: tree.map_leaves(tape.Array, w) if part in taught else w for part, w in trained.params.items()}
    learner, weights = Blip2ForConditionalGeneration(trained.config, ops=tape.OPS, params=params), []
    tree.map_leaves(weights.append, {part: params[part] for part in taught})
    optimizer = train_numpy.AdamW(weights)
    for _ in range(steps):
        learner(**one, labels=one.input_ids).loss.backward()
        optimizer.step(rate)
    return plain(learner)


small, large = [[caption(model, name) for name in names] for model in (teach(3e-4, 3), teach(1e-3, 3))]
for size, said in (("small", small), ("large", large)):
    print(f"after {size} steps:", *said, sep="\n  ")
assert small == ["a large red circle", *[caption(trained, name) for name in names[1:]]]  # as they were
assert large[1:] != small[1:]  # one example, learned too hard, gets into all the others: look what became of them

# %% [markdown]
# ## For more than a minute
#
# - `python -m minivl.demo.train_numpy blip2 --steps 100` goes on like above, and in a minute learns which words there
#   are and which follows which.
# - `python -m minivl.demo.train` made the demo: 120,000 pictures, about an hour on two processor cores, says its card,
#   `minivl/demo/README.md`, and how good it is. It takes a short cut that only a made-up world allows.
# - `minivl finetune PICTURES --out DIR` teaches your own pictures and sentences to the demo, or with `--model` to a
#   real BLIP-2; what learns is what learned here. `minivl finetune --help` says what it needs.
#
# ## Exercises
#
# 1. The loss is $(w - 5)^2$ and $w$ is 2. What is the gradient?
# 2. OPT's vocabulary has 50272 words. What is the loss of a newborn of it, rounded to a whole number?

# %%
tutorial.check(None, "dea0a208")
tutorial.check(None, "bf4ba8ba")
