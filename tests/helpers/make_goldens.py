"""Write tests/golden/: what transformers 4.37.2 answers on tiny random models, for the tests to hold minivl to.

minivl follows 4.37; the transformers of today has dropped some of it (relative positions, hidden states of the
sub-models, the lengths that generate() counts).  So the old version is asked once, by this script, and its answers
are kept.

It needs an environment of its own, because 4.37.2 wants NumPy 1:

    python3.11 -m venv env437
    env437/bin/pip install torch==2.13.0 transformers==4.37.2 "numpy<2"
    env437/bin/python tests/helpers/make_goldens.py

For each model a folder appears:

    config.json, model.safetensors   the checkpoint, as save_pretrained writes it
    forward.npz                      inputs of three rows, and for the first two every output of the forward pass
    layouts.json                     what return_dict=False returns: nested tuples as lists, arrays as "2x10x16"
    generate.json                    a greedy generate() call on each line: inputs, arguments, changed config, ids
"""

import json
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Blip2Config, Blip2ForConditionalGeneration

GOLDEN = Path(__file__).parents[1] / "golden"
SAFE_GAP = 5e-3  # the winner of each greedy step leads by this much, so that rounding cannot change an id
PAD, BOS, RARE = 1, 2, 39  # RARE is a token that no row may produce: an end that never comes

SMALL = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2)
VISION = SMALL | dict(intermediate_size=16, image_size=12, patch_size=4)
QFORMER = SMALL | dict(intermediate_size=16, vocab_size=8, max_position_embeddings=16)
TEXT = SMALL | dict(model_type="opt", vocab_size=40, word_embed_proj_dim=12, ffn_dim=16, max_position_embeddings=36)
TEXT |= dict(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=RARE)

# name: what differs in the vision, Q-Former and text configs, and the number of queries.  The two with relative
# positions have as many image tokens (8x8 in 4x4 patches and one more) as queries, because 4.37 takes the distances of
# its cross-attention for queries x queries and fails otherwise.
MODELS = {
    "base": (dict(hidden_size=16), dict(num_hidden_layers=3), dict(hidden_size=16, word_embed_proj_dim=16), 4),
    "untied": (
        dict(qkv_bias=False, layer_norm_eps=1e-3, image_size=14, hidden_size=15, num_attention_heads=3),
        dict(cross_attention_frequency=1, layer_norm_eps=1e-3, num_attention_heads=3),
        dict(tie_word_embeddings=False, num_attention_heads=4),
        3,
    ),
    "postnorm": (
        dict(hidden_act="quick_gelu"),
        dict(cross_attention_frequency=3, num_hidden_layers=4, hidden_act="relu"),
        dict(do_layer_norm_before=False),
        4,
    ),
    "nofinal": (
        dict(hidden_act="gelu_new", patch_size=6),
        dict(num_attention_heads=4, hidden_act="silu"),
        dict(_remove_final_layer_norm=True, activation_function="gelu"),
        2,
    ),
    "relative_key": (
        dict(image_size=8, num_hidden_layers=1),
        dict(position_embedding_type="relative_key", num_hidden_layers=3),
        dict(num_hidden_layers=1),
        5,
    ),
    "relative_key_query": (
        dict(image_size=8, num_hidden_layers=1),
        dict(position_embedding_type="relative_key_query", cross_attention_frequency=1),
        dict(num_hidden_layers=1),
        5,
    ),
}


def build(name, seed):
    vision, qformer, text, queries = MODELS[name]
    config = Blip2Config(VISION | vision, QFORMER | qformer, TEXT | text, num_query_tokens=queries)
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            loud = any(part in key for part in ("patch_embedding", "language_projection", "embed_positions"))
            weight.normal_(0.0, 0.6 if loud else 0.2)  # so that picture and place sway the words
            if "norm" in key.lower() and key.endswith("weight"):
                weight += 1.0
    return model


def examples(config, seed):
    """Three pictures; three prompts of 6, 4 and 2 tokens, padded on the left."""
    rng = np.random.default_rng(seed)
    size = config.vision_config.image_size
    pixels = rng.normal(size=(3, 3, size, size)).astype(np.float32)
    ids = np.full((3, 6), PAD)
    for row, length in enumerate([6, 4, 2]):
        ids[row, 6 - length :] = [BOS, *rng.integers(3, RARE, length - 1)]
    return pixels, ids, (ids != PAD).astype(np.int64)


def tensors(**arrays):
    return {key: None if value is None else torch.tensor(value) for key, value in arrays.items()}


def flat(output, prefix=""):
    """Every tensor of an output, under a dotted name; states and attention maps of all layers stacked into one."""
    for key, value in output.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value.detach().numpy()
        elif isinstance(value, tuple) and key != "past_key_values":
            yield f"{prefix}{key}", torch.stack(value).detach().numpy()
        elif hasattr(value, "items"):
            yield from flat(value, f"{prefix}{key}.")


def layout(output):
    if isinstance(output, torch.Tensor):
        return "x".join(map(str, output.shape)) or "scalar"
    return [layout(part) for part in output]


