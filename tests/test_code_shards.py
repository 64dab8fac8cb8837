"""Code shards: what goes in comes out, damage is noticed, a collection is opened without being read."""
import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import InputError
from utils.retrieval import code_shards, shard_rows, shard_set
from utils.retrieval.code_shards import Shard, repeated_id, write_shard
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack, topk
from utils.retrieval.shard_rows import Rows
from utils.retrieval.shard_set import CodesInfo, ShardSet
from utils.retrieval.shard_writer import ShardWriter

quick = settings(max_examples=40, deadline=None)
any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)


def make(n=5, bits=12, labels=True, seed=0, relaxed=False, prefix="images/"):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, bits)).astype(np.float16)
    return CodeFile(pack(x), bits, [f"{prefix}{i}.jpg" for i in range(n)],
                    rng.integers(0, 2, (n, 11)).astype(np.uint8) if labels else None, "0123456789abcdef",
                    {"protocol": "shapes", "classes": ["红", "b"], "precision": "bf16"}, x if relaxed else None)


def same(a, b):
    """Whether two CodeFiles hold the same items; ``meta`` is the writer's own."""
    def equal(x, y):
        return x is None and y is None or x.dtype == y.dtype and np.array_equal(x, y)
    return (a.bits == b.bits and a.ids == b.ids and a.fingerprint == b.fingerprint
            and all(equal(getattr(a, name), getattr(b, name)) for name in ("codes", "labels", "relaxed")))


def write(folder, *parts, info=None):
    writer = ShardWriter(folder, info or CodesInfo.of(parts[0]))
    for number, part in enumerate(parts):
        writer.write(number, part)
    return writer.publish(len(parts))


# one shard ----------------------------------------------------------------------------------
@quick
@given(n=st.integers(0, 12), bits=st.sampled_from([1, 12, 16, 40, 48, 64, 100, 1000, 1024]), labels=st.booleans(),
       relaxed=st.booleans(), seed=st.integers(0, 9))
def test_round_trip(tmp_path_factory, n, bits, labels, relaxed, seed):
    folder = tmp_path_factory.mktemp("round_trip")
    codes = make(n, bits, labels, seed, relaxed)
    found = write(folder, codes)
    assert same(found.to_codefile(), codes) and len(found) == n
    assert found.to_codefile().meta == codes.meta
    found.check()


