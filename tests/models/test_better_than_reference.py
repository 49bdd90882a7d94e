"""Where transformers crashes, loses weights or is silently wrong, minivl does what the configuration plainly means.

One test for each case; its first sentence says what the reference does ("4.37" is 4.37.2, "today" what is installed),
and where that can be seen by running it, the test does.
"""

import json
import re

import numpy as np
import oracle
import pytest
import torch
import transformers
from oracle_bridgetower import (
    CLASSES,
    CONTRAST,
    FILL,
    MATCH,
    READ_OFF,
    TRUNK,
    WIDE,
    build,
    draw,
    example,
    flow,
    our_trace,
    tensors,
    their_trace,
    values,
)
from PIL import Image
from safetensors.numpy import load_file, save_file
from second_bridgetower import Second
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.bridgetower.image_processing_pil_bridgetower import BridgeTowerImageProcessorPil
from words import roberta_folder

import minivl
from minivl.errors import ConfigError, ImageError, InputError
from minivl.processors.bridgetower import BridgeTowerImageProcessor
from minivl.processors.image_processor import BlipImageProcessor
from minivl.processors.tokenizer import Tokenizer

# ---- models --------------------------------------------------------------------------------------


def checkpoint(folder, config, seed=0, **changes):
    """A folder with random weights for the trunk and all three heads; `changes` are made in its config.json alone.

    The tensors come from transformers' classes, which can be built for much that they cannot run.
    """
    tensors = {}
    for kind in (CONTRAST, MATCH, FILL):  # the last one's trunk stays
        build(config, kind, seed).save_pretrained(folder)
        tensors |= load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    written = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del written[key]
        else:
            written[key] = written[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(written))
    return folder


def inputs_for(folder, seed=0, length=6):
    return example(transformers.BridgeTowerConfig.from_pretrained(folder), length=length, seed=seed)


def agrees(folder, inputs):
    """Trunk and heads are what the second derivation makes of the same folder."""
    want = Second(json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors"))(**inputs)
    trace = flow(want["hidden_states"], want["attentions"], want["cross_attentions"])
    trace |= {name: want[name] for name in READ_OFF if name in want}
    trace = {name: x.numpy().astype(np.float32) for name, x in trace.items()}
    models = {kind: getattr(minivl, kind).from_pretrained(folder) for kind in CLASSES}
    oracle.compare(our_trace(models[TRUNK], inputs)[1], trace, oracle.TOLERANCE["float32"])
    for kind, name in ((FILL, "fill"), (MATCH, "match"), (CONTRAST, "contrast")):
        np.testing.assert_allclose(models[kind](**inputs).logits, want[name], rtol=0, atol=1e-4, err_msg=name)
    loss = models[CONTRAST](**inputs, return_loss=True).loss
    np.testing.assert_allclose(loss, want["loss"], rtol=0, atol=1e-5)
    return models


def fails(config, kind=TRUNK):
    """The error that transformers' model of a configuration ends with."""
    theirs = build(config, kind)
    with pytest.raises(Exception) as raised, torch.no_grad():
        theirs(**tensors(example(theirs.config)))
    return raised.type


@pytest.mark.parametrize("seed", range(4))
def test_the_second_derivation_is_transformers_where_transformers_runs(seed, tmp_path):
    config = draw(seed, TRUNK)
    config["vision_config"]["num_channels"] = 3
    theirs = build(config, TRUNK, seed, "float64")
    inputs = example(theirs.config, seed=seed)
    theirs.save_pretrained(tmp_path)
    got = Second(config, load_file(tmp_path / "model.safetensors"))(**inputs)
    trace = flow(got["hidden_states"], got["attentions"], got["cross_attentions"])
    trace |= {name: got[name] for name in READ_OFF if name in got}
    oracle.compare(trace, their_trace(theirs, inputs)[1], oracle.TOLERANCE["float64"])


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("link", ["add", "scaled_add", "interpolate"])
def test_links_may_be_shared(link, layers, tmp_path):
    """4.37 and today: share_link_tower_layers=True ends in a TypeError, the one link is not subscriptable."""
    config = values(share_link_tower_layers=True, link_tower_type=link, num_hidden_layers=layers, **WIDE)
    if layers > 1:
        assert fails(config) is TypeError
    agrees(checkpoint(tmp_path, config), inputs_for(tmp_path))


def test_a_shared_link_is_one_link(tmp_path):
    """Two links with the same weights are what share_link_tower_layers=True means."""
    config = values(num_hidden_layers=3, link_tower_type="scaled_add")
    theirs = build(config)
    with torch.no_grad():
        for links in (theirs.cross_modal_text_link_tower, theirs.cross_modal_image_link_tower):
            links[1].load_state_dict(links[0].state_dict())
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    shared = {re.sub(r"(link_tower)\.0", r"\1", name): x for name, x in weights.items() if "link_tower.1." not in name}
    assert len(shared) == len(weights) - 6
    save_file(shared, tmp_path / "model.safetensors")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(share_link_tower_layers=True)))
    inputs = inputs_for(tmp_path)
    _, want = their_trace(theirs, inputs)
    oracle.compare(our_trace(minivl.BridgeTowerModel.from_pretrained(tmp_path), inputs)[1], want, 2e-5)


