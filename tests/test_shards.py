"""Pictures in .tar shards: the same data as from a folder, random access, the writer, and what can be wrong."""
import concurrent.futures
import gzip
import io
import json
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.augmentation import PRESETS
from utils.datasets import load_protocol
from utils.datasets.own import shards, tar_items
from utils.datasets.own.shards import expand_braces, find_shards, open_shards
from utils.datasets.own.write_shards import write_shards
from utils.errors import InputError
from utils.images import ImageError


def picture(number, kind="JPEG"):
    """Bytes of a small picture that differs from the others."""
    out = io.BytesIO()
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (20 + number % 5, 24, 3), np.uint8)).save(out, kind)
    return out.getvalue()


def tar_of(path, members, **options):
    """A tar of (name, bytes) or (name, TarInfo changes) pairs."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, dict):
                for key, value in data.items():
                    setattr(info, key, value)
                data = b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def class_folder(root, classes=("cat", "dog", "eel"), each=6):
    """A folder of pictures whose names ask for care: dots, blanks, two endings, capitals, other alphabets."""
    names = ["{:03d}.jpg", "a.b {:d}.jpg", "same{:d}.jpg", "same{:d}.png", "Ünï {:d}.JPG", "__x{:d}%2E.jpeg"]
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            kind = "PNG" if names[i % 6].endswith("png") else "JPEG"
            (root / name / names[i % 6].format(i // 6)).write_bytes(picture(100 * c + i, kind))
    return root


@pytest.fixture
def pets(tmp_path):
    return class_folder(tmp_path / "pets")


def same(one, other):
    """The same protocol: ids, labels, texts, splits and pixels."""
    assert one.classes == other.classes and one.record()["sha256"] == other.record()["sha256"]
    for a, b in zip(one.splits, other.splits):
        assert list(a.ids) == list(b.ids)
        assert (a.texts is None) == (b.texts is None) and (a.texts is None or list(a.texts) == list(b.texts))
        assert (a.labels is None) == (b.labels is None)
        for i in range(len(a)):
            assert np.array_equal(a.images.read(i), b.images.read(i))
            assert a.images.size(i) == b.images.size(i)


# the same data -----------------------------------------------------------------------------------
def test_a_folder_and_its_shards_are_the_same_data(pets, tmp_path, run):
    text = run("-m", "utils.datasets", "shard", pets, "--out", tmp_path / "out", "--per-shard", 7).stdout
    assert "18 pictures in 3 shards" in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000000.tar", "000001.tar", "000002.tar",
                                                                    "classes.txt"]
    for path in (tmp_path / "out", f"{tmp_path}/out/{{000000..000002}}.tar"):
        for sizes in ({}, {"num_query": 4, "num_train": 5}, {"query_per_class": 1}):
            same(load_protocol(pets, seed=3, **sizes), load_protocol(path, seed=3, **sizes))


def test_a_plain_tar_of_a_folder_is_the_same_data(pets, tmp_path):
    """Written by tar without thinking of shards: ./ in front, folders as members, any order."""
    for name in os.listdir(pets):  # pictures of one key stand side by side: as a set of fields they would be ambiguous
        for path in (pets / name).glob("same*.png"):
            path.unlink()
    names = sorted(str(p.relative_to(pets)) for p in pets.rglob("*"))
    np.random.default_rng(0).shuffle(names)
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        for name in [".", *names]:
            if not os.path.basename(name).startswith("__"):
                tar.add(pets / name, f"./{name}", recursive=False)
    for path in pets.rglob("__*"):
        path.unlink()
    same(load_protocol(pets), load_protocol(tmp_path / "pets.tar"))


def test_a_protocol_with_lists_and_texts(pets, tmp_path):
    """A split that the data bring is kept; a manifest's texts and several labels go into the .json."""
    rows, texts = [], ["a cat", "", " blanks ", "zwei\nZeilen", "ünï", "same"]
    for i, path in enumerate(sorted(str(p.relative_to(pets)) for p in pets.rglob("*.*"))):
        rows.append({"path": path, "labels": ["x", "y"][:i % 3] if i % 4 else ["z"], "text": texts[i % 6],
                     "split": ["query", "train", "database"][i % 3]})
    (pets / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = load_protocol(pets / "list.jsonl")
    write_shards(before.splits, before.classes, tmp_path / "out", 5, with_lists=True)
    after = load_protocol(tmp_path / "out")
    same(before, after)
    assert after.query.where(0).endswith("query.txt:1")


def test_arrays_become_png_and_keep_their_ids(tmp_path):
    from utils.datasets import ArrayImages, Split
    rng = np.random.default_rng(0)
    pool = Split("all", [f"cifar10/train/{i:05d}" for i in range(9)], np.eye(3, dtype=np.uint8)[np.arange(9) % 3],
                 ArrayImages(rng.integers(0, 256, (9, 32, 32, 3), np.uint8)))
    splits = [pool.select([0, 1, 2, 3], "train"), pool.select([8, 7], "query"), pool.select(range(7), "database")]
    write_shards(splits, ["a", "b", "c"], tmp_path / "out", 4, with_lists=True)
    protocol = load_protocol(tmp_path / "out")
    for split, stored in zip(splits, protocol.splits):
        assert split.sha256() == stored.sha256()
        assert all(np.array_equal(split.images.read(i), stored.images.read(i)) for i in range(len(split)))


def test_shards_take_the_place_of_listed_files(pets, tmp_path):
    """Any protocol of lists: the pictures may lie in shards below the data folder."""
    ids = sorted(str(p.relative_to(pets)) for p in pets.rglob("*.*"))
    (tmp_path / "lists").mkdir()
    for split, some in (("train", ids[:9]), ("query", ids[9:12]), ("database", ids[12:])):
        (tmp_path / "lists" / f"{split}.txt").write_text("".join(f"{name} 1 0\n" for name in some))
    run_pool, classes = load_protocol(pets).database, load_protocol(pets).classes
    write_shards([run_pool, *load_protocol(pets).splits[:2]], classes, tmp_path / "out", 4)
    same(load_protocol(tmp_path / "lists", root=pets), load_protocol(tmp_path / "lists", root=tmp_path / "out"))
    same(load_protocol(tmp_path / "lists", root=pets), load_protocol(tmp_path / "out", list_dir=tmp_path / "lists"))
    with pytest.raises(InputError, match="--list-dir goes with a folder of shards"):
        load_protocol(tmp_path / "out" / "000000.tar", list_dir=tmp_path / "lists")
    with open(tmp_path / "lists" / "query.txt", "a") as file:
        file.write("cat/unknown.jpg 1 0\n")
    with pytest.raises(InputError, match="query.txt:4: cat/unknown.jpg is in none of the shards"):
        load_protocol(tmp_path / "lists", root=tmp_path / "out")


def test_unlabelled_pictures_stay_unlabelled(tmp_path):
    from utils.datasets.own.item_table import ItemTable
    for name in ("a/1.jpg", "b/2.jpg", "b/3.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(picture(len(name)))
    split = ItemTable(str(tmp_path / "in"), ["a/1.jpg", "b/2.jpg", "b/3.jpg"]).whole()
    write_shards([split], [], tmp_path / "out")
    pool, classes = open_shards(tmp_path / "out")
    assert pool.labels is None and classes == [] and list(pool.ids) == split.ids


NAMES = st.lists(st.text("ab.%_ é", min_size=1, max_size=4).filter(lambda part: part.strip(". ") and part[0] != "."),
                 min_size=1, max_size=2).map("/".join)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.sampled_from([".jpg", ".PNG", ".tif", ""]), min_size=1, max_size=8),
       st.integers(1, 4), st.booleans(), st.booleans())