@quick
@given(st.lists(any_text, max_size=6))
def test_any_id_survives_and_is_found(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("ids")
    ids = list(dict.fromkeys([*ids, "", " blanks ", "two\nlines", "nul\0", "nul at the end\0", "图像/猫.jpg",
                              "\udcff no Unicode", "\ud83d\ude00", "😀"]))
    found = write(folder, CodeFile(np.zeros((len(ids), 2), np.uint8), 16, ids))
    assert found.to_codefile().ids == ids
    assert found.find(ids).tolist() == list(range(len(ids)))
    assert found.find(["absent", *ids[:1]]).tolist() == [-1, 0]


def test_equal_contents_give_equal_bytes(tmp_path):
    info = CodesInfo.of(make())
    assert write_shard(tmp_path / "a", make(), info) == write_shard(tmp_path / "b", make(), info)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert write_shard(tmp_path / "c", make(seed=1), info) != write_shard(tmp_path / "a", make(), info)


@pytest.mark.parametrize("bits", [16, 40, 48, 64, 100, 128])
def test_a_search_reads_the_mapped_file(tmp_path, bits):
    codes = make(300, bits)
    write_shard(tmp_path / "a", codes, CodesInfo.of(codes))
    shard = Shard(tmp_path / "a")
    assert not shard.words.flags.owndata and shard._pieces["codes"][0] == code_shards.HEADER
    for ours, theirs in zip(topk(codes.codes[:7], shard.words, 20), topk(codes.codes[:7], codes.codes, 20)):
        assert np.array_equal(ours, theirs)


def test_rows_are_picked_in_any_way(tmp_path):
    codes = make(30, 20, relaxed=True)
    write_shard(tmp_path / "a", codes, CodesInfo.of(codes), {"note": [1]})
    shard = Shard(tmp_path / "a")
    for rows in (np.array([3, 3, 29, 0]), slice(4, 9), np.arange(30) % 3 == 0):
        assert np.array_equal(shard.codes(rows), codes.codes[rows])
        assert shard.ids(rows) == list(np.array(codes.ids)[rows])
        assert np.array_equal(shard.label_rows(rows), codes.labels[rows])
    assert shard.meta == {"note": [1]}
    assert [i for i, on in enumerate(shard.starts_with(b"images/2")) if on] == [2, *range(20, 30)]
    assert np.array_equal(shard.has_label(9), codes.labels[:, 9] == 1)


@quick
@given(st.lists(any_text, min_size=1, max_size=20), st.data())
def test_rows_sliced_selected_and_regrouped(ids, data):
    codes = CodeFile(np.arange(2 * len(ids), dtype=np.uint8).reshape(-1, 2), 16, ids)
    rows = Rows.of(codes)
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    size = data.draw(st.integers(1, 25))

    def text(part):
        return [part.names[int(a):int(b)].tobytes() for a, b in zip(part.ends, part.ends[1:])]

    names = text(rows)
    assert names == shard_rows.encode_ids(ids)
    assert text(rows.slice(start, stop)) == names[start:stop]
    assert text(rows.select(mask)) == [name for name, keep in zip(names, mask) if keep]
    groups = list(Rows.regroup([rows.slice(0, start), rows.slice(start, len(ids))], size))
    assert [len(group) for group in groups] == [size] * (len(ids) // size) + [len(ids) % size] * bool(len(ids) % size)
    whole = Rows.join(groups)
    assert text(whole) == names and np.array_equal(whole.keys, rows.keys) and np.array_equal(whole.words, rows.words)


def test_ids_with_one_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_rows, "id_keys", lambda names: np.zeros(len(names), np.uint64))
    monkeypatch.setattr(shard_set, "id_keys", lambda names: np.zeros(len(names), np.uint64))
    found = write(tmp_path, make(9), make(4, prefix="other/"))
    assert found.find(["images/7.jpg", "other/2.jpg", "none"]).tolist() == [7, 11, -1]
    found.check()


# damage -------------------------------------------------------------------------------------
def test_every_truncation_is_noticed_at_once(tmp_path):
    write_shard(tmp_path / "a", make(40), CodesInfo.of(make()))
    data = (tmp_path / "a").read_bytes()
    for length in [*range(0, 4097, 97), *range(4097, len(data), 31)]:
        (tmp_path / "t").write_bytes(data[:length])
        with pytest.raises(InputError, match="damaged"):
            Shard(tmp_path / "t")


def test_a_flipped_bit_never_changes_the_contents_silently(tmp_path):
    codes = make(40, relaxed=True)
    write(tmp_path, codes)
    noticed = 0
    for name in (shard_set.MANIFEST, "shard-00000000.codes"):
        data = (tmp_path / name).read_bytes()
        for position in range(0, len(data), 13):
            damaged = bytearray(data)
            damaged[position] ^= 1 << position % 8
            (tmp_path / name).write_bytes(bytes(damaged))
            try:
                found = ShardSet(tmp_path)
                found.check()
                assert same(found.to_codefile(), codes)  # the blanks between pieces do not matter
            except InputError as error:
                noticed += 1
                assert "\n" not in str(error)
        assert noticed > len(data) / 13 * 0.9
        (tmp_path / name).write_bytes(data)


def test_shards_of_elsewhere_are_refused(tmp_path):
    write(tmp_path / "a", make(6))
    write(tmp_path / "b", make(6, seed=1))
    os.replace(tmp_path / "b" / "shard-00000000.codes", tmp_path / "a" / "shard-00000000.codes")
    with pytest.raises(InputError, match="not the shard that the manifest names"):
        ShardSet(tmp_path / "a")
    os.remove(tmp_path / "a" / "shard-00000000.codes")
    with pytest.raises(InputError, match="shard-00000000.codes is missing"):
        ShardSet(tmp_path / "a")


@pytest.mark.parametrize("text, words", [
    ("", "damaged or no manifest"), ("[]", "damaged or no manifest"), ('{"format": "x", "version": 1}', "no manifest"),
    (json.dumps({"format": "PaddleDeepHash code shards", "version": 7}), "format 7"),
    (json.dumps({"format": "PaddleDeepHash code shards", "version": 1}), "damaged")])
def test_manifests_of_other_kinds(tmp_path, text, words):
    (tmp_path / shard_set.MANIFEST).write_text(text)
    with pytest.raises(InputError, match=words):
        ShardSet(tmp_path)


def test_other_models_and_missing_folders(tmp_path):
    write(tmp_path / "a", make())
    with pytest.raises(InputError, match="another model.*0123456789abcdef.*feed"):
        ShardSet(tmp_path / "a", fingerprint="feed")
    with pytest.raises(InputError, match="no collection of codes at .*none"):
        ShardSet(tmp_path / "none")
    (tmp_path / "x.codes").write_text("not a shard")
    with pytest.raises(InputError, match="no code shard"):
        Shard(tmp_path / "x.codes")


# a collection -------------------------------------------------------------------------------
def test_a_collection_of_many_shards_is_one(tmp_path):
    parts = [make(n, 20, seed=n, prefix=f"{n}/", relaxed=True) for n in (4, 0, 7, 1)]
    found = write(tmp_path, *parts)
    ids = [name for part in parts for name in part.ids]
    assert len(found) == 12 and found.to_codefile().ids == ids and found.find(ids).tolist() == list(range(12))
    picked = found.take([11, 0, 5, 5])
    assert picked.ids == [ids[11], ids[0], ids[5], ids[5]]
    assert np.array_equal(picked.relaxed, np.concatenate([part.relaxed for part in parts])[[11, 0, 5, 5]])
    assert [len(batch) for _, batch in found.batches(3)] == [3, 1, 3, 3, 1, 1]
    assert found.info.precision == "bf16" and found.info.classes == ["红", "b"]


def test_work_is_taken_up_where_it_was_left(tmp_path):
    info = CodesInfo.of(make())
    writer = ShardWriter(tmp_path, info)
    writer.write(1, make(3, prefix="b/"), {"inputs": "abc"})
    assert writer.find(0) is None and writer.find(1).meta == {"inputs": "abc"}
    (tmp_path / ".shard-00000000.x7.part.codes").write_bytes(b"of a killed writer")
    with pytest.raises(InputError, match="shard-00000000.codes is missing"):
        writer.publish(2)
    ShardWriter(tmp_path, info).write(0, make(3, prefix="a/"))
    assert writer.publish(2).to_codefile().ids == ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg"]
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "shard-00000000.codes", "shard-00000001.codes"]
    with pytest.raises(InputError, match="shard of another collection"):
        ShardWriter(tmp_path, dataclasses.replace(info, precision="fp32")).find(1)
    (tmp_path / "shard-00000001.codes").write_bytes(b"half")
    with pytest.raises(InputError, match="damaged"):
        writer.find(1)