@pytest.mark.parametrize("layers", [1, 3])
def test_each_cross_modal_layer_may_have_transforms_of_its_own(layers, tmp_path):
    """4.37 cannot run share_cross_modal_transformer_layers=False at all; today the contrastive head still cannot."""
    config = values(share_cross_modal_transformer_layers=False, num_hidden_layers=layers, **WIDE)
    assert fails(config, CONTRAST) is NotImplementedError
    agrees(checkpoint(tmp_path, config), inputs_for(tmp_path))


def test_beta_is_read(tmp_path):
    """4.37 takes `beta` in a file for an old name of a bias: it is never loaded and stays 0.5."""
    folder = checkpoint(tmp_path, values(link_tower_type="interpolate", num_hidden_layers=3, **WIDE))
    weights, inputs = load_file(folder / "model.safetensors"), inputs_for(folder)
    betas = {name for name in weights if name.endswith(".beta")}
    assert len(betas) == 4 and all(abs(weights[name] - 0.5) > 0.01 for name in betas)
    before = agrees(folder, inputs)[TRUNK](**inputs).text_features
    save_file(weights | dict.fromkeys(betas, np.full((), 0.5, np.float32)), folder / "model.safetensors")
    after = agrees(folder, inputs)[TRUNK](**inputs).text_features
    assert np.abs(before - after).max() > 0.01


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_last_layer_of_the_picture_tower_may_be_removed(layers, tmp_path):
    """4.37 and today: remove_last_layer=True beside towers of the same depth ends in an IndexError.

    A single cross-modal layer starts from the last layer that is left, there as here.
    """
    config = values(vision=dict(remove_last_layer=True), num_hidden_layers=layers, **WIDE)
    models, inputs = agrees(checkpoint(tmp_path, config), inputs_for(tmp_path)), inputs_for(tmp_path)
    if layers > 1:
        assert fails(config) is IndexError
    else:
        _, want = their_trace(transformers.BridgeTowerModel.from_pretrained(tmp_path), inputs)
        oracle.compare(our_trace(models[TRUNK], inputs)[1], want, oracle.TOLERANCE["float32"])


