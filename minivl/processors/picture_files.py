"""Reading pictures of any kind, from a file, from PIL or from an array, as three 8-bit channels: red, green, blue.

What each kind of picture becomes:

    L, 1, P, CMYK, YCbCr, LAB, HSV      Pillow's own conversion to RGB
    anything with transparency          laid on white, so that colours hidden under it stay hidden
    I;16 (16-bit grey)                  scaled, 65535 -> 255; Pillow alone would clip nearly all of it to white
    F, I (32-bit grey)                  0..1 scaled by 255 (F only), whole numbers in 0..255 kept, others refused

Sizes and resizing are another module's business, and each model's own.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..disk import show
from ..errors import ImageError, Note

if TYPE_CHECKING:
    from PIL import Image

PLUGINS = ("Png", "Jpeg", "WebP", "Gif", "Bmp", "Tiff")  # Pillow has more, each one more way in for a hostile file
FORMATS = tuple(name.upper() for name in PLUGINS)
MOST_PIXELS = 2**28 // 3  # a quarter of a gigabyte as RGB; above it a small file can fill the memory
LAYOUTS = ("channels_last", "channels_first")
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
ORIENTATION = 0x0112  # the number of the EXIF entry


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file, upright, in RGB.  Of an animation or a document of several pages, the first.

    ImageError, naming the file, for whatever is no complete picture in one of FORMATS with at most MOST_PIXELS.
    """
    path = Path(path)
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no regular file" if path.exists() else "no such file"
            raise ImageError(f"{show(path)}: wanted a picture file, found {found}")
        with path.open("rb") as file:
            return read_picture(Clamped(file.raw), show(path))
    except OSError as error:
        raise ImageError(f"{show(path)}: cannot be read: {error.strerror or error}") from None


class Clamped(io.BufferedReader):
    """A file that is never asked for more than it has left: for a length that a damaged picture claims, Python would
    make room first.
    """

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return super().read(size)
        return super().read(min(size, max(os.fstat(self.fileno()).st_size - self.tell(), 0)))


def read_picture(file: BinaryIO, name: str) -> Image.Image:
    """`open_picture` for a file that is open already; `name` stands for it in messages."""
    from PIL import Image, UnidentifiedImageError

    for plugin in PLUGINS:
        import_module(f"PIL.{plugin}ImagePlugin")  # else Pillow imports all it has to find the last of them
    try:
        with warnings.catch_warnings(), whole(name):
            warnings.simplefilter("ignore")  # Pillow warns where this function raises, and of harmless metadata
            picture = Image.open(file, formats=FORMATS)
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise ImageError(f"{name}: wanted at most {MOST_PIXELS} pixels, found {width} x {height}: shrink it")
            first, more = to_rgb(picture, name), has_more(picture)
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(12)
        found = f"something else, or damage at its start, which is {start!r}" if start else "an empty file"
        raise ImageError(f"{name}: wanted a picture ({', '.join(FORMATS)}), found {found}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: wanted at most {MOST_PIXELS} pixels, found more than twice as many") from None
    if more:
        warnings.warn(f"{name}: of its several frames or pages only the first is read", Note, stacklevel=2)
    return first


def has_more(picture: Image.Image) -> bool:
    """Whether the file goes on behind the picture that is read, as an animation or a document of several pages."""
    try:
        return picture.format in ("PNG", "WEBP", "GIF", "TIFF") and bool(getattr(picture, "is_animated", False))
    except Exception:  # what stands behind the first frame is damaged: it is not read anyway
        return False