@pytest.mark.parametrize("change, words", [
    ({"bits": 24, "codes": np.zeros((5, 3), np.uint8)}, "24 bits, the collection has 12"),
    ({"fingerprint": "feed"}, "another model"), ({"labels": None}, "no label columns"),
    ({"labels": np.zeros((5, 3), np.uint8)}, "3 label columns, the collection has 11"),
    ({"meta": {"classes": ["b", "红"]}}, "other class names"), ({"ids": ["one"]}, "5 codes but 1 ids"),
    ({"relaxed": None}, "without relaxed codes")])
def test_codes_of_another_collection_are_refused(tmp_path, change, words):
    writer = ShardWriter(tmp_path, CodesInfo.of(make(relaxed=True)))
    with pytest.raises(InputError, match=words):
        writer.write(0, dataclasses.replace(make(relaxed=True), **change))
    assert not list(tmp_path.iterdir())


def test_an_id_stands_once(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="'images/0.jpg' stands in two places"):
        write(tmp_path, make(4), make(4, prefix="x"), make(1))
    monkeypatch.setattr(code_shards, "_RANGE", 5)  # the keys are looked at in many ranges
    with pytest.raises(InputError, match="'images/0.jpg' stands in two places"):
        write(tmp_path, make(4), make(4, prefix="x"), make(1))
    shards = [Shard(tmp_path / f"shard-0000000{i}.codes") for i in range(2)]
    assert repeated_id([(shard, None) for shard in shards]) is None


def test_a_code_file_and_shards_hold_the_same(tmp_path):
    codes = make(50, 24, relaxed=True)
    codes.save(tmp_path / "c.npz")
    found = write(tmp_path / "shards", CodeFile.load(tmp_path / "c.npz"))
    found.to_codefile().save(tmp_path / "again.npz")
    assert same(CodeFile.load(tmp_path / "again.npz"), codes)


def test_opening_reads_headers_only(tmp_path):
    """A file of 4 GB that takes no room on the disk: nothing of it is read."""
    rows = 1 << 27
    words = rows * 8
    sizes = {"codes": words, "ends": words + 8, "ids": 0, "keys": words, "key_rows": rows * 4, "meta": 2}
    header, digest = code_shards.make_header(CodesInfo(64), rows, 8, {name: (size, "0" * 64)
                                                                      for name, size in sizes.items()})
    path = tmp_path / shard_set.shard_name(0)
    path.write_bytes(header)
    end = max(offset + size for offset, size, _ in json.loads(header[:-65])["pieces"].values())
    os.truncate(path, end)
    shard_set.write_manifest(tmp_path, CodesInfo(64), [{"name": path.name, "rows": rows, "digest": digest,
                                                        "removed": None}])
    found = ShardSet(tmp_path)
    assert len(found) == rows and found.take([rows - 1]).ids == [""]
    assert path.stat().st_blocks * 512 < 1 << 20
