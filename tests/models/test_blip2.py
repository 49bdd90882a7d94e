"""BLIP-2 as a whole, against what transformers 4.37.2 answered (tests/golden), and live against today's."""

import json

import numpy as np
import oracle
import pytest
import torch
from flattened import flat, layout, unstacked
from oracle import GOLDEN, MODELS, draw_blip2, example, golden_inputs

from minivl import Blip2ForConditionalGeneration
from minivl.errors import InputError, MinivlError
from minivl.weights import files

ROWS = (0, 1)  # of the golden inputs, those whose forward pass was written down
EVERYTHING = dict(output_attentions=True, output_hidden_states=True)


def in_order_of_flow(name):
    """A sort key: vision, Q-Former, language model; within each, layer by layer, then what is read off at the end."""
    part, *rest = name.split(".")
    parts = ["vision_outputs", "qformer_outputs", "language_model_outputs", "logits"]
    last = int(rest[-1]) if rest and rest[-1].isdigit() else 1000
    return parts.index(part), last, not name.startswith("attentions", len(part) + 1)


@pytest.fixture(scope="module", params=MODELS)
def golden(request):
    """A golden model's folder, and its arrays."""
    with np.load(GOLDEN / request.param / "forward.npz") as arrays:
        return GOLDEN / request.param, dict(arrays)


# ---- against 4.37.2 ------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["plain", "numpy", "torch"])
def test_every_state_and_attention_map(golden, backend):
    folder, arrays = golden
    model = Blip2ForConditionalGeneration.from_pretrained(folder, backend=backend)
    got = dict(flat(model(**golden_inputs(folder, ROWS), **EVERYTHING)))
    want = dict(unstacked({name[6:]: array for name, array in arrays.items() if name.startswith("plain/")}))
    assert sorted(got) == sorted(want)
    names = sorted(want, key=in_order_of_flow)
    got, want = ({name: trace[name] for name in names} for trace in (got, want))
    oracle.compare(got, want, oracle.TOLERANCE["float32"])


def test_without_a_mask_padding_is_read_as_words(golden):
    folder, arrays = golden
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    np.testing.assert_allclose(
        model(**golden_inputs(folder, ROWS, masked=False)).logits, arrays["no_mask/logits"], atol=1e-4
    )


@pytest.mark.parametrize("kind", ["labels", "shorter_labels", "ignored_labels"])
def test_loss_and_cut_logits(golden, kind):
    folder, arrays = golden
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    output = model(**golden_inputs(folder, ROWS), labels=arrays[f"{kind}/labels"])
    np.testing.assert_allclose(output.loss, arrays[f"{kind}/loss"], atol=1e-5)
    np.testing.assert_allclose(output.logits, arrays[f"{kind}/logits"], atol=1e-4)
    assert output.logits.shape[1] == arrays[f"{kind}/labels"].shape[1]
    assert output.language_model_outputs.logits.shape[1] > output.logits.shape[1]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("flags", [{}, EVERYTHING], ids=["few", "all"])
def test_tuple_layout(golden, flags, labels):
    folder, arrays = golden
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    given = {"labels": arrays["labels/labels"]} if labels else {}
    got = layout(model(**golden_inputs(folder, ROWS), **given, **flags, return_dict=False))
    name = f"{'all' if flags else 'few'}/{'labels' if labels else 'plain'}"
    want = json.loads((folder / "layouts.json").read_text())[name]
    language = want[-1]
    assert isinstance(language[1][0], list)
    del language[1]  # the keys and values, which stay inside generate() here
    assert got == want


def test_saved_again_it_is_the_same_checkpoint(golden, tmp_path):
    folder, arrays = golden
    Blip2ForConditionalGeneration.from_pretrained(folder).save_pretrained(tmp_path)
    before, after = files.read(folder), files.read(tmp_path)
    assert sorted(before) == sorted(after)
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor.array, after[name].array, err_msg=name)
    got = Blip2ForConditionalGeneration.from_pretrained(tmp_path)(**golden_inputs(folder, ROWS)).logits
    np.testing.assert_allclose(got, arrays["plain/logits"], atol=1e-4)


# ---- against the transformers of today -----------------------------------------------------------
def our_trace(output):
    vision, queries, text = output.vision_outputs, output.qformer_outputs, output.language_model_outputs
    trace = {"vision embeddings": vision.hidden_states[0]}
    for i, (weights, x) in enumerate(zip(vision.attentions, vision.hidden_states[1:], strict=True)):
        trace |= {f"vision layer {i} attention": weights, f"vision layer {i}": x}
    trace |= {"vision last norm": vision.last_hidden_state, "vision pooler": vision.pooler_output}
    trace["qformer norm"] = queries.hidden_states[0]
    for i, (weights, x) in enumerate(zip(queries.attentions, queries.hidden_states[1:], strict=True)):
        trace |= {f"qformer layer {i} attention": weights, f"qformer layer {i}": x}
    trace |= {"qformer pooler": queries.pooler_output, "language embeddings": text.hidden_states[0]}
    for i, (weights, x) in enumerate(zip(text.attentions, text.hidden_states[1:], strict=True)):
        name = f"language layer {i}" if i + 2 < len(text.hidden_states) else "language last norm"
        trace |= {f"language layer {i} attention": weights, name: x}
    return trace | {"logits": output.logits}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("backend", ["plain", "numpy"])
