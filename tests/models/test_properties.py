"""What must hold whatever the weights and the input are: drawn tiny models of every family, drawn input.

Each property compares two ways to the same answer, so no outside oracle is needed and none can be wrong.
"""

import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from words import OPT_WORDS, roberta_folder

import minivl
from minivl import Blip2ForConditionalGeneration, BridgeTowerConfig, generate
from minivl.config.blip2 import Blip2Config
from minivl.generate import beams
from minivl.generate.settings import Endings
from minivl.models import qformer
from minivl.ops import numpy_products
from minivl.processors.blip2 import Blip2Processor
from minivl.processors.bridgetower import BridgeTowerImageProcessor
from minivl.processors.image_processor import BlipImageProcessor, open_picture, to_rgb
from minivl.processors.tokenizer import Tokenizer
from minivl.weights import tree

FEW = settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
CLOSE = dict(rtol=2e-4, atol=2e-4)  # of logits between -20 and 20: what another order of summing may change
seeds = st.integers(0, 2**32 - 1)

OPT = dict(model_type="opt", **oracle.TEXT)
T5 = dict(model_type="t5", **oracle.T5)
LANGUAGES = {
    "opt": OPT,
    "opt, norms behind": OPT | dict(do_layer_norm_before=False, activation_function="gelu"),
    "opt, untied": OPT | dict(tie_word_embeddings=False),
    "t5, gated": T5,
    "t5, tied": T5 | dict(tie_word_embeddings=True, feed_forward_proj="relu"),
}
TOWERS = {
    "shared transforms": {},
    "own transforms": dict(share_cross_modal_transformer_layers=False),
    "relative positions": dict(text_config=dict(position_embedding_type="relative_key_query")),
}
KINDS = ("BridgeTowerModel", "BridgeTowerForImageAndTextRetrieval", "BridgeTowerForMaskedLM")


@cache
def speaker(name, seed=0):
    """A tiny BLIP-2 whose weights are large enough to tell inputs apart."""
    config = Blip2Config(
        vision_config=oracle.VISION, qformer_config=oracle.QFORMER, text_config=LANGUAGES[name], num_query_tokens=3
    )
    return louder(Blip2ForConditionalGeneration(config, seed=seed), seed)


@cache
def tower(name, kind, seed=0):
    small = dict(num_hidden_layers=2, num_attention_heads=4, hidden_size=64)
    options = dict(TOWERS[name])
    text = dict(
        small, intermediate_size=32, vocab_size=40, max_position_embeddings=30, **options.pop("text_config", {})
    )
    vision = dict(hidden_size=64, num_hidden_layers=2, image_size=12, patch_size=4)
    config = BridgeTowerConfig(**small, **options, text_config=text, vision_config=vision)
    return louder(getattr(minivl, kind)(config, seed=seed), seed)


def louder(model, seed):
    """Weights of standard deviation 0.2 around what they were: transformers' 0.02 makes all outputs nearly alike."""
    rng = np.random.default_rng(seed)
    model.params = tree.map_leaves(lambda w: w + rng.normal(0, 0.2, w.shape).astype(np.float32), model.params)
    return model


def pictures(model, rows, seed):
    side = model.config.vision_config.image_size
    return np.random.default_rng(seed).standard_normal((rows, 3, side, side)).astype(np.float32)


@dataclass
class Prompt:
    """Rows of real tokens, and the same with padding."""

    rows: list[np.ndarray]

    def padded(self, side, more=0, filler=1):
        width = max(map(len, self.rows)) + more
        ids, mask = np.full((len(self.rows), width), filler), np.zeros((len(self.rows), width), np.int64)
        for i, row in enumerate(self.rows):
            place = slice(width - len(row), width) if side == "left" else slice(len(row))
            ids[i, place], mask[i, place] = row, 1
        return dict(input_ids=ids, attention_mask=mask)


@st.composite
def prompts(draw, least=1, most=3, vocabulary=39):
    lengths = draw(st.lists(st.integers(1, 6), min_size=least, max_size=most))
    rng = np.random.default_rng(draw(seeds))
    return Prompt([rng.integers(3, vocabulary, n) for n in lengths])


