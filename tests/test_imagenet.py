"""ImageNet-100 lists from a small folder in the official layouts."""
import hashlib
import io
import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from utils.datasets import PROTOCOLS, load_protocol
from utils.datasets.protocols import imagenet
from utils.errors import InputError

WNIDS = [f"n{1440000 + i * 37:08d}" for i in range(1000)]  # as many as there are, sorted
PRESENT = WNIDS[5:955:9]                                   # 106 class folders
LAYOUTS = ("folders", "csv", "truth and meta.mat", "truth and map_clsloc.txt", "val_list.txt")
KIT = WNIDS[:]                                             # the development kit counts in an order of its own
random.Random(0).shuffle(KIT)


def picture():
    data = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 9, 9)).save(data, "JPEG")
    return data.getvalue()


def truth():
    """dict validation picture -> WordNet id: two a class, in a mixed order."""
    wnids = PRESENT * 2
    random.Random(1).shuffle(wnids)
    return {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(wnids, 1)}


def write_train(root):
    data = picture()
    for i, wnid in enumerate(PRESENT):
        (root / "train" / wnid).mkdir(parents=True)
        for k in range(3 + i % 3):
            (root / "train" / wnid / f"{wnid}_{7 + k * 113}.JPEG").write_bytes(data)
    (root / "train" / "readme.txt").write_text("no class\n")


def write_val(root, layout):
    """The validation pictures and what tells their classes."""
    data = picture()
    for stem, wnid in truth().items():
        folder = root / "val" / wnid if layout == "folders" else root / "val"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.JPEG").write_bytes(data)
    if layout == "csv":
        rows = [f"{stem},{wnid} 85 1 499 272 {wnid} 1 2 3 4 " for stem, wnid in reversed(truth().items())]
        (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows) + "\n")
    if layout == "val_list.txt":
        (root / "val_list.txt").write_text("".join(f"val/{stem}.JPEG {WNIDS.index(wnid)}\n"
                                                   for stem, wnid in truth().items()))
        (root / "synset_words.txt").write_text("".join(f"{wnid} class {wnid}, other name\n" for wnid in WNIDS))
    if layout.startswith("truth"):
        kit = root / "ILSVRC2012_devkit_t12" / "data"
        kit.mkdir(parents=True)
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(
            "".join(f"{KIT.index(wnid) + 1}\n" for wnid in truth().values()))
        if layout.endswith("txt"):
            (kit / "map_clsloc.txt").write_text("".join(f"{wnid} {i} kit_fox\n" for i, wnid in enumerate(KIT, 1)))
        else:
            write_meta(kit / "meta.mat")


def write_meta(path):
    """meta.mat as in the development kit: a struct array, the 1000 classes and then what is above them."""
    synsets = np.zeros((1003, 1), [("ILSVRC2012_ID", object), ("WNID", object), ("words", object),
                                   ("num_children", object)])
    for i in range(1003):
        synsets[i, 0] = (float(i + 1), KIT[i] if i < 1000 else f"n0000000{i - 1000}", "kit fox", float(i >= 1000))
    savemat(path, {"synsets": synsets})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("ILSVRC2012")
    write_train(root)
    write_val(root, "folders")
    return root


def copy(root, folder, layout):
    """The same pictures with val in another layout."""
    folder.mkdir(parents=True)
    (folder / "train").symlink_to(root / "train")
    write_val(folder, layout)
    return folder


def rows_of(path):
    """dict path -> column of the one label."""
    rows = {}
    for line in path.read_text().splitlines():
        name, *labels = line.split()
        assert labels.count("1") == 1 and len(labels) == 100 and name not in rows
        rows[name] = labels.index("1")
    return rows


