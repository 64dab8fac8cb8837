"""Every kind of file that is read: how a sound one is made, how it is read, and what protects its content.

An entry is ``Format(name, make, read, ...)``. ``make(folder, material)`` writes sound files into an empty folder;
``read(folder)`` gives their content as plain values and arrays, all that the program takes from them. ``forge`` changes
the sound files through a writer, so that sizes and checksums are right and values are not: what damage does not reach.
"""
import dataclasses
import fnmatch
import json
import os
import pickle
import platform
import shutil
import struct
import zipfile
from typing import Callable, Optional

import numpy as np
import yaml

from tests.campaign import data_formats as data
from tests.campaign import mutate

# why other content is no fault
PEOPLE = "people write it"
FOREIGN = "of others, without checksums"
PICTURE = "pictures carry no checksums that decoders compare"


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file; see above.

    Attributes:
        targets: patterns of the names of the files that are damaged.
        open: why content that differs from the original's is accepted; empty where it is not.
        forge: callable (folder, rng), or None.
        rounds: a file is read in one of so many rounds.
    """

    name: str
    make: Callable
    read: Callable
    targets: tuple = ("*",)
    open: str = ""
    forge: Optional[Callable] = None
    rounds: int = 1

    def files(self, folder):
        """Names of the files below ``folder`` that are damaged, relative to it."""
        names = [os.path.relpath(os.path.join(place, name), folder)
                 for place, _, found in os.walk(folder) for name in found]
        return sorted(name for name in names if any(fnmatch.fnmatch(name, one) for one in self.targets))


# recipes and models -------------------------------------------------------------------------------
def recipe_make(folder, material):
    shutil.copy(material / "run" / "recipe.yaml", folder)


def recipe_read(folder):
    from engine import resolve
    return list(resolve(["--config", f"{folder}/recipe.yaml"])[:2])


def recipe_forge(folder, rng):
    with open(folder / "recipe.yaml", encoding="utf-8") as file:
        tree = yaml.safe_load(file)
    write_yaml(folder / "recipe.yaml", mutate.other_value(tree, rng))


def write_yaml(path, tree):
    path.write_text(yaml.dump(tree, allow_unicode=True), encoding="utf-8", errors="surrogatepass")


def model_make(folder, material):
    shutil.copytree(material / "model", folder, dirs_exist_ok=True)


def model_read(folder):
    """All of a model folder but the graphs' own content, which the digests cover and the engines read."""
    from deploy import model_folder
    from deploy.engines import keeps_bits
    from utils.transforms import preprocess
    manifest = model_folder.read_manifest(folder)
    model_folder.check_bits(manifest, None, folder)
    model_folder.check_files(folder, manifest)
    vectorizer = model_folder.open_vectorizer(folder, manifest)
    record, hashes = model_folder.read_trained_on(folder, manifest)
    picture = preprocess(np.arange(50 * 40 * 3, dtype=np.uint8).reshape(50, 40, 3), manifest["preprocess"])
    return [manifest, vectorizer and vectorizer.transform(["red disc and", ""]), record, hashes, picture,
            model_folder.engine_of(manifest), keeps_bits(manifest)]


def model_forge(folder, rng):
    """Another value in the manifest or the vectoriser, with right digests."""
    from deploy import model_folder
    with open(folder / model_folder.MANIFEST, encoding="utf-8") as file:
        manifest = yaml.safe_load(file)
    if rng.random() < .25:
        tree = json.loads((folder / "vectorizer.json").read_text())
        (folder / "vectorizer.json").write_text(json.dumps(mutate.other_value(tree, rng)))
        model_folder.write_manifest(folder, manifest)
    else:
        manifest = mutate.other_value({key: manifest[key] for key in manifest if key != "digest"}, rng)
        digest = model_folder._digest({key: manifest[key] for key in manifest if key != "format"})
        write_yaml(folder / model_folder.MANIFEST, {**manifest, "digest": digest})


def vectorizer_make(folder, material):
    shutil.copy(material / "model" / "vectorizer.json", folder)


def vectorizer_read(folder):
    from utils.text import Vectorizer
    vectorizer = Vectorizer.load(f"{folder}/vectorizer.json")
    return [vectorizer.to_dict(), vectorizer.transform(["red disc", "", "42"])]


def vectorizer_forge(folder, rng):
    tree = json.loads((folder / "vectorizer.json").read_text())
    (folder / "vectorizer.json").write_text(json.dumps(mutate.other_value(tree, rng)))


# checkpoints and weights --------------------------------------------------------------------------
def checkpoint_make(folder, material):
    shutil.copy(material / "run" / "latest.safetensors", folder)


def checkpoint_read(folder):
    """What evaluation and export make of it, and what --resume takes."""
    from models.build import load_method
    from models.checkpoint import open_checkpoint
    path = f"{folder}/latest.safetensors"
    arrays, meta = open_checkpoint(path)
    method, _ = load_method(path)
    return [arrays, meta, {key: value.numpy() for key, value in method.state_dict().items()}]


