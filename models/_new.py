"""``python -m models new NAME``: a method file that works and its first recipe."""
import keyword
import os
import re

from models import METHODS
from utils.errors import InputError
from utils.files import write_text

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SKELETON = os.path.join(ROOT, "models", "_skeleton.py")
RECIPE = """\
# The embedded set on a small network from scratch: a few seconds an epoch on two cores.
method: {name}
dataset: shapes
backbone: ConvNet:width=16
pretrained_backbone: false
resize_size: 72
crop_size: 64
augment: crop_flip
batch_size: 32
epoch: 20
eval_epoch: 5
optimizer: adam
learning_rate: 0.001
weight_decay: 0.0
lr_schedule: cosine
head_lr_mult: 1
"""


def write_skeleton(name, folder=None):
    """Write NAME.py and configs/NAME/shapes.yaml.

    Args:
        name: of the method: a folder's and a flag's value, ``my_hash``.
        folder: where; None = this project (models/ and configs/), where the method joins the registry.

    Returns:
        (path of the method file, path of the recipe).

    Raises:
        InputError: no name for a method, one that is taken, a file that is there already.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(f"{name!r} is no name for a method: lower-case letters, digits and _, such as my_hash")
    if name in METHODS:
        raise InputError(f"there is a method {name} already ({', '.join(METHODS)}); choose another name")
    file = os.path.join(folder or os.path.join(ROOT, "models"), f"{name}.py")
    recipe = os.path.join(folder or ROOT, "configs", name, "shapes.yaml")
    for path in (file, recipe):
        if os.path.exists(path):
            raise InputError(f"{path} exists; choose another name{' or another --dir' if folder else ''}")
    with open(SKELETON, encoding="utf-8") as skeleton:
        text = skeleton.read()
    class_name = "".join(word.capitalize() for word in name.split("_"))
    text = text.replace("SKELETON", class_name).replace("Skeleton", class_name)
    text = text.replace("name = None", f'name = "{name}"')
    write_text(recipe, RECIPE.format(name=name))
    write_text(file, text)
    return file, recipe
