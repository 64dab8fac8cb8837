"""Code files survive what users and disks do to them; the health figures mean what they say."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from utils.errors import InputError
from utils.files import write_npz
from utils.retrieval.codes import CodeFile, code_health, format_health
from utils.retrieval.hamming import pack

quick = settings(max_examples=40, deadline=None)


def make(n=5, bits=12, labels=True, seed=0, **more):
    rng = np.random.default_rng(seed)
    return CodeFile(pack(rng.standard_normal((n, bits))), bits, [f"images/{i}.jpg" for i in range(n)],
                    rng.integers(0, 2, (n, 11)).astype(np.uint8) if labels else None,
                    fingerprint="0123456789abcdef", meta={"protocol": "shapes", "classes": ["红", "b"]}, **more)


def same(a, b):
    return (a.codes.dtype == b.codes.dtype and np.array_equal(a.codes, b.codes) and a.bits == b.bits and a.ids == b.ids
            and (a.labels is None) == (b.labels is None)
            and (a.labels is None or (a.labels.dtype == b.labels.dtype and np.array_equal(a.labels, b.labels)))
            and a.fingerprint == b.fingerprint and a.meta == b.meta)


@quick
@given(n=st.integers(0, 12), bits=st.sampled_from([1, 12, 16, 64, 1000, 1024]), labels=st.booleans(),
       seed=st.integers(0, 9))
def test_round_trip(tmp_path_factory, n, bits, labels, seed):
    path = tmp_path_factory.getbasetemp() / "round_trip.npz"
    codes = make(n, bits, labels, seed)
    codes.save(path)
    loaded = CodeFile.load(path, fingerprint="0123456789abcdef")
    assert same(loaded, codes) and len(loaded) == n


@quick
@given(st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=8), max_size=6))
def test_any_id_survives(tmp_path_factory, ids):
    path = tmp_path_factory.getbasetemp() / "ids.npz"
    ids = ids + ["", " blanks ", "two\nlines", "nul\0", "nul at the end\0", "图像/猫.jpg", "\udcff no Unicode", "😀"]
    CodeFile(np.zeros((len(ids), 2), np.uint8), 16, ids).save(path)
    assert CodeFile.load(path).ids == ids


def test_name_without_npz_and_same_bytes(tmp_path):
    make().save(tmp_path / "codes.bin")
    make().save(tmp_path / "again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "codes.bin"]
    assert (tmp_path / "codes.bin").read_bytes() == (tmp_path / "again").read_bytes()


def test_codes_of_another_model_are_refused(tmp_path):
    make().save(tmp_path / "c.npz")
    with pytest.raises(InputError, match="another model.*0123456789abcdef.*feed"):
        CodeFile.load(tmp_path / "c.npz", fingerprint="feed")


def test_every_truncation_is_noticed(tmp_path):
    make(40).save(tmp_path / "c.npz")
    data = (tmp_path / "c.npz").read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "t.npz").write_bytes(data[:length])
        with pytest.raises(InputError, match="damaged"):
            CodeFile.load(tmp_path / "t.npz")


def test_a_flipped_bit_never_changes_the_contents_silently(tmp_path):
    codes = make(40)
    codes.save(tmp_path / "c.npz")
    data = (tmp_path / "c.npz").read_bytes()
    noticed = 0
    for position in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "f.npz").write_bytes(bytes(damaged))
        try:
            assert same(CodeFile.load(tmp_path / "f.npz"), codes)  # dates and flags of the archive do not matter
        except InputError:
            noticed += 1
    assert noticed > len(data) / 5 / 2


@pytest.mark.parametrize("write", [
    lambda path: path.write_text("not an archive"),
    lambda path: np.savez(path, codes=np.zeros((2, 2), np.uint8)),
    lambda path: np.savez(path, header=np.array([{"a": 1}], dtype=object)),
    lambda path: np.savez(path, header=np.frombuffer(json.dumps({"format": "x"}).encode(), np.uint8),
                          ids=np.frombuffer(b"[]", np.uint8), codes=np.zeros((0, 2), np.uint8)),
    lambda path: np.save(path, np.zeros(3)),
], ids=["text", "other arrays", "pickle", "other header", "npy"])
def test_files_of_other_kinds_are_refused(tmp_path, write):
    write(tmp_path / "x.npz")
    path = next(tmp_path.iterdir())
    with pytest.raises(InputError, match="no code file") as error:
        CodeFile.load(path)
    assert "\n" not in str(error.value)


def test_missing_file_names_the_way_out(tmp_path):
    with pytest.raises(InputError, match="no code file at .*encode"):
        CodeFile.load(tmp_path / "nothing.npz")


def test_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.retrieval.codes._VERSION", 2)
    make().save(tmp_path / "c.npz")
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 2"):
        CodeFile.load(tmp_path / "c.npz")


@pytest.mark.parametrize("change, words", [
    ({"ids": ["one"]}, "5 codes but 1 ids"),
    ({"ids": [1, 2, 3, 4, 5]}, "strings"),
    ({"bits": 24}, "not a code of 24"),
    ({"bits": 9}, "behind bit 9"),
    ({"labels": np.zeros((4, 3), np.uint8)}, "4 rows"),
    ({"labels": np.zeros((5, 3), np.int64)}, "uint8"),
    ({"labels": np.full((5, 3), 2, np.uint8)}, "found 2"),
    ({"meta": {"x": object()}}, "plain JSON"),
    ({"meta": {"x": float("nan")}}, "plain JSON"),
])
def test_parts_that_do_not_fit_leave_the_old_file(tmp_path, change, words):
    path = tmp_path / "c.npz"
    make().save(path)
    before = path.read_bytes()
    broken = make()
    for name, value in change.items():
        setattr(broken, name, value)
    with pytest.raises(InputError, match=words):
        broken.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        make().save(tmp_path / "file" / "c.npz")


FULL = """
import resource, sys
import numpy as np
from utils.errors import InputError, run_main
from utils.retrieval.codes import CodeFile
def main(argv):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(argv[0]), int(argv[0])))
    ids = [str(i) for i in range(9000)]
    CodeFile(np.zeros((9000, 8), np.uint8), 64, ids, np.ones((9000, 3), np.uint8)).save(argv[1])
