"""PaddleClas' own ImageNet weights, fetched on first use."""
import os
import shutil
import urllib.error
import urllib.request

from models.backbones.wheel import weights_url
from utils.errors import InputError
from utils.files import atomic_path

DOWNLOAD_FOLDER = os.path.join("~", ".paddleclas", "weights")   # PaddleClas' own place
DOWNLOAD_TIMEOUT = 15   # seconds without an answer


def download(backbone):
    """Path of PaddleClas' ImageNet weights of a backbone, fetched on first use.

    Raises:
        InputError: there are none, or they cannot be fetched; names the address and the two flags.
    """
    base, _, option = backbone.name.partition(":")
    url = None if option else weights_url(base)
    ways = "give --backbone-weights FILE, or start from random weights with --no-pretrained"
    if url is None:
        raise InputError(f"there are no weights to download for backbone {backbone.name}; {ways}")
    path = os.path.join(os.path.expanduser(DOWNLOAD_FOLDER), os.path.basename(url))
    if os.path.exists(path):
        return path
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer, atomic_path(path) as temporary:
            with open(temporary, "wb") as file:
                shutil.copyfileobj(answer, file)
                size = file.tell()
            expected = answer.headers.get("Content-Length")
            if expected and int(expected) != size:
                raise urllib.error.URLError(f"it ended after {size} of {expected} bytes")
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"cannot download the ImageNet weights of {backbone.name} "
                         f"({getattr(error, 'reason', error)}): fetch {url} and {ways}") from error
    return path
