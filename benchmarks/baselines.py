r"""Codes without learning, from the features that a recipe's method learns on: random projection and PCA.

    python benchmarks/baselines.py --config configs/nsh/cifar10_frozen.yaml --data-path DIR --backbone-weights FILE \
        --feature-cache DIR

They are the rows that a learned method has to beat. Takes the flags of main_single_gpu.py; --bit is ignored, the code
lengths are the method's. Features are normalised as in the recipe (fitted on the training split); of tokens the mean.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402

from engine import complete, load_data, resolve  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.retrieval.hamming import pack  # noqa: E402
from utils.retrieval.metrics import evaluate, format_line  # noqa: E402
from utils.training.device import choose_device, use_cores  # noqa: E402

SEEDS = (0, 1, 2)


def vectors(method, features, step=1000):
    """Normalised features of a split, float32 [N, D]."""
    import paddle
    parts = []
    for start in range(0, len(features), step):
        part = method.norm(paddle.to_tensor(np.ascontiguousarray(features[start:start + step])))
        parts.append((part.mean(axis=1) if part.ndim == 3 else part).numpy())
    return np.concatenate(parts)


def random_projection(train, bits, seed):
    """Gaussian directions [D, bits] of locality-sensitive hashing."""
    return np.random.default_rng(seed).standard_normal((train.shape[1], bits)).astype("float32")


def principal(train, bits):
    """The first ``bits`` principal directions [D, bits] of the training split."""
    centred = train.astype("float64") - train.mean(axis=0, dtype="float64")
    values, directions = np.linalg.eigh(centred.T @ centred)
    return directions[:, np.argsort(values)[::-1][:bits]].astype("float32")


def main(argv):
    recipe, run, _ = resolve(argv)
    choose_device(run["device"])
    use_cores()
    from models import METHODS
    from models.build import build_method
    from models.method import DataFacts
    from utils.training.features import FeatureSource
    from utils.training.seeding import seed_everything
    method_class = METHODS[recipe["method"]]
    protocol = load_data(recipe, method_class)
    recipe = complete(recipe, protocol, method_class, {})
    if not recipe["freeze_backbone"]:
        raise InputError(f"the backbone of {run['config'] or 'this recipe'} is trained, so there are no features to "
                         "compare on; take a recipe with freeze_backbone")
    seed_everything(recipe["seed"], 0)
    text_dim = None if protocol.train.text_features is None else protocol.train.text_features.shape[1]
    method = build_method(recipe, DataFacts(len(protocol.train), len(protocol.classes), text_dim))
    recipe = {**recipe, "backbone": method.backbone.name}  # the full name, as in the cache of the training runs
    source = FeatureSource(method, recipe, run, sum(map(len, protocol.splits)))
    raw = [np.asarray(source(split)) for split in protocol.splits]
    method.norm.fit(raw[0])
    train, query, database = (vectors(method, features) for features in raw)
    middle = train.mean(axis=0)

    def row(name, bits, directions):
        values = evaluate(pack((query - middle) @ directions), pack((database - middle) @ directions),
                          protocol.query.labels, protocol.database.labels, bits, topk=recipe["topK"], ap=recipe["ap"])
        print(f"{name:<18} {bits:>4} bits  {format_line(values)}", flush=True)
        return values["mAP"]

    for bits in method_class.bit_lengths:
        scores = [row(f"random, seed {seed}", bits, random_projection(train, bits, seed)) for seed in SEEDS]
        print(f"{'random, mean':<18} {bits:>4} bits  mAP {np.mean(scores):.4f} +- {np.std(scores, ddof=1):.4f}")
        if bits <= train.shape[1]:
            row("PCA", bits, principal(train, bits))


if __name__ == "__main__":
    run_main(main)