run_main(main)
"""


@pytest.mark.parametrize("limit", [0, 100, 2000, 60_000, 130_000])  # at the start, in each member, in the last one
def test_a_full_disk_is_one_line(tmp_path, limit):
    make().save(tmp_path / "old.npz")
    before = (tmp_path / "old.npz").read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL, str(limit), str(tmp_path / "old.npz")], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "cannot write" in done.stderr and "free some space" in done.stderr
    assert (tmp_path / "old.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_an_archive_on_a_full_device_complains_once(capfd):
    code = "from utils.files import write_members; import numpy; write_members(open('/dev/full', 'wb', {}), " \
           "{{'a': numpy.zeros({}), 'b': numpy.zeros(3)}})"
    for buffering in (0, -1):
        for size in (3, 10 ** 6):
            done = subprocess.run([sys.executable, "-c", code.format(buffering, size)], cwd=ROOT, capture_output=True,
                                  text=True)
            assert done.returncode == 1 and "__del__" not in done.stderr and "No space left" in done.stderr


def test_devices_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match="cannot write .*choose another name"):
            make().save(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"] and (tmp_path / "pipe").is_fifo()


def test_the_bytes_are_those_of_numpy(tmp_path):
    arrays = {"a": np.arange(7), "b": np.zeros((0, 3), np.uint8), "c": np.array("x"),
              "d": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    write_npz(tmp_path / "own.npz", arrays)
    np.savez(tmp_path / "numpy.npz", **arrays)
    assert (tmp_path / "own.npz").read_bytes() == (tmp_path / "numpy.npz").read_bytes()


# health -------------------------------------------------------------------------------------
def test_health_of_hand_made_codes():
    x = np.array([[1, 1, 1, -1], [1, 1, -1, -1], [-1, -1, 1, -1], [-1, -1, -1, -1]])
    health = code_health(pack(x), 4)
    # bits 0 and 1 are equal, bit 2 is independent of them, bit 3 is constant
    assert health == {"bit_balance": 0.75, "mean_abs_correlation": pytest.approx(1 / 3), "distinct_codes": 4,
                      "constant_bits": 1, "items": 4}
    assert "\n" not in format_health(health) and "4 distinct codes of 4" in format_health(health)


def test_health_of_collapsed_codes():
    assert code_health(pack(np.ones((50, 70))), 70) == {
        "bit_balance": 0.0, "mean_abs_correlation": 0.0, "distinct_codes": 1, "constant_bits": 70, "items": 50}


@quick
@given(st.integers(0, 99), st.integers(1, 80), st.integers(2, 90))
def test_health_equals_numpy(seed, n, bits):
    x = np.where(np.random.default_rng(seed).random((n, bits)) < 0.3, 1, -1)
    health = code_health(pack(x), bits)
    assert health["distinct_codes"] == len(np.unique(x, axis=0))
    p = (x > 0).mean(0)
    assert health["bit_balance"] == pytest.approx((1 - abs(2 * p - 1)).mean(), abs=1e-12)
    varying = x[:, x.std(0) > 0]
    if varying.shape[1] > 1:
        correlation = np.corrcoef(varying.T)
        pairs = ~np.eye(len(correlation), dtype=bool)
        assert health["mean_abs_correlation"] == pytest.approx(abs(correlation[pairs]).mean(), abs=1e-9)


def test_health_over_several_blocks_of_rows(monkeypatch):
    codes = pack(np.random.default_rng(0).standard_normal((1000, 20)))
    whole = code_health(codes, 20)
    monkeypatch.setattr("utils.retrieval.codes._ROWS", 64)
    assert code_health(codes, 20) == whole


def test_health_needs_codes():
    with pytest.raises(InputError):
        code_health(np.zeros((0, 2), np.uint8), 16)
    with pytest.raises(InputError):
        code_health(np.zeros((3, 2), np.uint8), 32)


# other types --------------------------------------------------------------------------------------
def rewritten(path, header=None, ids=None, **arrays):
    """A code file with other values in its header, other ids or arrays (None = left out)."""
    with np.load(path) as file:
        parts = {name: file[name] for name in file.files}
    old = json.loads(parts["header"].tobytes())
    if header is not None:
        meta = header.get("meta", {})
        meta = {**old["meta"], **meta} if isinstance(meta, dict) else meta
        parts["header"] = np.frombuffer(json.dumps({**old, **header, "meta": meta}).encode(), np.uint8)
    if ids is not None:
        parts["ids"] = np.frombuffer(ids.encode(), np.uint8)
    parts.update(arrays)
    write_npz(path, {name: array for name, array in parts.items() if array is not None})


@pytest.mark.parametrize("changes, word", [
    *[({"header": {key: value}}, key) for key in ("bits", "items", "fingerprint")
      for value in (None, True, -1, 1.5, [], {})],
    ({"header": {"classes": 10 ** 7}}, "packed rows of labels"), ({"header": {"classes": 10 ** 30}}, "damaged"),
    ({"header": {"classes": 3}}, "packed rows"), ({"header": {"classes": 0}}, "classes"),
    ({"header": {"classes": [1]}}, "classes"), ({"header": {"items": 10 ** 12}}, "packed rows"),
    ({"header": {"bits": 10 ** 12}}, "not a code of"), ({"header": {"meta": [1]}}, "meta"),
    ({"header": {"version": [1]}}, "format"), ({"header": {"format": {}}}, "no code file"),
    ({"header": {"meta": {"classes": ["a"] * 12}}}, "12 classes but 11 columns"),
    ({"header": {"meta": {"classes": "abc"}}}, "meta.classes"), ({"header": {"meta": {"stamps": [1]}}}, "1 stamps"),
    ({"header": {"meta": {"stamps": "abcde"}}}, "meta.stamps"), ({"header": {"meta": {"broken": [1]}}}, "meta.broken"),
    ({"header": {"meta": {"data": {"gallery": 3}}}}, "meta.data.gallery"), ({"header": {"meta": {"data": 3}}}, "data"),
    ({"header": {"meta": {"modality": 1}}}, "meta.modality"), ({"header": {"meta": {"root": []}}}, "meta.root"),
    ({"ids": "{}"}, "damaged"), ({"ids": "[1, 2, 3, 4, 5]"}, "strings"), ({"ids": "[" * 5000}, "damaged"),
    ({"ids": "[" + "9" * 5000 + "]"}, "damaged"), ({"codes": None}, "damaged"),
    ({"label_bits": None}, "no packed rows"),
    ({"codes": np.zeros((5, 2))}, "damaged"), ({"codes": np.zeros((4, 2), np.uint8)}, "4 codes"),
    ({"label_bits": np.zeros((5, 3), np.uint8)}, "packed rows"), ({"label_bits": np.zeros((5, 2))}, "packed rows"),
    ({"relaxed": np.zeros((5, 3), np.float16)}, "relaxed"), ({"relaxed": np.array("x")}, "relaxed")])
def test_other_types_are_one_line(tmp_path, changes, word):
    path = tmp_path / "c.npz"
    make().save(path)
    rewritten(path, **changes)
    with pytest.raises(InputError) as caught:
        CodeFile.load(path)
    assert str(caught.value).startswith(str(path)) and word in str(caught.value) and "\n" not in str(caught.value)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.limits.limit", lambda name: 1 << 20)
    make().save(tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as file:
        parts = {name: file[name] for name in file.files}
    np.savez_compressed(tmp_path / "c.npz", **{**parts, "codes": np.zeros(20 << 20, np.uint8)})
    with pytest.raises(InputError, match="damaged"):
        CodeFile.load(tmp_path / "c.npz")
