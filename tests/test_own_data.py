"""A user's own pictures: folders, manifests, lists; how they are split; what is refused, left out and counted."""
import json
import os
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.datasets import absolute_name, load_protocol
from utils.datasets.base import Request
from utils.datasets.own import folders
from utils.datasets.own import splits as own
from utils.errors import InputError


def picture(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (number * 37 % 256, 90, 30)).save(path)


def pictures(root, *names):
    for number, name in enumerate(names):
        picture(root / name, number)
    return root


def ids(protocol):
    return {split.name: split.ids for split in protocol.splits}


@pytest.fixture
def classes(tmp_path):
    """10 cats, some of them deeper, and 6 dogs; and what systems and people leave between them."""
    root = pictures(tmp_path / "pets", *[f"cat/{i}.jpg" for i in range(7)], *[f"cat/old/{i}.png" for i in range(3)],
                    *[f"dog/{i}.JPG" for i in range(6)])
    for name in ("Thumbs.db", ".DS_Store", "cat/.hidden.jpg", "cat/notes.md", "dog/clip.mp4", "dog/photo.heic"):
        (root / name).write_bytes(b"x")
    (root / ".cache").mkdir()
    (root / "empty").mkdir()
    return root


# folders -----------------------------------------------------------------------------------------
def test_class_folders(classes):
    protocol = load_protocol(classes)
    assert protocol.classes == ["cat", "dog"] and protocol.topk == 0 and protocol.name == "pets"
    assert [len(split) for split in protocol.splits] == [15, 1, 15]
    for split in protocol.splits:
        assert [protocol.classes[row.argmax()] for row in split.labels] == [name.split("/")[0] for name in split.ids]
        assert (split.labels.sum(1) == 1).all() and split.images.read(0).shape == (16, 20, 3)
    assert set(protocol.query.ids) | set(protocol.database.ids) == set(folders.scan(classes)[0])
    notes = "\n".join(protocol.notes)
    assert "3 files that are no pictures" in notes and "1 .md" in notes and "1 .heic" in notes
    assert "4 hidden" in notes and "1 folders without pictures are no classes: empty" in notes
    assert protocol.record()["notes"] == protocol.notes


def test_folders_above_the_classes_are_passed_over(classes, tmp_path):
    shutil.move(classes, tmp_path / "a" / "b" / "pets")
    assert load_protocol(tmp_path / "a").classes == ["cat", "dog"]


@pytest.mark.parametrize("names", [["a.jpg", "b.jpg", "c.png"], ["x/a.jpg", "x/b.jpg"],
                                   ["a.jpg", "x/b.jpg", "y/c.jpg"]])
def test_flat_and_mixed_folders_have_no_labels(names, tmp_path):
    protocol = load_protocol(pictures(tmp_path / "flat", *names))
    assert protocol.classes == [] and all(split.labels is None for split in protocol.splits)
    assert sorted(protocol.query.ids + protocol.database.ids) == sorted(names)
    mixed = len({name.count("/") for name in names}) > 1
    assert any("1 pictures lie beside 2 folders" in note and "a.jpg" in note for note in protocol.notes) == mixed


def test_folders_that_are_splits(tmp_path):
    root = pictures(tmp_path / "split", "train/cat/0.jpg", "train/dog/0.jpg", "train/dog/1.jpg", "test/cat/2.jpg",
                    "test/dog/2.jpg")
    protocol = load_protocol(root)
    assert protocol.classes == ["cat", "dog"] and protocol.query.ids == ["test/cat/2.jpg", "test/dog/2.jpg"]
    assert sorted(protocol.database.ids) == sorted(protocol.train.ids) == ["train/cat/0.jpg", "train/dog/0.jpg",
                                                                           "train/dog/1.jpg"]
    assert protocol.train.labels.tolist() == [[1, 0], [0, 1], [0, 1]]
    pictures(root, "database/cat/7.jpg")
    protocol = load_protocol(root)
    assert len(protocol.train) == 3 and len(protocol.database) == 4
    with pytest.raises(InputError, match="brings its own split; leave out --num-query"):
        load_protocol(root, num_query=1)
    picture(root / "val/cat/8.jpg")
    with pytest.raises(InputError, match="splits or classes.*query .or test. and database"):
        load_protocol(root)
    flat = load_protocol(pictures(tmp_path / "flat", "train/1.jpg", "test/2.jpg"))
    assert ids(flat) == {"train": ["train/1.jpg"], "query": ["test/2.jpg"], "database": ["train/1.jpg"]}
    assert flat.train.labels is None
    # one such name alone, or among real classes with nothing else like it, is a class
    assert load_protocol(pictures(tmp_path / "x", "train/1.jpg", "bus/2.jpg")).classes == ["bus", "train"]


