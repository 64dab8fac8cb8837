"""MIRFLICKR lists from small files in the official layout."""
import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from utils.datasets import PROTOCOLS, load_protocol
from utils.datasets.protocols import mirflickr
from utils.errors import InputError

SIZES = {"query": 8, "train": 12}
COUNT = 80


def truth_of(number):
    """(labels, tags) of a picture: 1 to 4 have no label, 5 to 7 no tag, 8 and 9 only rare tags.

    Exactly 20 pictures have the tag "twenty", 19 "nineteen", one of them twice.
    """
    labels = set() if number <= 4 else {mirflickr.POTENTIAL[number % 24], mirflickr.POTENTIAL[number * number % 24]}
    labels |= {f"{name}_r1" for name in labels if number % 2 and f"{name}_r1" in mirflickr.RELEVANT}
    tags = ["nikon"] * (number % 2) + ["k\u00e4se"] * (number % 3 != 0) + ["caf\u00e9"] * (number % 4 != 1)
    tags += ["twenty"] * (10 <= number < 30) + ["nineteen"] * ((10 <= number < 29) + (number == 10))
    tags = [] if 5 <= number <= 7 else [f"rare{number}"] if number in (8, 9) else tags + [f"only{number}"]
    return labels, tags


def write_official(root, count=COUNT):
    """mirflickr/ and mirflickr25k_annotations_v080/ as unpacked. Some tag files are Latin-1."""
    folder, annotations = root / "mirflickr", root / mirflickr.ANNOTATIONS
    (folder / "meta" / "tags").mkdir(parents=True)
    (folder / "doc").mkdir()
    annotations.mkdir()
    numbers = {name: [] for name in mirflickr.POTENTIAL + mirflickr.RELEVANT}
    for number in range(1, count + 1):
        Image.new("RGB", (16, 12), (number, 9, 9)).save(folder / f"im{number}.jpg")
        labels, tags = truth_of(number)
        for label in labels:
            numbers[label].append(number)
        coding = "latin-1" if number % 10 == 0 else "utf-8"
        text = "".join(f"{tag}\r\n" for tag in tags)
        (folder / "meta" / "tags" / f"tags{number}.txt").write_bytes(text.encode(coding))
    for name, some in numbers.items():
        (annotations / f"{name}.txt").write_text("".join(f"{number}\n" for number in some))
    (annotations / "README.txt").write_text("MIRFLICKR-25000 annotations\n")


def number_of(path):
    return int(path[2:-4])


def read(folder):
    """dict split -> dict path -> set of label columns, from the written lists."""
    rows = {}
    for split in ("train", "query", "database"):
        lines = (folder / f"{split}.txt").read_text().splitlines()
        rows[split] = {line.split()[0]: {k for k, v in enumerate(line.split()[1:]) if v == "1"} for line in lines}
        assert len(rows[split]) == len(lines)
    return rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("mirflickr")
    write_official(root)
    return root


# the supervised protocol -------------------------------------------------------------------------------------------
def test_supervised_lists(root, tmp_path):
    record = mirflickr.make_lists(root, tmp_path, seed=3, any_count=True, **SIZES)
    rows, names = read(tmp_path), (tmp_path / "classes.txt").read_text().split()
    assert record["counts"] == {"query": 8, "train": 12, "database": 60}
    assert len(names) == 38 and names == sorted(names)
    everything = {**rows["query"], **rows["train"], **rows["database"]}
    assert sorted(map(number_of, everything)) == list(range(1, COUNT + 1))  # none is left out, none comes twice
    for path, columns in everything.items():
        assert {names[k] for k in columns} == truth_of(number_of(path))[0]
    assert sum(record["without_a_label"].values()) == 4
    assert list(rows["database"]) != sorted(rows["database"], key=number_of)
    protocol = load_protocol("mirflickr", root=root, list_dir=tmp_path)
    assert (protocol.topk, protocol.seed, protocol.classes) == (0, 3, names)
    assert protocol.train.images.read(0).shape == (12, 16, 3) and protocol.train.texts is None
    assert load_protocol("mirflickr", root=root / "mirflickr", list_dir=tmp_path).record() == protocol.record()


@pytest.mark.parametrize("maker", [mirflickr.make_lists, mirflickr.make_crossmodal])
def test_record_and_repeatability(maker, root, tmp_path):
    record = maker(root, tmp_path / "lists", seed=3, any_count=True, **SIZES)
    assert json.loads((tmp_path / "lists" / "lists.json").read_text()) == record
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((tmp_path / "lists" / name).read_bytes()).hexdigest() == digest
    assert maker(root, tmp_path / "again", seed=3, any_count=True, **SIZES) == record
    other = maker(root, tmp_path / "other", seed=4, any_count=True, **SIZES)
    assert other["sha256"]["query.txt"] != record["sha256"]["query.txt"]