def test_any_names_are_written_and_read_back(tmp_path_factory, names, per_shard, labelled, worded):
    """Ids, labels, texts and bytes, whatever the names look like."""
    from utils.datasets import Split

    class Encoded:
        def __init__(self, data):
            self.data = data

        def encoded(self, i):
            return self.data[i]

    ids = sorted({name + ending for name, ending in names.items()})
    data = [b"\xff\xd8" + name.encode() for name in ids]
    labels = np.array([[i % 2, 1 - i % 2, i % 3 == 0] for i in range(len(ids))], np.uint8) if labelled else None
    texts = [f" {name}" if i % 2 else name for i, name in enumerate(ids)] if worded else None
    folder = tmp_path_factory.mktemp("names") / "out"
    write_shards([Split("all", ids, labels, Encoded(data), texts=texts)], ["x", "y", "z"] if labelled else [], folder,
                 per_shard, say=lambda text: None)
    pool, classes = open_shards(folder)
    assert list(pool.ids) == sorted(ids) and [pool.images.encoded(i) for i in range(len(pool))] == data
    assert texts is None or list(pool.texts) == texts
    assert np.array_equal(pool.labels, labels) if labelled else pool.labels is None


def test_the_bytes_of_shards_depend_on_the_data_only(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "copy" / "pets")
    os.utime(tmp_path / "copy" / "pets" / "cat", (1, 1))
    for folder in (pets, tmp_path / "copy" / "pets"):
        pool = load_protocol(folder, num_query=2)
        write_shards(pool.splits, pool.classes, folder.parent / "out", 5)
    for name in os.listdir(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "copy" / "out" / name).read_bytes()


