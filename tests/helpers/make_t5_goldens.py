"""Write tests/golden/t5_*/: what transformers 4.37.2 answers on tiny random BLIP-2s that write with T5.

The environment is the one that make_goldens.py describes:

    env437/bin/python tests/helpers/make_t5_goldens.py
    env437/bin/python tests/helpers/make_generate_goldens.py tests/golden/t5_*

The folders hold the same files as those of make_goldens.py. In forward.npz the calls are named after what the decoder
was given; "labels/" holds every output, the others loss and logits.
"""

import json
import shutil
import warnings
from itertools import count

import numpy as np
import torch
import transformers
from make_goldens import GOLDEN, QFORMER, RARE, VISION, CloseCall, Generator, early_end, flat, layout, tensors
from transformers import Blip2Config, Blip2ForConditionalGeneration

PAD, EOS, START = 0, 1, 0
TEXT = dict(model_type="t5", vocab_size=40, d_model=12, d_kv=5, d_ff=14, num_layers=2, num_heads=2)
TEXT |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=12)
TEXT |= dict(pad_token_id=PAD, bos_token_id=EOS, eos_token_id=RARE, decoder_start_token_id=START)

# name: what differs in the text config, and the number of queries. The first is what Flan-T5's files look like.
MODELS = {
    "t5_flan": (
        dict(feed_forward_proj="gated-gelu", dense_act_fn="gelu", tie_word_embeddings=False, num_decoder_layers=3),
        4,
    ),
    "t5_tied": (dict(feed_forward_proj="relu", num_layers=3, num_decoder_layers=2, d_model=10, num_heads=3), 3),
    "t5_gated": (dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, layer_norm_epsilon=1e-3), 2),
}


def build(name, seed):
    text, queries = MODELS[name]
    config = Blip2Config(VISION, QFORMER, TEXT | text, num_query_tokens=queries)
    tied = config.text_config.tie_word_embeddings
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            loud = any(part in key for part in ("patch_embedding", "projection.weight", "lm_head", "relative", "wo"))
            weight.normal_(0.0, 1.0 if loud else 0.3)  # so that picture and place sway the words, and not the last word
            if "norm" in key.lower() and key.endswith("weight"):
                weight += 1.0
            if tied and "shared" in key:
                weight *= 0.3  # a word's own row is its score: without this each word would be followed by itself
            if tied and key.endswith("decoder.final_layer_norm.weight"):
                weight *= 16  # scores that are scaled down are close calls
            if tied and "decoder" in key and "Attention" in key:
                weight *= 2
    return model


def examples(config, seed):
    """Three pictures; three prompts of 6, 4 and 2 tokens, padded on the right, as T5's tokenizer does it."""
    rng = np.random.default_rng(seed)
    size = config.vision_config.image_size
    pixels = rng.normal(size=(3, 3, size, size)).astype(np.float32)
    ids = np.full((3, 6), PAD)
    for row, length in enumerate([6, 4, 2]):
        ids[row, :length] = [*rng.integers(3, RARE, length - 1), EOS]
    return pixels, ids, (ids != PAD).astype(np.int64)


