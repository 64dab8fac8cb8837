"""The model folder: the only reader and writer of it and of its manifest, inference.yml.

A folder holds ``inference.*`` (graph and weights of the image side), for cross-modal models ``text.*`` and the text
vectoriser, ``trained_on.npy``, and the manifest:

    format         2; 1 where exports of before December 2026 wrote it, without ``digest``
    method, bits, fingerprint, preprocess (utils/transforms.py)
    image          prefix of the graph's files, input: shape of one input
    text           prefix, dim: columns of the text features, vectorizer: its file or null; cross-modal models only
    dataset        what the model was trained on: name, root, list_dir, split_seed, sizes, topk, classes
    recipe, paddle the resolved recipe; the Paddle version that exported
    trained_on     record of the splits of the training run, ids: the file with the hashes of its training items, or
                   null (utils/datasets/trained_on.py); since November 2026, where the checkpoint knows
    onednn         bits of random inputs that oneDNN's float32 kernels flip: modality -> flips, codes; null where they
                   cannot run the network; since November 2026, in exports for Paddle Inference
    engine         ``onnx`` where onnxruntime runs it; else Paddle Inference
    made_of, precision, int8, onnx    what deploy/slim and deploy/onnx add
    files          SHA-256 of every other file
    digest         SHA-256 of all the rest as JSON with sorted keys

The fingerprint is of method, bits, preprocessing and weights, and is what code files are compared with; it must stay
what it was. So the digest is what ties the rest to it: whoever changes the preprocessing, the vectoriser (by the digest
of its file) or the engine of a folder has no folder any more that opens. Every value is checked against ``_MANIFEST``,
the only place that says what a manifest may hold, and against the recipe, which says the same of some of them.

export_model.py, deploy/onnx/convert.py and deploy/slim/quantize.py write folders through ``new_folder``.
"""
import functools
import hashlib
import json
import os
import shutil

import numpy as np
import yaml

from utils.config import MAX_BITS, checked_recipe
from utils.errors import InputError
from utils.files import sha256_file, write_text
from utils.flags import note
from utils.folders import replaced, standing
from utils.images import DECODES
from utils.npz import read_npy
from utils.plain_yaml import read_yaml
from utils.schema import anything, check, each, either, mapping, number, one_of, scalar, table, text, whole
from utils.text import Vectorizer
from utils.transforms import recipe_spec

FORMAT, WITHOUT_DIGEST = 2, 1
MANIFEST = "inference.yml"
VECTORIZER, TRAINED_ON = "vectorizer.json", "trained_on.npy"
STEMS = IMAGE, TEXT = "inference", "text"
ENDINGS = (".json", ".pdmodel", ".pdiparams", ".pdiparams.info", ".onnx")
FILES = {stem + ending for stem in STEMS for ending in ENDINGS} | {MANIFEST, VECTORIZER, TRAINED_ON}
GRAPHS = {"paddle": (".json", ".pdmodel"), "onnx": (".onnx",)}  # engine -> endings of what it runs
AGAIN = "export the model again"

_SIDE, _COLUMNS = whole(1, 1 << 15), whole(1, 1 << 24)
_DIGITS = text("[0-9a-f]{16}", "16 hex digits")
_SHA256 = text("[0-9a-f]{64}", "the 64 hex digits of a SHA-256")
_MANIFEST = table({
    "format": whole(WITHOUT_DIGEST, FORMAT), "method": text("[a-z][a-z0-9_]*", "the name of a method"),
    "bits": whole(1, MAX_BITS), "fingerprint": _DIGITS,
    "preprocess": table({"resize_size": _SIDE, "crop_size": _SIDE, "mean": each(number(), 3, 3),
                         "std": each(number(1e-9), 3, 3)}, {"decode": one_of(*DECODES)}),
    "image": table({"prefix": one_of(IMAGE), "input": each(_COLUMNS, 1, 3)}),
    "dataset": table({"name": text(), "sizes": mapping(scalar), "classes": each(text())},
                     {"root": either(text()), "list_dir": either(text()), "split_seed": either(whole(0)),
                      "topk": either(whole(0))}),
    "recipe": table({"method": text(), "bit": whole(), "ap": text(), "resize_size": _SIDE, "crop_size": _SIDE},
                    others=scalar),
    "files": mapping(_SHA256, one_of(*sorted(FILES - {MANIFEST})), 1),
}, {
    "digest": _SHA256, "text": table({"prefix": one_of(TEXT), "dim": _COLUMNS},
                                     {"vectorizer": either(one_of(VECTORIZER))}),
    "paddle": text(), "engine": one_of(*GRAPHS), "made_of": _DIGITS, "precision": one_of("fp32", "int8"),
    "onednn": either(mapping(table({"flips": whole(0), "codes": whole(1)}), one_of("image", "text"))),
    "int8": table({"kernels": each(text()), "algo": text(), "images": whole(1)}),
    "onnx": table({"opset": whole(1), "converter": either(text())}),
    "trained_on": table({"record": either(table({}, {"name": text(), "sha256": mapping(text())}, others=anything)),
                         "ids": either(one_of(TRAINED_ON))}),
})