# the layout --------------------------------------------------------------------------------------
def test_fields_of_the_layout(tmp_path):
    path = tar_of(tmp_path / "x.tar", [
        ("b/2.json", b'{"label": 4, "caption": "two"}'), ("b/2.jpg", picture(2)), ("b/2.seg.png", b"a mask"),
        ("b/1.PNG", picture(1, "PNG")), ("b/1.cls", b" 0\n"), ("b/1.txt", "eins ü\n".encode()), ("b/1.npy", b"?"),
        ("b/3.x.jpg", picture(3)), ("b/._3.jpg", b"?"), ("__meta__.json", b"?"), ("readme.md", b"?"),
        ("b", {"type": tarfile.DIRTYPE}), ("c.json", b'{"labels": [1, 2], "text": null}'),
        ("c.webp", picture(4, "WEBP"))])
    with pytest.raises(InputError, match="3.x.jpg: has no label, and others have"):
        open_shards(path)
    faults = []
    pool, classes = open_shards(path, faults.append)
    assert list(pool.ids) == ["b/1.PNG", "b/2.jpg", "b/3.x.jpg", "c.webp"] and len(faults) == 1
    assert list(pool.texts) == ["eins ü", "two", "", ""] and classes == [f"class_{i}" for i in range(5)]
    assert pool.labels.tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]]
    assert pool.images.read(0).shape == (21, 24, 3) and pool.images.size(0) == (24, 21)


def test_class_names(tmp_path):
    tar_of(tmp_path / "x.tar", [("1.jpg", picture(1)), ("1.json", b'{"label": "dog"}'),
                                ("2.jpg", picture(2)), ("2.json", b'{"labels": ["cat", "dog"]}')])
    pool, classes = open_shards(tmp_path / "x.tar")
    assert classes == ["cat", "dog"] and pool.labels.tolist() == [[0, 1], [1, 1]]
    (tmp_path / "classes.txt").write_text("dog\ncow\ncat\n")
    pool, classes = open_shards(tmp_path)
    assert classes == ["dog", "cow", "cat"] and pool.labels.tolist() == [[1, 0, 0], [1, 0, 1]]
    (tmp_path / "classes.txt").write_text("dog\ncow\n")
    with pytest.raises(InputError, match="label 'cat' in the shards is none of the 2 classes"):
        open_shards(tmp_path)
    (tmp_path / "classes.txt").unlink()
    tar_of(tmp_path / "y.tar", [("3.jpg", picture(1)), ("3.cls", b"7")])
    with pytest.raises(InputError, match="class numbers in some items and names in others"):
        open_shards(tmp_path)


