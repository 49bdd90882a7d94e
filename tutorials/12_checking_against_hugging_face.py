# %% [markdown]
# # 12 · Checking against Hugging Face
#
# Whoever writes a model a second time makes small mistakes: a forgotten bias, another eps, a matrix on its side. The
# model still talks. `minivl diff` runs two versions side by side, finds the first number that differs, and tries out
# which one change would make the difference. In Python it is `minivl.diff`.
#
# Here we plant mistakes in the tiny BLIP-2, and look whether it finds them. At the end, Hugging Face's own transformers
# is the other side, if it is installed (`pip install transformers torch`).

# %%
import tempfile
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import minivl
from minivl import Blip2ForConditionalGeneration, Blip2Processor, tutorial

ops = minivl.ops.get("plain")
processor = Blip2Processor.from_pretrained("demo")
inputs = processor(images=tutorial.picture("two_teal_rings.png"), return_tensors="np")


def fresh():
    return Blip2ForConditionalGeneration.from_pretrained("demo")


def caption(model):
    return processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0].strip()


# %% [markdown]
# **Predict, then run:** the eye has a curve between two products, the exact GELU. CLIP has another one there,
# `quick_gelu`. Somebody confuses the two. Does the caption change?

# %%
confused = fresh()
eye = replace(confused.config.vision_config, hidden_act="quick_gelu")
confused.config = replace(confused.config, vision_config=eye)
x = np.linspace(-10, 10, 1000)
print(f"the curves are up to {np.abs(ops.quick_gelu(x) - ops.gelu(x)).max():.2f} apart")
print(caption(fresh()), "|", caption(confused))
assert caption(confused) == caption(fresh())  # captions do not tell

# %% [markdown]
# ## When are two numbers the same?
#
# Never to the last bit: a float32 has about seven digits, and sums in another order are rounded elsewhere. So there is
# a judge, our own formulas in float64. Both sides have an error against it, as a share of the size of the whole array:
#
# $$ \mathrm{error} = \|x - \mathrm{exact}\| \,/\, \|\mathrm{exact}\| \qquad
#    \mathrm{error}_B \le 2 \cdot \mathrm{error}_A + \mathrm{eps} \sqrt{1 + \mathrm{layers\ so\ far}} $$
#
# Here eps is the step from 1 to the next float32: B may be wrong by twice what A is, and a little. The largest single
# error is held to such a rule too. (`minivl/tools/parity/README.md`)
#
# **Predict, then run:** float32 against float64, the whole flow, patches to loss. How large are the errors, about? Do
# they grow from layer to layer of the language model?

# %%
report = minivl.diff("float64", "numpy", model="demo")
errors = {row.name: row.error_b for row in report.runs[0].rows}
print(report.line())
assert report.same and len(errors) > 100 and max(errors.values()) < 20 * np.finfo(np.float32).eps
assert errors["language.layers.2"] > errors["language.layers.0"] > errors["language.embeddings"]
if plt := tutorial.pyplot():
    plt.figure(figsize=(6, 2.5), layout="constrained")
    plt.semilogy([error or np.nan for error in errors.values()], label="error of float32")  # rows looked up have none
    plt.semilogy([row.allowed for row in report.runs[0].rows], label="allowed")
    plt.xlabel("activations, from the patches to the loss")
    plt.figlegend(ncols=2, loc="outside upper center")
    plt.show()

# %% [markdown]
# ## Reading a report
#
# **Predict, then run:** the confused curve, now as a setting. At which step of which layer do the two part?

# %%
report = minivl.diff("numpy", "numpy", model="demo", set_b={"vision_config.hidden_act": "quick_gelu"})
print(report)
assert not report.same and report.first.name == "vision.layers.0.mlp.act"
assert report.diagnosis.best == "activation: quick_gelu for gelu (exact)"

# %% [markdown]
# Each row is one array of the flow, under our name and under that of the Hub. Above the last row both errors are what
# float32 makes of it; in the last one B's is thousands of times what is allowed. There it stops, for behind the first
# difference everything differs. Below stand the worst number, and the suspects: each was put into that one layer, and
# the number before it is the share of the difference that went away. 1 means: with this change B's numbers come out.

# %%
last = report.runs[0].rows[-1]
assert all(row.same for row in report.runs[0].rows[:-1]) and last.error_b > 1000 * last.allowed
assert abs(report.diagnosis.findings[0].explained - 1) < 0.01