# reading ----------------------------------------------------------------------------------------
def read_manifest(model_dir):
    """The manifest of an exported model, as a dict, without ``format`` and ``digest``.

    Raises:
        InputError: no such folder, no manifest, a damaged or changed one, or one of another format version.
    """
    path = os.path.join(standing(model_dir), MANIFEST)
    if not os.path.isdir(model_dir):
        raise InputError(f"no model folder at {model_dir}; make one with export_model.py --pretrained CHECKPOINT "
                         f"--save-inference-dir {model_dir}")
    if not os.path.isfile(path):
        raise InputError(f"{model_dir} holds no {MANIFEST}: not an exported model; run export_model.py "
                         f"--pretrained CHECKPOINT --save-inference-dir {model_dir}")
    try:
        manifest = read_yaml(path, text_keys=True)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({' '.join(str(error).split())}); {AGAIN}") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version not in (FORMAT, WITHOUT_DIGEST):
        raise InputError(f"{path} has format {version!r}, this version reads formats {WITHOUT_DIGEST} and {FORMAT}; "
                         f"{AGAIN} with this version's export_model.py")
    check(manifest, _MANIFEST, path, AGAIN)
    del manifest["format"]
    digest = manifest.pop("digest", None)
    if (digest is None) != (version == WITHOUT_DIGEST) or digest not in (None, _digest(manifest)):
        raise InputError(f"{path} is not what was written (damaged, or changed by hand); {AGAIN}")
    if digest is None:
        _tell_of_no_digest(path)
    _check_parts(manifest, path)
    return manifest


def _check_parts(manifest, path):
    """Raise InputError where parts of a manifest contradict each other, or a file to be loaded is not listed."""
    recipe, spec, shape = manifest["recipe"], manifest["preprocess"], manifest["image"]["input"]
    said = {"method": recipe["method"], "bits": recipe["bit"], "preprocess": recipe_spec(checked_recipe(recipe, path))}
    for key, value in said.items():
        if manifest[key] != value:
            raise InputError(f"{path}: {key} is not that of its recipe; {AGAIN}")
    if len(shape) > 1 and shape != [3, spec["crop_size"], spec["crop_size"]]:
        raise InputError(f"{path}: image.input is {shape}, and the preprocessing makes {spec['crop_size']} pixels; "
                         f"{AGAIN}")
    for side in ("image", "text"):
        if side in manifest:
            graph_files(os.path.dirname(path), manifest, manifest[side]["prefix"])
    for name in ((manifest.get("text") or {}).get("vectorizer"), (manifest.get("trained_on") or {}).get("ids")):
        if name and name not in manifest["files"]:
            raise InputError(f"{path} names {name} and has no SHA-256 of it under files; {AGAIN}")


def graph_files(model_dir, manifest, prefix):
    """Paths of a graph and, for Paddle, its weights; the graph's ending depends on the Paddle that wrote it.

    Raises:
        InputError: the manifest lists no such files.
    """
    engine = engine_of(manifest)
    graphs = [prefix + ending for ending in GRAPHS[engine] if prefix + ending in manifest["files"]]
    weights = [prefix + ".pdiparams"] if engine == "paddle" else []
    if not graphs or not set(weights) <= set(manifest["files"]):
        wanted = " or ".join(prefix + ending for ending in GRAPHS[engine])
        raise InputError(f"{os.path.join(model_dir, MANIFEST)} lists no {' with '.join([wanted, *weights])}; {AGAIN}")
    return [os.path.join(standing(model_dir), name) for name in (graphs[0], *weights)]


