"""Data sets of strangers: damaged, lying and costly files, each read in a child with little memory and CPU time."""
import gzip
import io
import json
import os
import random
import struct
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from tests.hostile import outcomes_of
from utils.datasets import load_protocol
from utils.datasets.matrices.feature_files import load_features_protocol
from utils.datasets.own.shards import expand_braces
from utils.errors import InputError

SECONDS = 5
LOAD = """
import os
import h5py, scipy.io  # slow to import
from utils.datasets import load_protocol
from utils.datasets.protocols import cifar10, coco, list_maker
import utils.datasets.own.shards
def read(path):
    name = os.path.basename(path)
    if name.startswith("instances"):
        return coco.read_file(path, "train2014")
    if name.endswith(".gz"):
        return cifar10.read_all(path)
    if name.endswith("lists.json"):
        return list_maker.recorded(os.path.dirname(path), "coco")
    protocol = load_protocol(path)
    for split in protocol.splits:
        split.sha256()
        if split.images is not None and len(split):
            split.images.read(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a few pictures, for lists and manifests."""
    folder = tmp_path_factory.mktemp("hostile")
    for i in range(4):
        Image.new("RGB", (9, 7), (i, 90, 30)).save(folder / f"{i}.png")
    return folder


def npz(**members):
    """A zip of entries as they are: name -> (bytes, size that the directory claims or None)."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return data.getvalue()


def npy(shape, dtype="<f4", content=b""):
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def savez(**arrays):
    data = io.BytesIO()
    np.savez(data, **arrays)
    return data.getvalue()


ROWS = np.random.default_rng(0).random((12, 3), np.float32)
FEATURES = {
    "bomb": npz(image=npy((300_000_000,), content=bytes(40 << 20)), text=npy((4, 1 << 20), content=bytes(16 << 20))),
    "shape beyond its bytes": npz(image=npy((1 << 20, 1 << 20), content=bytes(64))),
    "negative shape": npz(image=npy((-1, 4), content=bytes(64))),
    "objects": npz(image=npy((1,), "|O", b"cos\nsystem\n(S'true'\ntR.")),
    "number of 0 axes": savez(image=np.float32(3), label=np.arange(3)),
    "labels of 0 axes": savez(image=ROWS, label=np.int64(3)),
    "no items": savez(image=np.zeros((0, 3), "f"), label=np.zeros(0, int)),
    "negative classes": savez(image=ROWS, label=np.arange(12) - 4),
    "ids twice": savez(image=ROWS, label=np.arange(12) % 3, ids=np.array(["a", "b"] * 6)),
    "ids that are no text": savez(image=ROWS, ids=np.arange(0xd800, 0xd80c, dtype="<u4").view("<U1")),
    "code points that are none": savez(image=ROWS, ids=np.full(12, 0x7fffffff, "<u4").view("<U1")),
    "texts that are none": savez(image=ROWS, text=np.full(12, 0xdc00, "<u4").view("<U1")),
    "masks of texts": savez(image=ROWS, is_train=np.array(["yes", "no"] * 6)),
    "too large for float32": savez(image=ROWS.astype("f8") * 1e300),
    "parts of different widths": savez(I_tr=ROWS, I_te=ROWS[:, :2], L_tr=np.arange(12), L_te=np.arange(12)),
    "five axes": savez(image=np.zeros((2, 2, 2, 2, 2), "f")),
    "complex numbers": savez(image=ROWS.astype(complex)),
    "a million classes": savez(image=np.zeros((120_000, 1), "f"), label=np.arange(120_000) * 7),
    "no zip": b"PK\x03\x04" + bytes(100), "empty": b"",
}


def hdf5(folder):
    """dict name -> file name of v7.3 files, written with h5py."""
    names = {}

    def new(name):
        names[name] = f"h{len(names)}.mat"
        return h5py.File(folder / names[name], "w")
    (folder / "secret.bin").write_bytes(np.arange(36, dtype="f4").tobytes())
    with h5py.File(folder / "other.h5", "w") as file:
        file["image"] = ROWS
    with new("external storage") as file:
        file.create_dataset("image", (12, 3), "f4", external=[(str(folder / "secret.bin"), 0, 144)])
    with new("external link") as file:
        file["image"] = h5py.ExternalLink(str(folder / "other.h5"), "/image")
    with new("virtual storage") as file:
        layout = h5py.VirtualLayout((12, 3), "f4")
        layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "image", (12, 3))
        file.create_virtual_dataset("image", layout)
    with new("soft link to nothing") as file:
        file["image"] = h5py.SoftLink("/nowhere")
    with new("shape without bytes") as file:
        file.create_dataset("image", (1 << 20, 1 << 14), "f4", chunks=(1, 1 << 14))
    with new("chunk of 2 GB") as file:
        file.create_dataset("image", (4, 3), "f4", maxshape=(None, None), chunks=(1 << 15, 1 << 14), compression="gzip")
    with new("texts as numbers") as file:
        file.create_dataset("image", data=[b"abc", b"def"])
    with new("pictures of a terapixel") as file:
        file.create_dataset("images", (4, 3, 1 << 20, 1 << 20), "u1", chunks=(1, 1, 1 << 10, 1 << 10))
        file["images"].attrs["MATLAB_class"] = np.bytes_("uint8")
    return names


def sparse(rows, columns):
    """A v5 file with a sparse matrix that claims other sizes than its own."""
    data = io.BytesIO()
    savemat(data, {"image": csc_matrix(np.eye(4))})
    raw = data.getvalue()
    dims = raw.index(struct.pack("<iiii", 5, 8, 4, 4))
    return raw[:dims] + struct.pack("<iiii", 5, 8, rows, columns) + raw[dims + 16:]


def tar(*members):
    """A tar of (name, bytes); a name may be a TarInfo."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def long_header(size):
    """A tar whose first header says that extended headers of ``size`` bytes follow; they do, as far as 4 MB."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20)


def picture():
    data = io.BytesIO()
    Image.new("RGB", (9, 7)).save(data, "PNG")
    return data.getvalue()


DEEP = b"[" * 100_000
PNG = picture()
SHARDS = {
    "an id with half a character": tar(("0.png", PNG), ("0.json", b'{"__id__": "\\ud800", "label": 0}')),
    "a label with half a character": tar(("0.png", PNG), ("0.json", b'{"label": "\\udfff"}')),
    "a text with half a character": tar(("0.png", PNG), ("0.json", b'{"text": "\\ud83d"}')),
    "deep labels": tar(("0.png", PNG), ("0.json", b'{"labels": ' + DEEP)),
    "deep whole labels": tar(("0.png", PNG), ("0.json", b'{"labels": [' + b"[" * 400 + b"]" * 401 + b"}")),
    "a class number of 5,000 digits": tar(("0.png", PNG), ("0.cls", b"9" * 5000)),
    "a class number beyond all": tar(("0.png", PNG), ("0.cls", b"1048575"), ("1.png", PNG), ("1.cls", b"0")),
    "headers of 2 GB": long_header(2 << 30), "headers of 4 MB": long_header(4 << 20),
    "a size below zero": tar(("0.png", PNG)).replace(b"%011o\0" % len(PNG), b"\xff" * 12, 1),
}
LISTS = {
    "list.txt": ("0.png 0\n1.png 1000000\n", "0.png 0\n1.png " + "9" * 5000 + "\n", "0.png 0\n1.png -3\n",
                 "x" * (8 << 20), "0 " * (4 << 20)),
    "m.jsonl": ('{"path": "0.png", "labels": ' + "[" * 100_000, '{"path": "\\ud800.png"}\n',
                '{"path": "0.png", "labels": ["\\ud800"]}\n', '{"path": "0.png", "text": "\\ud83d"}\n',
                '{"path": "0.png", "labels": [' + "[" * 400 + "]" * 401 + '}\n',
                '{"path": "0.png", "labels": [1e999]}\n',
                '{"path": "0.png", "labels": ' + "9" * 5000 + "}\n", '{"path": "0.png", "labels": {"a": NaN}}\n'),
    "m.csv": ('path,labels\n0.png,"' + "[" * 100_000 + '"\n', "path,labels\n0.png," + "x|" * (1 << 20) + "\n",
              "path,label\n0.png,\x00\n1.png,\x1b[31m\n../2.png,x\n", '"' + "x" * (4 << 20)),
}
COCO = {
    "deep": b'{"images": ' + DEEP, "a list": b"[]", "numbers for names": b'{"images": [{"id": 1, "file_name": 2}]}',
    "names with line ends": json.dumps({"images": [{"id": 1, "file_name": "a.jpg 1\nb.jpg"}], "annotations": [],
                                        "categories": []}).encode(),
    "lists for ids": b'{"images": [{"id": [1], "file_name": "a"}]}',
    "mixed ids": json.dumps({"images": [{"id": 1, "file_name": "a"}], "annotations": [],
                             "categories": [{"id": 1, "name": "a"}, {"id": "b", "name": "b"}]}).encode(),
    "half a character": b'{"images": [{"id": 1, "file_name": "\\ud800"}]}',
}


def cifar_archives():
    """gz archives: a member of 10 GB that is not there, headers of 1 GB, 600 MB of zeros, no gz at all."""
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.size = 10 << 30
    zeros = tarfile.TarInfo("zeros")
    zeros.size = 40 << 20
    packed = 15 * gzip.compress(zeros.tobuf() + bytes(zeros.size), 1)
    return {"a member that is not there": gzip.compress(info.tobuf()), "zeros": packed, "cut": packed[:1000],
            "headers": gzip.compress(long_header(1 << 30), 1), "no gz": b"\x1f\x8b" + bytes(50)}


@pytest.fixture(scope="module")
def outcomes(folder):
    """name -> what reading came to."""
    files = {}

    def add(kind, ending, some):
        for name, data in some.items():
            files[f"{kind}: {name}"] = (f"{len(files)}{ending}", data)
    add("npz", ".npz", FEATURES)
    add("tar", ".tar", SHARDS)
    add("cifar", ".tar.gz", cifar_archives())
    for name, texts in LISTS.items():
        add(name, name, {str(i): text.encode() for i, text in enumerate(texts)})
    for i, (name, data) in enumerate(COCO.items()):
        files[f"coco: {name}"] = (f"instances{i}.json", data)
    for name, file in hdf5(folder).items():
        files[f"hdf5: {name}"] = (file, None)
    add("v5", ".mat", {"sparse, far too large": sparse(1 << 30, 1 << 20), "sparse, negative": sparse(-4, 4)})
    for i, text in enumerate((b"{", DEEP, b'{"protocol": "coco", "seed": Infinity}', b"[1]", b'{"seed": "x"}')):
        (folder / f"d{i}").mkdir()
        (folder / f"d{i}" / "lists.json").write_bytes(text)
        files[f"lists.json: {i}"] = (f"d{i}/lists.json", None)
    return outcomes_of(LOAD, files, folder, seconds=SECONDS)


def test_each_file_is_refused_in_one_line_within_its_limits(outcomes):
    assert len(outcomes) > 70
    wrong = {name: answer for name, answer in outcomes.items()
             if not answer.startswith("refused: ") or not answer.isprintable() or len(answer) > 500}
    assert not wrong


def test_reasons(outcomes):
    for name, words in (("npz: shape beyond its bytes", "does not fit its bytes"),
                        ("npz: ids twice", "the id a is that of"), ("npz: negative classes", "class number -4"),
                        ("hdf5: external storage", "lies in another file"),
                        ("hdf5: external link", "lies in another file"),
                        ("hdf5: virtual storage", "lies in another file"),
                        ("hdf5: shape without bytes", "DEEPHASH_MAX_ARRAY_BYTES"),
                        ("v5: sparse, far too large", "DEEPHASH_MAX_ARRAY_BYTES"),
                        ("tar: an id with half a character", "half of a character"),
                        ("cifar: a member that is not there", "too large"), ("cifar: zeros", "too large"),
                        ("coco: names with line ends", "no file name"), ("list.txt: 0", "are these class numbers?"),
                        ("m.jsonl: 0", "broken JSON"), ("m.csv: 0", "broken JSON list")):
        assert words in outcomes[name], (name, outcomes[name])


# damage ------------------------------------------------------------------------------------------------------------
def mutations(data, count, seed):
    """``count`` damaged copies: cut, bytes changed, bytes removed, pieces swapped."""
    rng = random.Random(seed)
    for i in range(count):
        copy = bytearray(data)
        if i % 4 == 0:
            del copy[rng.randrange(len(copy)):]
        elif i % 4 == 1:
            at = rng.randrange(len(copy))
            del copy[at:at + rng.randrange(1, 200)]
        else:
            for _ in range(1 if i % 4 == 2 else 20):
                copy[rng.randrange(len(copy))] = rng.randrange(256)
        yield bytes(copy)


def feature_files():
    """dict ending -> bytes of a sound file in each format."""
    rng = np.random.default_rng(0)
    variables = {"image": rng.random((20, 5)), "text": (rng.random((20, 7)) < .3).astype("f8"),
                 "label": np.eye(3)[np.arange(20) % 3]}
    files = {"a.npz": savez(**variables)}
    for name, compressed in (("b.mat", True), ("c.mat", False)):
        data = io.BytesIO()
        savemat(data, {**variables, "text": csc_matrix(variables["text"])}, do_compression=compressed)
        files[name] = data.getvalue()
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        for name, value in variables.items():
            file.create_dataset(name, data=value.T, compression="gzip").attrs["MATLAB_class"] = np.bytes_("double")
    files["d.mat"] = data.getvalue()
    return files


@pytest.mark.parametrize("name", ["a.npz", "b.mat", "c.mat", "d.mat"])
def test_damaged_feature_files_are_refused_or_read(name, tmp_path):
    """Nothing but a protocol or one line: scipy, h5py, zipfile and zlib have many words for damage."""
    sound = feature_files()[name]
    files = {str(i): (f"{i}{name[1:]}", data) for i, data in enumerate(mutations(sound, 60, name))}
    files["sound"] = (f"sound{name[1:]}", sound)
    for i in list(files):  # each in a folder of its own: siblings of a .mat belong to it
        (tmp_path / i).mkdir()
        files[i] = (f"{i}/{files[i][0]}", files[i][1])
    answers = outcomes_of(LOAD, files, tmp_path, seconds=SECONDS)
    assert answers.pop("sound") == "read"
    wrong = {i: answer for i, answer in answers.items() if answer != "read" and not
             (answer.startswith("refused: ") and answer.isprintable())}
    assert not wrong, wrong
    assert sum(answer != "read" for answer in answers.values()) > 10


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["image", "text", "label", "is_train", "ids", "classes", "I_tr", "I_te"]),
                       st.tuples(st.lists(st.integers(0, 4), max_size=5).map(tuple),
                                 st.sampled_from(["f4", "f8", "u1", "i8", "?", "U2", "S3", "c8"])), min_size=1))
def test_any_arrays_are_a_protocol_or_one_line(tmp_path_factory, arrays):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    np.savez(path, **{name: np.ones(shape, dtype) for name, (shape, dtype) in arrays.items()})
    try:
        protocol = load_features_protocol(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(len(split) for split in protocol.splits)


# small things ---------------------------------------------------------------------------------------------------------
def test_patterns_name_no_more_shards_than_there_can_be():
    assert len(expand_braces("a/{0..9}{0..9}.tar")) == 100
    for pattern in ("{0..9999999999}.tar", "{0..999999}{0..999999}.tar", "{0..99999999999999999999999}", "{a,b}" * 40):
        with pytest.raises(InputError, match="too many shards"):
            expand_braces(pattern)


def test_a_damaged_index_beside_a_shard_changes_nothing(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar(*[(f"{i}.png", PNG) for i in range(4)]))
    before = load_protocol(tmp_path / "x.tar").record()
    for data in (b"", b"PK\x03\x04", savez(stamp=np.zeros(3, np.int64)), FEATURES["bomb"]):
        (tmp_path / "x.tar.index").write_bytes(data)
        assert load_protocol(tmp_path / "x.tar").record() == before


def test_lists_cannot_be_written_with_names_they_cannot_hold(tmp_path, run):
    for split, name in (("train", "a\nb.png"), ("test", "c.png")):
        (tmp_path / "in" / split).mkdir(parents=True)
        (tmp_path / "in" / split / name).write_bytes(PNG)
    done = run("-m", "utils.datasets", "shard", tmp_path / "in", "--out", tmp_path / "out", ok=False)
    assert done.returncode == 2 and r"cannot hold the path 'train/a\nb.png'" in done.stderr
    assert os.listdir(tmp_path) == ["in"]