def test_public_lists_are_read_as_they_are(root, tmp_path):
    names = sorted(mirflickr.POTENTIAL + mirflickr.RELEVANT)
    for name, some in (("test.txt", range(10, 15)), ("train.txt", range(20, 27)), ("database.txt", range(30, 60))):
        (tmp_path / name).write_text("".join(f"im{number}.jpg " + " ".join(
            str(int(label in truth_of(number)[0])) for label in names) + "\n" for number in some))
    protocol = load_protocol("mirflickr", root=root, list_dir=tmp_path)
    assert [len(split) for split in protocol.splits] == [7, 5, 30] and protocol.query.images.size(0) == (16, 12)


# the image-text protocol -------------------------------------------------------------------------------------------
def test_crossmodal_lists(root, tmp_path):
    record = mirflickr.make_crossmodal(root, tmp_path, seed=3, any_count=True, **SIZES)
    rows = read(tmp_path)
    assert record["counts"] == {"query": 8, "train": 12, "database": COUNT - 9 - 8}
    assert (record["without_a_label"], record["with_labels_but_no_common_tag"]) == (4, 5)
    assert record["tag_files_read_as_latin_1"] == 8  # each tenth
    assert set(rows["train"]) < set(rows["database"]) and not set(rows["query"]) & set(rows["database"])
    everything = {**rows["query"], **rows["database"]}
    assert sorted(map(number_of, everything)) == list(range(10, COUNT + 1))
    tags = (tmp_path / "tags.txt").read_text(encoding="utf-8").split()
    assert tags == ["caf\u00e9", "k\u00e4se", "nikon", "twenty"]  # in 20 pictures at least, the most frequent first

    protocol = load_protocol("mirflickr_crossmodal", root=root, list_dir=tmp_path)
    assert (protocol.topk, protocol.seed, protocol.classes) == (50, 3, list(mirflickr.POTENTIAL))
    for split in protocol.splits:
        assert split.text_features.shape == (len(split), 4) and split.text_features.dtype == np.float32
        for i, path in enumerate(split.ids):
            labels, words = truth_of(number_of(path))
            assert {protocol.classes[k] for k in np.flatnonzero(split.labels[i])} == labels & set(mirflickr.POTENTIAL)
            assert split.texts[i] == " ".join(words)
            assert [tags[k] for k in np.flatnonzero(split.text_features[i])] == [tag for tag in tags if tag in words]
    assert protocol.query.images.read(0).shape == (12, 16, 3)


def test_crossmodal_shares_by_label(root, tmp_path):
    """25 shares of one query and one training picture: two for the first label, one for each of the others."""
    mirflickr.make_crossmodal(root, tmp_path, seed=3, query=25, train=25, any_count=True)
    rows = read(tmp_path)
    for split in ("query", "train"):
        for label in range(24):
            assert sum(label in columns for columns in rows[split].values()) >= 1
        assert sum(0 in columns for columns in rows[split].values()) >= 2


def test_matrices_in_the_root_are_read_by_features(root, tmp_path, run):
    """The rule: a root with .mat files is the authors' matrices, unless a folder of lists is named."""
    rng = np.random.default_rng(0)
    savemat(tmp_path / "mirflickr25k-lall.mat", {"LAll": np.eye(24)[np.arange(72) % 24]})
    savemat(tmp_path / "mirflickr25k-yall.mat", {"YAll": (rng.random((72, 7)) < 0.5).astype(float)})
    savemat(tmp_path / "mirflickr25k-iall.mat", {"IAll": rng.random((72, 5))})
    protocol = load_protocol("mirflickr_crossmodal", root=tmp_path, num_query=9, num_train=20)
    assert protocol.query.features.shape == (9, 5) and protocol.query.text_features.shape == (9, 7)
    done = run("-m", "utils.datasets", "make", "mirflickr_crossmodal", "--root", tmp_path, ok=False)
    assert done.returncode == 2 and "need no lists" in done.stderr
    (root / "mirflickr" / "features.mat").write_bytes(b"")
    mirflickr.make_crossmodal(root, tmp_path / "lists", any_count=True, **SIZES)
    protocol = load_protocol("mirflickr_crossmodal", root=root, list_dir=tmp_path / "lists")
    assert protocol.query.texts is not None
    (root / "mirflickr" / "features.mat").unlink()


def test_both_protocols_are_registered_once_with_a_maker():
    for name, counts in (("mirflickr", (1000, 4000, 20000)), ("mirflickr_crossmodal", (2000, 5000, 18015))):
        assert PROTOCOLS[name].counts == counts and PROTOCOLS[name].make is not None


# commands and bad input --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, official", [("mirflickr", "im25000.jpg"), ("mirflickr_crossmodal", "im25000.jpg")])
def test_commands(name, official, root, tmp_path, run):
    arguments = [name, "--root", root, "--list-dir", tmp_path / "lists"]
    sizes = ["--num-query", 8, "--num-train", 12]
    done = run("-m", "utils.datasets", "make", *arguments, *sizes, ok=False)
    assert done.returncode == 2 and official in done.stderr and done.stderr.count("\n") == 1
    done = run("-m", "utils.datasets", "make", *arguments, *sizes, "--seed", 3, "--any-count")
    record = json.loads((tmp_path / "lists" / "lists.json").read_text())
    assert all(digest in done.stdout for digest in record["sha256"].values()) and "seed 3" in done.stdout
    done = run("-m", "utils.datasets", "check", *arguments, *sizes)
    assert "no fault" in done.stdout and ("note: 4 items without any label" in done.stdout) == (name == "mirflickr")
    # a query that slips into the database is named with file and line
    lists = tmp_path / "lists"
    with open(lists / "database.txt", "a") as file:
        file.write((lists / "query.txt").read_text().splitlines()[4] + "\n")
    done = run("-m", "utils.datasets", "check", *arguments, *sizes, "--fast", ok=False)
    assert done.returncode == 1 and f"{lists}/query.txt:5: query" in done.stdout
    assert f"also in {lists}/database.txt:" in done.stdout


