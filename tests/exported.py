"""Small checkpoints and exports for the tests of export, inference and prediction; made once a session."""
import numpy as np
import paddle

from export_model import export
from models import METHODS
from models.build import build_method
from models.method import DataFacts
from tests.tiny import spread_codes
from utils.config import RECIPE
from utils.datasets import load_protocol
from utils.text import Vectorizer
from utils.training.checkpoint import save_checkpoint
from utils.transforms import preprocess, preprocess_spec

NETWORK = "ViT:patch=16,dim=32,depth=1,heads=4,mlp=2"
BITS = 20  # not a multiple of 8
SIZES = {"num_train": 64, "num_database": 160, "num_query": 16}
_made = {}


def checkpoint(tmp_path_factory, shapes, name="hashnet", seed=3):
    """(path of a checkpoint with random weights, the method in evaluation mode)."""
    key = name, seed
    if key not in _made:
        data_set = load_protocol("shapes", root=str(shapes), **SIZES)
        recipe = {key: setting.default for key, setting in RECIPE.items()}
        recipe.update({key: setting.default for key, setting in METHODS[name].settings.items()})
        # standardised features: random weights give nearly the same ones to every picture
        recipe.update(method=name, backbone=NETWORK, bit=BITS, pretrained_backbone=False, crop_size=48, resize_size=56,
                      freeze_backbone=True, feature_norm="standardize", data_path=str(shapes), topK=0, **SIZES)
        meta = {"recipe": recipe, "epoch": 0, "classes": data_set.classes,
                "data": {"num_train": 64, "num_classes": len(data_set.classes), "text_dim": None}}
        if "text" in METHODS[name].modalities:
            vectorizer = Vectorizer.fit(data_set.train.texts)
            meta["vectorizer"] = vectorizer.to_dict()
            meta["data"]["text_dim"] = len(vectorizer)
        paddle.seed(seed)
        method = build_method(recipe, DataFacts(**meta["data"]))
        method.eval()
        fit_norm(method, data_set, preprocess_spec(56, 48))
        spread_codes(method)
        path = tmp_path_factory.mktemp(f"{name}{seed}") / "best.safetensors"
        tensors = {f"model/{key}": value.numpy() for key, value in method.state_dict().items()}
        save_checkpoint(str(path), tensors, {**meta, "fingerprint": method.fingerprint(preprocess_spec(56, 48))})
        _made[key] = path, method
    return _made[key]


def fit_norm(method, data_set, spec):
    """Fit the normalisation of the features on a few pictures."""
    pictures = np.stack([preprocess(data_set.train.images.read(i), spec) for i in range(16)])
    with paddle.no_grad():
        method.norm.fit(method.backbone_features(paddle.to_tensor(pictures)).numpy())


def exported(tmp_path_factory, shapes, name="hashnet", seed=3):
    """Folder of the exported model of ``checkpoint``."""
    path, _ = checkpoint(tmp_path_factory, shapes, name, seed)
    folder = path.parent / "inference"
    if not folder.exists():
        export(str(path), str(folder))
    return folder


def pictures(shapes, count=16, split="query"):
    """(Split, preprocessed images float32 [count, 3, 48, 48]) of the shapes set."""
    part = getattr(load_protocol("shapes", root=str(shapes), **SIZES), split)
    return part, np.stack([preprocess(part.images.read(i), preprocess_spec(56, 48)) for i in range(count)])


def one_error_line(done, *words):
    """The command failed with one clear line on stderr that holds the words, and without a traceback."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert str(word) in lines[0], lines[0]
