"""From an image file, or its bytes, to pixels; the same code for training, evaluation and deployment.

The result is always 8-bit RGB. JPEG goes through simplejpeg, everything else (and CMYK JPEG) through Pillow. OpenCV
gives the same pixels of a JPEG a little slower; it decodes those that libjpeg has a warning about. The EXIF
orientation is applied, so a phone's portrait picture stands upright in training and in queries alike. Grey becomes
three equal channels, an alpha channel is dropped, 16 bits keep their upper 8, an animation gives its first frame. A
file that is empty, no image, cut short or beyond the limits of utils/limits.py raises ImageError; what decoding will
cost is known from the header. libjpeg fills the missing part of a cut JPEG with grey and only warns, so we look for the
end-of-image marker behind the scan data.

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
import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from utils.image_header import ImageError, jpeg_header, open_pillow, read_bytes, reason_of

cv2.setNumThreads(0)

DECODES = ("full", "reduced")
# Reduced decoding, see above. At 1.05 a side of 360 still allows 6/8 for 256 and 375 (a common size) too.
MARGIN = 1.05
LINEAR_BELOW = 1.5
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
BAND = 1 << 24  # pixels of a picture that Pillow converts at once


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
        ImageError: missing, empty, no image, cut short, or beyond the limits of utils/limits.py.
    """
    data, name = read_bytes(source, name)
    if data[:2] == b"\xff\xd8":
        header = jpeg_header(data, name)
        image = None  # OpenCV has no CMYK
        if header[2] != 4:
            if spec is not None and spec.get("decode") == "reduced":
                image = _decode_reduced(data, header, spec, box, name)
            if image is None:
                image = _decode_full(data, header[3])
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
    data, name = read_bytes(source, name)
    if data[:2] == b"\xff\xd8":
        return jpeg_header(data, name)[:2]
    return open_pillow(data, name).size


def _decode_full(data, exif):
    """uint8 [H, W, 3] RGB, upright; None where neither library can."""
    try:
        return _upright(simplejpeg.decode_jpeg(data), exif)
    except ValueError:  # also what libjpeg only warns of
        pass
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


def _decode_pillow(data, name):
    image = open_pillow(data, name)
    try:
        image.load()
        if image.mode.startswith("I"):
            exif = image.getexif()
            image = Image.fromarray(_upper_bits(np.asarray(image)))
            image.getexif().update(exif)
        image.info.pop("transparency", None)  # dropped as any alpha; Pillow warns of that for palettes
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)
    except Exception as error:
        raise ImageError(f"{name}: broken or truncated image ({reason_of(error)})") from error


def _bands(height, width):
    """(first row, row after the last) of pieces with at most ``BAND`` pixels: copies of a whole picture are large."""
    rows = max(1, BAND // width)
    return [(top, min(height, top + rows)) for top in range(0, height, rows)]


def _upper_bits(grey):
    """uint8 [H, W] of grey values with 16 bits (uint16, or int32 as Pillow has them): the upper 8."""
    wide = grey.dtype != np.int32 or grey.max(initial=0) > 255
    result = np.empty(grey.shape, np.uint8)
    for top, end in _bands(*grey.shape):
        result[top:end] = np.clip(grey[top:end] >> 8 if wide else grey[top:end], 0, 255)
    return result


def _rgb(image):
    """uint8 [H, W, 3] of a Pillow image."""
    result = np.empty((image.height, image.width, 3), np.uint8)
    for top, end in _bands(image.height, image.width):
        band = image if end - top == image.height else image.crop((0, top, image.width, end))
        result[top:end] = np.asarray(band.convert("RGB"))
    return result


def short_size(width, height, size):
    """(width, height) of ``resize_short``."""
    short = min(width, height)
    return width * size // short, height * size // short