def test_patterns(tmp_path):
    assert expand_braces("a{08..10}b{x,yz}.tar") == [f"a{i}b{j}.tar" for i in ("08", "09", "10") for j in ("x", "yz")]
    assert expand_braces("plain{}.tar") == ["plain{}.tar"] and expand_braces("{3..1}.tar") == []
    for i in (0, 1, 3):
        tar_of(tmp_path / f"s-{i:03d}.tar", [(f"{i}.jpg", picture(i))])
    (tmp_path / "odd{0..9}.tar").write_bytes((tmp_path / "s-003.tar").read_bytes())
    assert find_shards(tmp_path / "odd{0..9}.tar") == [str(tmp_path / "odd{0..9}.tar")]
    assert list(open_shards(f"{tmp_path}/s-{{000..001}}.tar")[0].ids) == ["0.jpg", "1.jpg"]
    for pattern, message in {"s-{000..004}.tar": r"no shard .*s-002.tar \(and 1 more of the 5", "gone.tar": "no shard",
                             "{5..2}.tar": "names no shard", "{0..99999999}.tar": "too many"}.items():
        with pytest.raises(InputError, match=message):
            load_protocol(f"{tmp_path}/{pattern}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no .tar file"):
        find_shards(tmp_path / "empty")


# access ------------------------------------------------------------------------------------------
def many(tmp_path, count=40, each=8):
    """(path, bytes of the pictures in the order of their ids)."""
    data = [picture(i) for i in range(count)]
    (tmp_path / "many").mkdir()
    for start in range(0, count, each):
        tar_of(tmp_path / "many" / f"{start:03d}.tar",
               [item for i in range(start, start + each)
                for item in ((f"{i:03d}.jpg", data[i]), (f"{i:03d}.cls", str(i % 4).encode()))])
    return tmp_path / "many", data


def test_threads_forks_and_pickles_read_the_same(tmp_path, monkeypatch):
    path, data = many(tmp_path)
    pool, _ = open_shards(path)
    for most in (256, 2):  # with fewer open files than shards, too
        monkeypatch.setattr(shards, "_OPEN_FILES", most)
        images = pickle.loads(pickle.dumps(pool.images))
        order = np.random.default_rng(0).integers(0, 40, 400).tolist()
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert list(threads.map(images.encoded, order)) == [data[i] for i in order]
        assert len(images.files.open) <= most + 8
        child = os.fork()
        if not child:
            os._exit(0 if all(images.encoded(i) == data[i] for i in order) else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert [pool.select([5, 3]).images.select([1]).encoded(0)] == [data[3]]


def test_loader_workers_and_training_batches(tmp_path, pets, run):
    """The batches of training are the same from the folder, from shards, and with worker processes."""
    from utils.training.loader import Items, epoch_order, load_batches
    from utils.transforms import preprocess_spec
    pool = load_protocol(pets, num_query=3)
    write_shards(pool.splits, pool.classes, tmp_path / "out", 5)
    batches = []
    for path, workers in ((pets, 0), (tmp_path / "out", 0), (tmp_path / "out", 2)):
        train = load_protocol(path, num_query=3).train
        items = Items(train, preprocess_spec(32, 24), 1, PRESETS["crop_flip"], seed=5)
        loaded = load_batches(items, epoch_order(len(train), 5, 5, 0, False), workers)
        batches.append([{key: value.numpy() for key, value in batch.items()} for batch in loaded])
    for other in batches[1:]:
        assert len(other) == len(batches[0]) == 3
        for one, two in zip(batches[0], other):
            assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


def test_a_shard_that_changes_while_it_is_read(tmp_path):
    path, _ = many(tmp_path)
    pool, _ = open_shards(path)
    os.truncate(path / "000.tar", 1000)
    with pytest.raises(ImageError, match="000.tar:003.jpg: the shard has become shorter"):
        pool.images.read(3)
    (path / "008.tar").unlink()
    with pytest.raises(ImageError, match="008.tar:009.jpg: cannot be read"):
        pool.images.read(9)


# the index ---------------------------------------------------------------------------------------
def test_an_index_is_kept_and_trusted_as_long_as_it_fits(tmp_path, monkeypatch):
    path, data = many(tmp_path)
    open_shards(path)
    assert not list(path.glob("*.index"))  # small sets need none
    monkeypatch.setattr(shards, "INDEX_FROM", 80)
    before = open_shards(path)[0]
    assert len(list(path.glob("*.index"))) == 5
    scans = []
    scan = tar_items.scan
    monkeypatch.setattr(tar_items, "scan", lambda *a: scans.append(a[0]) or scan(*a))

    def again():
        scans.clear()
        pool, _ = open_shards(path)
        assert pool.sha256() == before.sha256() and [pool.images.encoded(i) for i in range(40)] == data
        return [os.path.basename(name) for name in scans]

    assert again() == []
    os.utime(path / "008.tar", (1, 1))  # another time: perhaps other bytes
    assert again() == ["008.tar"]
    index = path / "000.tar.index"
    whole = index.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        index.write_bytes(whole[:cut])
        assert again() == ["000.tar", "008.tar"]
    with np.load(io.BytesIO(whole)) as file:
        columns = dict(file)
    for key, value in {"offset": columns["offset"] + (1 << 40), "label": columns["label"] + 99,
                       "name_size": columns["name_size"][:-1], "size": columns["size"].astype(np.float32),
                       "names": np.array([object()])}.items():
        with open(index, "wb") as file:
            np.savez(file, **{**columns, key: value})
        assert again() == ["000.tar", "008.tar"]


def test_a_folder_that_cannot_be_written_has_no_index(tmp_path, monkeypatch):
    path, _ = many(tmp_path)
    monkeypatch.setattr(shards, "INDEX_FROM", 1)

    def refuse(name, arrays):
        raise InputError("read-only")

    monkeypatch.setattr(tar_items, "write_npz", refuse)
    assert len(open_shards(path)[0]) == 40 and not list(path.glob("*.index"))


def test_a_faulty_shard_gets_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "INDEX_FROM", 1)
    tar_of(tmp_path / "x.tar", [("1.jpg", picture(1)), ("2.cls", b"1")])
    for _ in range(2):
        faults = []
        open_shards(tmp_path / "x.tar", faults.append)
        assert len(faults) == 1 and not list(tmp_path.glob("*.index"))


