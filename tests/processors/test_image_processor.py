"""Pictures in, pixel_values out: equal to transformers' PIL pipeline, and clear about what it cannot read."""

import io
import json
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from minivl.errors import ConfigError, ImageError, InputError
from minivl.processors import picture_files as pictures
from minivl.processors.image_processor import BlipImageProcessor, open_picture, to_rgb
from minivl.processors.picture_files import read_picture, rgb_array

transformers_blip = pytest.importorskip("transformers.models.blip.image_processing_pil_blip")

SIZE = {"height": 20, "width": 28}
CORNERS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def noise(height=23, width=31, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def ours(picture, **options):
    return BlipImageProcessor(**{"size": SIZE, **options})(picture, return_tensors="np")["pixel_values"]


def theirs(picture, **options):
    processor = transformers_blip.BlipImageProcessorPil(**{"size": SIZE, **options})
    return np.asarray(processor(picture, return_tensors="np")["pixel_values"], np.float32)


def assert_same(picture, **options):
    got, want = ours(picture, **options), theirs(picture, **options)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, want)


# ------------------------------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize(
    "size",
    [(1, 1), (1, 2), (3, 1), (1, 3), (4, 3), (65000, 1), (1, 65000), (20, 28), (28, 20), (21, 29), (480, 641)],
    ids=str,
)
def test_every_size_and_shape_equals_transformers(size):
    assert_same(Image.fromarray(noise(*size)))


def modes():
    rgba = Image.fromarray(noise(channels=4))
    rgb = rgba.convert("RGB")
    yield from (rgb.convert(mode) for mode in ("L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBX"))
    yield from (rgba, rgba.convert("LA"), rgba.convert("PA"))
    palette = rgb.quantize(8)
    palette.info["transparency"] = 2
    yield palette
    keyed = rgb.copy()
    keyed.info["transparency"] = rgb.getpixel((0, 0))
    yield keyed


@pytest.mark.parametrize("picture", list(modes()), ids=lambda p: p.mode + "+key" * ("transparency" in p.info))
def test_every_mode_equals_transformers(picture):
    assert_same(picture)


def test_lab_is_converted_and_its_a_is_no_alpha():
    """transformers 5 takes the band called A for transparency; 4.37 converts it like any other mode."""
    lab = Image.merge("LAB", Image.fromarray(noise()).split())
    np.testing.assert_array_equal(ours(lab), ours(lab.convert("RGB")))


def test_premultiplied_transparency_is_laid_on_white():
    rgba = Image.fromarray(noise(channels=4))
    near = np.asarray(to_rgb(rgba), int)
    assert abs(np.asarray(to_rgb(rgba.convert("RGBa")), int) - near).max() <= 2  # premultiplying rounds
    grey = to_rgb(rgba.convert("LA"))
    assert abs(np.asarray(to_rgb(rgba.convert("LA").convert("La")), int) - np.asarray(grey, int)).max() <= 2


@pytest.mark.parametrize(
    "options",
    [
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"resample": 2},
        {"resample": 0},
        {"rescale_factor": 1 / 127},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"image_mean": 0.5, "image_std": 0.25},
        {"size": 17},
        {"size": {"height": 9, "width": 40}},
    ],
    ids=str,
)
def test_every_setting_equals_transformers(options):
    assert_same(Image.fromarray(noise()), **options)
    picture = Image.fromarray(noise(seed=1))
    changed = BlipImageProcessor(size=SIZE).preprocess(picture, return_tensors="np", **options)["pixel_values"]
    np.testing.assert_array_equal(changed, theirs(picture, **options))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_arrays_in_either_layout_equal_transformers(channels, dtype):
    array = noise(channels=channels).astype(dtype)
    if (channels, dtype) != (4, "float32"):  # there transformers wants 0..1
        assert_same(array)
        assert_same(array.transpose(2, 0, 1))
    np.testing.assert_array_equal(ours(array), ours(noise(channels=channels)))


