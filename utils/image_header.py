"""The header of an image file: what it will cost to decode, told before it is decoded.

A file that is empty, no image, cut short or beyond the limits of utils/limits.py raises ImageError.
"""
import io
import os
import warnings

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from utils import limits
from utils.errors import InputError

# Readers that start other programs (EPS) or are rarely tested stay out.
PILLOW_FORMATS = ["JPEG", "PNG", "BMP", "GIF", "PPM", TiffImagePlugin.TiffImageFile.format,
                  WebPImagePlugin.WebPImageFile.format]
HEIF_ENDINGS = (".heic", ".heif")  # of phones; what data sets are does not depend on an optional package: photos only
Image.MAX_IMAGE_PIXELS = None  # the limit is ours
# Broken EXIF data say nothing of the picture.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")
# bytes that Pillow keeps for a pixel; 4 for all other modes
_PILLOW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}


def read_heif():
    """From here on HEIC pictures can be opened. Returns whether the optional package for it is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    if "HEIF" not in PILLOW_FORMATS:
        PILLOW_FORMATS.append("HEIF")
    return True


class ImageError(InputError):
    """A file that cannot be used as an image; the message names the file and the reason."""


def read_bytes(source, name):
    """Path or bytes -> (bytes, name for messages)."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), name or "image data"
        check_bytes(len(data), name)
    else:
        name = name or os.fspath(source)
        try:
            with open(source, "rb") as file:
                check_bytes(os.fstat(file.fileno()).st_size, name)
                data = file.read()
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise ImageError(f"{name}: the file is empty")
    return data, name


def jpeg_header(data, name):
    """(width, height, components, EXIF bytes) of JPEG bytes; ITU T.81 annex B gives the layout of the segments.

    Raises:
        ImageError: no frame header, too many pixels, or no end-of-image marker behind the first scan.
    """
    size, progressive, exif, at = None, False, b"", 2
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
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            size = (int.from_bytes(data[at + 7:at + 9], "big"), int.from_bytes(data[at + 5:at + 7], "big"),
                    data[at + 9])
        elif marker == 0xE1 and not exif and data[at + 4:at + 10] == b"Exif\0\0":
            exif = data[at + 4:at + 2 + length]
        if marker == 0xDA:
            scan = data[at + 4:at + 5]  # its number of components
            at += 2 + length
            break
        at += 2 + length
    else:
        raise ImageError(f"{name}: truncated JPEG (it ends inside the header)")
    if size is None or not size[0] or not size[1]:
        raise ImageError(f"{name}: JPEG without a picture size")
    _check_pixels(size[0], size[1], name)
    several = scan < bytes([size[2]])  # scans; one that has all components is the only one, unless it is progressive
    # RGB, perhaps turned; and the coefficients of a picture that comes in several scans
    _check_memory(size[0] * size[1], 6 + 2 * size[2] * (several or progressive), name)
    if several or progressive:
        fault = limits.beyond(limits.SCANS, 1 + data.count(b"\xff\xda", at), "scans are")
        if fault:
            raise ImageError(f"{name}: {fault}")
    # inside scan data 0xFF is always followed by 0x00 or a restart marker, so this is the real end
    if data.rfind(b"\xff\xd9", at) < 0:  # searched from the end, where it is
        raise ImageError(f"{name}: truncated JPEG (no end-of-image marker)")
    return (*size, exif)


def _check_pixels(width, height, name):
    fault = limits.beyond(limits.PIXELS, width * height, f"pixels ({width} x {height}) are")
    if fault:
        raise ImageError(f"{name}: {fault}")


def _check_memory(pixels, each, name):
    fault = limits.beyond(limits.IMAGE_BYTES, pixels * each, f"bytes to decode it ({pixels} pixels) are")
    if fault:
        raise ImageError(f"{name}: {fault}")


def check_bytes(size, name):
    """Raise ImageError where an encoded picture has more bytes than the limit."""
    fault = limits.beyond(limits.IMAGE_BYTES, size, "bytes of the file are")
    if fault:
        raise ImageError(f"{name}: {fault}")


def open_pillow(data, name):
    """Pillow image, header read, pixels not yet."""
    try:
        image = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image (of a format known here)") from error
    except Exception as error:  # Pillow's readers raise nearly any type on hostile files
        raise ImageError(f"{name}: not an image that can be read ({reason_of(error)})") from error
    _check_pixels(image.width, image.height, name)
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels; save it with 8 or 16 bits")
    stored = _PILLOW_BYTES.get(image.mode, 4) * (2 if image.mode.startswith("I") else 1)
    # what Pillow keeps, perhaps turned, perhaps as it is in the file; the result
    turned = stored * (_orientation(image) != 1)
    raw = _raw_bytes(image) if image.format in ("TIFF", "WEBP", "HEIF") else 0
    _check_memory(image.width * image.height, stored + turned + raw + 3, name)
    return image


def _orientation(image):
    """EXIF orientation of a Pillow image; broken data say nothing."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises nearly any type on hostile bytes
        return 1


def _raw_bytes(image):
    """Bytes a pixel that a decoder holds beside the image: WebP and HEIF as RGBA, TIFF as its tags say."""
    if image.format != "TIFF":
        return 4
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))
    bits = bits if isinstance(bits, tuple) else (bits,)
    samples = image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    return -(-max(bits) * max(samples, len(bits)) // 8)


def reason_of(error):
    """One short line of an exception."""
    return " ".join(str(error).split())[:100] or type(error).__name__
