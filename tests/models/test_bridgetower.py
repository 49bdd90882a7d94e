"""BridgeTower against transformers, after every layer and at every head; 4.37.2's answers for what today's has lost."""

import json

import drawn
import numpy as np
import oracle
import pytest
import torch
from oracle_bridgetower import (
    ACTIVATIONS,
    CLASSES,
    CONTRAST,
    EVERYTHING,
    FILL,
    LINKS,
    MATCH,
    READ_OFF,
    TRUNK,
    WIDE,
    build,
    check,
    draw,
    example,
    flow,
    our_trace,
    ours,
    questions,
    tensors,
    their_trace,
    values,
)

import minivl
from minivl.errors import InputError
from minivl.weights import files, names, tree

GOLDEN = oracle.GOLDEN / "bridgetower"

ODD = {
    "plain": {},
    "one cross-modal layer": dict(num_hidden_layers=1),
    "as many cross-modal layers as states": dict(num_hidden_layers=4),
    "own transforms": dict(share_cross_modal_transformer_layers=False),
    "one text layer": dict(text=dict(num_hidden_layers=1)),
    "one head": dict(text=dict(num_attention_heads=1)),
    "narrow mlp": dict(text=dict(intermediate_size=1)),
    "padding 0": dict(text=dict(pad_token_id=0)),
    "padding 7": dict(text=dict(pad_token_id=7)),
    "several token types": dict(text=dict(type_vocab_size=3)),
    "eps of the text that matters": dict(text=dict(layer_norm_eps=0.3)),
    "eps of the picture that matters": dict(vision=dict(layer_norm_eps=0.3)),
    "eps of the bridges that matters": dict(layer_norm_eps=0.3),
    "wider picture": dict(vision=dict(hidden_size=128)),
    "one wide head": dict(vision=dict(hidden_size=96)),
    "deeper picture": dict(vision=dict(num_hidden_layers=5)),
    "deeper picture, last layer removed": dict(vision=dict(num_hidden_layers=4, remove_last_layer=True)),
    "norms that nobody reads": dict(vision=dict(share_layernorm=False)),
    "one patch": dict(vision=dict(patch_size=8)),
    "patches that leave a rest": dict(vision=dict(image_size=11)),
    "grey pictures": dict(vision=dict(num_channels=1)),
}
ODD |= {f"link {name}": dict(link_tower_type=name) for name in LINKS}
ODD |= {f"hidden_act {name}": dict(text=dict(hidden_act=name)) for name in ACTIVATIONS}