@pytest.mark.parametrize("text, picture, layers", [(3, 2, 2), (4, 2, 3), (4, 1, 2), (1, 4, 1), (2, 4, 3), (3, 1, 1)])
def test_towers_of_different_depths(text, picture, layers, tmp_path):
    """4.37 and today: a picture tower with fewer layers than the text tower ends in an IndexError."""
    wide = dict(WIDE, text=WIDE["text"] | dict(num_hidden_layers=text))
    config = values(vision=dict(num_hidden_layers=picture), num_hidden_layers=layers, **wide)
    if picture < text and layers > 1:
        assert fails(config) is IndexError
    models = agrees(checkpoint(tmp_path, config), inputs_for(tmp_path))
    states = models[TRUNK](**inputs_for(tmp_path), output_hidden_states=True).hidden_states
    assert len(states[0]) == text + 1 and len(states[1]) == min(text, picture) + 1


def test_contrastive_defaults(tmp_path):
    """4.37 and today: without contrastive_hidden_size and logit_scale_init_value an AttributeError ends the contrastive
    class, and neither has a default."""
    bare = values(**WIDE)
    del bare["contrastive_hidden_size"], bare["logit_scale_init_value"]
    with pytest.raises(AttributeError):
        transformers.BridgeTowerForContrastiveLearning(transformers.BridgeTowerConfig(**bare))
    missing = dict(contrastive_hidden_size=None, logit_scale_init_value=None)
    folder = checkpoint(tmp_path, values(contrastive_hidden_size=512, **WIDE), **missing)
    agrees(folder, inputs_for(folder))
    fresh = minivl.BridgeTowerForContrastiveLearning(minivl.BridgeTowerConfig.from_pretrained(folder))
    assert fresh.params["itc"]["scale"] == np.float32(2.6592) and fresh.params["itc"]["text"]["w"].shape == (512, 64)


def test_norms_of_bridges_need_no_init_from_the_picture_tower(tmp_path):
    """4.37 and today: init_layernorm_from_vision_encoder=True with share_layernorm=False ends in an AttributeError."""
    config = values(vision=dict(share_layernorm=False), **WIDE)
    broken = config | dict(init_layernorm_from_vision_encoder=True)
    with pytest.raises(AttributeError):
        transformers.BridgeTowerModel(transformers.BridgeTowerConfig(**broken))
    plain = checkpoint(tmp_path / "plain", config)
    changed = checkpoint(tmp_path / "changed", config, init_layernorm_from_vision_encoder=True)
    inputs = inputs_for(plain)
    one, other = (agrees(folder, inputs)[TRUNK](**inputs) for folder in (plain, changed))
    np.testing.assert_array_equal(one.pooler_output, other.pooler_output)


@pytest.mark.parametrize("width", [64, 96, 128])
def test_the_picture_tower_may_have_a_width_of_its_own(width, tmp_path):
    """4.37 and today: the contrastive class expands a token type over the wrong width, a RuntimeError unless equal."""
    config = values(vision=dict(hidden_size=width))
    assert fails(config, CONTRAST) is RuntimeError
    agrees(checkpoint(tmp_path, config), inputs_for(tmp_path))


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize("words", [1, 5, 9])
def test_relative_positions(kind, words, tmp_path):
    """Today has forgotten relative positions: it passes over their tables and answers as if there were none."""
    folder = checkpoint(tmp_path, values(**WIDE), text_config=dict(position_embedding_type=kind))
    weights, rng = load_file(folder / "model.safetensors"), np.random.default_rng(0)
    attentions = {re.sub(r"query\.bias$", "", name) for name in weights if name.endswith("self.query.bias")}
    assert len(attentions) == 3 + 2 * 2 * 2
    weights |= {
        f"{name}distance_embedding.weight": rng.normal(0, 0.3, (39, 16)).astype(np.float32) for name in attentions
    }
    save_file(weights, folder / "model.safetensors")
    inputs = inputs_for(folder, length=words)
    got = agrees(folder, inputs)[MATCH](**inputs).logits
    theirs = transformers.BridgeTowerForImageAndTextRetrieval.from_pretrained(folder)
    with torch.no_grad():
        assert np.abs(theirs(**tensors(inputs)).logits.numpy() - got).max() > 1e-3