def answers(model, pixels, words):
    """The logits over real tokens and soft words, a row at a time; for T5 those of the decoder."""
    more = {}
    if model.config.text_config.model_type == "t5":
        more = dict(decoder_input_ids=np.tile([[0, 7, 9, 4]], (len(pixels), 1)))
    logits = model(pixels, **words, **more).logits
    if more:
        return list(logits)
    soft = np.ones((len(pixels), model.config.num_query_tokens), np.int64)
    seen = np.concatenate([soft, words["attention_mask"]], 1) == 1
    return [row[keep] for row, keep in zip(logits, seen, strict=True)]


def same(some, others, **how):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one, other, **(how or CLOSE))


# ---------------------------------------------------------------------------------------- BLIP-2


@pytest.mark.parametrize("name", LANGUAGES)
@FEW
@given(words=prompts(least=2), seed=seeds)
def test_a_batch_is_its_rows(name, words, seed):
    model, pixels = speaker(name), pictures(speaker(name), len(words.rows), seed)
    side = "right" if name.startswith("t5") else "left"
    together = answers(model, pixels, words.padded(side))
    for i, row in enumerate(words.rows):
        same(answers(model, pixels[i : i + 1], Prompt([row]).padded("left")), together[i : i + 1])
    ids = model.generate(pixels, **words.padded(side), max_new_tokens=5)
    for i, row in enumerate(words.rows):
        alone = model.generate(pixels[i : i + 1], **Prompt([row]).padded("left"), max_new_tokens=5)[0]
        assert ids[i, : len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize("name", LANGUAGES)
@FEW
@given(words=prompts(), seed=seeds, more=st.integers(1, 5))
def test_padding_changes_nothing(name, words, seed, more):
    """On the left for OPT, which counts along the mask; on the right for T5, which counts distances."""
    model, pixels = speaker(name), pictures(speaker(name), len(words.rows), seed)
    side = "right" if name.startswith("t5") else "left"
    same(answers(model, pixels, words.padded(side)), answers(model, pixels, words.padded(side, more)))


@pytest.mark.parametrize("name", LANGUAGES)
@FEW
@given(words=prompts(least=2), seed=seeds, other=st.integers(3, 38))
def test_what_is_masked_may_be_anything(name, words, seed, other):
    model, pixels = speaker(name), pictures(speaker(name), len(words.rows), seed)
    for side in ("left", "right"):
        some, others = (answers(model, pixels, words.padded(side, 2, filler)) for filler in (1, other))
        same(some, others, rtol=0, atol=0)


@pytest.mark.parametrize("name", LANGUAGES)
@FEW
@given(words=prompts(), seed=seeds)
def test_cached_steps_are_whole_passes(name, words, seed):
    """The scores of each next token, written one at a time, are those of reading everything again."""
    model, pixels = speaker(name), pictures(speaker(name), len(words.rows), seed)
    given_words = words.padded("left")
    reader = model._reader(pixels, given_words["input_ids"], given_words["attention_mask"])
    said = np.random.default_rng(seed).integers(3, 39, (len(pixels), 4))
    steps = [reader.step(None), *(reader.step(said[:, i]) for i in range(4))]
    rows = len(pixels)
    if name.startswith("t5"):
        start = np.full((rows, 1), model.config.text_config.decoder_start_token_id)
        whole = model(pixels, **given_words, decoder_input_ids=np.concatenate([start, said], 1)).logits
    else:
        ids = np.concatenate([given_words["input_ids"], said], 1)
        mask = np.concatenate([given_words["attention_mask"], np.ones_like(said)], 1)
        whole = model(pixels, ids, mask).logits[:, -5:]
    same(steps, whole.swapaxes(0, 1))


@pytest.mark.parametrize("name", LANGUAGES)
@FEW
@given(words=prompts(), seed=seeds, most=st.integers(1, 6))
def test_one_beam_writes_what_greedy_writes(name, words, seed, most):
    model, pixels = speaker(name), pictures(speaker(name), len(words.rows), seed)
    text, how = model.config.text_config, generate.Settings.of(max_new_tokens=most)
    first = text.bos_token_id if text.model_type == "opt" else text.decoder_start_token_id
    endings = Endings.of(how, generate.Tokens(first, text.eos_token_id, text.pad_token_id))
    given_words = words.padded("left")

    def write(way):
        reader = model._reader(pixels, given_words["input_ids"], given_words["attention_mask"])
        return way.write(reader, len(pixels), how, endings).tolist()

    assert write(beams) == write(generate) == model.generate(pixels, **given_words, max_new_tokens=most).tolist()


@FEW
@given(seed=seeds, rows=st.integers(1, 3), tokens=st.integers(1, 9))
def test_the_queries_do_not_mind_the_order_of_the_picture(seed, rows, tokens):
    model, rng = speaker("opt"), np.random.default_rng(seed)
    image = rng.standard_normal((rows, tokens, oracle.VISION["hidden_size"])).astype(np.float32)
    ops, p, config = model.ops, model.params, model.config.qformer_config
    ways = (image, image[:, rng.permutation(tokens)])
    same(*(qformer.encode(ops, p["qformer"], p["queries"], way, config) for way in ways))


# ---------------------------------------------------------------------------------------- BridgeTower


def outputs(model, pixels, words, rows):
    """What is said of every picture and text: scores, or the states of real tokens and what is pooled."""
    found = model(**words, pixel_values=pixels)
    if hasattr(found, "pooler_output"):
        return [
            np.concatenate([found.text_features[i][words["attention_mask"][i] == 1].ravel(), found.pooler_output[i]])
            for i in range(rows)
        ]
    logits = found.logits
    return [logits[i] if logits.ndim == 2 else logits[i][words["attention_mask"][i] == 1] for i in range(rows)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TOWERS)
@settings(FEW, max_examples=3)
@given(words=prompts(least=2), seed=seeds, more=st.integers(1, 4))
def test_a_bridgetower_reads_rows_alone_or_together_padded_or_not(name, kind, words, seed, more):
    model = tower(name, kind)
    rows, pixels = len(words.rows), pictures(model, len(words.rows), seed)
    together = outputs(model, pixels, words.padded("right"), rows)
    for i, row in enumerate(words.rows):
        same(outputs(model, pixels[i : i + 1], Prompt([row]).padded("right"), 1), together[i : i + 1])
    same(together, outputs(model, pixels, words.padded("right", more), rows))


# ---------------------------------------------------------------------------------------- attention

parts = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 9), st.integers(1, 8))


