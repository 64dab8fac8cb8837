"""From an image file, or its bytes, to pixels; the same code for training, evaluation and deployment.

The result is always 8-bit RGB. JPEG goes through OpenCV, everything else (and CMYK JPEG) through Pillow. The EXIF
orientation is applied, so a phone's portrait picture stands upright in training and in queries alike. Grey becomes
three equal channels, an alpha channel is dropped, 16 bits keep their upper 8, an animation gives its first frame. A
file that is empty, no image, cut short or larger than ``MAX_PIXELS`` raises ImageError. libjpeg fills the missing
part of a cut JPEG with grey and only warns, so we look for the end-of-image marker behind the scan data.

Reduced decoding (``"decode": "reduced"`` in a preprocessing spec; a spec without the key means full decoding). libjpeg
can take a picture of M/8 of its size straight from the DCT coefficients, M = 1 to 7. We take the smallest M that
leaves the shorter side ``MARGIN`` times what it is resized to. What the block transform has dropped cannot alias, so
the small step that is left is INTER_LINEAR (INTER_AREA from a factor of ``LINEAR_BELOW`` on). The grid of the result
is the one of the full path: M/8 of an odd size is a broken number of pixels, and the resize is told that number. A
file that cannot be reduced (another format, CMYK, too small) gives the very pixels of full decoding. Mean distance
to full decoding on pictures rich in detail: about 1 of 255.

  Where the crop is drawn after the resize: reduced for ``resize_size``.
  Where a random box is cut out before it, and two views share one decoding: reduced only as far as the smallest box
  still has ``MARGIN`` times the crop (simclr, area .2 and aspect 4/3: shorter side above 1216 pixels for 224).

``read`` is the one place that knows all this: whoever has a spec reads pictures with it.

OpenCV's own threads are switched off here: loader workers already use every core, and a thread pool does not
survive a fork.
"""
import io
import os
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from utils.errors import InputError

cv2.setNumThreads(0)

DECODES = ("full", "reduced")
# Reduced decoding, see above. At 1.05 a side of 360 still allows 6/8 for 256 and 375 (a common size) too.
MARGIN = 1.05
LINEAR_BELOW = 1.5
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# A decoded picture above this many pixels (268 MB of RGB) is refused before it is decoded. Same as Pillow's limit.
MAX_PIXELS = 89_478_485
# Readers that start other programs (EPS) or are rarely tested stay out.
PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", TiffImagePlugin.TiffImageFile.format,
                  WebPImagePlugin.WebPImageFile.format)
# Pillow warns where we refuse.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Broken EXIF data say nothing of the picture.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")


class ImageError(InputError):
    """A file that cannot be used as an image; the message names the file and the reason."""


def decode(source, name=None, spec=None, box=None):
    """Image file or its bytes -> uint8 [H, W, 3], RGB, upright.

    Args:
        source: path, or the encoded file as bytes.
        name: what error messages call it; the path by default.
        spec: dict of ``preprocess_spec`` that the picture is decoded for, None = the whole picture.
            Where it says so and the file allows it, the picture comes reduced, in general already resized to
            ``resize_size``: to be given to ``preprocess``, or to ``augment`` with this spec.
        box: ``box`` of the utils.augmentation.Augmentation that follows; None without one.

    Raises:
        ImageError: missing, empty, no image, cut short, or more than ``MAX_PIXELS`` pixels.
    """
    data, name = _read(source, name)
    if data[:2] == b"\xff\xd8":
        header = _jpeg_header(data, name)
        image = None  # OpenCV has no CMYK
        if header[2] != 4:
            if spec is not None and spec.get("decode") == "reduced":
                image = _decode_reduced(data, header, spec, box, name)
            if image is None:
                image = _decode_cv2(data)
        if image is not None:
            return image
    return _decode_pillow(data, name)


def read(images, i, spec, box=None):
    """Picture i of a split, decoded as ``spec`` says; goes to preprocess or augment.

    Args:
        images: object of a Split. Where it has a method ``source(i)`` -> (path or bytes, name for messages) of the
            encoded picture, that is decoded; else its ``read(i)`` gives the picture.
        spec: dict of ``preprocess_spec``.
        box: see ``decode``.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        ImageError: as ``decode``.
    """
    if not hasattr(images, "source"):
        return images.read(i)
    source, name = images.source(i)
    return decode(source, name, spec, box)


def image_size(source, name=None):
    """(width, height) as stored, from the header alone. JPEG files are also tested for their end marker.

    Raises:
        ImageError: as ``decode``, as far as it can be told without decoding.
    """
    data, name = _read(source, name)
    if data[:2] == b"\xff\xd8":
        return _jpeg_header(data, name)[:2]
    return _open_pillow(data, name).size