def test_names_keep_little_memory():
    """An item costs its name and some tens of bytes, not Python objects."""
    names = [f"class_{i % 10:03d}/{i:09d}.jpg" for i in range(1000)]
    size = np.array([len(n) for n in names], np.int32)
    images = shards.ShardImages(None, shards._names(np.frombuffer("".join(names).encode(), np.uint8), size),
                                np.zeros(1000, np.int32), np.zeros(1000, np.int64), np.zeros(1000, np.uint32))
    assert len(pickle.dumps(images.select(np.arange(1000)[::-1]))) < 1000 * (23 + 30) + 2000
    assert list(images.names) == names and images.names[-1] == names[-1] and list(images.names[2:4]) == names[2:4]
    assert images.names == names and images.names != names[:-1] + ["x"]


# what can be wrong -------------------------------------------------------------------------------
MEMBERS = [(f"{i}.{ending}", data) for i in range(6) for ending, data in (("jpg", picture(i)), ("cls", b"1"))]


def test_a_tar_that_ends_early(tmp_path):
    """Cut at every kind of place: inside data, inside a header, between members, before the end mark."""
    whole = open(tar_of(tmp_path / "whole.tar", MEMBERS), "rb").read()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        offsets = [(member.name, member.offset, member.offset_data, member.size) for member in tar]
    path = tmp_path / "cut.tar"
    cases = []
    for last, (name, offset, data, size) in zip(offsets, offsets[1:]):
        cases += [(offset, last[0]), (offset + 100, last[0]), (data, last[0]), (data + size - 1, last[0])]
    end = offsets[-1][2] + 512
    cases.append((end, offsets[-1][0]))
    for cut, last in cases:
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=f"cut.tar ends early or is damaged .*last whole member {last} "):
            open_shards(path)
    path.write_bytes(whole[:offsets[6][2] + 5])
    faults = []
    pool, _ = open_shards(path, faults.append)  # check goes on with what is whole
    assert list(pool.ids) == ["0.jpg", "1.jpg", "2.jpg"] and len(faults) == 1 and "6 members are whole" in faults[0]
    path.write_bytes(whole[:end + 512])  # one zero block of the two
    assert len(open_shards(path)[0]) == 6


