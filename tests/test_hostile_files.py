"""Files made to cost memory or time, each read in a child with 500 MB and 2 seconds of CPU: one line, nothing else."""
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.hostile import outcomes_of

READ_BATCH = """
from utils.datasets.protocols.cifar10 import read_batch
def read(path):
    return read_batch(open(path, "rb").read(), path)
"""


def nested(levels=60):
    """Instructions that remember, as number 48, a tuple of 2 ** 48 parts: ((t, t), (t, t)) ..."""
    return b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(levels)) + b"0" * (levels + 1)


def short(text):
    return b"X" + struct.pack("<I", len(text)) + text


DTYPE = b"cnumpy\ndtype\n" + short(b"u2") + b"\x85Rq\xf0"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R"
LARGE = 4 << 20


def array_of(data, count):
    """Instructions for an array of uint16 from what the instructions ``data`` put on the stack."""
    return ARRAY + b"(K\x01J" + struct.pack("<i", count) + b"\x85h\xf0\x89" + data + b"tb"


def pickles():
    """name -> bytes of hostile pickles."""
    key = b"\x80\x02" + nested()
    blob = b"B" + struct.pack("<I", LARGE) + bytes(LARGE) + b"q\xee"
    latin = short(bytes(LARGE)) + b"q\xee0c_codecs\nencode\nq\xef0"
    names = [short(b"k%06d" % i) for i in range(2000)]
    return {
        "nested tuples as key": key + b"}h\x30K\x01s.",
        "nested tuples as type": key + b"cnumpy\ndtype\nh\x30\x85R.",
        "nested tuples as coding": key + b"c_codecs\nencode\nX\x00\x00\x00\x00h\x30\x86R.",
        "nested tuples as attribute": key + b"}h\x30b.",
        "nested tuples as slices": key + b"}(" + short(b"w") + ARRAY + short(b"UnpackBigParamInfor@@") + b"}" + short(
            b"w") + b"}(" + short(b"slices") + b"]h\x30a" + short(b"OriginShape") + b"h\x30usu.",
        "memo index": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "memo index, 5 bytes": b"\x80\x02]r\xff\xff\xff\xff.",
        "long text": b"\x80\x02X\xff\xff\xff\xff",
        "long text of 8 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40),
        "long bytes": b"\x80\x04\x8e" + struct.pack("<Q", (1 << 64) - 1),
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 33),
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
        "long number": b"\x80\x02\x8b" + struct.pack("<i", 5_000_000) + b"\x7f" * 5_000_000 + b".",
        "bytes made again and again": b"\x80\x02" + latin + b"]q\xed("
        + (b"h\xefh\xee" + short(b"latin1") + b"\x86R") * 500 + b"e.",
        "many arguments": b"\x80\x02(" + b"N" * 200_000 + b"tq\xee0ccollections\nCounter\nq\xef0(" +
        b"h\xefh\xeeR" * 200_000 + b"t.",
        "tuples of a long list": b"\x80\x02](" + b"N" * 200_000 + b"eq\xee0cbuiltins\ntuple\nq\xef0(" +
        b"h\xefh\xee\x85R" * 200_000 + b"t.",
        "four million dicts": b"\x80\x02(" + b"}" * 4_000_000 + b"t.",
        "a million nested lists": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
        "a million nested tuples": b"\x80\x02)" + b"\x85" * 1_000_000 + b".",
        "marks": b"\x80\x02" + b"(" * 1_900_000 + b".",
        "one array of bfloat16 under many names": b"\x80\x02" + DTYPE + b"0" + array_of(blob, LARGE // 2) + b"q\xea0}("
        + b"h\xea".join(names) + b"h\xeau.",
        "many arrays of the same bytes": b"\x80\x02" + DTYPE + b"0" + blob + b"0}(" + b"".join(
            name + array_of(b"h\xee", LARGE // 2) for name in names) + b"u.",
        "an array larger than its bytes": b"\x80\x02" + DTYPE + b"0}" + short(b"w")
        + array_of(b"C\x08" + bytes(8), 1 << 30) + b"s.",
        "itself as a wrapper": b"\x80\x02" + DTYPE + b"0}q\x01(" + short(b"model") + b"h\x01" + short(b"w")
        + array_of(b"C\x02ab", 1) + b"u.",
        "keys that collide": b"\x80\x02}(" + b"".join(
            b"\x8a\x11" + ((i + 1) * ((1 << 61) - 1)).to_bytes(17, "little") + b"N" for i in range(100_000)) + b"u.",
        "a name without end": b"\x80\x02c" + b"a" * 3_000_000,
        "a name with escapes": b"\x80\x04" + short(b"\x1b[31mos\n") + short(b"system") + b"\x93.",
    }


def torch_zip(index, entries=(), how=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        archive.writestr("archive/data.pkl", index)
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def tensor(storage_count, size, stride):
    """Pickle of {"w": a tensor} on a storage of floats."""
    def whole(number):
        return b"J" + struct.pack("<i", number)
    numbers = b"".join(b"(" + b"".join(map(whole, values)) + b"t" for values in (size, stride))
    storage = short(b"storage") + b"ctorch\nFloatStorage\n" + short(b"0") + short(b"cpu") + whole(storage_count)
    return (b"\x80\x02}" + short(b"w") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQK\x00" + numbers
            + b"\x89}tRs.")


def legacy(body, count, data=b""):
    """torch's older layout around a pickle with one storage."""
    head = b"".join(pickle.dumps(one, 2) for one in (0x1950a86a20f9469cfc6c, 1001, {}))
    return head + body + pickle.dumps(["0"], 2) + struct.pack("<q", count) + data


def directory(entries):
    """A zip file that is all directory."""
    entry = b"PK\x01\x02" + bytes(6) + bytes(36)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries % 65536, entries % 65536, 46 * entries, 0, 0)
    return entry * entries + end


def many_arrays(count):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}.npy", b"")
    return out.getvalue()


def pickle_of_wrappers(levels):
    return b"\x80\x02" + b"}" + (short(b"model") + b"}") * levels + b"s" * levels + b"."


def npz(name, data, how=zipfile.ZIP_STORED, factor=1):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive, archive.open(name, "w", force_zip64=True) as entry:
        for part in [data] * factor:
            entry.write(part)
    return out.getvalue()


def npy(shape, kind="<f8", body=bytes(8)):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
    return out.getvalue() + body


def says_more(data, at, size):
    """A zip file whose directory says that its first entry has ``size`` bytes."""
    where = data.rindex(b"PK\x01\x02") + at
    return data[:where] + struct.pack("<L", size) + data[where + 4:]


def archives():
    """name -> bytes of hostile files of the other kinds."""
    ok = torch_zip(tensor(2, (2,), (1,)), [("archive/data/0", bytes(8))])
    zeros = bytes(64 << 20)
    same = {"dtype": "BF16", "shape": [LARGE // 2], "data_offsets": [0, LARGE]}
    one = b'{"w":{"dtype":"F32","shape":%s,"data_offsets":%s}}'
    return {
        "stride 0": torch_zip(tensor(1, (20_000, 20_000), (0, 0)), [("archive/data/0", bytes(4))]),
        "stride 0, older layout": legacy(tensor(1, (20_000, 20_000), (0, 0)), 1, bytes(4)),
        "storage of 4 GB, older layout": legacy(tensor(1 << 30, (1,), (1,)), 1 << 30),
        "storage with another count": legacy(tensor(2, (2,), (1,)), 1, bytes(8)),
        "storage of 4 GB": torch_zip(tensor(1 << 30, (1,), (1,)), [("archive/data/0", bytes(4))]),
        "data.pkl of zeros": npz("archive/data.pkl", zeros, zipfile.ZIP_DEFLATED, 2),
        "data.pkl that says 1.6 GB": says_more(ok, 24, 1_600_000_000),
        "bzip2": torch_zip(b"\x80\x02}.", how=zipfile.ZIP_BZIP2),
        "a directory of 200,000 entries": directory(200_000),
        "an npz of 60,000 arrays": many_arrays(60_000),
        "wrappers inside wrappers": pickle_of_wrappers(100_000),
        "entries without end": directory(60_000)[:-100],
        "npz of zeros": npz("w.npy", zeros, zipfile.ZIP_DEFLATED, 2),
        "npz with a large shape": npz("w.npy", npy((10 ** 10,))),
        "npz with a larger shape": npz("w.npy", npy((10 ** 30, 10 ** 30))),
        "npz with a negative shape": npz("w.npy", npy((-1, -1))),
        "npz of objects": npz("w.npy", npy((1,), "|O")),
        "npz of texts": npz("w.npy", npy((1,), "<U2")),
        "npz with a long header": npz("w.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 3 << 20) + b"(" * (3 << 20)),
        "safetensors with a long header": struct.pack("<Q", 1 << 62) + b"{" + bytes(100),
        "safetensors, nested": safetensors(b'{"w":' + b"[" * 3_000_000),
        "safetensors, nested dicts": safetensors(b'{"w":' * 1_000_000),
        "safetensors, long number": safetensors(b'{"w":' + b"9" * 4_000_000 + b"}"),
        "safetensors, a list": safetensors(b'{"w":[1,2]}'),
        "safetensors, overlapping": safetensors(json.dumps({f"w{i}": same for i in range(999)}).encode(), bytes(LARGE)),
        "safetensors, two negatives": safetensors(one % (b"[-1,-2]", b"[0,8]"), bytes(8)),
        "safetensors, infinite": safetensors(one % (b"[Infinity]", b"[0,NaN]"), bytes(8)),
        "safetensors, many small things": safetensors(b'{"w":[' + b"[]," * 600_000 + b"[]]}"),
    }


def safetensors(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """name -> what reading the file in a child came to."""
    folder = tmp_path_factory.mktemp("hostile")
    weights = outcomes_of("from models.backbones.weight_files import read_weights as read", {
        name: (f"{number}.weights", data) for number, (name, data) in enumerate({**pickles(), **archives()}.items())},
        folder)
    batches = outcomes_of(READ_BATCH, {f"{name}, as a CIFAR-10 batch": (f"{number}.batch", data)
                                       for number, (name, data) in enumerate(pickles().items())}, folder)
    return {**weights, **batches}


def test_each_file_is_refused_in_one_line_within_its_limits(outcomes):
    assert len(outcomes) > 70
    wrong = {name: answer for name, answer in outcomes.items()
             if not answer.startswith("refused: ") or not answer.isprintable()}
    assert wrong == {"itself as a wrapper": "read"}


@pytest.mark.parametrize("kind", ["memo", "key", "repeat"])
def test_the_files_would_cost_a_careless_reader(kind):
    """What is refused is refused for a reason: Python's own unpickler needs more than the limits."""
    data = {"memo": pickles()["memo index"], "key": pickles()["nested tuples as key"],
            "repeat": b"\x80\x02" + b"B" + struct.pack("<I", LARGE) + bytes(LARGE) + b"."}[kind]
    code = ("import io, pickle, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20));"
            "resource.setrlimit(resource.RLIMIT_CPU, (2, 3)); pickle.loads(sys.stdin.buffer.read())")
    done = subprocess.run([sys.executable, "-c", code], input=data, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode != 0) == (kind != "repeat")