def test_labels_of_matching_in_the_documented_shape():
    """4.37 and today document labels of shape (B, 1) and raise for them; (B,) is what works."""
    theirs = build(values(), MATCH)
    inputs = example(theirs.config)
    with pytest.raises((ValueError, RuntimeError)), torch.no_grad():
        theirs(**tensors(inputs), labels=torch.tensor([[1], [0], [1]]))
    ours = minivl.BridgeTowerForImageAndTextRetrieval(minivl.BridgeTowerConfig.from_dict(values()))
    row, column = (ours(**inputs, labels=np.reshape([1, 0, 1], shape)).loss for shape in (3, (3, 1)))
    assert row == column


@pytest.mark.parametrize("kind, shape", [(FILL, (3, 6, 40)), (MATCH, (3, 2))])
def test_logits_in_a_tuple_stay_whole(kind, shape):
    """4.37: return_dict=False gives tuple(logits), one array for each row of the batch, and drops the states."""
    ours = getattr(minivl, kind)(minivl.BridgeTowerConfig.from_dict(values()))
    got = ours(**example(ours.config), return_dict=False, output_hidden_states=True)
    assert type(got) is tuple and len(got) == 2 and got[0].shape == shape


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(hidden_size=24), ["text_config.hidden_size|BridgeTowerTextConfig.hidden_size", "24", "12"]),
        (dict(num_hidden_layers=5), ["BridgeTowerConfig.num_hidden_layers", "text tower", "3", "found 5"]),
        (dict(vision=dict(num_hidden_layers=1), num_hidden_layers=3), ["num_hidden_layers", "image tower", "1"]),
        (dict(vision=dict(remove_last_layer=True), num_hidden_layers=4), ["num_hidden_layers", "image tower", "2"]),
        (dict(link_tower_type="multiply"), ["link_tower_type", "add, scaled_add, interpolate", "'multiply'"]),
        (dict(vision=dict(hidden_size=63)), ["BridgeTowerVisionConfig.hidden_size", "63"]),
        (dict(vision=dict(hidden_size=200)), ["BridgeTowerVisionConfig.hidden_size", "64", "200"]),
        (dict(vision=dict(image_size=3)), ["BridgeTowerVisionConfig.image_size", "patch", "4", "3"]),
        (dict(text=dict(num_attention_heads=5)), ["BridgeTowerTextConfig.hidden_size", "num_attention_heads", "12"]),
        (dict(text=dict(pad_token_id=None)), ["BridgeTowerTextConfig.pad_token_id", "None"]),
        (dict(text=dict(pad_token_id=40)), ["BridgeTowerTextConfig.pad_token_id", "40"]),
        (dict(text=dict(is_decoder=True)), ["BridgeTowerTextConfig.is_decoder", "false", "True"]),
        (dict(text=dict(position_embedding_type="rotary")), ["position_embedding_type", "absolute", "'rotary'"]),
    ],
)
def test_configurations_without_a_meaning(changes, words):
    """4.37 and today accept most of these when the configuration is made, and crash or go astray when it is used."""
    with pytest.raises(ConfigError) as raised:
        minivl.BridgeTowerConfig.from_dict(values(**changes))
    assert all(re.search(word, str(raised.value)) for word in words), str(raised.value)
    assert "\n" not in str(raised.value)