def test_lists_win(classes):
    for name, row in (("train", "cat/0.jpg 1 0"), ("query", "dog/0.JPG 0 1"), ("database", "cat/0.jpg 1 0")):
        (classes / f"{name}.txt").write_text(row + "\n")
    protocol = load_protocol(classes)
    assert [split.ids for split in protocol.splits] == [["cat/0.jpg"], ["dog/0.JPG"], ["cat/0.jpg"]]
    with pytest.raises(InputError, match="own split in image lists; leave out --num-train"):
        load_protocol(classes, num_train=1)


def test_a_query_that_is_searched_is_told_with_its_rows(classes):
    for name in ("train", "query", "database"):
        more = "dog/1.JPG 0 1\n" if name == "database" else ""
        (classes / f"{name}.txt").write_text(f"{more}cat/0.jpg 1 0\n")
    notes = load_protocol(classes).notes
    assert any(re.search(r"1 queries are also in the database split.*cat/0.jpg.*query.txt:1 and .*database.txt:2", note)
               for note in notes)


def test_no_pictures_and_too_few(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.heic").write_text("x")
    with pytest.raises(InputError, match="empty holds no pictures.*1 .heic"):
        load_protocol(tmp_path / "empty")
    with pytest.raises(InputError, match="one holds 1 picture; .* at least 2"):
        load_protocol(pictures(tmp_path / "one", "a.jpg"))


# links -------------------------------------------------------------------------------------------
def test_links(tmp_path):
    """Out of the folder: followed, each target once. Back into it, or in a circle: left out and counted."""
    outside = pictures(tmp_path / "disk", "1.jpg", "2.jpg", "deep/3.jpg")
    root = pictures(tmp_path / "own", "cat/0.jpg", "dog/0.jpg", ".store/9.jpg")
    os.symlink(outside, root / "bird")
    os.symlink(outside / "deep", root / "dog" / "again")  # read as bird/deep
    os.symlink(root, root / "cat" / "up")
    os.symlink(tmp_path, root / "cat" / "above")
    os.symlink(root / "dog", root / "cat" / "dogs")
    os.symlink(root / "cat" / "0.jpg", root / "dog" / "copy.jpg")
    os.symlink(root / ".store" / "9.jpg", root / "dog" / "kept.jpg")  # as git-annex and DVC have it
    os.symlink(outside, outside / "deep" / "circle")
    os.symlink("gone.jpg", root / "cat" / "gone.jpg")
    os.symlink("self.jpg", root / "cat" / "self.jpg")
    found, notes = folders.scan(root)
    assert found == ["bird/1.jpg", "bird/2.jpg", "bird/deep/3.jpg", "cat/0.jpg", "cat/gone.jpg", "cat/self.jpg",
                     "dog/0.jpg", "dog/kept.jpg"]
    assert any(note.startswith("6 links to what is read anyway") for note in notes), notes
    broken = load_protocol(root, skip_broken=1)
    assert "cat/gone.jpg" not in broken.query.ids + broken.database.ids
    assert any("2 broken pictures" in note and "gone.jpg" in note for note in broken.notes)


def test_special_files_are_no_pictures(tmp_path):
    root = pictures(tmp_path / "own", "0.jpg", "1.jpg")
    os.mkfifo(root / "pipe.jpg")  # would block a reader for ever
    found, notes = folders.scan(root)
    assert found == ["0.jpg", "1.jpg"] and any("1 .jpg" in note for note in notes)


# splits ------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 5), st.data())
def test_every_draw_is_a_partition(n, seed, data):
    table = own.ItemTable("x", [f"{i:03d}.jpg" for i in range(n)])
    sizes = {}
    query = data.draw(st.none() | st.integers(1, n - 1))
    if query:
        sizes["num_query"] = query
    count = query or max(1, n // 10)
    database = data.draw(st.none() | st.integers(1, n - count))
    if database:
        sizes["num_database"] = database
    train = data.draw(st.none() | st.integers(1, database or n - count))
    if train:
        sizes["num_train"] = train
    got = own.draw_split(table, seed, sizes, "x")
    assert [len(rows) for rows in got] == [count, train or database or n - count, database or n - count]
    assert not set(got[0]) & set(got[2]) and set(got[1]) <= set(got[2])
    assert all(len(set(rows)) == len(rows) for rows in got)
    again = own.draw_split(own.ItemTable("x", list(table.paths)), seed, sizes, "y")
    assert all(np.array_equal(a, b) for a, b in zip(got, again))


def test_sizes_a_class(classes):
    protocol = load_protocol(classes, query_per_class=2, train_per_class=3)
    assert protocol.query.labels.sum(0).tolist() == [2, 2] and protocol.train.labels.sum(0).tolist() == [3, 3]
    assert len(protocol.database) == 12
    for sizes, words in (({"query_per_class": 6, "train_per_class": 1}, "dog has only 0 pictures"),
                         ({"query_per_class": 7}, "--query-per-class 7: class dog has only 6"),
                         ({"query_per_class": 1, "num_query": 2}, "--num-query or --query-per-class, not both"),
                         ({"num_query": 16}, "holds 16 pictures, too few for 16 query"),
                         ({"num_query": 10, "num_database": 10}, "too few for 10 query and 10 database"),
                         ({"num_train": 16}, "--num-train 16, but there are 15")):
        with pytest.raises(InputError, match=words):
            load_protocol(classes, **sizes)
    flat = pictures(classes.parent / "flat", "a.jpg", "b.jpg")
    with pytest.raises(InputError, match="--query-per-class needs labels"):
        load_protocol(flat, query_per_class=1)


def test_the_same_folder_gives_the_same_lists_wherever_and_in_whatever_order(classes, tmp_path, monkeypatch):
    first = load_protocol(classes, seed=3).record()
    copy = shutil.copytree(classes, tmp_path / "elsewhere" / "pets")
    scandir = os.scandir

    class Backwards(list):
        def __init__(self, place):
            super().__init__(sorted(scandir(place), key=lambda entry: entry.name, reverse=True))

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    monkeypatch.setattr(os, "scandir", Backwards)
    assert load_protocol(copy, seed=3).record() == first
    assert load_protocol(copy, seed=4).record()["sha256"] != first["sha256"]


def test_the_draw_is_fixed_for_ever():
    """What is published with a seed must stay: these rows were drawn on the day of the first release."""
    table = own.ItemTable("x", [f"{i}.jpg" for i in range(12)])
    query, train, database = own.draw_split(table, 7, {"num_query": 3, "num_train": 4}, "x")
    assert [rows.tolist() for rows in (query, train, database)] == FIXED


FIXED = [[6, 9, 5], [1, 2, 0, 8], [8, 4, 3, 0, 10, 11, 7, 1, 2]]


# manifests ---------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path / "data", "a.jpg", "b.jpg", "sub/c c.jpg", "d.jpg")


CSV = {
    "names": "path,labels,text,split\na.jpg,cat|dog,two pets,train\nb.jpg,cat,,train\n"
             "sub/c c.jpg,,\"a, \"\"b\"\"\nc\",query\n./d.jpg,dog,x,database\n",
    "semicolons": "\ufeffImage;Label;Caption;Split\r\na.jpg;cat|dog;two pets;Train\r\nb.jpg; cat ;;train\r\n"
                  "sub\\c c.jpg;;\"a, \"\"b\"\"\nc\";test\r\nd.jpg;dog;x;gallery\r\n",
    "columns": "file,cat,dog,caption,split\na.jpg,1,1,two pets,train\nb.jpg,1,0,,train\n\n"
               "sub/c c.jpg,0,0,\"a, \"\"b\"\"\nc\",query\nd.jpg,0,1,x,database\n",
    "json": "path,classes,text,split\na.jpg,\"[\"\"cat\"\", \"\"dog\"\"]\",two pets,train\n"
            "b.jpg,\"[\"\"cat\"\"]\",,train\nsub/../sub/c c.jpg,[],\"a, \"\"b\"\"\nc\",query\nd.jpg,dog,x,database\n"}


def write(folder, text, name="m.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


@pytest.mark.parametrize("kind", sorted(CSV))
def test_csv_forms_say_the_same(folder, kind):
    protocol = load_protocol(write(folder, CSV[kind]))
    assert protocol.classes == ["cat", "dog"]
    assert protocol.train.ids == ["a.jpg", "b.jpg"] and protocol.train.labels.tolist() == [[1, 1], [1, 0]]
    assert protocol.train.texts == ["two pets", ""]
    assert protocol.query.ids == ["sub/c c.jpg"] and protocol.query.labels.tolist() == [[0, 0]]
    assert protocol.query.texts == ['a, "b"\nc'] and sorted(protocol.database.ids) == ["a.jpg", "b.jpg", "d.jpg"]
    assert all(split.images.read(0).shape == (16, 20, 3) for split in protocol.splits)


@pytest.mark.parametrize("labels", [(["cat", "dog"], ["cat"], [], "dog"), ([1, 1], [1, 0], [0, 0], [False, True]),
                                    ("cat|dog", "cat", None, "dog")])
def test_jsonl_forms(folder, labels):
    rows = [{"path": name, "labels": label, "text": "ein Hündchen", "split": split, "id": 3} for name, label, split in
            zip(("a.jpg", "b.jpg", "sub/c c.jpg", "d.jpg"), labels, ("train", "train", "query", "database"))]
    protocol = load_protocol(write(folder, "".join(json.dumps(row) + "\n\n" for row in rows), "m.jsonl"))
    assert protocol.train.labels.tolist() == [[1, 1], [1, 0]] and protocol.query.labels.tolist() == [[0, 0]]
    assert protocol.query.texts == ["ein Hündchen"] and any("not used: id" in note for note in protocol.notes)


def test_manifests_without_labels_texts_or_split(folder):
    protocol = load_protocol(write(folder, "path\nb.jpg\na.jpg\nd.jpg\n"), num_query=1)
    assert protocol.train.labels is None and protocol.train.texts is None and len(protocol.database) == 2
    protocol = load_protocol(write(folder, "path\tlabel\tgps\nb.jpg\tx\t1.5\na.jpg\ty\t2\n", "m.tsv"))
    assert protocol.classes == ["x", "y"] and protocol.notes == ["columns that are not used: gps"]
    protocol = load_protocol(write(folder, "path,split\nb.jpg,test\na.jpg,train\n"))
    assert ids(protocol) == {"train": ["a.jpg"], "query": ["b.jpg"], "database": ["a.jpg"]}
    protocol = load_protocol(write(folder, "path,split\nb.jpg,test\na.jpg,database\n"))
    assert protocol.train.ids == ["a.jpg"]  # no row of split train: the database trains


def test_manifests_elsewhere(folder, tmp_path):
    path = write(tmp_path, f"path\n{folder}/a.jpg\nb.jpg\n")
    protocol = load_protocol(path, root=folder)
    assert sorted(protocol.query.ids + protocol.database.ids) == ["a.jpg", "b.jpg"]
    root = load_protocol(write(tmp_path, f"path\n{folder}/a.jpg\n{folder}/b.jpg\n"), root="/")
    assert root.query.ids[0] == str(folder / os.path.basename(root.query.ids[0]))[1:]
    assert root.query.images.read(0).shape == (16, 20, 3)


GOOD = '{"path": "a.jpg", "labels": "x"}\n'
FAULTS = [
    ("m.csv", "path,labels\na.jpg,x\nb.jpg\n", "m.csv:3: 1 columns where 2 are expected"),
    ("m.csv", "path,text\na.jpg,\"two\nlines\"\nb.jpg,x,y\n", "m.csv:4: 3 columns where 2"),
    ("m.csv", "path,labels\na.jpg,x\nb.jpg,\"y\n", "m.csv:3: broken CSV"),
    ("m.csv", "picture,labels\na.jpg,x\n", "m.csv:1: no column path .or image.*; there are picture, labels"),
    ("m.csv", "path,image\na.jpg,x\n", "m.csv:1: path and image both name the path"),
    ("m.csv", "path,text,text\na.jpg,x,y\n", "m.csv:1: two columns are named text"),
    ("m.csv", "", "m.csv is empty; its first line must name the columns"),
    ("m.csv", "path,labels\n", "m.csv names no pictures"),
    ("m.csv", "path,split\na.jpg,train\nb.jpg,valid\n", "m.csv:3: split is 'valid', it must be train, query"),
    ("m.csv", "path,split\na.jpg,train\nb.jpg,\n", "m.csv:3: split is ''"),
    ("m.csv", "path,split\na.jpg,train\nb.jpg,train\n", "m.csv has a column split, but no row of split query"),
    ("m.csv", "path,split\na.jpg,query\nb.jpg,test\n", "no row of split database"),
    ("m.csv", "path,cat\na.jpg,1\nb.jpg,2\n", "m.csv:3: column cat is '2', it must be 0 or 1"),
    ("m.csv", "path,labels\na.jpg,x\n,y\n", "m.csv:3: the path is empty"),
    ("m.csv", "path,labels\na.jpg,x\n../b.jpg,y\n", "m.csv:3: path '../b.jpg' leaves the data folder.*--data-path"),
    ("m.csv", "path,labels\na.jpg,x\nsub/../../b.jpg,y\n", "m.csv:3: path .* leaves the data folder"),
    ("m.csv", "path,labels\na.jpg,x\n/etc/b.jpg,y\n", "m.csv:3: path '/etc/b.jpg' leaves the data folder"),
    ("m.csv", "path,labels\na.jpg,x\nhttps://x.org/b.jpg,y\n", "m.csv:3: .* is an address; download"),
    ("m.csv", "path,labels\na.jpg,x\nb.jpg,y\n./a.jpg,y\n", "m.csv:4: a.jpg is already in row 2"),
    ("m.csv", "path,split\na.jpg,train\nb.jpg,database\na.jpg,query\n", "m.csv:4: a.jpg is already in row 2"),
    ("m.csv", "path,labels\na.jpg,[1\n", "m.csv:2: labels '.1' are a broken JSON list"),
    ("m.csv", "path,labels\na.jpg,x\nb.jpg,ä\n".encode("latin1"), "m.csv:3: not UTF-8 text"),
    ("m.csv", "path,labels\na.jpg,x\n".encode("utf-16"), "m.csv:1: not UTF-8 text"),
    ("m.csv", '"pa\nth",labels\na.jpg,x\n', "m.csv:1: no column path .*; there are pa th, labels"),
    ("m.jsonl", GOOD + "{'path': 1}\n", "m.jsonl:2: broken JSON"),
    ("m.jsonl", GOOD + "[" * 100000 + "\n", "m.jsonl:2: broken JSON"),
    ("m.jsonl", GOOD + "[1]\n", "m.jsonl:2: not a JSON object"),
    ("m.jsonl", GOOD + '{"labels": "x"}\n', "m.jsonl:2: no column path"),
    ("m.jsonl", GOOD + '{"path": 3}\n', "m.jsonl:2: the path is no string"),
    ("m.jsonl", GOOD + '{"path": "b.jpg", "labels": {"x": 1}}\n', "m.jsonl:2: labels .* neither names"),
    ("m.jsonl", GOOD + '{"path": "b.jpg", "labels": [1, 2]}\n', "m.jsonl:2: labels .* neither a list of names nor"),
    ("m.jsonl", GOOD + '{"path": "b.jpg", "labels": [1, 0]}\n', "m.jsonl:2: labels as 2 columns .* where names"),
    ("m.jsonl", '{"path": "a.jpg", "labels": [1]}\n{"path": "b.jpg", "labels": [1, 0]}\n',
     "m.jsonl:2: labels as 2 columns"),
    ("m.jsonl", GOOD + '{"path": "b.jpg", "text": ["x"]}\n', "m.jsonl:2: text is .* must be a string"),
    ("m.jsonl", '{"path": "a.jpg", "split": "test"}\n{"path": "b.jpg"}\n', "m.jsonl:2: no split, and other rows"),
    ("m.txt", "a.jpg 1 0\nb.jpg 0 1\na.jpg 1 0\n", "m.txt:3: a.jpg is already in row 1"),
    ("m.txt", "a.jpg 1 0\nb.jpg 0\n", "m.txt:2: 1 labels where 2")]


@pytest.mark.parametrize("name, text, message", FAULTS)
def test_faults_name_file_and_row(folder, name, text, message):
    with pytest.raises(InputError, match=message) as error:
        load_protocol(write(folder, text, name))
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.lists(st.lists(st.sampled_from(
    ["path", "labels", "a.jpg", "", '"', "0", "1", "[0]", "split", "train", "x|y", "../", "\n", "\0", "text"]),
    max_size=4).map(",".join), max_size=4).map("\n".join), st.sampled_from(["m.csv", "m.tsv", "m.jsonl", "m.txt"]))
def test_any_text_is_read_or_refused(tmp_path_factory, text, name):
    folder = tmp_path_factory.getbasetemp()
    path = write(folder, text.encode("utf-8", "surrogatepass"), f"any_{name}")
    faults = []
    for on_fault in (None, faults.append):
        try:
            table = own.read(str(path), Request(on_fault=on_fault))
        except InputError as error:
            assert "\n" not in str(error)
            continue
        assert len(set(table.paths)) == len(table.paths)
        assert not any(".." in path.split("/") for path in table.paths)
        assert all(column is None or len(column) == len(table.paths)
                   for column in (table.labels, table.texts, table.splits, table.lines))


# image lists and unreadable pictures -------------------------------------------------------------
def test_one_image_list(folder):
    write(folder, "a.jpg 1 0\nsub/c c.jpg 0 1\nd.jpg 1 1\n", "list.txt")
    (folder / "classes.txt").write_text("cat\ndog\n")
    protocol = load_protocol(folder / "list.txt", num_query=1)
    assert protocol.classes == ["cat", "dog"] and len(protocol.query) == 1 and len(protocol.train) == 2
    (folder / "classes.txt").unlink()
    write(folder, "".join(f"{folder}/{name}\n" for name in ("a.jpg", "b.jpg")), "list.txt")  # find $PWD -name '*.jpg'
    protocol = load_protocol(folder / "list.txt")
    assert protocol.train.labels is None and sorted(protocol.query.ids + protocol.database.ids) == ["a.jpg", "b.jpg"]


def test_an_unreadable_picture_is_named_with_its_row(folder):
    (folder / "b.jpg").write_bytes(b"")
    protocol = load_protocol(write(folder, "path,split\na.jpg,query\nb.jpg,train\ngone.jpg,train\nd.jpg,train\n"))
    for row, reason in ((0, "m.csv:3: .*b.jpg: the file is empty"), (1, "m.csv:4: .*gone.jpg: cannot be read")):
        with pytest.raises(InputError, match=reason):
            protocol.train.images.read(row)
        with pytest.raises(InputError, match=reason):
            protocol.train.select([row]).images.size(0)
    again = load_protocol(folder / "m.csv", skip_broken=True)
    assert ids(again) == {"train": ["d.jpg"], "query": ["a.jpg"], "database": ["d.jpg"]}


def test_skip_broken(tmp_path):
    root = pictures(tmp_path / "own", *[f"{i}.png" for i in range(6)], *[f"{i}.jpg" for i in range(6)])
    for name in ("1.png", "2.jpg"):
        (root / name).write_bytes((root / name).read_bytes()[:-30])
    (root / "3.jpg").write_bytes(b"")
    protocol = load_protocol(root, skip_broken=1)
    left = protocol.query.ids + protocol.database.ids
    assert len(left) == 9 and not set(left) & {"1.png", "2.jpg", "3.jpg"}
    assert protocol.notes[-1].startswith("3 broken pictures were left out (--skip-broken): ")
    with pytest.raises(InputError, match="--skip-broken is for your own pictures"):
        load_protocol("shapes", skip_broken=1)
    for path in root.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no picture can be read"):
        load_protocol(root, skip_broken=1)


# commands ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["classes", "csv", "jsonl", "txt"])
def test_check_takes_every_form_and_names_every_fault(classes, kind, run):
    (classes / "dog" / "0.JPG").write_bytes(b"")
    names = ["cat/0.jpg", "cat/1.jpg", "dog/1.JPG", "dog/0.JPG"]
    path, faults = classes, []
    if kind != "classes":
        names += ["cat/0.jpg", "../x.jpg", "gone.jpg"]
        text = {"csv": "path\n" + "\n".join(names), "txt": "\n".join(names),
                "jsonl": "\n".join(json.dumps({"path": name}) for name in names)}[kind]
        path = write(classes, text, f"m.{kind}")
        row = 2 if kind == "csv" else 1
        faults = [f"m.{kind}:{row + 4}: cat/0.jpg is already in row {row}", f"m.{kind}:{row + 6}: {classes}/gone.jpg: "]
        faults += [f"m.{kind}:{row + 5}: path '../x.jpg' leaves"] if kind != "txt" else []
    done = run("-m", "utils.datasets", "check", path, ok=False)
    for fault in [*faults, f"{classes}/dog/0.JPG: the file is empty"]:
        assert fault in done.stdout, done.stdout
    assert done.returncode == 1 and not done.stderr
    if kind == "classes":
        assert "note: 3 files that are no pictures" in done.stdout


def test_the_table_says_licence_and_place(run):
    out = run("-m", "utils.datasets", "list").stdout
    head, *rows = out.splitlines()
    assert "licence" in head and "where to obtain" in head
    place = head.index("licence")
    for row in rows:
        if row.startswith("coco"):
            assert row[place:].startswith("annotations CC BY 4.0") and "https://cocodataset.org" in row


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """(flat folder, run folder) of an unsupervised run without labels, through the command."""
    base = tmp_path_factory.mktemp("flat")
    root = base / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((10, 10, 1))).astype("uint8")
        Image.fromarray(pixels).save(root / f"IMG_{i:02d}.png")
    run("main_single_gpu.py", "--method", "nsh", "--dataset", root, "--bit", 16, "--backbone", "ConvNet:width=4",
        "--no-pretrained", "--resize-size", 36, "--crop-size", 32, "--batch-size", 8, "--epoch", 1, "--device", "cpu",
        "--no-visualdl", "--num-query", 4, "--curves", "--output-dir", base / "run")
    return root, base / "run"


def test_a_flat_folder_trains_without_labels(trained, run):
    root, folder = trained
    result = json.loads((folder / "result.json").read_text())
    assert result["score"] is None and result["metrics"] == {} and result["training"]["selected_by"] == "last"
    assert result["protocol"]["counts"] == {"train": 20, "query": 4, "database": 20}
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in result["protocol"]["sha256"].values())
    done = run("main_single_gpu.py", "--method", "hashnet", "--dataset", root, "--no-pretrained", "--output-dir",
               folder / "no", ok=False)
    assert done.stderr.count("\n") == 1 and "hashnet needs labels" in done.stderr and not (folder / "no").exists()