def test_a_damaged_or_joined_tar(tmp_path):
    whole = bytearray(open(tar_of(tmp_path / "x.tar", MEMBERS), "rb").read())
    path = tmp_path / "y.tar"
    with tarfile.open(tmp_path / "x.tar") as tar:
        third = tar.getmembers()[2].offset
    path.write_bytes(whole[:third] + b"damage" + whole[third + 6:])
    with pytest.raises(InputError, match="y.tar ends early or is damaged .* last whole member 0.cls "):
        open_shards(path)
    back = tarfile.TarInfo("back.jpg")
    back.size = -512  # the next header would be this one again
    path.write_bytes(whole[:third] + back.tobuf(tarfile.GNU_FORMAT) + whole[third:])
    with pytest.raises(InputError, match="y.tar ends early or is damaged .* last whole member 0.cls "):
        open_shards(path)
    path.write_bytes(whole + whole)
    with pytest.raises(InputError, match="goes on behind its end mark"):
        open_shards(path)
    for data in (b"", b"no tar at all" * 100, whole[:300]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="y.tar is no tar, or is damaged at its start"):
            open_shards(path)


def test_members_that_are_refused(tmp_path):
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    for member, message in {
            ("9.jpg", "link"): "9.jpg: is a link, not a plain file", ("9.jpg", "hard"): "is a link",
            ("9.cls", "link"): "is a link", ("9.jpg", "fifo"): "is a device", ("../9.jpg", None): "leaves the tar",
            ("a/../../9.jpg", None): "leaves the tar", ("a/../9.cls", None): "leaves the tar",
            ("5.png", None): "a second picture of the item 5", ("5.jpg", None): "a second picture",
            ("9.cls", b"1"): "9 has labels or a text, but no picture", ("9.txt", b"x"): "but no picture",
            ("9.json", b"{}"): "but no picture", ("5.json", b'{"label": '): "broken JSON",
            ("5.json", b"[1]"): "no JSON object",
            ("5.json", b'{"label": true}'): "no class number", ("5.json", b'{"labels": [0, 1, 1]}'): "each once",
            ("5.json", b'{"label": -1}'): "not within", ("5.json", b'{"label": 1.5}'): "no class number",
            ("5.json", b"[" * 100_000): "5.json: ", ("5.json", b"\xff\xfe"): "broken JSON",
            ("5.json", b" " * (1 << 21)): "too many", ("5.cls", b"cat"): "is no class number",
            ("5.cls", b"99999999999"): "is no class number", ("5.txt", b"\xff\xfe\xfa"): "not UTF-8"}.items():
        name, data = member
        data = {"link": link, "hard": {**link, "type": tarfile.LNKTYPE, "linkname": "0.jpg"},
                "fifo": {"type": tarfile.FIFOTYPE}, None: b"x"}.get(data, data)
        path = tar_of(tmp_path / "x.tar", MEMBERS + [(name, data)])
        with pytest.raises(InputError, match=message):
            open_shards(path)


def test_duplicates_across_shards(tmp_path):
    tar_of(tmp_path / "a.tar", MEMBERS[:4])
    tar_of(tmp_path / "b.tar", MEMBERS[2:])
    with pytest.raises(InputError, match=r"b.tar:1.jpg: the item is already in .*a.tar"):
        load_protocol(tmp_path)
    faults = []
    assert list(open_shards(tmp_path, faults.append)[0].ids) == [f"{i}.jpg" for i in range(6)] and len(faults) == 1


def test_compressed_tars_and_empty_ones(tmp_path):
    whole = open(tar_of(tmp_path / "x.tar", MEMBERS), "rb").read()
    for name in ("y.tar.gz", "y.tgz", "y.tar"):
        (tmp_path / name).write_bytes(gzip.compress(whole))
        with pytest.raises(InputError, match="is compressed, .*unpack it first: gzip -d"):
            load_protocol(tmp_path / name)
    tar_of(tmp_path / "empty.tar", [("notes.md", b"x")])
    with pytest.raises(InputError, match="empty.tar: no picture in the shards"):
        load_protocol(tmp_path / "empty.tar")