def test_small_pictures_are_not_given_wrong_positions(tmp_path):
    """4.37 runs a smaller picture through BLIP-2 in silence, with the positions of the first rows of a larger one."""
    oracle.blip2_model().save_pretrained(tmp_path)
    ours = minivl.Blip2ForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"\(1, 3, 8, 8\).*\(batch, 3, 12, 12\)"):
        ours.generate(np.zeros((1, 3, 8, 8)))


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_queries_and_picture_may_differ_in_number_under_relative_positions(kind, tmp_path):
    """4.37 counts the distances of the Q-Former's cross-attention over queries alone, and crashes unless N == Q."""
    shape = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, max_position_embeddings=20)
    theirs = oracle.qformer_model(oracle.QFORMER | shape)
    theirs.save_pretrained(tmp_path)
    weights, rng = load_file(tmp_path / "model.safetensors"), np.random.default_rng(0)
    for name in [name for name in weights if name.endswith("query.bias")]:
        table = name.replace("query.bias", "distance_embedding.weight")
        weights[table] = rng.normal(0, 0.3, (39, 8)).astype(np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    config, params = qformer_parts(tmp_path, kind)
    queries, image = rng.normal(size=(1, 5, 24)), rng.normal(size=(2, 11, 24))
    names = {"attention.attention.": "attention.self.", "_query.": "."}
    for old, new in names.items():
        weights = {name.replace(old, new): x for name, x in weights.items()}
    text = dict(num_attention_heads=3, layer_norm_eps=config.layer_norm_eps, position_embedding_type=kind)
    second = Second(dict(text_config=text, vision_config={}), weights)
    with torch.no_grad():
        x = second.norm("layernorm", torch.tensor(queries).expand(2, -1, -1), text)
        for i in range(3):
            memory = None if i % config.cross_attention_frequency else torch.tensor(image)
            x = second.bert_layer(f"encoder.layer.{i}", x, None, memory)[0]
    from minivl.models import qformer
    from minivl.ops import get

    got = qformer.encode(get("numpy"), params, queries, image, config)
    np.testing.assert_allclose(got, x.numpy(), rtol=0, atol=1e-9)


def qformer_parts(folder, kind):
    from minivl.config.blip2 import Blip2QFormerConfig
    from minivl.weights import files, names, tree

    written = json.loads((folder / "config.json").read_text()) | dict(position_embedding_type=kind)
    config = Blip2QFormerConfig.from_dict(written)
    params = tree.build(names.qformer(config), files.read(folder), "the folder")
    return config, tree.map_leaves(lambda leaf: leaf.astype(np.float64), params)


# ---- pictures and words --------------------------------------------------------------------------

BOTH = [BlipImageProcessor, BridgeTowerImageProcessor]
CAPTION = "An image of two cats chilling on a couch"


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def levels(picture, kind=BridgeTowerImageProcessor, **settings):
    """(h, w, 3): what the processor makes of a picture before it is scaled and standardised."""
    steps = kind(**settings, do_rescale=False, do_normalize=False)
    return steps(picture, return_tensors="np").pixel_values[0].transpose(1, 2, 0)


def their_pixels(picture, kind=BridgeTowerImageProcessorPil, **settings):
    return np.asarray(kind(**settings)(picture, return_tensors="np")["pixel_values"])[0]


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "F", "I", "LA", "PA", "RGBA", "I;16"])
def test_pictures_of_every_mode(mode):
    """4.37 and today: BridgeTower's processor raises a ValueError for every mode with more or fewer than 3 channels."""
    rgba = Image.fromarray(noise(48, 64, 4))
    grey, rgb = rgba.convert("L"), rgba.convert("RGB")
    picture = (rgba if mode.endswith("A") else grey if mode in "FI" else rgb).convert(mode.replace("I;16", "L"))
    want = picture.convert("RGB")
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture, np.uint16) * 257)
    if mode.endswith("A"):
        want = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert("RGB")
    with pytest.raises(ValueError, match="elements|outside"):
        their_pixels(picture, size=32)
    np.testing.assert_array_equal(levels(picture, size=32), levels(want, size=32))


def test_luma_and_chroma_are_not_taken_for_red_green_and_blue():
    """4.37 and today: BridgeTower's processor reads the three channels of YCbCr, LAB or HSV as RGB, in silence."""
    rgb = Image.fromarray(noise(32, 32))
    for mode in ("YCbCr", "HSV"):
        picture = rgb.convert(mode)
        np.testing.assert_array_equal(levels(picture, size=32), np.asarray(picture.convert("RGB")))
        raw = their_pixels(picture, size=32, crop_size={"shortest_edge": 32}, do_rescale=False, do_normalize=False)
        np.testing.assert_array_equal(raw.transpose(1, 2, 0), np.asarray(picture))


