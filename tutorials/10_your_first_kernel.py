# %% [markdown]
# # 10 · Your first kernel
#
# A *kernel* is a function that a graphics card runs, many copies at once. You will write one for layer norm, run it
# without a graphics card, have it checked, break it twice, and let the tiny BLIP-2 caption a picture with it.
#
# This tutorial needs Triton, which there is for Linux: `pip install 'minivl[triton]'`.
#
# The layer norm of tutorial 03 takes a token's $C$ numbers, a *row*, to mean 0 and variance 1, then to a learned scale
# and shift:
#
# $$ y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \mathrm{eps}}} \cdot w + b $$
#
# That is `ops.layer_norm`; the paper has $\mu$, $\sigma$ and $g$ for mean, root and $w$ (Ba et al. 2016, section 3.1).

# %%
import inspect
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import minivl
from minivl import Blip2ForConditionalGeneration, Blip2Processor, tutorial

try:
    os.environ["TRITON_INTERPRET"] = "1"  # interpret, also where there is a graphics card; Triton reads it only once
    from minivl.kernels.checking.checked import checked
    from minivl.kernels.launch import arrays, empty, tl, triton
    from minivl.kernels.layer_norm_naive import layer_norm_naive
    from minivl.tools.workbench import check, checking  # needs torch
except ModuleNotFoundError:
    raise SystemExit("tutorial 10 needs Triton and torch, on Linux: pip install 'minivl[triton]'") from None

ops = minivl.ops.get("plain")
rng = np.random.default_rng(0)

# %% [markdown]
# ## Bytes, before code
#
# There is little to compute, but each number has to come from the card's memory, and its answer has to go back. So a
# layer norm is judged by the bytes it moves. None can do with less than reading $x$ once and writing $y$ once.
#
# ## The kernel
#
# It is written for one row. Each copy that runs is a *program*, and asks for its number with `tl.program_id(0)`. It
# does not loop over the row: it takes all of it as one *block*, and each line works on all of the block.
#
# - `X` is an address. `X + row * C + c` are the addresses of the row's numbers, and `tl.load` fetches them.
# - The size of a block must be a power of two, so it may be wider than the row. `inside` says which places count;
#   `tl.load` puts 0.0 into the others, and `tl.store` leaves them alone.
# - The sums are made in float32, also where $x$ has fewer bits.


# %%
@triton.jit
def row_norm_kernel(X, W, B, OUT, C, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)  # (BLOCK,)
    inside = c < C
    x = tl.load(X + row * C + c, inside, 0.0).to(tl.float32)  # (BLOCK,)
    mean = tl.sum(x, 0) / C
    away = tl.where(inside, x - mean, 0.0)  # (BLOCK,)
    var = tl.sum(away * away, 0) / C
    w, b = tl.load(W + c, inside, 0.0), tl.load(B + c, inside, 0.0)
    y = away / tl.sqrt(var + eps) * w + b
    tl.store(OUT + row * C + c, y.to(OUT.dtype.element_ty), inside)


# %% [markdown]
# A Python function starts it: it makes room for the answer and says in `[...]` how many programs there shall be.
# `arrays` lets it take NumPy arrays beside torch tensors.


# %%
@arrays
def row_norm(x, w, b, eps):
    C = x.shape[-1]
    rows, BLOCK = x.numel() // C, triton.next_power_of_2(C)
    out = empty(tuple(x.shape), x)
    row_norm_kernel[(rows,)](x.contiguous(), w.contiguous(), b.contiguous(), out, C, eps, BLOCK=BLOCK)
    return out


# %% [markdown]
# No graphics card is needed: Triton's *interpreter* runs the programs one after the other, line by line, in Python. So
# `breakpoint()` in a kernel stops there, and `p x` shows the block. `checked` counts what the programs fetch.
#
# **Predict, then run:** $x$ has shape (2, 3, 100). How many programs run? How wide is a block? How many places of all
# the blocks of $x$ are masked off, and how many bytes of $x$ are fetched?

# %%
x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in [(2, 3, 100), (100,), (100,)])
with checked() as report:
    y = row_norm(x, w, b, 1e-6)
print(report)
assert np.allclose(y, ops.layer_norm(x, w, b, 1e-6), atol=1e-5)
assert report.programs == 6 and report.loads["X"].masked == 6 * (128 - 100)
assert report.loads["X"].bytes == report.stores["OUT"].bytes == 6 * 100 * 4  # the least there is

# %% [markdown]
# **Predict, then run:** `kernels/layer_norm_naive.py` has three loops over the row, and keeps nothing of it. How often
# does it fetch $x$?

