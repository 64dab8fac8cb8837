"""The model folder: the only reader and writer of it and of its manifest, inference.yml.

A folder holds ``inference.*`` (graph and weights of the image side), for cross-modal models ``text.*`` and the text
vectoriser, ``trained_on.npy``, and the manifest:

    format         1
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

export_model.py, deploy/onnx/convert.py and deploy/slim/quantize.py write folders through ``new_folder``.
"""
import contextlib
import ctypes
import os
import shutil
import tempfile

import numpy as np
import yaml

from utils.errors import InputError
from utils.files import sha256_file, write_text
from utils.text import Vectorizer

FORMAT = 1
MANIFEST = "inference.yml"
VECTORIZER, TRAINED_ON = "vectorizer.json", "trained_on.npy"
STEMS = ("inference", "text")
ENDINGS = (".json", ".pdmodel", ".pdiparams", ".pdiparams.info", ".onnx")
FILES = {stem + ending for stem in STEMS for ending in ENDINGS} | {MANIFEST, VECTORIZER, TRAINED_ON}
REQUIRED = ("method", "bits", "fingerprint", "image", "preprocess", "files")
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux' renameat2
_HERE = -100  # AT_FDCWD


# reading ----------------------------------------------------------------------------------------
def read_manifest(model_dir):
    """The manifest of an exported model, as a dict.

    Raises:
        InputError: no such folder, no manifest, a damaged one, or one of another format version.
    """
    path = os.path.join(model_dir, MANIFEST)
    if not os.path.isdir(model_dir):
        raise InputError(f"no model folder at {model_dir}; make one with export_model.py --pretrained CHECKPOINT "
                         f"--save-inference-dir {model_dir}")
    if not os.path.isfile(path):
        raise InputError(f"{model_dir} holds no {MANIFEST}: not an exported model; run export_model.py "
                         f"--pretrained CHECKPOINT --save-inference-dir {model_dir}")
    try:
        with open(path, encoding="utf-8") as file:
            manifest = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path} ({' '.join(str(error).split())}); export the model again") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise InputError(f"{path} has format {version!r}, this version reads format {FORMAT}; export the model again "
                         "with this version's export_model.py")
    missing = [key for key in REQUIRED if key not in manifest]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; export the model again")
    return manifest


def engine_of(manifest):
    """What runs the folder's graphs: ``paddle`` or ``onnx``."""
    return manifest.get("engine", "paddle")


def check_files(model_dir, manifest):
    """Every file is the one that the manifest was written with (not of another export, not cut short).

    Raises:
        InputError: names the first that is not.
    """
    for name, digest in manifest["files"].items():
        path = os.path.join(model_dir, name)
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
    return Vectorizer.load(os.path.join(model_dir, name)) if name else None


def read_trained_on(model_dir, manifest):
    """What the model was trained on: (record of its splits or None, hashes of its items uint64 [n] or None).

    Raises:
        InputError: the file of the hashes is damaged.
    """
    known = manifest.get("trained_on") or {}
    if not known.get("ids"):
        return known.get("record"), None
    path = os.path.join(model_dir, known["ids"])
    try:
        return known.get("record"), np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}); export the model again") from error


# writing ----------------------------------------------------------------------------------------
def write_manifest(folder, manifest):
    """Write the manifest, with its format and the digests of all files in ``folder``."""
    files = {name: sha256_file(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name != MANIFEST}
    write_text(os.path.join(folder, MANIFEST),
               yaml.safe_dump({"format": FORMAT, **manifest, "files": files}, sort_keys=False, allow_unicode=True))


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
        shutil.copyfile(os.path.join(source, name), os.path.join(folder, name))


@contextlib.contextmanager
def new_folder(folder, source=None, flag="--save-dir"):
    """Yield an empty folder to fill; when the block succeeds, it becomes ``folder`` in one step.

    A reader sees the old model or the new one, and a process that is killed leaves the old one, where ``folder`` is new
    or holds nothing but a model (and can be renamed). Where it holds other files (a run folder), these stay: the new
    files then move in one by one, the manifest last, and what is read meanwhile is refused for its digests.

    Args:
        folder: made if missing.
        source: the folder that the new one is made of, or None.
        flag: of the command that names ``folder``, for messages.

    Raises:
        InputError: ``folder`` is the source itself or cannot be written; after any error nothing of the block is left.
    """
    folder = os.path.realpath(folder)
    if source is not None and folder == os.path.realpath(source):
        raise InputError(f"{folder} is the model itself; choose another {flag}")
    temporary = None
    try:
        parent, name = os.path.split(folder)
        os.makedirs(parent, exist_ok=True)
        whole = not os.path.exists(folder) or _may_be_replaced(folder)
        temporary = tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=parent if whole else folder)
        yield temporary
        _replace(temporary, folder) if whole else _move_in(temporary, folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; free some space or choose another "
                         f"{flag}") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _may_be_replaced(folder):
    """Whether the whole folder may make room: nothing but a model in it, and it can be renamed."""
    return set(os.listdir(folder)) <= FILES and not os.path.ismount(folder) and \
        os.access(os.path.dirname(folder), os.W_OK)


def _replace(temporary, folder):
    """Put the folder ``temporary`` in the place of ``folder``, which may be missing."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o777 & ~umask)  # mkdtemp makes private folders
    if not os.path.exists(folder):
        os.rename(temporary, folder)
    elif not _exchange(temporary, folder):
        aside = tempfile.mkdtemp(prefix=f".{os.path.basename(folder)}.", suffix=".old", dir=os.path.dirname(folder))
        os.rename(folder, aside)
        os.rename(temporary, folder)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first, second):
    """Swap two folders in one step. False where the system or the file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    return call(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0


def _move_in(temporary, folder):
    """Move the files of ``temporary`` into ``folder``; files of an earlier model go, all others stay."""
    names = sorted(os.listdir(temporary), key=lambda name: name == MANIFEST)  # it names the digest of the others
    for name in names:
        os.replace(os.path.join(temporary, name), os.path.join(folder, name))
    for stale in FILES - set(names):
        if os.path.exists(os.path.join(folder, stale)):
            os.remove(os.path.join(folder, stale))