def checkpoint_forge(folder, rng):
    from utils.training.checkpoint import load_checkpoint, save_checkpoint
    path = str(folder / "latest.safetensors")
    arrays, meta = load_checkpoint(path)
    if rng.random() < .7:
        meta = mutate.other_value(meta, rng)
    else:
        arrays = mutate.other_array(arrays, rng)
    save_checkpoint(path, {key: value for key, value in arrays.items() if value.dtype.kind not in "US"}, meta)


def weights():
    """Arrays of a small network, by name."""
    rng = np.random.default_rng(0)
    return {"conv.weight": rng.random((4, 3, 3, 3), np.float32), "conv.bias": rng.random(4, np.float32),
            "fc.weight": rng.random((8, 4)).astype(np.float16)}


def weights_read(name):
    """Reader of the weight file ``name``."""
    def read(folder):
        from models.backbones.weight_files import read_weights
        return read_weights(f"{folder}/{name}")
    return read


def pdparams_make(folder, _):
    tree = {**weights(), "StructuredToParameterName@@": {name: name for name in weights()}}
    (folder / "w.pdparams").write_bytes(pickle.dumps(tree, 4))


def pth_make(legacy):
    def make(folder, _):
        from tests.torch_format import write_torch
        write_torch(folder / "w.pth", {"state_dict": weights(), "epoch": 3}, legacy)
    return make


def safetensors_make(folder, _):
    from safetensors.numpy import save_file
    save_file(weights(), str(folder / "w.safetensors"))


def npz_make(folder, _):
    np.savez(folder / "w.npz", **weights())


def pickle_forge(folder, rng):
    """A pickle of other arrays and values."""
    tree = mutate.other_value({"epoch": 3, "state_dict": {"a": {"b": [1]}}}, rng)
    (folder / "w.pdparams").write_bytes(pickle.dumps({**mutate.other_array(weights(), rng), "more": tree}, 4))


def header_forge(folder, rng):
    """A safetensors file with another header."""
    data = (folder / "w.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(mutate.other_value(json.loads(data[8:8 + length]), rng)).encode()
    (folder / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length:])


def zip_again(name):
    """A forge: the zip file ``name`` with other bytes in one member, its checksums taken anew."""
    def forge(folder, rng):
        with zipfile.ZipFile(folder / name) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        chosen = rng.choice(sorted(members))
        members[chosen] = mutate.change(members[chosen] or b"0", rng)
        with zipfile.ZipFile(folder / name, "w") as archive:
            for one, data in members.items():
                archive.writestr(zipfile.ZipInfo(one), data)
    return forge


# codes --------------------------------------------------------------------------------------------
def codefile(items=40, seed=0):
    """A CodeFile with labels and relaxed codes."""
    from tests.indexes import make
    return make(items, seed=seed, relaxed=True)


def codes_make(folder, _):
    codefile().save(folder / "codes.npz")


def codes_read(folder):
    return codes_read_file(f"{folder}/codes.npz")


def codes_read_file(path):
    """All of a code file."""
    from utils.retrieval.codes import CodeFile
    return dataclasses.asdict(CodeFile.load(path))