@pytest.fixture
def copy(tmp_path):
    write_official(tmp_path / "root")
    return tmp_path / "root"


@pytest.mark.parametrize("file, text, reason", [
    ("sea.txt", "7\n81\n", "sea.txt:2: 81 is none of the 80 pictures"),
    ("sea.txt", "7\n\n0\n", "sea.txt:3: 0 is none"),
    ("tree_r1.txt", "7\nim8.jpg\n", "tree_r1.txt:2: 'im8.jpg' is no picture number"),
    ("tree_r1.txt", "-3\n", "tree_r1.txt:1: '-3' is no picture number"),
    ("bird.txt", b"\xff\xfe7\n", "bird.txt.* not UTF-8"),
    ("tree_r1.txt", None, "tree_r1.txt is missing; unpack"),
    ("animals.txt", None, "animals.txt is missing"),
])
def test_bad_annotations(copy, tmp_path, file, text, reason):
    path = copy / mirflickr.ANNOTATIONS / file
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=reason) as error:
        mirflickr.make_lists(copy, tmp_path / "lists", any_count=True, **SIZES)
    assert "\n" not in str(error.value) and not (tmp_path / "lists").exists()


def test_bad_folders(copy, root, tmp_path):
    with pytest.raises(InputError, match="does not exist; it should hold mirflickr/im1.jpg"):
        mirflickr.make_lists(tmp_path / "nowhere")
    with pytest.raises(InputError, match="im1.jpg is missing"):
        mirflickr.make_lists(copy / mirflickr.ANNOTATIONS, tmp_path / "lists")
    with pytest.raises(InputError, match="animals.txt is missing.*mirflickr25k_annotations_v080"):
        mirflickr.make_lists(copy / "mirflickr", tmp_path / "lists", any_count=True, **SIZES)
    with pytest.raises(InputError, match="80 pictures.*im81.jpg is missing"):
        mirflickr.make_lists(copy, tmp_path / "lists", **SIZES)
    with pytest.raises(InputError, match="leave no database of the 80"):
        mirflickr.make_lists(copy, tmp_path / "lists", query=60, train=20, any_count=True)
    with pytest.raises(InputError, match="more than the 71 pictures"):
        mirflickr.make_crossmodal(copy, tmp_path / "lists", query=60, train=20, any_count=True)
    (copy / "mirflickr" / "meta" / "tags" / "tags40.txt").unlink()
    with pytest.raises(InputError, match="tags40.txt is missing"):
        mirflickr.make_crossmodal(copy, tmp_path / "lists", any_count=True, **SIZES)
    for path in (copy / "mirflickr" / "meta" / "tags").iterdir():
        path.unlink()
    (copy / "mirflickr" / "meta" / "tags").rmdir()
    with pytest.raises(InputError, match="meta/tags cannot be read.*mirflickr25k.zip"):
        mirflickr.make_crossmodal(copy, tmp_path / "lists", any_count=True, **SIZES)
    assert not (tmp_path / "lists").exists()


def test_official_counts_are_compared(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(mirflickr, "IMAGES", COUNT)  # the pictures are complete, the tags are not
    with pytest.raises(InputError, match="71 pictures with labels and tags and 4 tags .* has 20015 and 1386"):
        mirflickr.make_crossmodal(copy, tmp_path / "lists", **SIZES)
    assert mirflickr.make_lists(copy, tmp_path / "lists", **SIZES)["counts"]["database"] == 60


def test_loading_without_lists_or_texts(root, tmp_path):
    for name in ("mirflickr", "mirflickr_crossmodal"):
        with pytest.raises(InputError, match=f"no {name} lists in .*utils.datasets make {name} "):
            load_protocol(name, root=root, list_dir=tmp_path)
        with pytest.raises(InputError, match="--data-path"):
            load_protocol(name)
    mirflickr.make_crossmodal(root, tmp_path, any_count=True, **SIZES)
    with pytest.raises(InputError, match="those of mirflickr_crossmodal, not of mirflickr"):
        load_protocol("mirflickr", root=root, list_dir=tmp_path)
    lines = (tmp_path / "texts.jsonl").read_text().splitlines()
    (tmp_path / "texts.jsonl").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(InputError, match="texts.jsonl has no text for im10.jpg"):
        load_protocol("mirflickr_crossmodal", root=root, list_dir=tmp_path)
    (tmp_path / "tags.txt").unlink()
    with pytest.raises(InputError, match="tags.txt cannot be read"):
        load_protocol("mirflickr_crossmodal", root=root, list_dir=tmp_path)