@contextmanager
def whole(name: str) -> Iterator[None]:
    """Turn what Pillow's decoders raise on a damaged picture, which may be almost anything, into one ImageError."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (ImageError, MemoryError, UnidentifiedImageError, Image.DecompressionBombError):
        raise
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: wanted a complete picture, found a damaged one ({what})") from error


def to_rgb(picture: Image.Image, name: str = "the picture") -> Image.Image:
    """A PIL picture in mode RGB, as the table above says, turned upright where its EXIF data say that it lies."""
    from PIL import Image

    if 0 in picture.size:
        raise ImageError(f"{name}: wanted at least one pixel, found {picture.width} x {picture.height}")
    with whole(name):
        picture.load()
        picture = upright(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _from_deep_grey(picture, name)
    if picture.has_transparency_data:
        front = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), front).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def upright(picture: Image.Image) -> Image.Image:
    """The picture as it was seen, by its EXIF orientation; the same object if it stands already."""
    from PIL import ImageOps

    try:
        turned = picture.getexif().get(ORIENTATION, 1) != 1
    except SyntaxError:  # an EXIF block that is no EXIF does not say which way is up
        return picture
    return ImageOps.exif_transpose(picture) if turned else picture


def _from_deep_grey(picture: Image.Image, name: str) -> Image.Image:
    """Grey of more than 8 bits -> RGB.  A 16-bit grey value that the file calls transparent becomes white."""
    from PIL import Image

    values = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        grey = np.rint(values / 257).astype(np.uint8)  # 65535 = 255 * 257
        if "transparency" in picture.info:
            grey = np.where(values == picture.info["transparency"], np.uint8(255), grey)
    else:
        grey = eight_bits(values, name)[0]
    return Image.fromarray(grey).convert("RGB")


def rgb_array(array: Any, input_data_format: Any = None, name: str = "the array") -> np.ndarray:
    """An array or a tensor as (H, W, 3), of its own dtype: uint8, another integer type within 0..255, or floats.

    Accepted are (H, W) grey, (H, W, C) and (C, H, W) with 1, 3 or 4 channels; a fourth is transparency, laid on
    white.  Where both ends could be the channels, (3, 640, 3) say, `input_data_format` must tell: "channels_last"
    or "channels_first".  ImageError for the ambiguous, the empty, NaN, infinity, and dtypes whose white is unknown.
    """
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    array = np.asarray(array)
    if array.dtype.kind not in "uif" or array.dtype == np.uint16:
        how = {"bool": "; take 255 * array.astype('uint8')", "uint16": "; take (array // 257).astype('uint8')"}
        raise ImageError(f"{name}: wanted uint8 or floats, found {array.dtype}{how.get(str(array.dtype), '')}")
    if array.size == 0:
        raise ImageError(f"{name}: wanted at least one pixel, found shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(f"{name}: wanted finite values, found NaN or infinity")
    array = array[..., None] if array.ndim == 2 else _channels_last(array, input_data_format, name)  # (H, W, C)
    if array.shape[-1] == 4:
        white = white_of(array, name)
        alpha = array[..., 3:] / white  # (H, W, 1)
        blend = alpha * array[..., :3] + (1 - alpha) * white  # (H, W, 3)
        array = (np.rint(blend) if white == 255 else blend).astype(array.dtype)
    return array if array.shape[-1] == 3 else np.repeat(array, 3, axis=-1)


def eight_bits(values: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    """(values as uint8, 255 or 1: the white they had).  Fractions are cut off, as transformers cuts them."""
    white = white_of(values, name)
    if white == 255:
        return values.astype(np.uint8, copy=False), white
    return (values.astype(np.float64) * 255).astype(np.float32).astype(np.uint8), white


def white_of(values: np.ndarray, name: str) -> int:
    """1 for floats between 0 and 1, 255 for whole numbers between 0 and 255; ImageError for anything else."""
    if values.dtype == np.uint8:
        return 255
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and 0 <= low and high <= 1:
        return 1
    if low >= 0 and high <= 255 and (values.dtype.kind != "f" or np.array_equal(values, np.rint(values))):
        return 255
    raise ImageError(
        f"{name}: wanted whole numbers in 0..255 or floats in 0..1, found {values.dtype} from {low:g} to {high:g}"
    )


def _channels_last(array: np.ndarray, layout: Any, name: str) -> np.ndarray:
    """(H, W, C) from either layout.  The layout is never guessed where both are possible."""
    if layout not in (None, *LAYOUTS):
        raise ImageError(f"{name}: input_data_format: wanted one of {', '.join(LAYOUTS)}, found {show(layout)}")
    if array.ndim != 3:
        raise ImageError(f"{name}: wanted 2 or 3 axes (H, W), (H, W, C) or (C, H, W), found shape {array.shape}")
    first, last = array.shape[0] in CHANNELS, array.shape[2] in CHANNELS
    if first and last and layout is None:
        raise ImageError(
            f"{name}: shape {array.shape} could have its channels first or last: say which with "
            'input_data_format="channels_first" or "channels_last"'
        )
    if not (first if layout == "channels_first" else last if layout == "channels_last" else first or last):
        raise ImageError(
            f"{name}: wanted 1, 3 or 4 channels{layout and ', ' + layout or ''}, found shape {array.shape}"
        )
    return array if last and layout != "channels_first" else np.moveaxis(array, 0, -1)


# ---- folders -------------------------------------------------------------------------------------
ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class EmptyFolder(ImageError):
    """A folder without a picture in it."""

    def __init__(self, folder: str, reason: str):
        super().__init__(f"folder {folder}: {reason}")
        self.folder = folder


def expand(names: Sequence[str], endings: set[str] = ENDINGS) -> Iterator[Path | EmptyFolder]:
    """Folders become the files in them with one of the endings, in the order of their names."""
    for name in names:
        path = Path(name)
        if not os.path.isdir(name):  # Path's own raises for a name that is too long for the system
            yield path
            continue
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in endings)
        except OSError as error:
            yield EmptyFolder(name, str(error.strerror))
            continue
        if inside:
            yield from inside
        else:
            yield EmptyFolder(name, "it holds no file called *.png, *.jpg or another kind of picture")