def codes_forge(folder, rng):
    with np.load(folder / "codes.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    name = rng.choice(("header", "header", "ids", None))
    if name:
        tree = mutate.other_value(json.loads(arrays[name].tobytes()), rng)
        arrays[name] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    else:
        arrays = mutate.other_array(arrays, rng)
    np.savez(folder / "codes.npz", **arrays)


def index_make(folder, _):
    from deploy.index import open_index
    from tests.indexes import Place, make
    place = Place("exact", folder.parent)
    index = place.build(make(40, relaxed=True), f"exact:{folder}")
    index.add(make(5, seed=1, prefix="more/", relaxed=True))
    index.remove(["images/3.jpg", "more/1.jpg"])
    index.close()
    assert len(open_index(f"exact:{folder}")) == 43


def index_read(folder, engine="exact"):
    """All rows of an index that ``check`` has called whole, and an answer."""
    from deploy.index import open_index
    index = open_index(f"{engine}:{folder}")
    index.check()
    rows = [[positions, items.ids, items.codes, items.labels, items.relaxed, items.meta]
            for positions, items in index.batches()]
    hits = index.search(rows[0][2][:2], 3) if rows else []
    return [rows, [[hit.distance, hit.ids] for hit in hits], index.info.bits, index.info.fingerprint,
            index.info.classes, index.info.precision]


def index_forge(folder, rng):
    """Another value in the manifest or in a shard's header, with right digests."""
    import hashlib

    from utils.retrieval import code_shards, shard_set
    path = folder / shard_set.MANIFEST
    manifest = json.loads(path.read_text())
    manifest.pop("digest")
    if rng.random() < .6:
        manifest = mutate.other_value(manifest, rng)
    else:
        entry = rng.choice(manifest["shards"])
        shard = folder / entry["name"]
        data = shard.read_bytes()
        header = json.dumps(mutate.other_value(json.loads(data[:code_shards.HEADER - 65]), rng)).encode()
        header = header[:code_shards.HEADER - 65].ljust(code_shards.HEADER - 65)
        entry["digest"] = hashlib.sha256(header).hexdigest()
        shard.write_bytes(header + entry["digest"].encode() + b"\n" + data[code_shards.HEADER:])
    text = json.dumps(manifest, sort_keys=True)
    manifest["digest"] = hashlib.sha256(text.encode("ascii")).hexdigest()
    path.write_text(json.dumps(manifest))


def faiss_make(folder, _):
    from deploy.index import build_index
    from tests.indexes import make
    from utils.retrieval.shard_set import CodesInfo
    items = make(100)
    build_index(f"faiss:{folder}", (CodesInfo.of(items), [items]), lists=2, probes=2).close()


def faiss_read(folder):
    from deploy.index import open_index
    from tests.indexes import make
    index = open_index(f"faiss:{folder}")
    index.check()
    return [[hit.distance, hit.ids] for hit in index.search(make(100).codes[:3], 5)]


# kept features and locks ----------------------------------------------------------------------------
def store_make(folder, _):
    from utils.training.feature_store import Space
    rng = np.random.default_rng(0)
    space = Space(folder, {"backbone": "tiny"})
    for _ in range(2):
        space.add([rng.bytes(16) for _ in range(9)], rng.random((9, 6), np.float32))


def store_read(folder):
    """What the store still knows. A damaged piece is removed, to be computed again: that is a refusal."""
    from utils.errors import InputError
    from utils.training.feature_store import Space
    said = []
    space = Space(folder, {"backbone": "tiny"}, said.append)
    if said:
        raise InputError(said[0])
    return store_rows(space.folder)


def store_rows(folder):
    """dict key -> features of all pieces of a space."""
    from utils.training.feature_store import Piece
    pieces = [Piece(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name.startswith("piece-")]
    return {key: np.array(row) for piece in pieces for key, row in zip(piece.keys, piece.rows)}


def lock_make(folder, _):
    (folder / ".lock").write_text(f"process 12 on {platform.node()}\n")


def lock_read(folder):
    from utils.files import owned
    with owned(os.path.join(folder, ".lock")):
        return None


FORMATS = (
    Format("recipe", recipe_make, recipe_read, open=PEOPLE, forge=recipe_forge),
    Format("model folder", model_make, model_read, forge=model_forge),
    Format("vectoriser", vectorizer_make, vectorizer_read, forge=vectorizer_forge,
           open="alone; in a model folder its digest is compared"),
    Format("checkpoint", checkpoint_make, checkpoint_read, forge=checkpoint_forge),
    Format("weights .pdparams", pdparams_make, weights_read("w.pdparams"), open=FOREIGN, forge=pickle_forge),
    Format("weights .pth", pth_make(False), weights_read("w.pth"), open=FOREIGN, forge=zip_again("w.pth")),
    Format("weights .pth, older", pth_make(True), weights_read("w.pth"), open=FOREIGN),
    Format("weights .safetensors", safetensors_make, weights_read("w.safetensors"), open=FOREIGN, forge=header_forge),
    Format("weights .npz", npz_make, weights_read("w.npz"), open=FOREIGN, forge=zip_again("w.npz")),
    Format("codes .npz", codes_make, codes_read, forge=codes_forge),
    Format("index", index_make, index_read, forge=index_forge),
    Format("index, Faiss lists", faiss_make, faiss_read),
    Format("features .npz", data.features_make, data.protocol_read("f.npz"), open=FOREIGN, forge=data.features_forge),
    Format("features .mat v5", data.mat_make(False), data.protocol_read("f.mat"), open=FOREIGN, forge=data.mat_forge),
    Format("features .mat v5, compressed", data.mat_make(True), data.protocol_read("f.mat"), open=FOREIGN),
    Format("features .mat v7.3", data.hdf5_make, data.protocol_read("f.mat"), open=FOREIGN, forge=data.hdf5_forge),
    Format("feature store", store_make, store_read, targets=("*/piece-*",)),
    *(Format(f"picture .{ending}", data.picture_make(ending), data.picture_read, open=PICTURE, rounds=2)
      for ending in data.PICTURES),
    Format("shard .tar", data.tar_make, data.protocol_read("a.tar"), open=FOREIGN),
    Format("index of a shard", data.tar_index_make, data.protocol_read("a.tar"), targets=("*.index",)),
    Format("image list", data.list_make, data.protocol_read("list.txt"), targets=("list.txt",), open=PEOPLE),
    Format("manifest .csv", data.csv_make, data.protocol_read("m.csv"), targets=("m.csv",), open=PEOPLE),
    Format("manifest .jsonl", data.jsonl_make, data.protocol_read("m.jsonl"), targets=("m.jsonl",), open=PEOPLE,
           forge=data.jsonl_forge),
    Format("COCO annotations", data.coco_make, data.coco_read, open=FOREIGN, forge=data.coco_forge),
    Format("CIFAR-10 archive", data.cifar_make, data.cifar_read, open=FOREIGN),
    Format("lock", lock_make, lock_read, open="it protects itself"),
)