# %% [markdown]
# ## A fault in the weights
#
# This is how wrong checkpoints are made: we save the model twice, but in the second folder a matrix of the Q-Former
# lies on its side. It is square, so it fits.
#
# **Predict, then run:** it makes the keys by which the queries find the patches. Which activation is the first to
# differ? And what does such a model say of the two teal rings?

# %%
folder = tempfile.TemporaryDirectory()
good, bad = Path(folder.name, "good"), Path(folder.name, "bad")
fresh().save_pretrained(good)
turned = fresh()
cross = turned.params["qformer"]["layers"][0]["cross"]
cross["k"] = cross["k"] | {"w": cross["k"]["w"].T}
turned.save_pretrained(bad)
report = minivl.diff(str(good), str(bad))
print(caption(turned), report.first.name, report.first.hub, report.diagnosis.sentence, sep="\n")
assert report.first.name == "qformer.layers.0.cross.k" and report.diagnosis.best == "weight transposed"
assert caption(turned) == caption(fresh())  # even so

# %% [markdown]
# **Predict, then run:** a matrix has 128 · 512 numbers, and one of them is off by a hundredth. Can that be found?

# %%
model = fresh()
layer = model.params["vision"]["layers"][2]["mlp"]["down"]
layer["w"] = layer["w"].copy()
layer["w"][5, 77] += 0.01
report = minivl.diff(fresh(), model)
print(caption(model), "|", report.diagnosis.sentence)
assert report.first.name == "vision.layers.2.mlp" and "element [5, 77] of the weight" in report.diagnosis.best

# %% [markdown]
# ## A fault in the code
#
# Models that are loaded already can be compared too, also with functions of yours in their record.
#
# **Predict, then run:** here scores are divided by $D$ and not by $\sqrt{D}$. Which activation is the first to differ:
# the queries, the scores, or what the heads have mixed? (`trace` and `diff` see what the functions of the record give.)

# %%
model = fresh()
model.ops = ops._replace(attention=lambda q, k, v, **how: ops.attention(q, k, v, **how | {"scale": 1 / q.shape[-1]}))
report = minivl.diff(fresh(), model)
print(report.first.name, "|", report.diagnosis.sentence)
assert report.first.name == "vision.layers.0.self.mixed" and report.diagnosis.best == "attention scale: 1/D"

# %% [markdown]
# ## Fewer bits, and what nobody can see
#
# **Predict, then run:** `dtype="bfloat16"` keeps the large matrices in 16 bits. That is meant, and is it different? And
# if the norms of the Q-Former have an eps of 1e-11 for 1e-12, while their variances are far above both?

# %%
report = minivl.diff("numpy", "bfloat16", model="demo")
print(report.first.name, "|", report.diagnosis.sentence)
assert report.diagnosis.best == "dtype: weight rounded to bfloat16"
assert minivl.diff("numpy", "numpy", model="demo", set_b={"qformer_config.layer_norm_eps": 1e-11}).same
# the same: float32 cannot hold what that changes. What cannot be seen cannot be told, and does no harm here.

# %% [markdown]
# ## Hugging Face on the other side
#
# On the command line this is `minivl diff FOLDER`, for the demo `minivl diff demo`: ours against transformers, all on
# the same picture and words (seeded noise, unless you say otherwise). It ends in one line to paste into a thread.

# %%
if find_spec("transformers") and find_spec("torch"):
    warnings.filterwarnings("ignore", "IProgress")  # its progress bars want more than a plain notebook has
    report = minivl.diff("numpy", "transformers", model=good)
    print(report.line())
    assert report.same
else:
    print("transformers is not installed: there is nobody to compare with")

# %% [markdown]
# ## Exercises
#
# `broken` has one fault. Print `minivl.diff(fresh(), broken)` and read it.
#
# 1. Which activation is the first to differ, under our name?
# 2. What is the most likely change, as the last lines say it, in one word: the thing that is missing?

# %%
broken = fresh()
spot = broken.params["language"]["layers"][sum(map(ord, "sphinx")) % 3]["mlp"]["up"]
spot["b"] = 0 * spot["b"]
tutorial.check(None, "3a5b7da0")
tutorial.check(None, "777b65e6")