@pytest.mark.parametrize("record", ["numpy", "torch"])
@settings(FEW, max_examples=30)
@given(shape=parts, seed=seeds)
def test_keys_may_stand_in_any_order_with_their_mask_and_bias(record, shape, seed):
    ops, rng, (B, H, T, S, D) = minivl.ops.get(record), np.random.default_rng(seed), shape
    q, k, v, bias = (
        rng.standard_normal(s).astype(np.float32) for s in ((B, H, T, D), (B, H, S, D), (B, H, S, D), (B, H, T, S))
    )
    mask, order = rng.random((B, 1, T, S)) < 0.6, rng.permutation(S)

    def attend(k, v, mask, bias):
        given_arrays = [ops.from_numpy(np.ascontiguousarray(x)) for x in (q, k, v, mask, bias)]
        return ops.to_numpy(ops.attention(*given_arrays[:3], mask=given_arrays[3], bias=given_arrays[4]))

    plainly = attend(k, v, mask, bias)
    np.testing.assert_allclose(
        attend(k[:, :, order], v[:, :, order], mask[..., order], bias[..., order]), plainly, rtol=1e-5, atol=1e-5
    )
    hidden = ~mask.any((1, 2))  # (B, S): keys that no query of a row sees
    for i, column in zip(*np.nonzero(hidden), strict=True):
        k[i, :, column], v[i, :, column] = 1e3, -1e3
    np.testing.assert_array_equal(attend(k, v, mask, bias), plainly)