def test_every_layer_of_random_configurations(backend, seed, tmp_path):
    theirs = draw_blip2(seed)
    theirs.save_pretrained(tmp_path)
    pixels, ids, mask = example(theirs, batch=seed % 3 + 1, seed=seed)
    ours = Blip2ForConditionalGeneration.from_pretrained(tmp_path, backend=backend)
    output = ours(pixels, ids, mask, **EVERYTHING)
    want = oracle.blip2_trace(theirs, pixels, ids, mask)
    cross = [want.pop(name) for name in list(want) if "cross-attention" in name]
    oracle.compare(our_trace(output), want, oracle.TOLERANCE["float32"])
    for got, map_ in zip(output.qformer_outputs.cross_attentions, cross, strict=True):
        np.testing.assert_allclose(got, map_, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_composite_model(seed, tmp_path):
    """Today's composite wants Q image tokens in the prompt; placed first they mean what 4.37 does."""
    theirs = draw_blip2(seed)
    theirs.save_pretrained(tmp_path)
    pixels, ids, mask = example(theirs, seed=seed)
    config = theirs.config
    image = np.full((len(ids), config.num_query_tokens), config.image_token_index)
    labels = np.where(mask == 1, ids, -100)
    with torch.no_grad():
        inputs = np.concatenate([image, ids], 1), np.concatenate([np.ones_like(image), mask], 1)
        want = theirs(torch.tensor(pixels), *map(torch.tensor, inputs)).logits
    model = Blip2ForConditionalGeneration.from_pretrained(tmp_path)
    np.testing.assert_allclose(model(pixels, ids, mask).logits, want.numpy(), atol=1e-4)
    got = model(pixels, ids, mask, labels=labels)
    cut = want[:, -labels.shape[1] :]
    np.testing.assert_allclose(got.logits, cut.numpy(), atol=1e-4)
    loss = torch.nn.functional.cross_entropy(cut[:, :-1].flatten(0, 1), torch.tensor(labels)[:, 1:].flatten())
    np.testing.assert_allclose(got.loss, loss.numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints(dtype, tmp_path):
    """The weights are rounded as the file says; the arithmetic stays float32."""
    theirs = oracle.blip2_model().to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    theirs = theirs.float()
    pixels, ids, mask = example(theirs)
    got = Blip2ForConditionalGeneration.from_pretrained(tmp_path)(pixels, ids, mask).logits
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, oracle.blip2_trace(theirs, pixels, ids, mask)["logits"], atol=1e-4)


def test_transformers_reads_what_we_save(tmp_path):
    theirs = oracle.blip2_model(text=dict(tie_word_embeddings=False))
    theirs.save_pretrained(tmp_path / "theirs")
    Blip2ForConditionalGeneration.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    want = theirs.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, want[name]), name


# ---- what holds without an oracle ----------------------------------------------------------------
@pytest.fixture(scope="module")
def base():
    return Blip2ForConditionalGeneration.from_pretrained(GOLDEN / "base"), golden_inputs(GOLDEN / "base", ROWS)


def test_left_padded_batch_equals_single_texts(base):
    model, inputs = base
    together = model(**inputs).logits
    queries = model.config.num_query_tokens
    for row in range(len(together)):
        kept = inputs["attention_mask"][row] == 1
        alone = model(inputs["pixel_values"][row : row + 1], inputs["input_ids"][row : row + 1, kept]).logits
        columns = np.concatenate([np.ones(queries, bool), kept])
        np.testing.assert_allclose(together[row, columns], alone[0], atol=1e-5)


def test_tensors_and_lists_are_taken_like_arrays(base):
    model, inputs = base
    want = model(**inputs).logits
    for convert in (torch.tensor, np.ndarray.tolist):
        got = model(**{name: convert(array) for name, array in inputs.items()}).logits
        assert isinstance(got, np.ndarray)
        np.testing.assert_array_equal(got, want)


def test_nothing_given_is_written_to(base):
    model, inputs = base
    frozen = {name: array.copy() for name, array in inputs.items()}
    for array in frozen.values():
        array.flags.writeable = False
    np.testing.assert_array_equal(
        model(**frozen, **EVERYTHING).logits, model(**inputs, labels=inputs["input_ids"]).language_model_outputs.logits
    )
    model.generate(**frozen, max_new_tokens=2)


def test_three_ways_to_read_an_output(base):
    model, inputs = base
    output = model(**inputs)
    assert output.logits is output["logits"] is output[0] is output.to_tuple()[0]
    assert list(output.keys()) == ["logits", "vision_outputs", "qformer_outputs", "language_model_outputs"]
    assert output.loss is None
    assert output.vision_outputs.attentions is None and output.qformer_outputs.cross_attentions is None


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(pixel_values=np.zeros((1, 3, 12, 12))), "1 pictures and 2 texts"),
        (dict(pixel_values=np.zeros((3, 12, 12))), "pixel_values"),
        (dict(pixel_values=np.zeros((2, 3, 8, 8))), "pixel_values"),
        (dict(attention_mask=np.ones((2, 5), int)), "attention_mask"),
        (dict(input_ids=[[2, 3], [2]]), "input_ids"),
        (dict(input_ids=np.zeros((2, 6))), "input_ids"),
        (dict(input_ids=np.full((2, 6), 40)), "40"),
        (dict(input_ids=np.full((2, 6), -1)), "-1"),
        (dict(labels=np.full((2, 6), 40)), "40"),
    ],
)
def test_inputs_that_do_not_fit(base, change, words):
    model, inputs = base
    with pytest.raises(InputError, match=words):
        model(**inputs | change)


@pytest.mark.parametrize("name", ["no such folder", GOLDEN])
def test_folders_without_a_model(name):
    with pytest.raises(MinivlError):
        Blip2ForConditionalGeneration.from_pretrained(name)
