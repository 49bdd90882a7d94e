# %% [markdown]
# # 08 · Bridges
#
# Two towers stand side by side (tutorial 07). Now the text looks at the picture, and the picture at the text, in a few
# *cross-modal* layers. And each of these layers hears from the towers again: over a bridge from the next state of
# either tower. That is the idea of BridgeTower (Xu et al. 2023, section 3 and figure 2). The files are
# `minivl/models/bridge.py` and `minivl/models/bridgetower.py`.
#
# Letters: $B$ pairs, $T$ words, $N$ patches and the class token, $C$ width.

# %%
import dataclasses
import random

import numpy as np

import minivl
from minivl import BridgeTowerForImageAndTextRetrieval, BridgeTowerProcessor, tutorial
from minivl.demo import evaluate_bridgetower
from minivl.models import blocks, bridge, bridgetower
from minivl.ops import tape

processor = BridgeTowerProcessor.from_pretrained("demo-bridgetower")
model = BridgeTowerForImageAndTextRetrieval.from_pretrained("demo-bridgetower")
ops, p, config = model.ops, model.params, model.config

# %% [markdown]
# To see what a bridge is good for we need questions. These are statements about pictures of the toy world that the
# model was not trained on; half of them are made false, by one word or by two neighbours that change places.

# %%
asked = list(evaluate_bridgetower.matching(evaluate_bridgetower.drawn("test", 7, 5), random.Random(7), False))
inputs = processor([one.picture for one in asked], [one.question for one in asked], padding=True, return_tensors="np")
true = np.array([one.answer == "true" for one in asked])
for one in asked[:4]:
    print(f"{one.answer:5}  {one.question}")


def right(logits):
    """The share of statements that are judged rightly; guessing gets about half."""
    return float(((logits[:, 1] > logits[:, 0]) == true).mean())


with minivl.trace(model) as flow:
    output = model(**inputs, output_hidden_states=True)
whole, (texts, images, _) = output.logits, output.hidden_states
print(len(asked), "statements,", f"{right(whole):.0%} right")
assert right(whole) > 0.95

# %% [markdown]
# ## Crossing
#
# A pair of cross-modal layers is two post-LN layers with a cross-attention each (Xu et al. 2023, section 3). Both read
# the same inputs, so neither waits for the other. `bridge.cross` by hand, on random numbers:

# %%
rng = np.random.default_rng(0)
text, image = (rng.normal(size=(1, n, config.hidden_size)).astype(np.float32) for n in (5, 65))
everybody, heads = np.ones((1, 1, 1, 5), bool), config.num_attention_heads
pair = bridge.cross(ops, p["text_layers"][0], p["image_layers"][0], text, image, everybody, config.text_config)
mine = blocks.post_ln_layer(ops, p["text_layers"][0], text, heads, "gelu", image, mask=everybody)
assert np.array_equal(pair[0], mine)  # text over picture; pair[1] is picture over text

# %% [markdown]
# ## Three kinds of bridge
#
# `tower` is what a tower's next layer says, `crossed` what the cross-modal layers have made so far. `bridge.link` does
#
# | `link_tower_type` | formula | gate |
# |---|---|---|
# | `add` | `LN(tower + crossed)` | none |
# | `scaled_add` | `LN(tower · s + crossed)` | $s$, in a fresh model 1 |
# | `interpolate` | `LN(tower · (1 - β) + crossed · β)` | $\beta$, in a fresh model 0.5 |
#
# A gate is one number, and each bridge has its own (or all share one, if the configuration says so). The paper's
# `BridgeLayer` is the first, $\mathrm{LayerNorm}(x + y)$; all three are in Hugging Face's library. Which it is follows
# from the weights that are there:

# %%
for kind in ("add", "scaled_add", "interpolate"):
    fresh = BridgeTowerForImageAndTextRetrieval(dataclasses.replace(config, link_tower_type=kind))
    print(f"{kind:12}", {name: leaf for name, leaf in fresh.params["text_links"][0].items() if name != "ln"})
assert config.link_tower_type == "add" and set(p["text_links"][0]) == {"ln"}  # the demo has the paper's

# %% [markdown]
# **Predict, then run:** a norm forgets how loud its input was (tutorial 03). So which $\beta$ makes `interpolate` the
# same as `add`? And which $\beta$ is the same as $s = 3$?

# %%
norm = {"ln": p["text_links"][0]["ln"]}
tower, crossed = rng.normal(size=(2, 1, 5, config.hidden_size)).astype(np.float32)
added = bridge.link(ops, norm, tower, crossed)
assert np.allclose(bridge.link(ops, norm | {"beta": 0.5}, tower, crossed), added, atol=1e-3)
thrice = bridge.link(ops, norm | {"scale": 3.0}, tower, crossed)
assert np.allclose(bridge.link(ops, norm | {"beta": 0.25}, tower, crossed), thrice, atol=1e-3)
# s = (1 - β) / β: all three say the same things, in other numbers. Only training goes other ways.