def forward(model, folder, pixels, ids, mask, rng):
    arrays = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
    pixels, ids, mask = pixels[:2], ids[:2], mask[:2]
    labels = np.where(mask == 1, ids, -100)
    labels[0, 3] = -100
    shorter = rng.integers(3, RARE, (2, 4))
    shorter[1, 1] = PAD  # counts as a target: only -100 is left out
    calls = {
        "plain": dict(attention_mask=mask),
        "no_mask": dict(),
        "labels": dict(attention_mask=mask, labels=labels),
        "shorter_labels": dict(attention_mask=mask, labels=shorter),
        "ignored_labels": dict(attention_mask=mask, labels=np.full_like(ids, -100)),
    }
    everything = dict(output_attentions=True, output_hidden_states=True)
    for name, call in calls.items():
        with torch.no_grad():
            output = model(**tensors(pixel_values=pixels, input_ids=ids, **call), **everything)
        if "labels" in call:
            arrays[f"{name}/labels"] = call["labels"]
        wanted = output if name == "plain" else {"loss": output.loss, "logits": output.logits}
        arrays |= {f"{name}/{key}": value for key, value in flat(wanted)}
    np.savez_compressed(folder / "forward.npz", **arrays)

    layouts = {}
    for name, flags in {"few": {}, "all": everything}.items():
        for call in ("plain", "labels"):
            with torch.no_grad():
                output = model(**tensors(pixel_values=pixels, input_ids=ids, **calls[call]), **flags, return_dict=False)
            layouts[f"{name}/{call}"] = layout(output)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in layouts.items()]
    (folder / "layouts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


class Generator:
    """Runs generate() on the checkpoint in `folder`, refuses close calls, remembers the cases."""

    def __init__(self, folder, pixels, ids, mask):
        self.folder, self.pixels, self.ids, self.mask, self.cases = folder, pixels, ids, mask, []

    def model(self, text):
        config = Blip2Config.from_pretrained(self.folder)
        for key, value in text.items():
            setattr(config.text_config, key, value)
        return Blip2ForConditionalGeneration.from_pretrained(self.folder, config=config).eval()

    def run(self, rows, prompt, masked, text, arguments):
        inputs = {"pixel_values": self.pixels[rows]}
        if prompt:
            inputs["input_ids"] = self.ids[rows]
            if masked:
                inputs["attention_mask"] = self.mask[rows]
        with torch.no_grad():
            output = self.model(text).generate(
                **tensors(**inputs), **arguments, output_scores=True, return_dict_in_generate=True
            )
        ended = np.zeros(len(rows), bool)
        ends = text.get("eos_token_id", RARE) or -1
        gaps = []
        for step, scores in enumerate(output.scores):
            best = scores.topk(2).values.numpy()
            gaps += (best[:, 0] - best[:, 1])[~ended].tolist()
            ended |= np.isin(output.sequences[:, step + 1].numpy(), ends)
        return output.sequences.tolist(), min(gaps)

    def add(self, name, rows=(0,), prompt=False, masked=True, text=None, **arguments):
        rows, text = list(rows), text or {}
        found, gap = self.run(rows, prompt, masked, text, arguments)
        if gap < SAFE_GAP:
            raise CloseCall(f"{self.folder.name}: {name}: gap {gap:.1e}")
        case = {"name": name, "rows": rows, "prompt": prompt, "masked": masked, "text_config": text,
                "arguments": arguments, "ids": found}  # fmt: skip
        self.cases.append(case)
        return found

    def write(self):
        lines = ",\n".join(json.dumps(case) for case in self.cases)
        (self.folder / "generate.json").write_text(f"[\n{lines}\n]\n")


class CloseCall(Exception):
    """Two tokens scored nearly the same: draw other weights."""


def early_end(rows):
    """A token that ends the rows at different steps, and the steps it first appears at (a step may be None)."""
    best = None
    for token in sorted({t for row in rows for t in row[2:]} - {PAD, BOS}):
        steps = [row.index(token) if token in row else None for row in rows]
        score = (len(set(steps)), sum(step is not None for step in steps), min(s for s in steps if s is not None))
        if best is None or score > best[0]:
            best = score, token, steps
    return best[1], best[2]


def generate(g, thorough):
    """Lengths, ends and paddings, for pictures alone and for prompts."""
    batch = (0, 1, 2)
    free = g.add("prompts, default length", batch, prompt=True)
    if len({tuple(row) for row in free}) < 3 or any(len(set(row)) < 7 for row in free):
        raise CloseCall(f"{g.folder.name}: answers too much alike")
    pictures = g.add("pictures alone, default length", batch)
    if len({tuple(row) for row in pictures}) < 3:
        raise CloseCall(f"{g.folder.name}: captions too much alike")
    if any(RARE in row for row in free + pictures):
        raise CloseCall(f"{g.folder.name}: {RARE} is not rare")
    end, steps = early_end(free)
    if len(set(steps)) < 2:
        raise CloseCall(f"{g.folder.name}: all rows would end together")
    other = next(t for row in free for t in row[3:] if t not in (end, PAD, BOS))

    g.add("one picture", (1,))
    g.add("end reached at different steps", batch, prompt=True, text={"eos_token_id": end})
    g.add("two ends in a list", batch, prompt=True, text={"eos_token_id": [end, other]})
    g.add("min_length puts the end off", batch, prompt=True, text={"eos_token_id": end}, min_length=12)
    g.add("min_new_tokens puts the end off", batch, prompt=True, text={"eos_token_id": end}, min_new_tokens=12)
    if not thorough:
        return

    for n in (1, 2, 7, 24):
        g.add(f"max_new_tokens {n}", batch, prompt=True, max_new_tokens=n)
    for n in (2, 3, 8, 25):
        g.add(f"max_length {n}", batch, prompt=True, max_length=n)
    g.add("max_new_tokens wins over a longer max_length", batch, max_length=15, max_new_tokens=4)
    g.add("max_new_tokens wins over a shorter max_length", batch, max_length=4, max_new_tokens=9)
    g.add("max_length, pictures alone", batch, max_length=6)
    for row in batch:
        g.add(f"prompt {row} alone, with its padding", (row,), prompt=True)
    g.add("padding taken for words", batch, prompt=True, masked=False)
    g.add("the same picture twice", (0, 0), prompt=True)
    g.add("rows in another order", (2, 0, 1), prompt=True, max_new_tokens=10)

    g.add("end in the pictures' captions", batch, text={"eos_token_id": early_end(pictures)[0]})
    g.add("end as a list of one", batch, prompt=True, text={"eos_token_id": [end]})
    g.add("two ends the other way round", batch, prompt=True, text={"eos_token_id": [other, end]})
    g.add("three ends", batch, prompt=True, text={"eos_token_id": [RARE, other, end]})
    g.add("end at the first token", (0,), prompt=True, text={"eos_token_id": free[0][1]})
    first = [row[1] for row in free]
    g.add("every row ends at its first token", batch, prompt=True, text={"eos_token_id": first})
    g.add("padding id from config", batch, prompt=True, text={"eos_token_id": end, "pad_token_id": 7})
    g.add("no padding id: the end pads", batch, prompt=True, text={"eos_token_id": end, "pad_token_id": None})
    g.add("no padding id: the first end pads", batch, prompt=True,
          text={"eos_token_id": [other, end], "pad_token_id": None})  # fmt: skip
    g.add("padding id zero", batch, prompt=True, text={"eos_token_id": end, "pad_token_id": 0})
    g.add("no end at all", batch, prompt=True, text={"eos_token_id": None})
    g.add("no end at all, with min_length", batch, prompt=True, text={"eos_token_id": None}, min_length=5, max_length=7)
    g.add("another bos", batch, text={"bos_token_id": 11})
    g.add("another bos, with prompts", batch, prompt=True, text={"bos_token_id": 11})

    last = min(step for step in steps if step is not None)
    for n in (1, 2, last - 1, last, last + 1, last + 2):
        if n > 0:
            g.add(f"min_length {n}, end due at {last}", batch, prompt=True, text={"eos_token_id": end}, min_length=n)
            g.add(f"min_new_tokens {n}, end due at {last}", batch, prompt=True, text={"eos_token_id": end},
                  min_new_tokens=n)  # fmt: skip
    for a, b in ((5, 9), (9, 5), (last, last), (last + 1, last - 1)):
        g.add(f"min_length {a} and min_new_tokens {b}", batch, prompt=True, text={"eos_token_id": end}, min_length=a,
              min_new_tokens=b)  # fmt: skip
    g.add(
        "min_length as long as max_length", batch, prompt=True, text={"eos_token_id": end}, min_length=10, max_length=10
    )
    g.add("min_new_tokens with max_new_tokens", batch, prompt=True, text={"eos_token_id": end}, min_new_tokens=6,
          max_new_tokens=11)  # fmt: skip
    g.add("min_length holds back every end", batch, prompt=True, text={"eos_token_id": [end, other]}, min_length=9)
    g.add("min_length of pictures alone", batch, text={"eos_token_id": early_end(pictures)[0]}, min_length=14)
    g.add("min_new_tokens of pictures alone", batch, text={"eos_token_id": early_end(pictures)[0]}, min_new_tokens=14)
    g.add("end as the last token that fits", (0,), prompt=True, text={"eos_token_id": free[0][9]}, max_length=10)


def make(name, seed):
    model = build(name, seed)
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    pixels, ids, mask = examples(model.config, seed)
    generator = Generator(folder, pixels, ids, mask)
    generate(generator, thorough=name == "base")
    generator.write()
    forward(model, folder, pixels, ids, mask, np.random.default_rng(seed))
    return len(generator.cases)


def main():
    assert transformers.__version__ == "4.37.2", f"these are the answers of 4.37.2, not of {transformers.__version__}"
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    total = 0
    for name in MODELS:
        for seed in count():
            try:
                total += (cases := make(name, seed))
            except CloseCall:
                continue
            print(f"{name}: seed {seed}, {cases} generate() cases")
            break
    size = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file())
    print(f"{total} generate() cases, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
