"""Write tests/golden/bridgetower/: what transformers 4.37.2 answers for tiny BridgeTowers.

What only 4.37 can tell: relative positions, which today's transformers has dropped, and what return_dict=False and the
output_* arguments of that version give. The same environment as for make_goldens.py:

    env437/bin/python tests/helpers/make_bridgetower_goldens.py

For each configuration two files appear, and no weights: those are drawn from a seed (drawn.py).

    NAME.json   config; names and shapes of the trunk's tensors and of each head's; what return_dict=False returns
    NAME.npz    the inputs, and for each class every output
"""

import json
import shutil
import warnings
from pathlib import Path

import drawn
import numpy as np
import torch
import transformers

GOLDEN = Path(__file__).parents[1] / "golden" / "bridgetower"
TEXT = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=40)
TEXT |= dict(max_position_embeddings=16)
VISION = dict(hidden_size=64, num_hidden_layers=2, patch_size=4, image_size=8)
TOP = dict(hidden_size=12, num_hidden_layers=2)
HEADS = ("MaskedLM", "ImageAndTextRetrieval")

# name: changes to the top, the text tower and the image tower; the words of a text (the picture has 5 image tokens
# unless it is said otherwise); the heads
CASES = {
    "relative_key": (
        dict(num_hidden_layers=3, tie_word_embeddings=True),
        dict(position_embedding_type="relative_key"),
        {},
        5,
        HEADS,
    ),
    "relative_key_query": (
        dict(link_tower_type="scaled_add", hidden_act="relu"),
        dict(position_embedding_type="relative_key_query", num_attention_heads=3, pad_token_id=0),
        {},
        5,
        HEADS,
    ),
    "relative_key_long": (  # fewer words than image tokens, of which there are 10
        {},
        dict(position_embedding_type="relative_key"),
        dict(image_size=12, num_hidden_layers=3),
        6,
        (),
    ),
    "relative_key_query_long": (  # more words than image tokens
        {},
        dict(position_embedding_type="relative_key_query", layer_norm_eps=1e-2),
        {},
        9,
        (),
    ),
    "scaled_add": (
        dict(link_tower_type="scaled_add", layer_norm_eps=1e-2),
        dict(hidden_act="gelu_new", type_vocab_size=2),
        dict(num_hidden_layers=3, remove_last_layer=True, share_layernorm=False),
        6,
        HEADS,
    ),
    "interpolate": (
        dict(link_tower_type="interpolate", tie_word_embeddings=True),
        dict(hidden_act="relu", layer_norm_eps=1e-2),
        dict(image_size=11, layer_norm_eps=1e-2),
        4,
        HEADS,
    ),
    "contrast": (
        dict(hidden_size=64, contrastive_hidden_size=9, logit_scale_init_value=2.6592, num_hidden_layers=1),
        dict(hidden_size=64, num_attention_heads=4, num_hidden_layers=1),
        dict(num_hidden_layers=1),
        4,
        ("ContrastiveLearning",),
    ),
}


def configuration(name):
    top, text, vision, _, _ = CASES[name]
    return TOP | top | dict(text_config=TEXT | text, vision_config=VISION | vision)


def build(config, kind, seed):
    model = getattr(transformers, kind)(transformers.BridgeTowerConfig(**config)).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.copy_(torch.tensor(drawn.tensor(key, tuple(weight.shape), seed)))
    return model


def examples(config, length, seed):
    """Two pictures; two texts, the second of them padded on the right."""
    rng = np.random.default_rng(seed)
    size, pad = config["vision_config"]["image_size"], config["text_config"].get("pad_token_id", 1)
    ids = rng.integers(3, 40, (2, length))
    ids[1, length - 2 :] = pad
    mask = (ids != pad).astype(np.int64)
    return dict(input_ids=ids, attention_mask=mask, pixel_values=rng.normal(size=(2, 3, size, size)).astype(np.float32))


def questions(kind, ids):
    if kind.endswith("MaskedLM"):
        return dict(labels=np.where(np.arange(ids.shape[1]) % 2, ids, -100))
    if kind.endswith("Retrieval"):
        return dict(labels=np.array([1, 0]))
    return dict(return_loss=True) if kind.endswith("Learning") else {}


def call(model, inputs, **flags):
    with torch.no_grad():
        return model(**{k: torch.tensor(x) if isinstance(x, np.ndarray) else x for k, x in inputs.items()}, **flags)


def flat(output, prefix=""):
    """Every tensor of an output under a dotted name: hidden_states.2.0.1, ..."""
    for key, value in output.items() if hasattr(output, "items") else enumerate(output):
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value.numpy()
        else:
            yield from flat(value, f"{prefix}{key}.")


def layout(output):
    if isinstance(output, torch.Tensor):
        return "x".join(map(str, output.shape)) or "scalar"
    return [layout(part) for part in output]


def make(name, seed):
    config, length, heads = configuration(name), *CASES[name][3:]
    inputs = examples(config, length, seed)
    arrays, tables, layouts, trunk = dict(inputs), {}, {}, set()
    everything = dict(output_attentions=True, output_hidden_states=True)
    for kind in ("BridgeTowerModel", *(f"BridgeTowerFor{head}" for head in heads)):
        model = build(config, kind, seed)
        tables[kind] = {key: list(weight.shape) for key, weight in model.named_parameters() if key not in trunk}
        trunk |= {f"bridgetower.{key}" for key in tables["BridgeTowerModel"]}
        given = inputs | questions(kind, inputs["input_ids"])
        whole = dict(flat(call(model, given, **everything)))
        kept = whole if kind == "BridgeTowerModel" else {k: x for k, x in whole.items() if "." not in k}
        arrays |= {f"{kind}/{key}": array for key, array in kept.items()}
        layouts[kind] = {
            f"{flags}/{asked}": layout(call(model, these, **how, return_dict=False))
            for flags, how in (("few", {}), ("all", everything))
            for asked, these in (("plain", inputs), ("asked", given))
        }
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    parts = {"seed": seed, "config": config, "tensors": tables, "layouts": layouts}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in parts.items())
    (GOLDEN / f"{name}.json").write_text("{\n" + lines + "\n}\n")


def main():
    assert transformers.__version__ == "4.37.2", f"these are the answers of 4.37.2, not of {transformers.__version__}"
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir(parents=True)
    for seed, name in enumerate(CASES):
        make(name, seed)
        print(f"{name}: {sum(path.stat().st_size for path in GOLDEN.glob(name + '.*')) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