def test_check_names_every_fault(tmp_path, run):
    broken = MEMBERS[:8] + [("4.jpg", b""), ("4.cls", b"1"), ("5.jpg", picture(5)[:300]), ("5.cls", b"1"),
                            ("6.cls", b"1")]
    tar_of(tmp_path / "x.tar", broken)
    text = run("-m", "utils.datasets", "check", tmp_path / "x.tar", ok=False).stdout
    assert "x.tar: 6 has labels or a text, but no picture" in text
    assert "x.tar:4.jpg: the file is empty" in text and "x.tar:5.jpg: truncated JPEG" in text and "3 faults" in text
    text = run("-m", "utils.datasets", "check", tmp_path / "gone.tar", ok=False)
    assert text.stderr.startswith("error: there is no shard") and text.stderr.count("\n") == 1


def test_broken_pictures_can_be_skipped(tmp_path):
    tar_of(tmp_path / "x.tar", MEMBERS[:10] + [("5.jpg", b""), ("5.cls", b"1")])
    protocol = load_protocol(tmp_path / "x.tar", skip_broken=1)
    assert sum(map(len, protocol.splits[1:])) == 5
    assert len(protocol.notes) == 1 and protocol.notes[0].startswith("1 broken pictures were left out")


# the writer --------------------------------------------------------------------------------------
def test_the_writer_leaves_all_or_nothing(pets, tmp_path, run):
    pool = load_protocol(pets)
    (pets / "dog" / "000.jpg").unlink()
    with pytest.raises(InputError, match="dog/000.jpg cannot be read"):
        write_shards(pool.splits, pool.classes, tmp_path / "out", 3)
    assert sorted(os.listdir(tmp_path)) == ["pets"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / ".full.lock").write_text("process 1 that was killed when all was in place\n")
    with pytest.raises(InputError, match="full has contents already"):
        write_shards(pool.splits, pool.classes, tmp_path / "full")
    assert sorted(os.listdir(tmp_path)) == ["full", "pets"]
    (tmp_path / "empty").mkdir()
    write_shards(load_protocol(pets).splits, pool.classes, tmp_path / "empty")
    assert len(open_shards(tmp_path / "empty")[0]) == 17
    called = ("-m", "utils.datasets", "shard")
    assert "--per-shard 0: must be 1" in run(*called, pets, "--out", tmp_path / "o", "--per-shard", 0, ok=False).stderr
    np.savez(tmp_path / "f.npz", image=np.ones((20, 3), np.float32), text=np.ones((20, 2)), label=np.ones((20, 2)))
    text = run(*called, tmp_path / "f.npz", "--out", tmp_path / "o", ok=False).stderr
    assert "features and no pictures" in text and sorted(os.listdir(tmp_path)) == ["empty", "f.npz", "full", "pets"]


# codes -------------------------------------------------------------------------------------------
def test_a_gallery_of_shards_has_the_codes_of_the_folder(pets, tmp_path, tmp_path_factory, shapes, run):
    """predict.py --gallery: the same codes and ids; a further shard is all that is encoded anew."""
    from tests.exported import checkpoint
    from utils.retrieval.codes import CodeFile
    pool = load_protocol(pets)
    write_shards(pool.splits, pool.classes, tmp_path / "out", 7)
    model = ("predict.py", "--pretrained", checkpoint(tmp_path_factory, shapes)[0])
    files = []
    pattern = tmp_path / "out" / "{000000..000002}.tar"
    for name, path in (("folder", pets), ("shards", tmp_path / "out"), ("pattern", pattern)):
        run(*model, "--gallery", path, "--code-file", tmp_path / f"{name}.npz")
        files.append(CodeFile.load(tmp_path / f"{name}.npz"))
    for other in files[1:]:
        assert other.ids == files[0].ids and np.array_equal(other.codes, files[0].codes)
        assert np.array_equal(other.labels, files[0].labels)
    assert len(np.unique(files[0].codes, axis=0)) > 1

    tar_of(tmp_path / "out" / "more.tar", [("eel/new.jpg", picture(77)), ("eel/new.cls", b"2")])
    said = run(*model, "--gallery", tmp_path / "out", "--code-file", tmp_path / "shards.npz").stdout
    assert "1 pictures encoded, 0 gone, 18 as they were" in said
    said = run(*model, "--gallery", tmp_path / "out", "--code-file", tmp_path / "shards.npz", "--img",
               pets / "cat" / "000.jpg", "--save-path", tmp_path / "saved").stdout
    assert "cat/000.jpg" in said and (tmp_path / "saved" / "matches.png").exists()