def call(*arguments):
    """predict.py in this process."""
    import predict
    return predict.run(predict.parse(list(map(str, arguments))))


def test_index_a_folder_and_ask_it(trained, run, tmp_path, capsys):
    """The three commands: train (the fixture), index, query; then the folder changes."""
    root, folder = trained
    root = shutil.copytree(root, tmp_path / "photos")
    model, codes = ["--pretrained", folder / "best.safetensors"], tmp_path / "photos.npz"
    done = run("predict.py", *model, "--gallery", root, "--code-file", codes)
    assert "Encoded 24 database images" in done.stdout and "24 items" in done.stdout and codes.exists()
    asked = [*model, "--code-file", codes, "--save-path", tmp_path / "found"]
    done = run("predict.py", *asked, "--img", root / "IMG_05.png", "--json")
    matches = json.loads(done.stdout)["queries"][0]["matches"]
    assert matches[0]["distance"] == 0 and os.path.samefile(matches[0]["path"], root / matches[0]["id"])
    assert "IMG_05.png" in [match["id"] for match in matches if match["distance"] == 0]
    assert "Encoded" not in done.stderr and (tmp_path / "found" / "matches.png").exists()

    def ask(name, *more):
        answer = call(*asked, "--img", name, "--topk", 30, *more)
        return answer["queries"][0]["matches"], capsys.readouterr().out

    os.rename(root / "IMG_07.png", root / "new.png")
    shutil.copy(root / "IMG_01.png", root / "IMG_02.png")
    (root / "IMG_03.png").unlink()
    (root / "broken.jpg").write_bytes(b"")
    matches, said = ask(root / "new.png", "--gallery", root)
    assert "Encoded 2 new images" in said and "Skipped 1 broken" in said and "2 pictures encoded, 2 gone, 21 as" in said
    found = {match["id"]: match["distance"] for match in matches}
    assert found["new.png"] == 0 and found["IMG_01.png"] == found["IMG_02.png"] and len(found) == 23
    assert not {"IMG_07.png", "IMG_03.png", "broken.jpg"} & set(found)
    again, said = ask(root / "new.png", "--gallery", root)
    assert again == matches and "Encoded" not in said and "changed" not in said
    call(*model, "--gallery", root, "--code-file", tmp_path / "fresh.npz")
    assert "Encoded 23" in capsys.readouterr().out
    from utils.retrieval.codes import CodeFile
    one, two = CodeFile.load(codes), CodeFile.load(tmp_path / "fresh.npz")
    assert one.ids == two.ids and np.array_equal(one.codes, two.codes) and one.meta == two.meta