@pytest.mark.parametrize("channels", [3, 4])
def test_floats_between_0_and_1_equal_transformers(channels):
    array = np.random.default_rng(0).random((23, 31, channels), np.float32)
    assert_same(array, do_rescale=False)
    assert_same(array, do_rescale=False, do_resize=False)


def test_the_rest_of_the_arrays():
    torch = pytest.importorskip("torch")
    array = noise()
    want = ours(Image.fromarray(array))
    np.testing.assert_array_equal(ours(torch.from_numpy(array).permute(2, 0, 1)), want)
    learned = torch.from_numpy(array.astype(np.float32)).requires_grad_()
    np.testing.assert_array_equal(ours(learned), want)
    np.testing.assert_array_equal(ours(np.stack([array, array])), np.concatenate([want, want]))
    np.testing.assert_array_equal(ours([Image.fromarray(array), array]), np.concatenate([want, want]))
    np.testing.assert_array_equal(ours(array[..., 0]), ours(Image.fromarray(array[..., 0])))  # (H, W) is grey
    assert array.flags.writeable and (array == noise()).all()


@pytest.mark.parametrize("shape", [(1, 640, 3), (3, 640, 3), (3, 40, 1), (4, 9, 3), (3, 9, 4), (1, 1, 1)], ids=str)
def test_a_layout_that_could_be_either_is_asked_for_and_never_guessed(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pytest.raises(ImageError, match="input_data_format"):
        ours(array)
    process = BlipImageProcessor(size=SIZE)
    last = process(array, return_tensors="np", input_data_format="channels_last")["pixel_values"]
    as_picture = Image.fromarray(array[..., 0] if shape[2] == 1 else array)
    if shape[2] == 4:
        as_picture = Image.fromarray(rgb_array(array, "channels_last"))
    np.testing.assert_array_equal(last, ours(as_picture))
    first = process(array.transpose(2, 0, 1), return_tensors="np", input_data_format="channels_first")["pixel_values"]
    np.testing.assert_array_equal(first, last)


def test_a_four_pixel_wide_picture_with_channels_first():
    array = noise(9, 4)
    got = BlipImageProcessor(size=SIZE)(
        array.transpose(2, 0, 1), return_tensors="np", input_data_format="channels_first"
    )
    np.testing.assert_array_equal(got["pixel_values"], ours(Image.fromarray(array)))


def test_transformers_enum_names_a_layout_too():
    from transformers.image_utils import ChannelDimension

    array = noise(3, 9)
    np.testing.assert_array_equal(rgb_array(array, ChannelDimension.LAST), array)


@pytest.mark.parametrize(
    ("array", "options", "says"),
    [
        (np.full((9, 9, 3), np.nan, np.float32), {}, "NaN"),
        (np.full((9, 9, 3), np.inf), {}, "infinity"),
        (np.zeros((0, 9, 3), np.uint8), {}, r"\(0, 9, 3\)"),
        (np.zeros((9, 9, 3), bool), {}, "255"),
        (np.zeros((9, 9, 3), np.uint16), {}, "257"),
        (np.zeros((9, 9, 3), complex), {}, "complex128"),
        (np.zeros((9, 9, 3), object), {}, "object"),
        (np.zeros((9, 9, 2), np.uint8), {}, "channels"),
        (np.zeros((9, 9, 3), np.uint8), {"input_data_format": "channels_first"}, "channels_first"),
        (np.zeros((3, 9, 9), np.uint8), {"input_data_format": "channels_last"}, "channels_last"),
        (np.zeros((9, 9, 3), np.uint8), {"input_data_format": "HWC"}, "HWC"),
        (np.zeros(9, np.uint8), {}, "axes"),
        (np.zeros((2, 2, 9, 9, 3), np.uint8), {}, "axes"),
        (np.full((9, 9, 3), 0.5), {}, "do_rescale=False"),
        (np.ones((9, 9, 3)), {}, "do_rescale=False"),
        (np.full((9, 9, 3), 100.5), {}, "100.5"),
        (np.full((9, 9, 3), -0.5), {"do_rescale": False}, "-0.5"),
        (np.full((9, 9, 3), 256), {}, "256"),
        (np.full((9, 9, 3), -1), {}, "-1"),
        (None, {}, "object"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_in_one_line(array, options, says):
    with pytest.raises(ImageError, match=says) as caught:
        BlipImageProcessor(size=SIZE)([noise(), array], **options)
    assert "images[1]" in str(caught.value) or options and "images[0]" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_and_tensors_of_several_pictures():
    process = BlipImageProcessor(size=SIZE)
    rows = process([noise(), noise(seed=1)])["pixel_values"]
    assert isinstance(rows, list) and [row.shape for row in rows] == [(3, 20, 28)] * 2
    with pytest.raises(InputError, match="at least one"):
        process([])
    with pytest.raises(InputError, match="different sizes"):
        process([noise(), noise(24)], do_resize=False, return_tensors="np")
    with pytest.raises(InputError, match="\"tf\"|'tf'"):
        process(noise(), return_tensors="tf")
    with pytest.raises(ImageError, match="mode L"):
        process(Image.new("L", (9, 9)), do_convert_rgb=False)


# ------------------------------------------------------------------------------------------ deep grey


def test_16_bit_grey_is_scaled_and_not_clipped():
    levels = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    for order in ("<u2", ">u2"):
        picture = Image.fromarray(levels.astype(order))
        assert picture.mode.startswith("I;16")
        assert np.asarray(to_rgb(picture))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_a_16_bit_grey_that_the_file_calls_transparent_is_white(tmp_path):
    Image.fromarray(np.array([[0, 40000]], np.uint16)).save(tmp_path / "a.png", transparency=0)
    assert np.asarray(open_picture(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 156]


def test_float_and_32_bit_grey_keep_their_meaning():
    assert to_rgb(Image.fromarray(np.array([[0, 0.5, 1]], np.float32))).getpixel((1, 0)) == (127, 127, 127)
    assert to_rgb(Image.fromarray(np.array([[0, 7, 200]], np.float32))).getpixel((2, 0)) == (200, 200, 200)
    assert to_rgb(Image.fromarray(np.array([[0, 7, 200]], np.int32))).getpixel((1, 0)) == (7, 7, 7)
    for odd in (np.array([[0, 70000]], np.int32), np.array([[-1.0]], np.float32), np.array([[np.nan]], np.float32)):
        with pytest.raises(ImageError, match="wanted"):
            to_rgb(Image.fromarray(odd))


# ------------------------------------------------------------------------------------------ files


def quarters():
    """Red and green above, blue and white below, 32 wide and 16 high: any turn or flip shows."""
    picture = Image.new("RGB", (32, 16))
    for i, colour in enumerate(CORNERS):
        picture.paste(colour, (16 * (i % 2), 8 * (i // 2), 16 * (i % 2) + 16, 8 * (i // 2) + 8))
    return picture


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tiff", "a b\n√.png"])
def test_every_format_is_read_as_rgb(tmp_path, name):
    picture = open_picture(saved(tmp_path / name, quarters()))
    assert picture.mode == "RGB" and picture.size == (32, 16)
    for (x, y), colour in zip([(4, 4), (28, 4), (4, 12), (28, 12)], CORNERS.values(), strict=True):
        assert np.abs(np.subtract(picture.getpixel((x, y)), colour)).max() < 40, "JPEG and WebP lose a little"
    assert ours(tmp_path / name).shape == ours(str(tmp_path / name)).shape == (1, 3, 20, 28)


@pytest.mark.parametrize("format", ["png", "tiff", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_in_the_file_is_applied_once(tmp_path, format, orientation):
    """Orientation k says how the stored pixels must be turned; storing them turned the other way must undo it."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # numbers of PIL's Transpose
    upright = quarters()
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{format}", stored, exif=exif)
    assert open_picture(path).size == (32, 16)
    assert np.abs(np.asarray(open_picture(path), int) - np.asarray(upright, int)).mean() < 25


def test_a_picture_handed_in_is_turned_too_and_left_as_it_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(saved(tmp_path / "a.png", quarters(), exif=exif)) as picture:
        turned = to_rgb(picture)
        assert (turned.size, picture.size) == ((16, 32), (32, 16))
        np.testing.assert_array_equal(turned, quarters().transpose(Image.Transpose.ROTATE_270))
        np.testing.assert_array_equal(to_rgb(turned), turned)


@pytest.mark.parametrize("format", ["png", "webp", "jpg"])
def test_an_exif_block_that_is_none_turns_nothing(tmp_path, format):
    path = saved(tmp_path / f"a.{format}", quarters(), exif=b"Exif\0\0garbage")
    assert open_picture(path).size == (32, 16)


@pytest.mark.parametrize("format", ["gif", "webp", "tiff", "png"])
def test_the_first_of_several_frames_is_taken(tmp_path, format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = saved(tmp_path / f"a.{format}", frames[0], save_all=True, append_images=frames[1:])
    assert open_picture(path).getpixel((4, 4))[0] > 250


@pytest.mark.parametrize("format", ["png", "webp", "tiff", "gif"])
def test_what_transparency_hides_stays_hidden(tmp_path, format):
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert open_picture(saved(tmp_path / f"a.{format}", picture)).getpixel((4, 4)) == (255, 255, 255)


def png(picture=None):
    file = io.BytesIO()
    (picture or Image.fromarray(noise())).save(file, "PNG")
    return file.getvalue()


def jpeg():
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, "JPEG")
    return file.getvalue()


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


BAD_FILES = {
    "empty.png": (b"", "an empty file"),
    "text.png": (b"no picture at all\n", "no picture a"),
    "half.png": (png()[:900], "damaged"),
    "half.jpg": (jpeg()[:600], "damaged"),
    "crc.png": (flipped(png(), 300), "damaged"),
    "header.png": (png()[:20], "damaged"),
    "signature.png": (flipped(png(), 1), "damage at its start"),
    "vector.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "wanted a picture"),
    "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "wanted a picture"),
    "sky.fits": (b"SIMPLE  =                    T" + b" " * 2850, "wanted a picture"),
    "layers.psd": (
        b"8BPS\0\1" + bytes(6) + b"\0\3" + b"\0\0\0\x09" * 2 + b"\0\x08\0\3" + bytes(40),
        "wanted a picture",
    ),
    "netpbm.ppm": (b"P6 1 1 255 abc", "wanted a picture"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_one_line_that_names_it(tmp_path, name):
    data, says = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=says) as caught:
        open_picture(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"), [("gone.png", "no such file"), ("", "a folder"), ("x" * 3000, "cannot be read")]
)
def test_no_file_at_all(tmp_path, name, says):
    with pytest.raises(ImageError, match=says):
        open_picture(tmp_path / name)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", quarters())

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read: Permission denied"):
        open_picture(path)


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_too_many_pixels_are_refused_before_any_is_decoded(monkeypatch, side):
    """Pillow only warns of 10,000 x 10,000, and would then decode 300 MB out of a small file."""
    header = png(Image.new("1", (1, 1)))
    size = side.to_bytes(4, "big") * 2

    body = b"IHDR" + size + header[24:29]
    huge = header[:12] + body + zlib.crc32(body).to_bytes(4, "big") + header[33:]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with warnings.catch_warnings(), pytest.raises(ImageError, match=f"at most {pictures.MOST_PIXELS} pixels"):
        warnings.simplefilter("error")
        read_picture(io.BytesIO(huge), "huge.png")


def test_the_limit_itself_is_allowed(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 31 * 23)
    assert read_picture(io.BytesIO(png()), "a").size == (31, 23)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 31 * 23 - 1)
    with pytest.raises(ImageError, match="31 x 23"):
        read_picture(io.BytesIO(png()), "a")


def test_a_damaged_picture_handed_in_is_named_by_its_place():
    with pytest.raises(ImageError, match=r"images\[1\].*damaged"):
        BlipImageProcessor()([noise(), Image.open(io.BytesIO(png()[:900]))])


def test_no_damage_gets_past_as_anything_but_an_image_error():
    rng = np.random.default_rng(0)
    for data in (png(), jpeg()):
        for _ in range(300):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 3):
                damaged[at] = rng.integers(256)
            try:
                read_picture(io.BytesIO(bytes(damaged)), "x")
            except ImageError as error:
                assert "\n" not in str(error)


# ------------------------------------------------------------------------------------------ settings


def test_the_defaults_are_blips():
    settings = BlipImageProcessor().to_dict()
    want = json.loads(transformers_blip.BlipImageProcessorPil().to_json_string())
    assert {name: settings[name] for name in settings} == {name: want[name] for name in settings}
    assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 0}, {"size": -1}, {"size": True}, {"size": 2.5}, {"size": "224"}, {"size": 10**9}, {"size": [1, 2, 3]},
        {"size": {"shortest_edge": 224}}, {"size": {"height": 3}}, {"size": {"height": 3, "width": None}},
        {"resample": 9}, {"resample": -1}, {"resample": "bicubic"}, {"resample": True},
        {"image_mean": [1, 2]}, {"image_mean": "abc"}, {"image_std": [1, 0, 1]}, {"image_std": [1, float("nan"), 1]},
        {"rescale_factor": "1/255"}, {"rescale_factor": float("inf")}, {"do_resize": "yes"}, {"do_normalize": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_without_meaning_is_refused_by_name(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))) as caught:
        BlipImageProcessor.from_dict(settings)
    assert "found" in str(caught.value) and "\n" not in str(caught.value)


def test_a_setting_may_be_assigned_later():
    processor = BlipImageProcessor()
    processor.size = 8
    assert processor(noise(), return_tensors="np")["pixel_values"].shape == (1, 3, 8, 8)
    processor.size = "large"
    with pytest.raises(ConfigError, match="size"):
        processor(noise())


def test_settings_are_read_from_either_file_and_junk_is_passed_over(tmp_path):
    junk = {
        "processor_class": "Blip2Processor",
        "image_processor_type": "BlipImageProcessor",
        "crop_size": 3,
        "resample": None,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 30, "do_normalize": False, **junk}))
    old = BlipImageProcessor.from_pretrained(tmp_path)
    assert (old.size, old.do_normalize, old.resample) == ({"height": 30, "width": 30}, False, 3)
    (tmp_path / "processor_config.json").write_text(json.dumps({"num_query_tokens": 32}))
    assert BlipImageProcessor.from_pretrained(tmp_path) == old
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 40}}))
    assert BlipImageProcessor.from_pretrained(tmp_path).size["width"] == 40
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        BlipImageProcessor.from_pretrained(tmp_path / "none")
    (tmp_path / "processor_config.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"processor_config\.json"):
        BlipImageProcessor.from_pretrained(tmp_path)


def test_what_is_saved_is_read_back_by_us_and_by_transformers(tmp_path):
    processor = BlipImageProcessor(size=(9, 14), resample=2, image_mean=[0.1, 0.2, 0.3], do_rescale=False)
    processor.save_pretrained(tmp_path / "new")
    assert BlipImageProcessor.from_pretrained(tmp_path / "new") == processor
    other = transformers_blip.BlipImageProcessorPil.from_pretrained(tmp_path / "new")
    got = processor(Image.fromarray(noise()), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(other(Image.fromarray(noise()), return_tensors="np")["pixel_values"], got)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["preprocessor_config.json"]
