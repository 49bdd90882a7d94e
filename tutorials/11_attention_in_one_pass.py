# %% [markdown]
# # 11 · Attention in one pass
#
# Attention compares $T$ queries with $S$ keys: a table of $T \times S$ scores, of which shares are made by a softmax,
# which has to know all scores of a row before it can give out one share. So it seems that the table must be written
# down. It need not be. You will see why, step by step, and then in `kernels/attention.py` and its machine code.
#
# This tutorial needs Triton, which there is for Linux: `pip install 'minivl[triton]'`.
#
# For one query (Milakov & Gimelshein 2018, section 3, where $l$ is $d$; Dao et al. 2022, section 3.1):
#
# $$ m = \max_s \mathrm{score}_s \qquad l = \sum_s e^{\mathrm{score}_s - m} \qquad
#    o = \sum_s e^{\mathrm{score}_s - m}\, v_s \qquad \mathrm{out} = o / l $$

# %%
import json
import os
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np

import minivl
from minivl import tutorial

try:
    os.environ["TRITON_INTERPRET"] = "1"  # interpret, also where there is a graphics card; Triton reads it only once
    from minivl.kernels import attention as one_pass
    from minivl.kernels import attention_naive as naive
    from minivl.kernels.checking.checked import checked
except ModuleNotFoundError:
    raise SystemExit("tutorial 11 needs Triton, on Linux: pip install 'minivl[triton]'") from None

ops = minivl.ops.get("plain")
rng = np.random.default_rng(0)
q, k, v = (rng.normal(size=(1, 1, tokens, 8)) for tokens in (3, 12, 12))  # (B, H, T or S, D)
score = q[0, 0] @ k[0, 0].T / np.sqrt(8)  # (T, S)
exact = ops.attention(q, k, v)[0, 0]  # (T, D)

# %% [markdown]
# **Predict, then run:** a head of BLIP-2's eye has 257 tokens of 88 numbers. With twice as many tokens, how much larger
# would $q$, $k$, $v$ and `out` be together, and how much larger the table?

# %%
print(f"q, k, v and out: {4 * 257 * 88:,} numbers, the table {257 * 257:,}")
assert 4 * 514 * 88 == 2 * (4 * 257 * 88) and 514 * 514 == 4 * (257 * 257)

# %% [markdown]
# ## Step 1: what is to be known of some keys
#
# Three things: the largest score $m$, the sum $l$ and the weighted sum $o$, both relative to that $m$. Of all keys
# together they give the answer.


# %%
def known(score, v):
    """m (T, 1), l (T, 1) and o (T, D) of these keys."""
    m = score.max(-1, keepdims=True)
    p = np.exp(score - m)
    return m, p.sum(-1, keepdims=True), p @ v


m, l, o = known(score, v[0, 0])  # noqa: E741
assert np.allclose(o / l, exact)

# %% [markdown]
# ## Step 2: two parts can be put together
#
# Some keys are known, $m_1, l_1, o_1$, and others, $m_2, l_2, o_2$. The $m$ of all is the larger one. The sums of the
# first part are relative to $m_1$, and should be to $m$. One factor puts that right, for every key at once:
#
# $$ e^{\mathrm{score} - m_1} \cdot r = e^{\mathrm{score} - m} \qquad r = e^{m_1 - m} $$


# %%
def together(one, two):
    m = np.maximum(one[0], two[0])
    r1, r2 = np.exp(one[0] - m), np.exp(two[0] - m)
    return m, one[1] * r1 + two[1] * r2, one[2] * r1 + two[2] * r2


for cut in range(1, 12):  # wherever the keys are cut in two
    both = together(known(score[:, :cut], v[0, 0, :cut]), known(score[:, cut:], v[0, 0, cut:]))
    assert all(np.allclose(a, b) for a, b in zip(both, (m, l, o), strict=True))

# %% [markdown]
# ## Step 3: so any number of parts can
#
# Two parts put together are a part again. That is the whole proof: walk over the keys in blocks, keeping $m$, $l$, $o$.
#
# **Predict, then run:** does the size of the blocks matter? Their order?


# %%
def in_blocks(size, order):
    parts = [known(score[:, s : s + size], v[0, 0, s : s + size]) for s in range(0, 12, size)]
    _, l, o = reduce(together, [parts[i] for i in order(range(len(parts)))])  # noqa: E741
    return o / l


assert all(np.allclose(in_blocks(size, order), exact) for size in range(1, 13) for order in (list, reversed))
# neither: so `decode_attention.py` shares the keys of one query out among many programs, and adds up at the end

# %% [markdown]
# **Predict, then run:** before the first block nothing is known: $m = -\infty$, $l = 0$, $o = 0$. What is $r$ for that?
# And if a mask hides all of the first block, so that its $m$ is $-\infty$ too?

