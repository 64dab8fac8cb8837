"""Data sets and feature files for ``formats.py``: how sound ones are made, read and forged."""
import io
import json
import os
import pickle
import tarfile

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from tests.campaign import mutate


# features -----------------------------------------------------------------------------------------
def variables():
    """Image and text features and labels of a feature file."""
    rng = np.random.default_rng(0)
    return {"image": rng.random((20, 5)).astype("f4"), "text": (rng.random((20, 7)) < .3).astype("f4"),
            "label": np.eye(3)[np.arange(20) % 3].astype("u1")}


def protocol_read(name):
    """Reader of the data set ``name`` of a folder."""
    def read(folder):
        from utils.datasets import load_protocol
        protocol = load_protocol(os.path.join(folder, name))
        splits = [[split.name, list(split.ids), split.labels, split.features, split.text_features,
                   split.texts and list(split.texts)] + ([split.images.read(i) for i in range(min(3, len(split)))]
                                                         if split.images is not None else [])
                  for split in protocol.splits]
        return [splits, protocol.classes, protocol.vocabulary]
    return read


def features_make(folder, _):
    np.savez(folder / "f.npz", **variables())


def features_forge(folder, rng):
    np.savez(folder / "f.npz", **mutate.other_array(variables(), rng))


def mat_make(compressed):
    def make(folder, _):
        arrays = variables()
        arrays["text"] = csc_matrix(arrays["text"].astype("f8"))
        savemat(folder / "f.mat", arrays, do_compression=compressed)
    return make


def mat_forge(folder, rng):
    savemat(folder / "f.mat", {key or "x": value for key, value in mutate.other_array(variables(), rng).items()})


def hdf5_make(folder, _):
    write_hdf5(folder / "f.mat", variables())


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            value = np.asarray(value)
            made = file.create_dataset(name or "x", data=value.astype("S") if value.dtype.kind == "U" else value.T,
                                       **({"compression": "gzip"} if value.ndim and value.size else {}))
            made.attrs["MATLAB_class"] = np.bytes_("double")


def hdf5_forge(folder, rng):
    write_hdf5(folder / "f.mat", mutate.other_array(variables(), rng))


# data sets ----------------------------------------------------------------------------------------
def picture(i=0, kind="PNG", mode="RGB", side=24, **options):
    """Bytes of a small picture."""
    rng = np.random.default_rng(i)
    pixels = np.kron(rng.integers(0, 256, (3, 3, 3)), np.ones((side // 3, side // 3, 1))).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


PICTURES = {"jpg": ("JPEG", "RGB", {}), "progressive.jpg": ("JPEG", "RGB", {"progressive": True}),
            "cmyk.jpg": ("JPEG", "CMYK", {}), "grey.jpg": ("JPEG", "L", {}), "png": ("PNG", "RGB", {}),
            "16bit.png": ("PNG", "I;16", {}), "palette.png": ("PNG", "P", {}), "bmp": ("BMP", "RGB", {}),
            "gif": ("GIF", "P", {}), "webp": ("WEBP", "RGB", {}), "tif": ("TIFF", "RGB", {}),
            "lzw.tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}), "ppm": ("PPM", "RGB", {})}


def picture_make(ending):
    def make(folder, _):
        kind, mode, options = PICTURES[ending]
        if kind == "JPEG":
            exif = Image.Exif()
            exif[0x0112] = 6
            options = {**options, "exif": exif}
        (folder / f"0.{ending}").write_bytes(picture(0, kind, mode, **options))
    return make


def picture_read(folder):
    """Size, full and reduced decoding."""
    from utils.images import decode, image_size
    from utils.transforms import preprocess, preprocess_spec
    path = os.path.join(folder, os.listdir(folder)[0])
    size, full = image_size(path), decode(path)
    spec = {**preprocess_spec(16, 12), "decode": "reduced"}
    return [size, full, preprocess(decode(path, spec=spec), spec)]


def tar_make(folder, _):
    with tarfile.open(folder / "a.tar", "w") as archive:
        for i in range(12):
            for ending, data in (("png", picture(i)), ("cls", str(i % 3).encode()), ("txt", f"a word {i}".encode()),
                                 ("json", json.dumps({"__id__": f"item {i}"}).encode())):
                info = tarfile.TarInfo(f"{i:03d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def tar_index_make(folder, material):
    tar_make(folder, material)
    from utils.datasets.own import tar_items
    path = str(folder / "a.tar")   # too few members for the reader to write one itself
    tar_items.write_index(path, tar_items.scan(path, print)[0], tar_items.stamp_of(path))


def pictures_make(folder):
    for i in range(12):
        (folder / f"{i}.png").write_bytes(picture(i))


def list_make(folder, _):
    pictures_make(folder)
    (folder / "list.txt").write_text("".join(f"{i}.png {i % 3}\n" for i in range(12)))


def csv_make(folder, _):
    pictures_make(folder)
    (folder / "m.csv").write_text("path,labels,text\n" + "".join(
        f'{i}.png,"{"cat|dog" if i % 2 else "dog"}","a word {i}"\n' for i in range(12)))


def jsonl_make(folder, _):
    pictures_make(folder)
    (folder / "m.jsonl").write_text("".join(json.dumps(
        {"path": f"{i}.png", "labels": ["cat", str(i % 3)], "text": f"a word {i}"}) + "\n" for i in range(12)))


def jsonl_forge(folder, rng):
    rows = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    rows[rng.randrange(len(rows))] = mutate.other_value(rng.choice(rows), rng)
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def coco_make(folder, _):
    (folder / "instances.json").write_text(json.dumps({
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(6)],
        "annotations": [{"image_id": i, "category_id": 1 + i % 3} for i in range(6)],
        "categories": [{"id": 1 + i, "name": name} for i, name in enumerate(("a", "b", "c"))]}))


def coco_read(folder):
    from utils.datasets.protocols import coco
    return list(coco.read_file(f"{folder}/instances.json", "train2014"))


def coco_forge(folder, rng):
    tree = json.loads((folder / "instances.json").read_text())
    (folder / "instances.json").write_text(json.dumps(mutate.other_value(tree, rng)))


def cifar_make(folder, _):
    with tarfile.open(folder / "c.tar.gz", "w:gz") as archive:
        rng = np.random.default_rng(0)
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            data = pickle.dumps({b"data": rng.integers(0, 256, (3, 3072), np.uint8), b"labels": [0, 1, 2]}, 2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def cifar_read(folder):
    from utils.datasets.protocols import cifar10
    return list(cifar10.read_all(f"{folder}/c.tar.gz"))
