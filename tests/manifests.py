"""Manifests of made-up models for the tests."""
from deploy.model_folder import read_manifest, write_manifest


def manifest_of(method="hashnet", bits=8, crop=32):
    """What export_model.py would write for a model of pictures."""
    return {"method": method, "bits": bits, "fingerprint": "0123456789abcdef",
            "preprocess": {"resize_size": 40, "crop_size": crop, "mean": [0.485, 0.456, 0.406],
                           "std": [0.229, 0.224, 0.225]},
            "image": {"prefix": "inference", "input": [3, crop, crop]},
            "dataset": {"name": "shapes", "root": None, "list_dir": None, "split_seed": 0, "topk": 0,
                        "sizes": {"num_train": 24}, "classes": ["disc", "环"]},
            "recipe": {"method": method, "bit": bits, "ap": "hits", "resize_size": 40, "crop_size": crop},
            "paddle": "3.3.1"}


def edited(folder, change):
    """The manifest of a model folder, changed by a callable and written as this program would."""
    manifest = read_manifest(str(folder))
    change(manifest)
    write_manifest(str(folder), manifest)
    return manifest