def test_lists(root, tmp_path):
    record = imagenet.make_lists(root, tmp_path, seed=3, train=200, any_count=True)
    wnids = (tmp_path / "classes.txt").read_text().split()
    assert len(wnids) == 100 and wnids == sorted(wnids) and set(wnids) < set(PRESENT)
    rows = {split: rows_of(tmp_path / f"{split}.txt") for split in ("train", "query", "database")}
    assert {f"val/{stem}.JPEG": wnid for stem, wnid in truth().items() if wnid in wnids} == \
        {path: wnids[column] for path, column in rows["query"].items()}
    wanted = {f"train/{wnid}/{path.name}": wnid for wnid in wnids for path in (root / "train" / wnid).iterdir()}
    assert wanted == {path: wnids[column] for path, column in rows["database"].items()}
    assert set(rows["train"]) < set(rows["database"]) and list(rows["train"].values()).count(4) == 2
    assert record["counts"] == {"query": 200, "train": 200, "database": len(wanted)}
    assert list(rows["database"]) != sorted(rows["database"]) and list(rows["train"]) != sorted(rows["train"])
    protocol = load_protocol("imagenet", root=root, list_dir=tmp_path, num_train=200)
    assert (protocol.topk, protocol.seed, protocol.classes) == (1000, 3, wnids)
    assert all(split.images.read(len(split) - 1).shape == (12, 16, 3) for split in protocol.splits)


def test_record_and_repeatability(root, tmp_path):
    record = imagenet.make_lists(root, tmp_path / "lists", seed=3, train=100, any_count=True)
    assert json.loads((tmp_path / "lists" / "lists.json").read_text()) == record
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((tmp_path / "lists" / name).read_bytes()).hexdigest() == digest
    assert imagenet.make_lists(root, tmp_path / "again", seed=3, train=100, any_count=True) == record
    other = imagenet.make_lists(root, tmp_path / "other", seed=4, train=100, any_count=True)
    assert all(other["sha256"][name] != digest for name, digest in record["sha256"].items())
    more = imagenet.make_lists(root, tmp_path / "more", seed=3, train=300, any_count=True, protocol="imagenet-13k")
    assert {name for name in record["sha256"] if more["sha256"][name] == record["sha256"][name]} == \
        {"query.txt", "database.txt", "classes.txt"}  # the variants differ in the training set alone
    assert set(rows_of(tmp_path / "lists" / "train.txt")) < set(rows_of(tmp_path / "more" / "train.txt"))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_every_layout_of_val_gives_the_same_lists(layout, root, tmp_path):
    record = imagenet.make_lists(root, tmp_path / "lists", train=100, any_count=True)
    other = copy(root, tmp_path / "root", layout)
    same = imagenet.make_lists(other, tmp_path / "same", train=100, any_count=True)
    for name in ("train.txt", "query.txt", "database.txt"):
        assert same["sha256"][name] == record["sha256"][name]
    if layout == "val_list.txt":  # there is a file that names the classes
        assert (tmp_path / "same" / "classes.txt").read_text().splitlines()[0].endswith(", other name")
    records = [load_protocol("imagenet", root=place, list_dir=tmp_path / "lists").record() for place in (root, other)]
    assert records[0] == records[1]
    query = load_protocol("imagenet", root=other, list_dir=tmp_path / "lists").query
    assert query.images.read(5).shape == (12, 16, 3)


def test_the_kaggle_folders(root, tmp_path):
    record = imagenet.make_lists(root, tmp_path / "lists", train=100, any_count=True)
    inner = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    copy(root, inner, "csv")
    (inner / "LOC_val_solution.csv").rename(tmp_path / "kaggle" / "LOC_val_solution.csv")
    assert imagenet.make_lists(tmp_path / "kaggle", tmp_path / "same", train=100, any_count=True) == record
    protocol = load_protocol("imagenet", root=tmp_path / "kaggle", list_dir=tmp_path / "same")
    assert protocol.train.images.read(0).shape == (12, 16, 3)


@pytest.mark.parametrize("train, val", [
    ("/home/caozhangjie/run-czj/dataset/imagenet/image/{name}",   # thuml/HashNet
     "/home/caozhangjie/run-czj/dataset/imagenet/val_image/{name}"),
    ("image/{name}", "val_image/{name}"),          # DeepHash-pytorch
    ("/train/{wnid}/{name}", "/val/{name}"),       # with a leading slash
    ("../ILSVRC/train/{wnid}/{name}", "../ILSVRC/val/{wnid}/{name}")])