# %%
with checked() as naive:
    layer_norm_naive(x, w, b, 1e-6)
assert naive.loads["X"].bytes == 3 * report.loads["X"].bytes

# %% [markdown]
# ## Is it right?
#
# One array says little. `minivl kernels check FILE.py:row_norm --as layer_norm` tries many widths, three kinds of
# numbers, and arrays that lie awkwardly in memory with NaN all around them. It wants a file; below is what it does.

# %%
folder = tempfile.TemporaryDirectory()
source = "from minivl.kernels.launch import arrays, empty, tl, triton\n\n\n"
source += inspect.getsource(row_norm_kernel.fn) + "\n\n" + inspect.getsource(row_norm)


def checked_file(name, text, **how):
    file = Path(folder.name, name)
    file.write_text(text)
    report = check.examine(*checking.find(f"{file}:row_norm", "layer_norm"), **how)
    print(checking.as_text(report, report.right, None).replace(f"{folder.name}/", ""), "\n")
    return report


assert not checked_file("mine.py", source, seconds=3).wrong  # with more seconds it tries more cases

# %% [markdown]
# Now break it. Without `tl.where` the places beyond the row hold $0 - \mathrm{mean}$, and the variance counts them.
#
# **Predict, then run:** at which widths does that go unnoticed? Will the check notice?

# %%
report = checked_file("padded.py", source.replace("tl.where(inside, x - mean, 0.0)", "x - mean"), first=True, seconds=0)
assert "the columns beyond the row count in the variance" in report.faults[0].hint
assert (C := report.faults[0].case.size("C")) & (C - 1)  # no power of two, as 128 is: the tiny BLIP-2 never notices

# %% [markdown]
# The second fault is worse, for every row comes out right: `tl.store` without its mask. A program writes beyond its
# row, over the next one, which the next program then puts right. On a card nobody says who comes last.
#
# **Predict, then run:** so can a check notice?

# %%
report = checked_file("unmasked.py", source.replace(", inside)\n", ")\n"), first=True, seconds=0)
assert "the mask of this tl.store lets elements through" in report.faults[0].hint

# %% [markdown]
# ## Into a model
#
# **Predict, then run:** our function goes into the model's record, as in tutorial 02. Does the caption stay? The eye
# has 65 tokens, 4 layers with two norms each, and one norm at the end: how many programs is that?

# %%
processor = Blip2Processor.from_pretrained("demo")
model = Blip2ForConditionalGeneration.from_pretrained("demo")
inputs = processor(images=tutorial.picture("red_circle.png"), return_tensors="np")
before = model.generate(**inputs)
model.ops = ops._replace(layer_norm=row_norm)
with checked() as report:
    after = model.generate(**inputs)
print(processor.batch_decode(after, skip_special_tokens=True), f"{report.programs} programs")
assert np.array_equal(before, after) and report.programs > 65 * 9  # 585, and the language model has norms too

# %% [markdown]
# ## What would a card run?
#
# Triton compiles for cards that are not there, here an H100 (sm_90), and `minivl kernels inspect` reads what came out:
# counts, no times. A process either interprets or compiles, so this takes another one. The width is 1408, that of the
# large eye of BLIP-2, in 16 bits.
#
# **Predict, then run:** how wide is a block, and is it memory or something else that bounds this work?

# %%
command = "-m minivl kernels inspect --json --as layer_norm".split() + [f"{folder.name}/mine.py:row_norm"]
done = subprocess.run([sys.executable, *command], cwd=Path(minivl.__file__).parents[1], stdout=-1, check=True)
found = json.loads(done.stdout)
[launch] = found["launches"]
print(found["target"], {name: launch[name] for name in ("grid", "registers", "spills", "instructions", "loads")})
assert launch["constants"]["BLOCK"] == 2048 and found["roofline"]["bound"] == "memory"
assert set(launch["loads"]) == {"16"}  # every load fetches 16 bytes, the most that a thread asks for at once

# %% [markdown]
# ## Exercises
#
# 1. BLIP-2's eye has 257 tokens of 1408 numbers, in 16 bits: how many bytes of $x$ and $y$ must be moved at least?
# 2. T5's norm has no mean and no shift: $y = x / \sqrt{\mathrm{mean}(x^2) + \mathrm{eps}} \cdot w$. Make `rms_norm` of
#    this kernel, in a file, until `minivl kernels check FILE.py:rms_norm --as rms_norm` says "right".

# %%
tutorial.check(None, "7611f909")