@functools.lru_cache(maxsize=None)
def _tell_of_no_digest(path):
    """One note for a file, however often it is looked at."""
    note(f"{path} was written before manifests held a digest: a change of it would not be noticed")


def _digest(manifest):
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode("ascii")).hexdigest()


def engine_of(manifest):
    """What runs the folder's graphs: ``paddle`` or ``onnx``."""
    return manifest.get("engine", "paddle")


def check_files(model_dir, manifest):
    """Every file is the one that the manifest was written with (not of another export, not cut short).

    Raises:
        InputError: names the first that is not.
    """
    for name, digest in manifest["files"].items():
        path = os.path.join(standing(model_dir), name)
        if not os.path.isfile(path):
            raise InputError(f"{path} is missing; export the model again")
        if sha256_file(path) != digest:
            raise InputError(f"{path} is not the file that {MANIFEST} describes (another export or a damaged copy); "
                             "export or copy the model again")


def check_bits(manifest, bit, where):
    """Raise InputError unless ``bit`` (None = not given) is the model's code length."""
    if bit is not None and bit != manifest["bits"]:
        raise InputError(f"--bit {bit}, but {where} makes {manifest['bits']}-bit codes; leave --bit out or "
                         f"give a {bit}-bit model")


def float_export(model_dir):
    """The manifest of a folder that export_model.py wrote: what other engines and precisions are made of.

    Raises:
        InputError: as ``read_manifest`` and ``check_files``, or a folder that was made of another one.
    """
    manifest = read_manifest(model_dir)
    check_files(model_dir, manifest)
    if engine_of(manifest) != "paddle" or manifest.get("precision"):
        raise InputError(f"{model_dir} is no export of float graphs; give the folder that export_model.py wrote")
    manifest.pop("onednn", None)  # a finding about these very graphs
    return manifest


def open_vectorizer(model_dir, manifest):
    """The model's text vectoriser, or None where it has none."""
    name = (manifest.get("text") or {}).get("vectorizer")
    if not name:
        return None
    path = os.path.join(standing(model_dir), name)
    vectorizer = Vectorizer.load(path)
    if len(vectorizer) != manifest["text"]["dim"]:
        raise InputError(f"{path} has {len(vectorizer)} words, the model reads {manifest['text']['dim']}; {AGAIN}")
    return vectorizer


def read_trained_on(model_dir, manifest):
    """What the model was trained on: (record of its splits or None, hashes of its items uint64 [n] or None).

    Raises:
        InputError: the file of the hashes is damaged.
    """
    known = manifest.get("trained_on") or {}
    if not known.get("ids"):
        return known.get("record"), None
    path = os.path.join(standing(model_dir), known["ids"])
    hashes = read_npy(path)
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise InputError(f"{path} holds {hashes.dtype} {list(hashes.shape)}, expected uint64 [n]; {AGAIN}")
    return known.get("record"), hashes


# writing ----------------------------------------------------------------------------------------
def write_manifest(folder, manifest):
    """Write the manifest, with its format, the digests of all files in ``folder`` and its own.

    Raises:
        InputError: a value that a manifest cannot hold, named.
    """
    path = os.path.join(folder, MANIFEST)
    files = {name: sha256_file(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name != MANIFEST}
    manifest = {**{key: manifest[key] for key in manifest if key not in ("format", "digest")}, "files": files}
    whole_manifest = {"format": FORMAT, **manifest, "digest": _digest(manifest)}
    check(whole_manifest, _MANIFEST, path)
    write_text(path, yaml.safe_dump(whole_manifest, sort_keys=False, allow_unicode=True))


def write_trained_on(folder, record, hashes):
    """Write what a model was trained on; returns what its manifest says of it under ``trained_on``.

    Args:
        record: Protocol.record of the training run.
        hashes: uint64 [n] of the items, or None.
    """
    if hashes is not None:
        np.save(os.path.join(folder, TRAINED_ON), hashes)
    return {"record": {key: value for key, value in record.items() if key != "notes"},
            "ids": None if hashes is None else TRAINED_ON}


def copy_files(source, folder, names):
    """Copy files of the model folder ``source`` into ``folder``."""
    for name in names:
        shutil.copyfile(os.path.join(standing(source), name), os.path.join(folder, name))


def new_folder(folder, source=None, flag="--save-dir"):
    """As utils.folders.replaced, for model folders: yields an empty folder to fill, which becomes ``folder``."""
    return replaced(folder, FILES, MANIFEST, source, flag)
