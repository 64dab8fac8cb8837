"""Raw backbone features of a split, computed once for a frozen backbone and kept in a cache folder."""
import hashlib
import os

import numpy as np
import paddle

from utils.errors import InputError
from utils.files import atomic_path
from utils.training.distributed import barrier, gather_objects, is_main
from utils.training.loader import Items, load_batches, shard
from utils.training.logger import bar
from utils.transforms import recipe_spec


def pieces(positions, size):
    """Positions cut into batches of ``size``."""
    return [positions[start:start + size] for start in range(0, len(positions), size)]


def _hash_pictures(digest, images):
    """Add what tells the pictures of a split from others of the same names: size and time of files, else the bytes."""
    for i in range(len(images)):
        if not hasattr(images, "stamp"):
            digest.update(images.read(i).tobytes())
            continue
        try:
            digest.update(f"{i} {images.stamp(i)}\n".encode())
        except OSError:  # a missing file is named when it is read
            pass


@paddle.no_grad()
def split_features(method, split, recipe, run, views=0):
    """Raw backbone features of a split on every rank: float32 [N, ...], or [N, views, ...] of augmented views.

    With ``run["feature_cache"]`` they are kept in a file named by a hash of backbone weights, preprocessing,
    augmentation, split and pictures, so that another run (another code length, say) reads them.
    """
    if split.features is not None:
        return np.asarray(split.features, dtype="float32")
    spec = recipe_spec(recipe)
    drawn = [recipe["augment"], views, recipe["split_seed"]] if views else []
    path = None
    if run["feature_cache"]:
        digest = hashlib.sha256(repr([spec, split.sha256(), method.feature_key, recipe["backbone"], drawn]).encode())
        for key, value in sorted(method.backbone.state_dict().items()):
            digest.update(key.encode() + value.numpy().tobytes())
        _hash_pictures(digest, split.images)
        path = os.path.join(run["feature_cache"], f"{digest.hexdigest()[:20]}.npy")
        if all(gather_objects(os.path.isfile(path))):  # the ranks agree, whatever another run writes meanwhile
            try:
                return np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"{path} in the feature cache is damaged ({error}); remove it") from error
    training = method.training
    method.eval()
    batches = pieces(shard(len(split)), recipe["eval_batch_size"])
    items = Items(split, spec, views, recipe["augment"], recipe["split_seed"])
    own = []
    for batch in bar(load_batches(items, batches, run["num_workers"]), len(batches), f"features {split.name}"):
        parts = [method.backbone_features(batch[f"image{view}"]).numpy() for view in range(max(views, 1))]
        own.append(np.stack(parts, 1) if views else parts[0])
    if training:
        method.train()
    features = np.concatenate([part for rank_parts in gather_objects(own) for part in rank_parts])
    if path and is_main():
        with atomic_path(path) as temporary:
            np.save(temporary, features)
    barrier()
    return features
