"""Open a checkpoint, ours or a whole model of paddle_hashnet: everything that takes --pretrained comes here."""
import os

from models.backbones.weight_files import file_format, read_weights
from models.paddle_hashnet import as_checkpoint, is_whole_model
from utils.config import checked_recipe
from utils.errors import InputError
from utils.training.checkpoint import check_meta, find_checkpoint, load_checkpoint


def open_checkpoint(name, wanted=lambda key: True):
    """Read a checkpoint without executing anything in it.

    Args:
        name: as for utils.training.checkpoint.find_checkpoint.
        wanted: callable name -> whether that array is to be read; for files of ours.

    Returns:
        (dict name -> ndarray, meta dict); see utils.training.checkpoint.load_checkpoint.

    Raises:
        InputError: no such file, a damaged one, or weights that are no whole model.
    """
    path = find_checkpoint(name)
    if not os.path.isfile(path) or file_format(path) not in ("pickle", "zip"):
        arrays, meta = load_checkpoint(path, wanted)
        check_meta(path, meta)
        return arrays, {**meta, "recipe": checked_recipe(meta["recipe"], path)}
    arrays = read_weights(path)
    if is_whole_model(arrays):
        return as_checkpoint(arrays, path)
    names = ", ".join(key[:100] for key in list(arrays)[:3])
    raise InputError(f"{path} holds {len(arrays)} arrays ({names}, ...) and is neither a checkpoint of this project "
                     "nor a whole model of paddle_hashnet; weights of a backbone go to --backbone-weights")


def open_meta(name):
    """The meta of a checkpoint alone. Arguments and errors are those of ``open_checkpoint``."""
    return open_checkpoint(name, lambda key: False)[1]