# ---------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_saved_is_what_is_loaded(name, dtype, tmp_path):
    model = speaker(name)
    model.save_pretrained(tmp_path / "a", dtype)
    again = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "a")
    assert again.config == model.config
    again.save_pretrained(tmp_path / "b", dtype)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    if dtype == "float32":
        for one, other in zip(again.parameters(), model.parameters(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_bridgetower_saves_is_what_is_loaded(kind, tmp_path):
    model = tower("own transforms", kind)
    model.save_pretrained(tmp_path)
    again = getattr(minivl, kind).from_pretrained(tmp_path)
    assert again.config == model.config
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------------------------- 8 bits

matrices = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 40)), elements=st.floats(-1e4, 1e4, width=32)
)


@settings(FEW, max_examples=40)
@given(w=matrices, seed=seeds)
def test_eight_bits_are_off_by_half_a_step_at_most(w, seed):
    """A row's step is its largest value / 127; so x wᵀ is off by at most half a step for each |x|, and rounding."""
    rows, scale = numpy_products.quantise_rows(w)
    step = np.abs(w).max(1, initial=0).astype(np.float64) / 127
    step[step * 127 <= np.float32(numpy_products.SMALLEST)] = 2 * numpy_products.SMALLEST
    back = rows.astype(np.float64) * scale[:, None] / 127
    assert (np.abs(back - w) <= step[:, None] * 0.5001).all()
    x = np.random.default_rng(seed).standard_normal((5, w.shape[1])).astype(np.float32)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    allowed = np.abs(x).sum(1)[:, None] * step * 0.5001 + 1e-5 * (np.abs(x).astype(np.float64) @ np.abs(w).T)
    assert (np.abs(numpy_products.weight_only_linear(x, rows, scale) - exact) <= allowed + 1e-30).all()


# ---------------------------------------------------------------------------------------- processors

sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


def noise(size, seed, mode="RGB"):
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(levels).convert(mode)


@pytest.mark.filterwarnings("ignore:.*as long as wide")
@pytest.mark.parametrize("make", [BlipImageProcessor, BridgeTowerImageProcessor])
@settings(FEW, max_examples=15)
@given(size=sizes, seed=seeds, mode=st.sampled_from(["RGB", "L", "P", "RGBA", "CMYK"]))
def test_a_picture_that_is_prepared_stays_as_it_is(make, size, seed, mode):
    """Preparing is idempotent: made RGB once or twice, from a file or from memory, resized once or twice."""
    processor = make(size=32)
    picture = noise(size, seed, mode)
    before = picture.tobytes()
    once = processor(picture, return_tensors="np").pixel_values
    np.testing.assert_array_equal(processor(to_rgb(to_rgb(picture)), return_tensors="np").pixel_values, once)
    levels = processor(picture, return_tensors="np", do_rescale=False, do_normalize=False).pixel_values[0]
    prepared = Image.fromarray(np.rint(levels).astype(np.uint8).transpose(1, 2, 0))
    np.testing.assert_array_equal(processor(prepared, return_tensors="np").pixel_values, once)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tiff"
        picture.save(path)
        np.testing.assert_array_equal(processor(path, return_tensors="np").pixel_values, once)
        np.testing.assert_array_equal(processor(open_picture(path), return_tensors="np").pixel_values, once)
    assert picture.tobytes() == before


@cache
def tokenizer(name):
    with tempfile.TemporaryDirectory() as folder:
        if name == "demo":
            return Blip2Processor.from_pretrained("demo").tokenizer
        if name == "roberta":
            return Tokenizer.from_pretrained(roberta_folder(Path(folder)), "roberta")
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(OPT_WORDS / file, folder)
        return Tokenizer.from_pretrained(folder, "opt")


@pytest.mark.parametrize("name", ["demo", "opt", "roberta"])
@settings(FEW, max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), split=st.booleans())
def test_a_text_comes_back_from_its_tokens(name, text, split):
    words: Any = tokenizer(name)
    specials = [token.content for token in words.backend.get_added_tokens_decoder().values()]
    words.split_special_tokens = split
    try:
        ids = words(text, add_special_tokens=False)["input_ids"]
    finally:
        words.split_special_tokens = False
    if split or not any(special in text for special in specials):
        assert words.decode(ids, clean_up_tokenization_spaces=False) == text
        assert all(type(i) is int for i in ids)