def test_gallery_mistakes(trained, tmp_path):
    root, folder = trained
    model, codes = ["--pretrained", folder / "best.safetensors"], tmp_path / "c.npz"
    call(*model, "--gallery", root, "--code-file", codes)
    (tmp_path / "other").mkdir()
    shutil.copy(root / "IMG_00.png", tmp_path / "other")
    for more, words in ((["--gallery", tmp_path / "other"], ["c.npz holds codes of", "--code-file or --rebuild"]),
                        (["--gallery", tmp_path / "nowhere"], ["nowhere does not exist; name a folder of pictures"]),
                        (["--gallery", root, "--dataset", "shapes"], ["takes the place of a data set"]),
                        ([], ["ask with --img or --text"])):
        with pytest.raises(InputError) as error:
            call(*model, "--code-file", codes, *more)
        assert all(word in str(error.value) for word in words), error.value


def test_a_gallery_with_classes_and_a_manifest(classes, tmp_path):
    split, names, _ = own.gallery(classes)
    assert names == ["cat", "dog"] and len(split) == 16 and split.labels.sum(0).tolist() == [10, 6]
    write(classes, "path,labels,split\ncat/0.jpg,x,train\ndog/1.JPG,y,query\n")
    split, names, _ = own.gallery(classes / "m.csv")
    assert split.ids == ["cat/0.jpg", "dog/1.JPG"] and names == ["x", "y"]
    split, _, _ = own.gallery(pictures(tmp_path / "s", "train/cat/0.jpg", "test/cat/1.jpg", "val/cat/1.jpg"))
    assert len(split) == 3  # nothing is split, so nothing is doubtful


def test_a_name_is_the_folder_of_lists_below_data(tmp_path, monkeypatch):
    """paddle_hashnet's --dataset coco_lite is data/coco_lite/{train,test,database}.txt."""
    for name in ("train", "test", "database"):
        write_list = tmp_path / "data" / "mine_lite" / f"{name}.txt"
        write_list.parent.mkdir(parents=True, exist_ok=True)
        write_list.write_text(f"a/{name}.jpg 0 1\n")
        picture(tmp_path / "pictures" / "a" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    assert absolute_name("mine_lite") == str(tmp_path / "data" / "mine_lite")
    protocol = load_protocol("mine_lite", root="pictures")
    assert [split.ids for split in protocol.splits] == [["a/train.jpg"], ["a/test.jpg"], ["a/database.jpg"]]
    (tmp_path / "data" / "mine_lite" / "database.txt").unlink()
    with pytest.raises(InputError, match="unknown data set 'mine_lite'"):
        load_protocol("mine_lite", root="pictures")