@pytest.mark.parametrize("kind", BOTH)
def test_what_transparency_hides_stays_hidden(kind):
    """4.37: BLIP's processor drops the transparency, so that the red hidden here shows; BridgeTower's raises."""
    assert (levels(Image.new("RGBA", (40, 40), (255, 0, 0, 0)), kind, size=32) == 255).all()
    half = levels(Image.new("RGBA", (40, 40), (255, 0, 0, 128)), kind, size=32)
    assert half[0, 0].tolist() == [255, 127, 127]


@pytest.mark.parametrize("kind", BOTH)
def test_16_bit_grey_is_scaled(kind):
    """4.37 and today: BLIP's processor clips grey of 16 bits, and all above 255 of 65535 is white."""
    picture = Image.fromarray(np.full((40, 40), 128 * 257, np.uint16))
    assert (levels(picture, kind, size=32) == 128).all()
    white = their_pixels(Image.new("RGB", (40, 40), "white"), BlipImageProcessorPil, size=32)
    np.testing.assert_array_equal(their_pixels(picture, BlipImageProcessorPil, size=32), white)


@pytest.mark.parametrize("kind", BOTH)
def test_a_file_is_read_upright(kind, tmp_path):
    """4.37 and today: a picture opened by Pillow lies as the camera was held, for its EXIF orientation is not read."""
    upright, exif = Image.fromarray(noise(64, 48)), Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(levels(tmp_path / "a.png", kind, size=32), levels(upright, kind, size=32))
    with Image.open(tmp_path / "a.png") as lying:
        np.testing.assert_array_equal(levels(lying, kind, size=32), levels(upright, kind, size=32))
        theirs = their_pixels(lying, BlipImageProcessorPil, size=32)
    assert np.abs(theirs - their_pixels(upright, BlipImageProcessorPil, size=32)).max() > 1


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("height", [1, 3])
def test_channels_are_not_guessed(kind, height):
    """4.37 and today: an array of shape (3, width, 3) is read with its channels first, whatever it holds."""
    array = noise(height, 40)
    with pytest.raises(ImageError, match=r"input_data_format"):
        kind(size=32)(array)
    got = kind(size=32)(array, input_data_format="channels_last", return_tensors="np").pixel_values
    np.testing.assert_array_equal(got, kind(size=32)(Image.fromarray(array), return_tensors="np").pixel_values)


@pytest.mark.parametrize("kind", BOTH)
def test_what_is_scaled_already_is_not_scaled_again(kind):
    """4.37 and today: floats between 0 and 1 are divided by 255 once more (4.37 warns); every picture is near black."""
    floats = np.random.default_rng(0).random((40, 40, 3))
    with pytest.raises(ImageError, match="do_rescale=False"):
        kind(size=32)(floats)
    assert kind(size=32)(floats, do_rescale=False, return_tensors="np").pixel_values.max() > 1
    assert their_pixels(floats, size=32).max() < -1


@pytest.mark.parametrize("size", [288, 294])
@pytest.mark.parametrize("shape", [(1, 65000), (65000, 1), (10, 300), (300, 10), (1, 16)], ids=str)
def test_no_edge_becomes_nothing(shape, size):
    """4.37 and today: an edge more than about 15 times as long as the other floors that one to 0, a ValueError."""
    picture = Image.fromarray(noise(*shape))
    with pytest.raises(ValueError, match="height"):
        their_pixels(picture, size=size)
    assert levels(picture, size=size).shape == (size, size, 3)
    high, wide = levels(picture, size=size, do_center_crop=False).shape[:2]
    assert min(high, wide) == 32 and max(high, wide) == 448 + 32 * (size == 294)


