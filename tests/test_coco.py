"""COCO lists from small files in the official layout."""
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from utils.datasets import load_protocol
from utils.datasets.protocols import coco
from utils.errors import InputError

CATEGORIES = [(1, "person"), (2, "bicycle"), (44, "bottle"), (90, "toothbrush")]


def write_official(root, train=14, val=8, empty=3):
    """Annotation files as COCO's; returns dict path -> set of category ids. The last ``empty`` of train have none."""
    (root / "annotations").mkdir(parents=True)
    truth, number = {}, 1
    for split, count in (("train2014", train), ("val2014", val)):
        images, annotations = [], []
        for i in range(count):
            image = 1000 + number * 7
            name = f"COCO_{split}_{image:012d}.jpg"
            images.append({"license": 5, "file_name": name, "coco_url": "http://x", "height": 480, "width": 640,
                           "date_captured": "2013-11-14 16:28:13", "flickr_url": "http://y", "id": image})
            some = set() if split == "train2014" and i >= count - empty else {CATEGORIES[(number + k) % 4][0]
                                                                               for k in range(1 + number % 3)}
            for category in sorted(some) * 2:  # several objects of a category
                annotations.append({"segmentation": [[1.5, 2.25, 3.0, 4.0, 5.5, 6.5]], "area": 702.1, "iscrowd": 0,
                                    "image_id": image, "bbox": [473.07, 395.93, 38.65, 28.67],
                                    "category_id": category, "id": len(annotations)})
            truth[f"{split}/{name}"] = some
            number += 1
        content = {"info": {"year": 2014}, "images": images[::-1], "licenses": [], "annotations": annotations[::-1],
                   "categories": [{"supercategory": "s", "id": i, "name": name} for i, name in CATEGORIES]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return truth


@pytest.fixture
def made(tmp_path):
    truth = write_official(tmp_path / "root")
    record = coco.make_lists(tmp_path / "root", tmp_path / "lists", seed=3, query=5, train=6, any_count=True)
    return tmp_path, truth, record


def test_lists_hold_the_labelled_images_once(made):
    folder, truth, record = made
    rows = {}
    for split in ("train", "query", "database"):
        lines = (folder / "lists" / f"{split}.txt").read_text().splitlines()
        rows[split] = {line.split()[0]: [int(v) for v in line.split()[1:]] for line in lines}
        assert len(rows[split]) == len(lines) == record["counts"][split]
    assert [record["counts"][name] for name in ("query", "train", "database")] == [5, 6, 14]
    everything = {**rows["query"], **rows["database"]}
    assert set(everything) == {path for path, some in truth.items() if some} and len(everything) == 19
    assert set(rows["train"]) < set(rows["database"])
    for path, labels in everything.items():
        assert labels == [int(category in truth[path]) for category, _ in CATEGORIES]
    assert list(rows["database"]) != sorted(rows["database"])
    assert (folder / "lists" / "classes.txt").read_text().split() == [name for _, name in CATEGORIES]


def test_record_and_repeatability(made):
    folder, _, record = made
    stored = json.loads((folder / "lists" / "lists.json").read_text())
    assert stored == record and stored["seed"] == 3
    for name, digest in stored["sha256"].items():
        assert hashlib.sha256((folder / "lists" / name).read_bytes()).hexdigest() == digest
    again = coco.make_lists(folder / "root", folder / "again", seed=3, query=5, train=6, any_count=True)
    other = coco.make_lists(folder / "root", folder / "other", seed=4, query=5, train=6, any_count=True)
    assert again == record and other["sha256"]["query.txt"] != record["sha256"]["query.txt"]


def test_the_protocol_reads_them(made):
    folder, truth, _ = made
    for path in truth:
        file = folder / "root" / path
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (200, 10, 10)).save(file)
    protocol = load_protocol("coco", root=folder / "root", list_dir=folder / "lists")
    assert protocol.topk == 5000 and protocol.seed == 3 and protocol.classes == [name for _, name in CATEGORIES]
    assert [len(split) for split in protocol.splits] == [6, 5, 14]
    assert protocol.query.labels.shape == (5, 4) and protocol.query.images.read(0).shape == (30, 40, 3)
    for split in protocol.splits:
        for i, item in enumerate(split.ids):
            assert set(np.nonzero(split.labels[i])[0]) == {k for k, (c, _) in enumerate(CATEGORIES) if c in truth[item]}


def test_commands(made, run):
    folder, _, record = made
    arguments = ["--root", folder / "root", "--list-dir", folder / "by command", "--seed", 3, "--num-query", 5,
                 "--num-train", 6]
    done = run("data/coco/make_lists.py", *arguments, "--any-count")
    assert all(digest in done.stdout for digest in record["sha256"].values()) and "seed 3" in done.stdout
    done = run("-m", "utils.datasets", "make", "coco", *arguments, ok=False)
    assert done.returncode == 2 and "122218" in done.stderr and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_without_any_count_only_the_official_files_pass(tmp_path):
    write_official(tmp_path / "root")
    with pytest.raises(InputError, match="19 images.*122218"):
        coco.make_lists(tmp_path / "root", tmp_path / "lists", query=5, train=6)
    assert not (tmp_path / "lists").exists()


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        coco.make_lists(tmp_path / "nowhere", tmp_path / "lists")
    root = tmp_path / "root"
    write_official(root)
    with pytest.raises(InputError, match="more than the 19 images"):
        coco.make_lists(root, tmp_path / "lists", query=10, train=10, any_count=True)
    val = root / "annotations" / "instances_val2014.json"
    whole = val.read_text()
    for broken, reason in ((whole[:-30], "not JSON"), ("[]", "layout"), (json.dumps({"images": []}), "layout"),
                           (whole.replace('"category_id": 90', '"category_id": 91'), "unknown category 91")):
        val.write_text(broken)
        with pytest.raises(InputError, match=reason):
            coco.make_lists(root, tmp_path / "lists", query=5, train=6, any_count=True)
    val.unlink()
    with pytest.raises(InputError, match="instances_val2014.json is missing.*annotations_trainval2014.zip"):
        coco.make_lists(root, tmp_path / "lists", query=5, train=6, any_count=True)
    assert not (tmp_path / "lists").exists()


def test_loading_without_lists_says_how_to_make_them(tmp_path, made):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="utils.datasets make coco"):
        load_protocol("coco", root=tmp_path / "empty", list_dir=tmp_path / "none")
    with pytest.raises(InputError, match="--data-path"):
        load_protocol("coco", list_dir=tmp_path / "none")
    with pytest.raises(InputError, match="set when the lists are made"):
        load_protocol("coco", root=made[0] / "root", list_dir=made[0] / "lists", num_train=5)


def test_a_full_disk_leaves_no_new_list(made, monkeypatch):
    folder, _, _ = made
    before = {path.name: path.read_bytes() for path in (folder / "lists").iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("utils.datasets.protocols.list_maker.sha256_file", full)
    with pytest.raises(InputError, match="No space left"):
        coco.make_lists(folder / "root", folder / "lists", seed=9, query=5, train=6, any_count=True)
    assert {path.name: path.read_bytes() for path in (folder / "lists").iterdir()} == before