@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_public_lists_are_read_as_they_are(train, val, layout, root, tmp_path):
    data = root if layout == "folders" else copy(root, tmp_path / "root", layout)
    names = [path.name for wnid in PRESENT[:100] for path in sorted((root / "train" / wnid).iterdir())]
    queries = {f"{stem}.JPEG": wnid for stem, wnid in truth().items() if wnid in PRESENT[:100]}
    wnid_of = {**{name: name[:9] for name in names}, **queries}
    public = tmp_path / "public"
    public.mkdir()
    for file, pattern, some in (("train.txt", train, names[::2]), ("database.txt", train, names),
                                ("test.txt", val, list(queries))):
        columns = np.eye(100, dtype=int)[[PRESENT.index(wnid_of[name]) for name in some]]
        paths = [pattern.format(name=name, wnid=wnid_of[name]) for name in some]
        (public / file).write_text("".join(f"{path} {' '.join(map(str, row))}\n" for path, row in zip(paths, columns)))
    protocol = load_protocol("imagenet-13k", root=data, list_dir=public)
    assert protocol.database.ids == [f"train/{name[:9]}/{name}" for name in names]
    if "{wnid}" not in val:
        assert protocol.query.ids == [f"val/{name}" for name in queries]
    for split in protocol.splits:
        for i in range(0, len(split), 20):
            assert split.images.read(i).shape == (12, 16, 3)
            wnid = wnid_of[split.ids[i].split("/")[-1]]
            assert PRESENT[int(np.flatnonzero(split.labels[i])[0])] == wnid


def test_commands(root, tmp_path, run):
    arguments = ["--root", root, "--list-dir", tmp_path / "lists"]
    done = run("-m", "utils.datasets", "make", "imagenet", *arguments, ok=False)
    assert done.returncode == 2 and "106 class folders" in done.stderr and done.stderr.count("\n") == 1
    done = run("-m", "utils.datasets", "make", "imagenet-13k", *arguments, "--num-train", 200, "--seed", 3,
               "--any-count")
    record = json.loads((tmp_path / "lists" / "lists.json").read_text())
    assert all(digest in done.stdout for digest in record["sha256"].values()) and "seed 3" in done.stdout
    done = run("-m", "utils.datasets", "check", "imagenet-13k", *arguments, "--num-train", 200)
    assert "no fault" in done.stdout
    lists = tmp_path / "lists"
    with open(lists / "database.txt", "a") as file:
        file.write((lists / "query.txt").read_text().splitlines()[6] + "\n")
    done = run("-m", "utils.datasets", "check", "imagenet-13k", *arguments, "--fast", ok=False)
    assert done.returncode == 1 and f"{lists}/query.txt:7: query" in done.stdout
    assert "train has 200 items, imagenet-13k has 13000" in done.stdout
    for name, train in (("imagenet", 10000), ("imagenet-13k", 13000)):
        assert PROTOCOLS[name].counts == (5000, train, None) and PROTOCOLS[name].topk == 1000


# bad input ---------------------------------------------------------------------------------------------------------
def test_official_counts_are_compared(root, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "ALL_CLASSES", 106)  # the training pictures are complete, val is not
    with pytest.raises(InputError, match="200 validation pictures of 100 classes, but ILSVRC 2012 has 5000"):
        imagenet.make_lists(root, tmp_path / "lists", train=100)
    monkeypatch.setattr(imagenet, "QUERY", 200)
    assert imagenet.make_lists(root, tmp_path / "lists", train=100)["counts"]["query"] == 200


def test_bad_folders_and_sizes(root, tmp_path):
    with pytest.raises(InputError, match="does not exist; it should hold train/n01440764"):
        imagenet.make_lists(tmp_path / "nowhere")
    with pytest.raises(InputError, match="train is missing"):
        imagenet.make_lists(root / "val", tmp_path / "lists")
    with pytest.raises(InputError, match="multiple of 100.*not 250"):
        imagenet.make_lists(root, tmp_path / "lists", train=250, any_count=True)
    with pytest.raises(InputError, match="n[0-9]{8} has 3 pictures, 4 a class are to train"):
        imagenet.make_lists(root, tmp_path / "lists", train=400, any_count=True)
    with pytest.raises(InputError, match="no imagenet lists in"):
        load_protocol("imagenet", root=root, list_dir=tmp_path)
    assert not (tmp_path / "lists").exists()