# ---- every layer ---------------------------------------------------------------------------------
@pytest.mark.parametrize("odd", ODD)
def test_every_layer(odd, tmp_path):
    check(values(**ODD[odd]), tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_every_layer_and_head_of_random_configurations(seed, tmp_path):
    kind, double = CLASSES[seed % 4], seed % 8 >= 4
    check(draw(seed, kind), tmp_path, kind, seed=seed, batch=seed % 3 + 1, length=seed % 7 + 1,
          mask=["pads", None, "other"][seed % 3], dtype="float64" if double else "float32",
          backends=["plain", "numpy"] if double else ["plain", "numpy", "torch"])  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_head_over_words_has_an_activation_of_its_own(name, tmp_path):
    check(values(hidden_act=name, text=dict(hidden_act="relu")), tmp_path, FILL)


@pytest.mark.parametrize("tie", [False, True])
def test_words_are_scored_by_a_table_of_their_own_or_by_their_embeddings(tie, tmp_path):
    check(values(tie_word_embeddings=tie), tmp_path, FILL)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("kind", [FILL, MATCH, CONTRAST])
def test_heads_for_any_number_of_pairs(kind, batch, tmp_path):
    check(values(**WIDE), tmp_path, kind, batch=batch)


@pytest.mark.parametrize("link", LINKS)
def test_what_a_link_weighs_is_read(link, tmp_path):
    """Without it the outputs would be another model's."""
    theirs = build(values(link_tower_type=link))
    inputs = example(theirs.config)
    mine = ours(theirs, tmp_path)
    before = mine(**inputs).text_features
    for weight in ("scale", "beta"):
        for tower in ("text", "image"):
            for bridge in mine.params[f"{tower}_links"]:
                if weight in bridge:
                    bridge[weight] = bridge[weight] + np.float32(0.5)
    moved = np.abs(mine(**inputs).text_features - before).max()
    assert (moved > 0.01) == (link != "add")


# ---- against 4.37.2 ------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=sorted(path.stem for path in GOLDEN.glob("*.json")))
def golden(request, tmp_path_factory):
    """A golden configuration: what was written down, the arrays, and a folder with the same weights and all heads."""
    written = json.loads((GOLDEN / f"{request.param}.json").read_text())
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        arrays = dict(file)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(json.dumps(written["config"]))
    shapes = {name: shape for part in written["tensors"].values() for name, shape in part.items()}
    files.save(folder, drawn.weights(shapes, written["seed"]))
    return written, arrays, folder


def given_to(kind, arrays):
    """The inputs of a golden case, and what asks this class for its loss."""
    inputs = {name: arrays[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    ids = inputs["input_ids"]
    asked = {TRUNK: {}, MATCH: dict(labels=np.array([1, 0])), CONTRAST: dict(return_loss=True)}
    asked[FILL] = dict(labels=np.where(np.arange(ids.shape[1]) % 2, ids, -100))
    return inputs, asked[kind]


def nested(arrays):
    """hidden_states.2.0.1 and the like, back to tuples."""
    root = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node[last] = array
    return pack(root)


def pack(node):
    if not isinstance(node, dict):
        return node
    parts = {key: pack(child) for key, child in node.items()}
    return tuple(parts.values()) if "0" in parts else parts


@pytest.mark.parametrize("backend", ["plain", "numpy", "torch"])
def test_every_state_and_map_of_437(golden, backend):
    written, arrays, folder = golden
    model = minivl.BridgeTowerModel.from_pretrained(folder, backend=backend)
    inputs, _ = given_to(TRUNK, arrays)
    want = nested({name.removeprefix(f"{TRUNK}/"): x for name, x in arrays.items() if name.startswith(f"{TRUNK}/")})
    output, got = our_trace(model, inputs)
    # 4.37 keeps the maps of cross-attention to itself; they are held to a second derivation elsewhere
    trace = flow(want["hidden_states"], want["attentions"], output.cross_attentions)
    trace |= {name: want[name] for name in ("text_features", "image_features", "pooler_output")}
    oracle.compare(got, {name: np.asarray(x) for name, x in trace.items()}, oracle.TOLERANCE["float32"])


def test_heads_of_437(golden):
    written, arrays, folder = golden
    for kind in written["tensors"]:
        if kind != TRUNK:
            inputs, asked = given_to(kind, arrays)
            output = getattr(minivl, kind).from_pretrained(folder)(**inputs, **asked)
            np.testing.assert_allclose(output.loss, arrays[f"{kind}/loss"], rtol=0, atol=1e-5)
            for name in READ_OFF:
                if f"{kind}/{name}" in arrays:
                    np.testing.assert_allclose(output[name], arrays[f"{kind}/{name}"], rtol=0, atol=1e-4)


def test_tuples_of_437(golden):
    """The same fields in the same places, where 4.37 does not split the logits by rows."""
    written, arrays, folder = golden
    for kind in set(written["tensors"]) & {TRUNK, CONTRAST}:
        model = getattr(minivl, kind).from_pretrained(folder)
        inputs, asked = given_to(kind, arrays)
        for call, want in written["layouts"][kind].items():
            flags = EVERYTHING if call.startswith("all") else {}
            got = model(**inputs, **(asked if call.endswith("asked") else {}), **flags, return_dict=False)
            assert text(layout(got[:-1] if flags else got)) == want


def text(layout):
    """(2, 5, 12) as 2x5x12, the way the golden files write it."""
    return [text(part) for part in layout] if isinstance(layout, list) else "x".join(map(str, layout)) or "scalar"


def test_tables_are_those_of_437(golden):
    written, _, folder = golden
    config = minivl.BridgeTowerConfig.from_pretrained(folder)
    table = {entry.hub: list(entry.shape) for entry in names.bridgetower(config) if isinstance(entry, tree.Entry)}
    assert table == written["tensors"][TRUNK]
    heads = {FILL: names.masked_lm_head, MATCH: names.matching_head, CONTRAST: names.contrastive_head}
    for kind, shapes in written["tensors"].items():
        if kind != TRUNK:
            entries = [entry for entry in heads[kind](config) if isinstance(entry, tree.Entry)]
            assert {entry.hub: list(entry.shape) for entry in entries} == shapes


# ---- maps of cross-attention, which transformers keeps to itself ---------------------------------
def test_cross_attention_maps_are_those_of_the_queries_and_keys(tmp_path):
    """Softmax over q·k / √D, written out for the queries and keys that transformers' own projections give."""
    theirs = build(values(), dtype="float64")
    inputs, heads = example(theirs.config), theirs.config.text_config.num_attention_heads
    hooks, layers = oracle.Hooks(), range(theirs.config.num_hidden_layers)
    for j in layers:
        for tower in ("text", "image"):
            attention = getattr(theirs, f"cross_modal_{tower}_layers")[j].crossattention
            hooks.watch(attention.self.query, ("q", tower, j))
            hooks.watch(attention.self.key, ("k", tower, j))
    _, seen = hooks.run(theirs, **tensors(inputs))
    got = ours(theirs, tmp_path, dtype="float64")(**inputs, output_attentions=True).cross_attentions
    assert len(got) == len(layers)
    for j in layers:
        for tower, map_ in zip(("text", "image"), got[j], strict=True):
            q, k = seen["q", tower, j], seen["k", tower, j]
            want = np.zeros((len(q), heads, q.shape[1], k.shape[1]))
            for b, h in np.ndindex(want.shape[:2]):
                cut = slice(h * 4, h * 4 + 4)  # 12 wide, 3 heads
                scores = np.exp(q[b, :, cut] @ k[b, :, cut].T / 2)
                if tower == "image":  # which looks at words, and so not at padding
                    scores = scores * inputs["attention_mask"][b]
                want[b, h] = scores / scores.sum(1, keepdims=True)
            np.testing.assert_allclose(map_, want, rtol=0, atol=1e-9)


# ---- what comes back, and in what form -----------------------------------------------------------
@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{class: (theirs, ours)}, and inputs for all."""
    pairs = {}
    for kind in CLASSES:
        theirs = build(values(**WIDE), kind)
        pairs[kind] = theirs, ours(theirs, tmp_path_factory.mktemp(kind))
    return pairs, example(theirs.config)


def layout(output):
    return [layout(part) for part in output] if isinstance(output, tuple) else tuple(output.shape)


def arrays(output):
    """Every array of nested tuples, one after the other."""
    if isinstance(output, tuple):
        for part in output:
            yield from arrays(part)
    else:
        yield np.asarray(output.detach() if isinstance(output, torch.Tensor) else output)


def test_layout_of_hidden_states_and_attentions(models):
    pairs, inputs = models
    B, T, N, C, H = 3, 6, 5, 64, 4
    output = pairs[TRUNK][1](**inputs, **EVERYTHING)
    texts, images, crossed = output.hidden_states
    assert layout(texts) == [(B, T, C)] * 4
    assert layout(images) == [(N, B, 64)] * 4  # patches first, as transformers has them
    assert layout(crossed) == [[(B, T, C), (B, N, C)]] * 2
    assert layout(output.attentions) == [[(B, H, T, T), (B, H, N, N)]] * 2
    assert layout(output.cross_attentions) == [[(B, H, T, N), (B, H, N, T)]] * 2
    assert output.pooler_output.shape == (B, 2 * C)
    assert crossed[-1][0] is output.text_features and crossed[-1][1] is output.image_features


@pytest.mark.parametrize("kind", CLASSES)
def test_a_plain_tuple(kind, models):
    """The fields of the record in their order; ours has the maps of cross-attention behind everything of theirs."""
    pairs, inputs = models
    theirs, mine = pairs[kind]
    given = inputs | questions(kind, theirs.config, inputs["input_ids"])
    with torch.no_grad():
        want = theirs(**tensors(given), return_dict=False)
    got = mine(**given, **EVERYTHING, return_dict=False)
    assert type(got) is tuple
    assert layout(got[:-1]) == layout(want)
    for one, other in zip(arrays(got[:-1]), arrays(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    across = [[(3, 4, 6, 5), (3, 4, 5, 6)]] * 2
    assert layout(got[-1]) == across
    record = mine(**given, **EVERYTHING)
    for one, other in zip(arrays(got), arrays(record.to_tuple()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_not_asked_for_is_left_out(models):
    pairs, inputs = models
    assert list(pairs[TRUNK][1](**inputs).keys()) == ["text_features", "image_features", "pooler_output"]
    assert list(pairs[FILL][1](**inputs).keys()) == list(pairs[MATCH][1](**inputs).keys()) == ["logits"]
    contrast = pairs[CONTRAST][1]
    vectors = ["logits", "text_embeds", "image_embeds", "cross_embeds", "hidden_states"]
    assert list(contrast(**inputs).keys()) == list(contrast(**inputs, output_hidden_states=False).keys()) == vectors
    assert [len(pairs[kind][1](**inputs, return_dict=False)) for kind in CLASSES] == [3, 1, 1, 5]
    asked = dict(output_attentions=None, output_hidden_states=None, return_dict=None)  # 4.37's own defaults
    assert list(pairs[TRUNK][1](**inputs, **asked).keys()) == ["text_features", "image_features", "pooler_output"]
    assert list(pairs[TRUNK][1](**inputs, output_attentions=True).keys())[3:] == ["attentions", "cross_attentions"]


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_taken_and_not_used_changes_nothing(kind, models):
    pairs, inputs = models
    theirs, mine = pairs[kind]
    ignored = dict(token_type_ids=np.full((3, 6), 5), pixel_mask=np.zeros((3, 8, 8)), inputs_embeds=np.ones((3, 6, 64)))
    want, got = mine(**inputs), mine(**inputs, **ignored, head_mask=np.zeros((2, 4)))
    for one, other in zip(arrays(got.to_tuple()), arrays(want.to_tuple()), strict=True):
        np.testing.assert_array_equal(one, other)
    with torch.no_grad():
        assert torch.equal(theirs(**tensors(inputs))[0], theirs(**tensors(inputs | ignored))[0])


def test_arguments_by_place(models):
    """input_ids, attention_mask, token_type_ids, pixel_values, pixel_mask: the order of transformers 4.37."""
    pairs, inputs = models
    for kind in CLASSES:
        mine = pairs[kind][1]
        got = mine(inputs["input_ids"], inputs["attention_mask"], None, inputs["pixel_values"], None)
        np.testing.assert_array_equal(got[0], mine(**inputs)[0])


@pytest.mark.parametrize("index", [None, 0, 1])
def test_token_type_of_the_picture(index, models):
    """The second row, also where 0 is asked for, as in transformers."""
    pairs, inputs = models
    theirs, mine = pairs[TRUNK]
    with torch.no_grad():
        want = theirs(**tensors(inputs), image_token_type_idx=index).image_features.numpy()
    got = mine(**inputs, image_token_type_idx=index).image_features
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", CLASSES)
def test_embedded_pictures_instead_of_pixels(kind, models):
    """They start the image tower as they are, however many patches they have."""
    pairs, inputs = models
    theirs, mine = pairs[kind]
    given = {name: x for name, x in inputs.items() if name != "pixel_values"}
    given["image_embeds"] = np.random.default_rng(3).normal(size=(3, 9, 64)).astype(np.float32)
    _, want = their_trace(theirs, given)
    _, trace = our_trace(mine, given)
    oracle.compare(trace, want, oracle.TOLERANCE["float32"])
    np.testing.assert_array_equal(trace["image embeddings"], given["image_embeds"].swapaxes(0, 1))


# ---- heads ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)])
@pytest.mark.parametrize("make", [np.array, torch.tensor, list])
def test_matching_labels_as_a_row_or_a_column(make, shape, models):
    pairs, inputs = models
    theirs, mine = pairs[MATCH]
    with torch.no_grad():
        want = theirs(**tensors(inputs), labels=torch.tensor([1, 0, 1])).loss.numpy()
    labels = np.array([1, 0, 1]).reshape(shape).tolist()
    np.testing.assert_allclose(mine(**inputs, labels=make(labels)).loss, want, rtol=0, atol=1e-5)


def test_labels_that_are_ignored(models):
    pairs, inputs = models
    theirs, mine = pairs[FILL]
    labels = np.full((3, 6), -100)
    assert np.isnan(mine(**inputs, labels=labels).loss)
    labels[1, 2] = 5
    with torch.no_grad():
        want = theirs(**tensors(inputs), labels=torch.tensor(labels)).loss.numpy()
    np.testing.assert_allclose(mine(**inputs, labels=labels).loss, want, rtol=0, atol=1e-5)


def test_vectors_for_comparison(models):
    pairs, inputs = models
    output = pairs[CONTRAST][1](**inputs)
    vectors = [output.text_embeds, output.image_embeds, output.cross_embeds]
    for i, vector in enumerate(vectors):
        np.testing.assert_array_equal(output.logits[:, i], vector)
        np.testing.assert_allclose((vector**2).sum(1), 1, atol=1e-6)


def test_texts_and_pictures_alone(models):
    """Each tower's vectors without the other, the pair's own unless the words are hidden."""
    pairs, inputs = models
    theirs, mine = pairs[CONTRAST]
    with torch.no_grad():
        want = theirs(**tensors(inputs))
    texts = mine.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    np.testing.assert_allclose(texts, want.text_embeds.numpy(), rtol=0, atol=1e-5)
    pictures = mine.get_image_features(inputs["pixel_values"])
    np.testing.assert_allclose(pictures, want.image_embeds.numpy(), rtol=0, atol=1e-5)


def test_the_loss_of_comparison_depends_on_the_order_of_the_pairs(models):
    pairs, inputs = models
    theirs, mine = pairs[CONTRAST]
    turned = inputs | dict(pixel_values=inputs["pixel_values"][::-1].copy())
    for given in (inputs, turned):
        with torch.no_grad():
            want = theirs(**tensors(given), return_loss=True).loss.numpy()
        np.testing.assert_allclose(mine(**given, return_loss=True).loss, want, rtol=0, atol=1e-5)


# ---- both heads at once --------------------------------------------------------------------------
@pytest.fixture(scope="module")
def both(models, tmp_path_factory):
    """One file with the trunk of the matching class and both heads; the two classes and the one that is both."""
    pairs, inputs = models
    folder = tmp_path_factory.mktemp("both")
    for kind in (CONTRAST, MATCH):
        pairs[kind][0].save_pretrained(folder / kind)
    heads = {name: t.array for name, t in files.read(folder / CONTRAST).items() if not name.startswith("bridgetower")}
    trunk = {name: t.array for name, t in files.read(folder / MATCH).items()}
    files.save(folder, trunk | heads)
    (folder / "config.json").write_text((folder / CONTRAST / "config.json").read_text())
    kinds = (MATCH, CONTRAST, "BridgeTowerForMatchingAndContrast")
    return [getattr(minivl, kind).from_pretrained(folder) for kind in kinds], inputs


@pytest.mark.parametrize("labels", [None, [1, 0, 1]])
@pytest.mark.parametrize("return_loss", [False, True])
def test_one_pass_for_both_heads_gives_what_each_gives_alone(both, labels, return_loss):
    (matching, contrast, joint), inputs = both
    got = joint(**inputs, labels=labels, return_loss=return_loss, **EVERYTHING)
    want = matching(**inputs, labels=labels, **EVERYTHING), contrast(**inputs, return_loss=return_loss, **EVERYTHING)
    for one, other in zip((got.matching, got.contrast), want, strict=True):
        assert list(one.keys()) == list(other.keys())
        for x, y in zip(arrays(one.to_tuple()), arrays(other.to_tuple()), strict=True):
            np.testing.assert_array_equal(x, y)
    losses = [part.loss for part in want if part.loss is not None]
    assert got.loss is None if not losses else abs(float(got.loss) - float(sum(losses))) < 1e-6


def test_both_heads_without_states(both):
    (matching, contrast, joint), inputs = both
    got = joint(**inputs)
    np.testing.assert_array_equal(got.matching.logits, matching(**inputs).logits)
    np.testing.assert_array_equal(got.contrast.logits, contrast(**inputs).logits)
    assert got.matching.hidden_states is None and got.matching.attentions is None
    np.testing.assert_array_equal(joint.get_text_features(inputs["input_ids"], inputs["attention_mask"]),
                                  got.contrast.text_embeds)  # fmt: skip
    np.testing.assert_array_equal(joint.get_image_features(inputs["pixel_values"]), got.contrast.image_embeds)
    loss, one, two = joint(**inputs, labels=[1, 0, 1], return_dict=False)
    assert type(one) is tuple and type(two) is tuple and one[0] == loss
    np.testing.assert_array_equal(one[1], got.matching.logits)
    np.testing.assert_array_equal(two[0], got.contrast.logits)


# ---- what holds without an oracle ----------------------------------------------------------------
@pytest.mark.parametrize("kind", CLASSES)
def test_pairs_of_a_batch_do_not_see_each_other(kind, models):
    pairs, inputs = models
    mine = pairs[kind][1]
    together = mine(**inputs)
    for row in range(3):
        alone = mine(**{name: x[row : row + 1] for name, x in inputs.items()})
        np.testing.assert_allclose(alone[0], together[0][row : row + 1], rtol=0, atol=1e-5)


def test_hidden_padding_changes_nothing(models):
    pairs, inputs = models
    mine = pairs[TRUNK][1]
    longer = inputs | {
        "input_ids": np.concatenate([inputs["input_ids"], np.ones((3, 4), int)], 1),
        "attention_mask": np.concatenate([inputs["attention_mask"], np.zeros((3, 4), int)], 1),
    }
    got, want = mine(**longer), mine(**inputs)
    np.testing.assert_allclose(got.text_features[:, :6], want.text_features, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.image_features, want.image_features, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.pooler_output, want.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("convert", [torch.tensor, np.ndarray.tolist], ids=["tensors", "lists"])
def test_tensors_and_lists_are_taken_like_arrays(convert, models):
    pairs, inputs = models
    for kind in CLASSES:
        mine = pairs[kind][1]
        got = mine(**{name: convert(x) for name, x in inputs.items()})[0]
        assert isinstance(got, np.ndarray)
        np.testing.assert_array_equal(got, mine(**inputs)[0])


@pytest.mark.parametrize("kind", CLASSES)
def test_nothing_given_is_written_to(kind, models):
    pairs, inputs = models
    theirs, mine = pairs[kind]
    given = inputs | questions(kind, theirs.config, inputs["input_ids"])
    frozen = {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in given.items()}
    for x in frozen.values():
        if isinstance(x, np.ndarray):
            x.flags.writeable = False
    for one, other in zip(arrays(mine(**frozen).to_tuple()), arrays(mine(**given).to_tuple()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_torch_backend_gives_tensors_that_can_be_differentiated(kind, models, tmp_path):
    pairs, inputs = models
    theirs = pairs[kind][0]
    mine = ours(theirs, tmp_path, "torch")
    weight = mine.params["vision"]["class_token"].requires_grad_()
    given = inputs | questions(kind, theirs.config, inputs["input_ids"])
    output = mine(**given)
    theirs.zero_grad()
    want = theirs(**tensors(given))
    for one in (output, want):
        (one.pooler_output.sum() if kind == TRUNK else one.loss).backward()
    trunk = getattr(theirs, "bridgetower", theirs)
    reference = trunk.vision_model.visual.embeddings.class_embedding.grad
    np.testing.assert_allclose(weight.grad, reference, rtol=1e-3, atol=1e-4)
    theirs.zero_grad()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(pixel_values=np.zeros((2, 3, 8, 8))), "2 pictures and 3 texts"),
        (dict(pixel_values=np.zeros((3, 3, 4, 4))), r"\(3, 3, 4, 4\).*\(batch, 3, 8, 8\)"),
        (dict(pixel_values=np.zeros((3, 1, 8, 8))), "pixel_values"),
        (dict(pixel_values=np.zeros((3, 8, 8))), "pixel_values"),
        (dict(pixel_values=None), "pixel_values"),
        (dict(image_embeds=np.zeros((2, 5, 64))), "2 pictures and 3 texts"),
        (dict(image_embeds=np.zeros((3, 64))), "image_embeds"),
        (dict(image_embeds=np.zeros((3, 5, 63))), "image_embeds.*64"),
        (dict(attention_mask=np.ones((3, 5), int)), "attention_mask"),
        (dict(input_ids=[[2, 3], [2]]), "input_ids"),
        (dict(input_ids=np.zeros((3, 6))), "input_ids"),
        (dict(input_ids=None), "input_ids"),
        (dict(input_ids=np.full((3, 6), 40)), "40"),
        (dict(input_ids=np.full((3, 6), -1)), "-1"),
        (dict(image_token_type_idx=2), "image_token_type_idx.*2"),
        (dict(image_token_type_idx=-1), "image_token_type_idx.*-1"),
    ],
)
def test_inputs_that_do_not_fit(models, change, words):
    pairs, inputs = models
    with pytest.raises(InputError, match=words) as raised:
        pairs[TRUNK][1](**inputs | change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "kind, labels",
    [
        (FILL, np.zeros((3, 5), int)),
        (FILL, np.zeros((2, 6), int)),
        (FILL, np.zeros((3, 6))),
        (FILL, np.full((3, 6), 40)),
        (MATCH, np.zeros(2, int)),
        (MATCH, np.zeros((3, 2), int)),
        (MATCH, np.zeros(3)),
        (MATCH, np.full(3, 2)),
    ],
)
def test_labels_that_do_not_fit(models, kind, labels):
    pairs, inputs = models
    with pytest.raises(InputError, match="label") as raised:
        pairs[kind][1](**inputs, labels=labels)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backend", ["plain", "numpy", "torch"])
def test_a_text_that_is_too_long_is_told_so(backend, tmp_path):
    """Positions are counted from the padding's row on, so the table of 40 rows holds 38 words."""
    sizes = dict(hidden_size=64, num_hidden_layers=2)
    text = dict(sizes, num_attention_heads=2, intermediate_size=8, vocab_size=9, max_position_embeddings=40)
    config = minivl.BridgeTowerConfig(
        hidden_size=64, num_hidden_layers=1, text_config=text, vision_config=dict(sizes, image_size=8, patch_size=8)
    )
    model = minivl.BridgeTowerModel(config, ops=minivl.ops.get(backend))
    pixels = np.zeros((1, 3, 8, 8))
    model([[5] * 38], pixel_values=pixels)
    model([[5] * 38 + [1]], pixel_values=pixels)
    with pytest.raises(InputError, match="longer than the 38 tokens"):
        model([[5] * 39], pixel_values=pixels)