# %%
nothing = np.float64(-np.inf), 0.0, 0.0
first = together(nothing, known(score, v[0, 0]))
assert np.allclose(first[2] / first[1], exact)  # r = 0
with np.errstate(invalid="ignore"):
    assert np.isnan(together(nothing, nothing)[1])  # -∞ minus -∞ is no number: the kernel takes 0 in place of such an m

# %% [markdown]
# ## The kernel
#
# A program takes `BT` queries and walks over the keys in blocks of `BS`. Compare `attention_naive.py`, which writes the
# table `W`: three loops over the keys to make it, and a second kernel that reads it.
#
# **Predict, then run:** 64 queries, and 32 to a program. How often is $k$ fetched, and what of the table is stored?

# %%
large = [rng.normal(size=(1, 1, 64, 88)).astype(np.float32) for _ in range(3)]
with checked() as report:
    out, lse = one_pass.attention(*large, with_lse=True, blocks=dict(BT=32, BS=32, num_warps=4))
with checked() as table:
    naive.attention(*large)
print(report, table, sep="\n")
assert np.allclose(out, ops.attention(*large), atol=1e-5)
assert report.loads["K"].bytes == 2 * large[1].nbytes and set(report.stores) == {"OUT", "LSE"}
assert table.loads["K"].bytes == 3 * 2 * large[1].nbytes and table.stores["W"].bytes == 64 * 64 * 4

# %% [markdown]
# `LSE` is $m + \ln l$, one number for each query. Training wants the shares, and finds them anew, block by block, since
# $e^{\mathrm{score} - m} / l = e^{\mathrm{score} - \mathrm{lse}}$:

# %%
weights = np.exp(large[0] @ large[1].swapaxes(2, 3) / np.sqrt(88) - lse[..., None])
assert np.allclose(weights, ops.attention_weights(*large[:2]), atol=1e-5)

# %% [markdown]
# ## Widths of 80 and 88
#
# The units of a card that multiply tables want widths that are powers of two. BLIP-2's heads are 88 wide in its eye and
# 80 in OPT-2.7B. Filled up with zeros to 128 they give the right answer, and a third of the work is for nothing. But a
# product of rows is a sum, and a sum can be had in two parts: $q \cdot k = q_1 \cdot k_1 + q_2 \cdot k_2$.
#
# **Predict, then run:** which two powers of two, 16 at least, hold 80, and which 88? What share of the sums counts?

# %%
assert one_pass.parts(80) == (64, 16) and one_pass.parts(88) == (64, 32)
for D in (80, 88):
    print(f"{D} in {one_pass.parts(D)}: {D / sum(one_pass.parts(D)):.0%} of the sums counts, in 128 {D / 128:.0%}")
if plt := tutorial.pyplot():
    computed = {"one power of two": naive.width, "two parts": lambda D: sum(one_pass.parts(D)), "the head itself": int}
    plt.figure(figsize=(6, 2.5))
    for label, width in computed.items():
        plt.plot(range(16, 129), [width(D) for D in range(16, 129)], label=label)
    plt.xlabel("width of a head")
    plt.legend()
    plt.show()

# %% [markdown]
# ## What the compiled code says
#
# Both kernels compiled for an H100 (sm_90) at the shape of BLIP-2's eye, in processes of their own, and read, not run.
#
# **Predict, then run:** does the machine code compute with 88, 96 or 128 columns? A trip of the loop takes `BT` queries
# and `BS` keys through two products. And how many $2^x$ has each thread to do in a trip?

# %%
command = [sys.executable, *"-m minivl kernels inspect --shape ViT-g --json".split()]
where = Path(minivl.__file__).parents[1]
started = [subprocess.Popen([*command, name], cwd=where, stdout=-1) for name in ("attention", "attention_naive")]
launch, *others = [launch for one in started for launch in json.loads(one.communicate()[0])["launches"]]
for one in (launch, *others):
    print({name: one[name] for name in ("kernel", "registers", "spills", "loads", "copies", "useful")})
pairs, loop = launch["constants"]["BT"] * launch["constants"]["BS"], launch["main loop"]
assert loop["multiply-adds"] == 2 * pairs * 96 and others[0]["constants"]["BD"] == 128
assert loop["pipes"]["special"] >= pairs / (32 * launch["warps"])  # one for each of its pairs, and those of r
assert set(launch["copies"]) == {"16"} and others[1]["copies"] == {}
assert others[1]["useful"] < launch["useful"] <= 88 / 96 + 0.001

# %% [markdown]
# `loads` counts instructions by the bytes that a thread fetches with each, `copies` those that bring the next blocks
# while this one is computed. `useful` is the share of the tensor cores' full speed that the counts leave at most, zeros
# not counted. It is a bound, not a time.
#
# ## Exercises
#
# 1. Some keys have $m_1 = 5$ and $l_1 = 3$, the others $m_2 = 5 + \ln 2$ and $l_2 = 1$. What is $l$ of them together?
# 2. Of the widths from 65 to 128, from which on do two parts save nothing? The picture shows it.

# %%
tutorial.check(None, "9682d500")
tutorial.check(None, "e971afc5")
