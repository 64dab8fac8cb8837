"""What a foreign file may cost. An environment variable of the same name sets another limit, in every process.

- ``DEEPHASH_MAX_IMAGE_PIXELS``: pixels of a picture, read from its header before it is decoded.
- ``DEEPHASH_MAX_IMAGE_BYTES``: bytes of a picture's file, and of the memory that decoding it takes.
- ``DEEPHASH_MAX_IMAGE_SCANS``: scans of a JPEG; each one is a pass over the whole picture.
- ``DEEPHASH_MAX_ARRAY_BYTES``: bytes of the arrays in a file (.npz, .mat) that is much smaller itself.
"""
import functools
import os

from utils.errors import InputError

DEFAULTS = {
    "DEEPHASH_MAX_IMAGE_PIXELS": 89_478_485,  # 268 MB of RGB; the limit of Pillow
    "DEEPHASH_MAX_IMAGE_BYTES": 1 << 30,
    "DEEPHASH_MAX_IMAGE_SCANS": 100,  # encoders write about 10
    "DEEPHASH_MAX_ARRAY_BYTES": 1 << 30,
}
PIXELS, IMAGE_BYTES, SCANS, ARRAY_BYTES = DEFAULTS


@functools.lru_cache(maxsize=None)
def limit(name):
    """The limit ``name``, a key of ``DEFAULTS``. Raises InputError where the environment gives no number above 0."""
    text = os.environ.get(name, "")
    if not text:
        return DEFAULTS[name]
    if not (text.isascii() and text.isdigit() and int(text[:18])):
        raise InputError(f"the environment variable {name} is {text!r}; a whole number above 0 is expected")
    return int(text)


def beyond(name, value, what):
    """Text for a message where ``value`` is beyond the limit ``name``, else None.

    Args:
        what: what ``value`` counts, with its verb: ``pixels are``.
    """
    if value <= limit(name):
        return None
    return f"{value} {what} more than the limit of {limit(name)} (the environment variable {name} sets another)"