# %% [markdown]
# ## What the demo's bridges learned
#
# `add` has no gate, and yet it has learned one: each side can come in loud or quietly. What comes over a bridge was
# made by a matrix (`text_transform`, `image_transform`), and that can be large. What comes from a cross-modal layer
# ends with a norm, so its loudness is near 1. The flow that we recorded above knows both sides of each bridge.


# %%
def loud(x):
    return float(np.sqrt((x**2).mean()))


links = [f"{side}_links.{j}.ln" for j in (0, 1) for side in ("text", "image")]
heard = {link: [loud(flow.call(link).given[name]) for name in "xy"] for link in links}
for link, (from_tower, from_crossed) in heard.items():
    share = from_tower / (from_tower + from_crossed)
    print(f"{link:16} tower {from_tower:.2f}   crossed {from_crossed:.2f}   the tower's share {share:.0%}")
assert all(0.8 < from_crossed < 1.2 for _, from_crossed in heard.values())
assert all(heard[link][0] > 1.5 * heard[link][1] for link in links if link.startswith("image"))
# the eye speaks up: its bridges bring more than what has crossed; those of the reader bring about as much
if plt := tutorial.pyplot():
    plt.figure(figsize=(4.5, 2.2), layout="constrained")
    plt.barh(links[::-1], [heard[link][0] for link in links[::-1]])
    plt.axvline(1, color="black", linewidth=1)
    plt.title("how loud each tower comes in (line: 1)", fontsize=10)
    plt.show()

# %% [markdown]
# ## Turning the gates
#
# Now we give the demo's bridges a gate that they did not have, `scale`, and turn it. The towers stay as they are.
#
# **Predict, then run:** at $s = 0$ no bridge brings anything; at $s = 100$ little else is heard. Where are most of the
# statements judged rightly? Is either end as bad as guessing?


# %%
def judge(gates, ops=ops, rows=slice(None), kind="scale"):
    """Scores of no and yes with four gates: text, picture, text, picture."""
    sides = zip(("text_links", "image_links"), (gates[::2], gates[1::2]), strict=True)
    q = p | {side: [link | {kind: gate} for link, gate in zip(p[side], own, strict=True)] for side, own in sides}
    towers = [x[rows] for x in texts], [x[:, rows].swapaxes(0, 1) for x in images]
    text, image = list(bridgetower.fuse(ops, q, *towers, inputs.attention_mask[rows], config))[-1]
    return bridgetower.match(ops, q, bridgetower.pool(ops, q, text, image))


scores = {s: right(judge([np.float32(s)] * 4)) for s in (0, 0.3, 1, 3, 100)}
print({s: f"{score:.0%}" for s, score in scores.items()})
assert np.allclose(judge([np.float32(1)] * 4), whole, atol=1e-3)  # s = 1 is the model as it was trained
assert max(scores, key=scores.get) == 1 and scores[0] < 0.85 and scores[100] < 0.7

# %% [markdown]
# Both sides are needed. (That says nothing of a model that was trained without bridges: this one relies on its own.)
#
# **Predict, then run:** we close one bridge of the four. Which are missed more, the first two or the last two?

# %%
closed = [right(judge([np.float32(i != gate) for i in range(4)])) for gate in range(4)]
print({link: f"{score:.0%}" for link, score in zip(links, closed, strict=True)})
assert sum(closed[:2]) < sum(closed[2:])  # the first: what comes over them has two layers to cross, the others' one

# %% [markdown]
# ## A gate that learns
#
# A gate is a weight like all others. Here the four are set wrong, $\beta = 0.9$, so that the towers are barely heard,
# and then they alone learn, on a third of the statements (`minivl/ops/tape.py` finds the gradients; tutorial 14 has
# more).
#
# **Predict, then run:** which of the four move furthest, and to which side?

# %%
gates, rows, losses = [tape.Array(np.float32(0.9)) for _ in range(4)], slice(0, None, 3), []
for _ in range(6):
    loss = tape.OPS.cross_entropy(judge(gates, tape.OPS, rows, "beta"), true[rows].astype(int))
    loss.backward()
    losses.append(float(loss.value))
    for gate in gates:  # a step down the slope
        gate.value, gate.grad = gate.value - np.float32(0.006) * gate.grad, None
    print(f"loss {losses[-1]:.2f}   β", [round(float(gate.value), 2) for gate in gates])
assert losses[-1] < losses[0] / 2
assert max(gate.value for gate in gates[:2]) < 0.85  # the first two let their towers in again: they were missed most
assert min(gate.value for gate in gates[2:]) > max(gate.value for gate in gates[:2])

# %% [markdown]
# ## Exercises
#
# 1. To which $\beta$ does $s = 4$ belong?
# 2. BridgeTower-base has 6 pairs of cross-modal layers, and no bridge stands before the first. How many bridges does it
#    have on both sides together?

# %%
tutorial.check(None, "38836056")
tutorial.check(None, "f8fa73bb")