def _decode_cv2(data):
    """uint8 [H, W, 3] RGB, upright; None where OpenCV cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None


def _decode_reduced(data, header, spec, box, name):
    """uint8 [H, W, 3] RGB, upright, from the scaled inverse DCT; None where there is nothing to reduce.

    Resized to ``resize_size`` unless a random box is cut out first.
    """
    width, height, _, exif = header
    if box:
        # above 4/8 decoding takes longer than in full (libjpeg-turbo has no SIMD for it), and no resize is saved
        area, aspect = box
        need, most = spec["crop_size"] * (aspect / area) ** 0.5, 4
    else:
        need, most = spec["resize_size"], 7
    short = min(width, height)
    eighths = int(np.ceil(8 * MARGIN * need / short))
    if eighths > most:
        return None
    rows, columns = -(-height * eighths // 8), -(-width * eighths // 8)  # as libjpeg rounds
    try:
        # not strict: what OpenCV shows with a warning (extra bytes between markers) is shown here too
        image = simplejpeg.decode_jpeg(data, min_height=rows, min_width=columns, strict=False)
    except ValueError:
        return None
    if image.shape != (rows, columns, 3):
        return None
    if not box:
        wide, high = short_size(width, height, spec["resize_size"])
        method = cv2.INTER_LINEAR if eighths * short < 8 * LINEAR_BELOW * need else cv2.INTER_AREA
        # the scale is that of the sizes before rounding, which may give a row or column more than wanted
        image = cv2.resize(image, None, fx=8 * wide / (eighths * width), fy=8 * high / (eighths * height),
                           interpolation=method)[:high, :wide]
    return _upright(image, exif)


def _upright(image, exif):
    """The image turned as its EXIF bytes say; broken ones say nothing."""
    if not exif:
        return image
    try:
        record = Image.Exif()
        record.load(exif)
        orientation = record.get(0x0112, 1)
    except Exception:  # Pillow raises nearly any type on hostile bytes
        return image
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _read(source, name):
    """Path or bytes -> (bytes, name for messages)."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), name or "image data"
    else:
        name = name or os.fspath(source)
        try:
            with open(source, "rb") as file:
                data = file.read()
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ImageError(f"{name}: the file is empty")
    return data, name


def _jpeg_header(data, name):
    """(width, height, components, EXIF bytes) of JPEG bytes; ITU T.81 annex B gives the layout of the segments.

    Raises:
        ImageError: no frame header, too many pixels, or no end-of-image marker behind the first scan.
    """
    size, exif, at = None, b"", 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ImageError(f"{name}: broken JPEG header")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
            continue
        length = int.from_bytes(data[at + 2:at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 10 <= len(data):
            size = (int.from_bytes(data[at + 7:at + 9], "big"), int.from_bytes(data[at + 5:at + 7], "big"),
                    data[at + 9])
        elif marker == 0xE1 and not exif and data[at + 4:at + 10] == b"Exif\0\0":
            exif = data[at + 4:at + 2 + length]
        at += 2 + length
        if marker == 0xDA:
            break
    else:
        raise ImageError(f"{name}: truncated JPEG (it ends inside the header)")
    if size is None or not size[0] or not size[1]:
        raise ImageError(f"{name}: JPEG without a picture size")
    _check_pixels(size[0], size[1], name)
    # inside scan data 0xFF is always followed by 0x00 or a restart marker, so this is the real end
    if data.rfind(b"\xff\xd9", at) < 0:  # searched from the end, where it is
        raise ImageError(f"{name}: truncated JPEG (no end-of-image marker)")
    return (*size, exif)


def _check_pixels(width, height, name):
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS}")


def _open_pillow(data, name):
    """Pillow image, header read, pixels not yet."""
    try:
        image = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image (of a format known here)") from error
    except Exception as error:  # Pillow's readers raise nearly any type on hostile files
        raise ImageError(f"{name}: not an image that can be read ({_reason(error)})") from error
    _check_pixels(image.width, image.height, name)
    return image


def _decode_pillow(data, name):
    image = _open_pillow(data, name)
    try:
        image.load()
        if image.mode.startswith("I"):
            grey = np.asarray(image)
            wide = image.mode != "I" or grey.max(initial=0) > 255
            image = Image.fromarray(np.clip(grey >> 8 if wide else grey, 0, 255).astype(np.uint8))
        elif image.mode == "F":
            raise ValueError("floating-point pixels")
        image.info.pop("transparency", None)  # dropped as any alpha; Pillow warns of that for palettes
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:
        raise ImageError(f"{name}: broken or truncated image ({_reason(error)})") from error


def _reason(error):
    """One short line of an exception."""
    return " ".join(str(error).split())[:100] or type(error).__name__


def short_size(width, height, size):
    """(width, height) of ``resize_short``."""
    short = min(width, height)
    wide, high = width * size // short, height * size // short
    _check_pixels(wide, high, f"an image of {width} x {height}, resized")
    return wide, high