def first_chosen(root, tmp_path):
    """A class that the draw takes, for faults that must be noticed."""
    imagenet.make_lists(root, tmp_path / "chosen", train=100, any_count=True)
    return (tmp_path / "chosen" / "classes.txt").read_text().split()[0]


def test_the_ground_truth_needs_the_development_kit(root, tmp_path):
    """Its numbers are not those of synset_words.txt: taking them so gives wrong classes without a word."""
    data = copy(root, tmp_path / "root", "truth and meta.mat")
    (data / "synset_words.txt").write_text("".join(f"{wnid} name\n" for wnid in WNIDS))
    imagenet.make_lists(data, tmp_path / "lists", train=100, any_count=True)
    meta = data / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
    whole = meta.read_bytes()
    for broken in (whole[:len(whole) // 2], b"", b"no matrix at all"):
        meta.write_bytes(broken)
        with pytest.raises(InputError, match="meta.mat is no readable") as error:
            imagenet.make_lists(data, tmp_path / "new", train=100, any_count=True)
        assert "\n" not in str(error.value)
    meta.unlink()
    with pytest.raises(InputError, match="ground_truth.txt needs meta.mat"):
        imagenet.make_lists(data, tmp_path / "new", train=100, any_count=True)
    assert not (tmp_path / "new").exists()


FAULTS = [
    ("csv", "LOC_val_solution.csv", lambda t: t.replace(",n0", ",x0", 1), "csv:2: 'x0.* does not begin with a Word"),
    ("csv", "LOC_val_solution.csv", lambda t: t.rsplit("ILSVRC", 1)[0], "does not tell the class of .*00000001.JPEG"),
    ("csv", "LOC_val_solution.csv", lambda t: t + "ILSVRC2012_val_00050000,{wnid} 1 2 3 4\n",
     "csv:214: .*ILSVRC2012_val_00050000.JPEG is missing"),
    ("csv", "LOC_val_solution.csv", None, "no class folders, and .* no LOC_val_solution.csv"),
    ("truth and map_clsloc.txt", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
     lambda t: "1001\n" + t, "truth.txt:1: '1001' is none of the 1000 class numbers"),
    ("truth and map_clsloc.txt", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
     lambda t: t.rsplit("\n", 2)[0] + "\n", "does not tell the class of .*00000212.JPEG"),
    ("truth and map_clsloc.txt", "ILSVRC2012_devkit_t12/data/map_clsloc.txt", lambda t: "tench\n" + t,
     "map_clsloc.txt:1: expected '<WordNet id>"),
    ("val_list.txt", "val_list.txt", lambda t: "val/ILSVRC2012_val_00000001.JPEG 1000\n" + t, "list.txt:1: expected"),
    ("val_list.txt", "val_list.txt", lambda t: "ILSVRC2012_val_00000001 1\n" + t, "val_list.txt:1: expected"),
    ("val_list.txt", "synset_words.txt", None, "106 are known; put synset_words.txt"),
    ("val_list.txt", "synset_words.txt", lambda t: "tench\n" + t, "synset_words.txt:1: 'tench' does not begin"),
]


@pytest.mark.parametrize("layout, file, change, reason", FAULTS)
def test_bad_label_files(layout, file, change, reason, root, tmp_path):
    data = copy(root, tmp_path / "root", layout)
    imagenet.make_lists(data, tmp_path / "lists", train=100, any_count=True)
    text = (data / file).read_text()
    (data / file).unlink()
    if change:
        (data / file).write_text(change(text).replace("{wnid}", first_chosen(root, tmp_path)))
    with pytest.raises(InputError, match=reason) as error:
        imagenet.make_lists(data, tmp_path / "new", train=100, any_count=True)
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_a_class_folder_missing_in_val(root, tmp_path):
    data = copy(root, tmp_path / "root", "folders")
    wnid = first_chosen(root, tmp_path)
    shutil.rmtree(data / "val" / wnid)
    with pytest.raises(InputError, match=f"{wnid} is missing; val has 105 other"):
        imagenet.make_lists(data, tmp_path / "new", train=100, any_count=True)