def forward(model, folder, pixels, ids, mask, rng):
    arrays = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
    given = dict(pixel_values=pixels[:2], input_ids=ids[:2])
    masked = given | dict(attention_mask=mask[:2])
    labels, words = rng.integers(3, RARE, (2, 5)), rng.integers(3, RARE, (2, 4))
    labels[1, 3:] = -100
    labels[0, 2] = PAD  # counts as a target: only -100 is left out
    right, left = np.array([[1, 1, 1, 1], [1, 1, 0, 0]]), np.array([[0, 1, 1, 1], [0, 0, 1, 1]])
    calls = {
        "labels": masked | dict(labels=labels),
        "no_mask": given | dict(labels=labels),
        "words": masked | dict(decoder_input_ids=words),
        "words_masked_right": masked | dict(decoder_input_ids=words, decoder_attention_mask=right),
        "words_masked_left": masked | dict(decoder_input_ids=words, decoder_attention_mask=left),
        "words_and_labels": masked | dict(decoder_input_ids=words, labels=labels[:, :4]),
        "ignored_labels": masked | dict(labels=np.full_like(labels, -100)),
    }
    everything = dict(output_attentions=True, output_hidden_states=True)
    for name, call in calls.items():
        with torch.no_grad():
            output = model(**tensors(**call), **everything)
        asked = {key: call[key] for key in ("labels", "decoder_input_ids", "decoder_attention_mask") if key in call}
        arrays |= {f"{name}/given/{key}": value for key, value in asked.items()}
        few = {"logits": output.logits} | ({"loss": output.loss} if "labels" in call else {})
        arrays |= {f"{name}/{key}": value for key, value in flat(output if name == "labels" else few)}
    np.savez_compressed(folder / "forward.npz", **arrays)

    layouts = {}
    for name, flags in {"few": {}, "all": everything}.items():
        with torch.no_grad():
            layouts[f"{name}/labels"] = layout(model(**tensors(**calls["labels"]), **flags, return_dict=False))
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in layouts.items()]
    (folder / "layouts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def generate(g, thorough):
    """Lengths and ends, for pictures alone and for prompts."""
    batch = (0, 1, 2)
    free = g.add("prompts, default length", batch, prompt=True)
    pictures = g.add("pictures alone, default length", batch)
    for rows in (free, pictures):
        if len({tuple(row) for row in rows}) < 3 or any(len(set(row)) < 5 for row in rows):
            raise CloseCall(f"{g.folder.name}: answers too much alike")
    if any(token in row[1:] for row in free + pictures for token in (RARE, PAD)):
        raise CloseCall(f"{g.folder.name}: {RARE} is not rare")
    end, steps = early_end(free)
    if len(set(steps)) < 2:
        raise CloseCall(f"{g.folder.name}: all rows would end together")
    other = next(t for row in free for t in row[3:] if t != end)
    g.add("end reached at different steps", batch, prompt=True, text={"eos_token_id": end})
    g.add("two ends in a list", batch, prompt=True, text={"eos_token_id": [end, other]})
    g.add("min_length puts the end off", batch, prompt=True, text={"eos_token_id": end}, min_length=12)
    g.add("min_new_tokens puts the end off", batch, prompt=True, text={"eos_token_id": end}, min_new_tokens=12)
    if not thorough:
        return

    g.add("one picture", (1,))
    g.add("padding taken for words", batch, prompt=True, masked=False)
    g.add("prompt alone, with its padding", (2,), prompt=True)
    g.add("max_new_tokens", batch, prompt=True, max_new_tokens=7)
    g.add("max_length", batch, prompt=True, max_length=7)
    g.add("longer than the tables reach", batch, prompt=True, max_new_tokens=30)
    g.add("padding id from config", batch, prompt=True, text={"eos_token_id": end, "pad_token_id": 7})
    g.add("no padding id: the end pads", batch, prompt=True, text={"eos_token_id": end, "pad_token_id": None})
    g.add("another first token", batch, prompt=True, text={"decoder_start_token_id": 11})
    g.add("no start but a bos", batch, prompt=True, text={"decoder_start_token_id": None, "bos_token_id": 12})
    g.add("another bos is another prompt", batch, text={"bos_token_id": 13})


def make(name, seed):
    model = build(name, seed)
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    pixels, ids, mask = examples(model.config, seed)
    generator = Generator(folder, pixels, ids, mask)
    generate(generator, thorough=name == "t5_flan")
    generator.write()
    forward(model, folder, pixels, ids, mask, np.random.default_rng(seed))
    return len(generator.cases)


def main():
    assert transformers.__version__ == "4.37.2", f"these are the answers of 4.37.2, not of {transformers.__version__}"
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in MODELS:
        for seed in count():
            try:
                cases = make(name, seed)
            except CloseCall as reason:
                print(f"seed {seed}: {reason}", flush=True)
                continue
            print(f"{name}: seed {seed}, {cases} generate() cases", flush=True)
            break


if __name__ == "__main__":
    main()