def test_a_size_below_the_divisor():
    """4.37 and today: size=16 beside size_divisor=32 floors both edges to 0, a ValueError."""
    picture = Image.fromarray(noise(20, 24))
    with pytest.raises(ValueError, match="height"):
        their_pixels(picture, size=16)
    assert levels(picture, size=16).shape == (16, 16, 3)
    assert levels(picture, size=16, do_center_crop=False).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("size", "shape"),
    [(294, (480, 640)), (294, (640, 480)), (294, (300, 300)), (294, (100, 400)), (288, (300, 600)), (288, (600, 300))],
    ids=str,
)
def test_no_black_border(size, shape):
    """4.37: 294 floors to 288, and six rows or columns of black fill the crop; a panorama at 288 gets far more.

    Here the crop is full of picture, within a level what Resize(size) and CenterCrop(size) give, which the published
    checkpoints were trained with (src/transforms/transform.py of microsoft/BridgeTower).
    """
    crop = {"shortest_edge": size}
    black = their_pixels(Image.new("RGB", shape[::-1], "white"), size=size, crop_size=crop).min(0) < 0
    assert black.all(0).any() or black.all(1).any()
    assert (levels(Image.new("RGB", shape[::-1], "white"), size=size) == 255).all()
    # Pillow rounds between its two passes and chooses their order by the sizes: soft contrasts keep that below a level.
    picture, scale = Image.fromarray(noise(*shape) // 4 + 96), size / min(shape)
    whole = picture.resize((round(shape[1] * scale), round(shape[0] * scale)), Image.Resampling.BICUBIC)
    top, left = (whole.height - size) // 2, (whole.width - size) // 2
    want = np.asarray(whole.crop((left, top, left + size, top + size)), int)
    assert np.abs(levels(picture, size=size) - want).max() <= 1


@pytest.mark.parametrize(("crop", "zoom"), [(224, 1), (320, 320 / 288)])
def test_a_crop_of_its_own_is_full_of_picture_too(crop, zoom):
    """4.37 has no crop_size; today fills what is short of it with black."""
    stripes = np.arange(400) // 4 % 2 * 255  # 4 pixels white, 4 black, along the length of a picture of 100 x 400
    picture = Image.fromarray(np.broadcast_to(stripes[None, :, None], (100, 400, 3)).astype(np.uint8))
    got = levels(picture, size=288, crop_size=crop)
    assert got.shape == (crop, crop, 3)
    changes = np.count_nonzero(np.diff(got[0, :, 0] > 127))
    assert abs(changes - crop / (4 * 288 / 100 * zoom)) <= 1, "the shorter edge covers 288, or the crop if it is larger"


def test_the_crop_has_the_size_of_the_picture_that_the_model_reads(tmp_path):
    """Today crops to 288 whatever the size is, and a model that reads 294 refuses its own processor's pictures."""
    picture = Image.fromarray(noise(480, 640))
    assert their_pixels(picture, size=294).shape == (3, 288, 288)
    ours = BridgeTowerImageProcessor(size=294)
    assert ours(picture, return_tensors="np").pixel_values.shape == (1, 3, 294, 294)
    ours.save_pretrained(tmp_path)
    again = BridgeTowerImageProcessorPil.from_pretrained(tmp_path)
    assert again(picture, return_tensors="np")["pixel_values"].shape == (1, 3, 294, 294), "what minivl saves says it"


def processor_of(folder, **settings):
    return minivl.BridgeTowerProcessor.from_pretrained(roberta_folder(folder, preprocessor_config=settings))


def test_the_processor_crops_as_its_file_says(tmp_path):
    """4.37 and today: the processor crops also where do_center_crop is false; in 4.37 its picture part alone never."""
    picture, theirs = Image.fromarray(noise(48, 72)), BridgeTowerImageProcessorPil(size=64, do_center_crop=False)
    tokenizer = transformers.RobertaTokenizer.from_pretrained(roberta_folder(tmp_path))
    cropped = transformers.BridgeTowerProcessor(theirs, tokenizer)(picture, "a", return_tensors="np")
    assert cropped["pixel_values"].shape[2] == cropped["pixel_values"].shape[3]
    ours = processor_of(tmp_path, size=64, do_center_crop=False)
    assert ours(picture, "a", return_tensors="np").pixel_values.shape == (1, 3, 64, 96)
    ours = processor_of(tmp_path, size=64)
    assert ours.image_processor(picture, return_tensors="np").pixel_values.shape == (1, 3, 64, 64)


def test_a_picture_may_be_given_a_size_for_one_call(tmp_path):
    """4.37 hands size=... to the tokenizer as well, a TypeError; today takes it and crops to 288 all the same."""
    batch = processor_of(tmp_path, size=64)(Image.fromarray(noise(48, 72)), "a", size=96, return_tensors="np")
    assert batch.pixel_values.shape == (1, 3, 96, 96)


def test_a_picture_or_a_text_may_come_alone(tmp_path):
    """4.37: without a text, or without a picture, BridgeTower's processor raises a ValueError."""
    processor = processor_of(tmp_path, size=64)
    assert list(processor(Image.fromarray(noise(48, 72)))) == ["pixel_values", "pixel_mask"]
    assert list(processor(text="a")) == ["input_ids", "attention_mask"]


def test_texts_of_different_lengths_are_padded_without_being_asked(tmp_path):
    """4.37 and today: without padding=True such a list is a ValueError if tensors are asked for."""
    texts = ["hello world", CAPTION]
    theirs = transformers.RobertaTokenizer.from_pretrained(roberta_folder(tmp_path))
    with pytest.raises(ValueError, match="padding"):
        theirs(texts, return_tensors="pt")
    got = processor_of(tmp_path, size=64)([Image.fromarray(noise(48, 72))] * 2, texts, return_tensors="np")
    np.testing.assert_array_equal(got.input_ids, theirs(texts, padding=True, return_tensors="np")["input_ids"])


def test_an_empty_second_text_is_a_second_text(tmp_path):
    """4.37 and today: an empty text_pair makes a pair in a list of texts, and none beside a single text."""
    folder = roberta_folder(tmp_path)
    theirs, ours = transformers.RobertaTokenizer.from_pretrained(folder), Tokenizer.from_pretrained(folder, "roberta")
    assert theirs(["a"], [""])["input_ids"] == ours(["a"], [""]).input_ids == [[0, 102, 2, 2, 2]]
    assert theirs("a", "")["input_ids"] == [0, 102, 2] and ours("a", "").input_ids == [0, 102, 2, 2, 2]


def test_a_length_below_the_special_tokens_cuts_all_of_the_text(tmp_path):
    """4.37 and today: where max_length leaves no room beside the special tokens, nothing is cut at all."""
    folder = roberta_folder(tmp_path)
    theirs, ours = transformers.RobertaTokenizer.from_pretrained(folder), Tokenizer.from_pretrained(folder, "roberta")
    assert theirs("hello world", truncation=True, max_length=1)["input_ids"] == [0, 42891, 232, 2]
    assert ours("hello world", max_length=1).input_ids == [0, 2]
    assert ours("hello world", "a", max_length=3).input_ids == [0, 2, 2, 2]


def test_the_mask_takes_in_the_blank_before_it(tmp_path):
    """Today: from vocab.json and merges.txt the blank before <mask> becomes a token of its own, 1437, as never in
    training; 4.37 has it right."""
    folder = roberta_folder(tmp_path)
    theirs = transformers.RobertaTokenizer.from_pretrained(folder)
    assert theirs("a <mask> looking")["input_ids"] == [0, 102, 1437, 50264, 546, 2]
    assert Tokenizer.from_pretrained(folder, "roberta")("a <mask> looking").input_ids == [0, 102, 50264, 546, 2]
