"""Image lists, CIFAR-10 archives, protocol names and the check command."""
import io
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.datasets import PROTOCOLS, ArrayImages, Split, list_file, load_protocol
from utils.datasets.protocols import cifar10
from utils.errors import InputError


def write_folder(root, rows, classes=3):
    """A folder with pictures and lists; rows: dict split -> list of (path, labels)."""
    names = {path for some in rows.values() for path, _ in some}
    for number, name in enumerate(sorted(names)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (number * 37 % 256, 90, 30)).save(path)
    for split, some in rows.items():
        text = "".join(f"{path} {' '.join(map(str, labels))}\n" for path, labels in some)
        (root / f"{split}.txt").write_text(text, encoding="utf-8")


ROWS = {"train": [("pics/a.jpg", (1, 0, 0)), ("pics/b.jpg", (0, 1, 1))], "query": [("pics/q.jpg", (1, 0, 1))],
        "database": [("pics/b.jpg", (0, 1, 1)), ("pics/c c.jpg", (0, 0, 1)), ("pics/a.jpg", (1, 0, 0))]}


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "own", ROWS)
    return tmp_path / "own"


# lists -------------------------------------------------------------------------------------------
def read(tmp_path, text, **options):
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return list_file.read_list(path, **options)


NAMES = st.lists(st.text("ab01 _.é-", min_size=1, max_size=6).map(str.strip).filter(
    lambda part: part and part.strip(". ") and not set(part) <= {" "}), min_size=1, max_size=3).map(
    lambda parts: "/".join(parts) + ".jpg")


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 9).flatmap(lambda c: st.lists(
    st.tuples(NAMES, st.lists(st.integers(0, 1), min_size=c, max_size=c)), min_size=1, max_size=5)),
    st.sampled_from(["\n", "\r\n", "\n\n  \n"]))
def test_a_written_list_is_read_back(rows, end):
    """Blanks inside paths, words of 0 and 1 inside paths, Windows lines, blank lines."""
    paths = [path for path, _ in rows]
    labels = np.array([some for _, some in rows], np.uint8)
    text = list_file.write_lines(paths, labels).replace("\n", end)
    path = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / f"h2_list_{os.getpid()}.txt"
    try:
        path.write_bytes(text.encode("utf-8"))
        got, table, lines = list_file.read_list(path)
    finally:
        path.unlink()
    assert got == paths and np.array_equal(table, labels) and table.dtype == np.uint8
    assert [text.split("\n")[line - 1].strip().split(" ")[0] for line in lines] == [p.split(" ")[0] for p in paths]


def test_list_faults_name_file_and_line(tmp_path):
    for text, fault in {"a.jpg 0 1\nb.jpg 0 1 1\n": "list.txt:2: 3 labels where 2 are expected",
                        "a.jpg 0 1\n\nb.jpg 1\n": "list.txt:3: 1 labels where 2",
                        "a.jpg 0 1\nb.jpg 0 2\n": "list.txt:2: label 2 is '2'",
                        "a.jpg 0 1\nb.jpg 2 0 1\n": "list.txt:2: label 1 is '2'",
                        "a.jpg 0 x\n": "list.txt:1: label 2 is 'x'",
                        "a.jpg 0 1\nb.jpg\n": "list.txt:2: 0 labels where 2",
                        "a.jpg 1\nx/../../b.jpg 1\n": "list.txt:2: path 'x/../../b.jpg' leaves"}.items():
        with pytest.raises(InputError, match=fault.replace("'", ".").replace(".jpg", r"\.jpg")):
            read(tmp_path, text)
    with pytest.raises(InputError, match="UTF-8"):
        read(tmp_path, "ä.jpg 1\n".encode("latin1"))
    with pytest.raises(InputError, match="cannot be read"):
        list_file.read_list(tmp_path / "gone.txt")


def test_faults_can_be_collected_instead(tmp_path):
    faults = []
    paths, labels, lines = read(tmp_path, "a.jpg 0 1\nb.jpg 0 2\nc.jpg 1\nd.jpg 1 1\n", on_fault=faults.append)
    assert paths == ["a.jpg", "d.jpg"] and labels.tolist() == [[0, 1], [1, 1]] and lines.tolist() == [1, 4]
    assert len(faults) == 2 and "list.txt:2" in faults[0] and "list.txt:3" in faults[1]


def test_other_forms_of_lists(tmp_path):
    assert read(tmp_path, "\ufeffa.jpg\nb b.png\n")[:2] == (["a.jpg", "b b.png"], None)  # no labels, byte order mark
    paths, labels, _ = read(tmp_path, "noending 0 1\nsome thing 1 1 0\n", num_classes=2)
    assert paths == ["noending", "some thing 1"] and labels.tolist() == [[0, 1], [1, 0]]
    paths, _, _ = read(tmp_path, "/a/b.jpg 1\n./c.jpg 0\n../d.jpg 1\ne\\f.jpg 1\n")
    assert paths == ["a/b.jpg", "c.jpg", "d.jpg", "e/f.jpg"]


def test_prefixes_of_public_lists_are_dropped(folder):
    for prefix in ("/", "../data/own/", "/home/someone/coco/"):
        for split, rows in ROWS.items():
            text = "".join(f"{prefix}{path} {' '.join(map(str, labels))}\n" for path, labels in rows)
            (folder / f"{split}.txt").write_text(text)
        protocol = load_protocol(folder)
        assert protocol.database.ids == [path for path, _ in ROWS["database"]]
        assert protocol.database.images.read(1).shape == (16, 20, 3)


# folders and names -------------------------------------------------------------------------------
def test_a_folder_is_a_protocol(folder):
    protocol = load_protocol(str(folder))
    assert protocol.name == "own" and protocol.classes == ["class_0", "class_1", "class_2"] and protocol.topk == 0
    for split in protocol.splits:
        assert split.ids == [path for path, _ in ROWS[split.name]]
        assert split.labels.tolist() == [list(labels) for _, labels in ROWS[split.name]]
    assert protocol.record()["counts"] == {"train": 2, "query": 1, "database": 3}
    assert protocol.train.where(1) == f"{folder}/train.txt:2"
    (folder / "query.txt").rename(folder / "test.txt")
    (folder / "classes.txt").write_text("cat\ndog\nice cream\n")
    again = load_protocol(folder)
    assert again.classes == ["cat", "dog", "ice cream"] and again.record()["sha256"] == protocol.record()["sha256"]


def test_lists_elsewhere(folder, tmp_path):
    (tmp_path / "lists").mkdir()
    for path in folder.glob("*.txt"):
        shutil.move(path, tmp_path / "lists")
    assert load_protocol(tmp_path / "lists", root=folder).query.images.read(0).shape == (16, 20, 3)
    assert load_protocol(folder, list_dir=tmp_path / "lists").query.images.read(0).shape == (16, 20, 3)


def test_folder_faults(folder):
    (folder / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match="names 2 classes.*3 labels"):
        load_protocol(folder)
    (folder / "classes.txt").unlink()
    (folder / "query.txt").write_text("pics/q.jpg 1 0\n")
    with pytest.raises(InputError, match="query.txt:1: 2 labels where 3"):
        load_protocol(folder)
    (folder / "query.txt").write_text("\n")
    with pytest.raises(InputError, match="query split.*query.txt.*is empty"):
        load_protocol(folder)
    (folder / "query.txt").unlink()
    with pytest.raises(InputError, match="no query.txt or test.txt"):
        load_protocol(folder)


@pytest.mark.parametrize("name, near", [("cifar-10", "cifar10"), ("shape", "shapes"), ("cocco", "coco"),
                                        ("cifar10_1", "cifar10-1")])
def test_wrong_names_get_the_nearest(name, near):
    with pytest.raises(InputError, match=f"unknown data set '{name}'; did you mean '{near}'"):
        load_protocol(name)


def test_missing_roots():
    with pytest.raises(InputError, match="/no/such.*cifar-10-python.tar.gz"):
        load_protocol("cifar10", root="/no/such")
    with pytest.raises(InputError, match="/no/such does not exist"):
        load_protocol("coco", root="/no/such")
    with pytest.raises(InputError, match="the folder /no/such .* does not exist.*--dataset NEW or --data-path NEW"):
        load_protocol("/no/such")


def test_counts_of_the_literature():
    assert PROTOCOLS["cifar10"].counts == (1000, 5000, 54000) and not PROTOCOLS["cifar10"].inside
    assert PROTOCOLS["cifar10-1"].counts == (1000, 5000, 59000)
    assert PROTOCOLS["cifar10-2"].counts == (10000, 50000, 50000)
    assert PROTOCOLS["coco"].counts == (5000, 10000, 117218) and PROTOCOLS["coco"].topk == 5000


# splits ------------------------------------------------------------------------------------------
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=15))
def test_select_keeps_columns_together(positions):
    n = 10
    array = np.arange(n * 4 * 5 * 3, dtype=np.uint8).reshape(n, 4, 5, 3)
    split = Split("database", [f"i{k}" for k in range(n)], np.eye(n, dtype=np.uint8), ArrayImages(array),
                  np.arange(n * 2, dtype=np.float32).reshape(n, 2), [f"t{k}" for k in range(n)],
                  np.arange(n, dtype=np.float32)[:, None], "list.txt", np.arange(n) + 1)
    some = split.select(positions).select(range(len(positions)))
    assert len(some) == len(some.images) == len(positions)
    for k, position in enumerate(positions):
        assert some.ids[k] == f"i{position}" and some.labels[k].argmax() == position
        assert some.texts[k] == f"t{position}" and some.text_features[k, 0] == position
        assert some.features[k].tolist() == [2 * position, 2 * position + 1]
        assert some.where(k) == f"list.txt:{position + 1}"
        assert np.array_equal(some.images.read(k), array[position])
    clone = pickle.loads(pickle.dumps(some))
    assert clone.sha256() == some.sha256() and clone.ids == some.ids


def test_sha256_sees_ids_labels_and_order():
    split = Split("query", ["a", "b"], np.array([[1, 0], [0, 1]], np.uint8))
    others = [split.select([1, 0]), split.select([0]), Split("query", ["a", "c"], split.labels),
              Split("query", ["a", "b"], split.labels[::-1]), Split("query", ["a", "b"])]
    assert len({one.sha256() for one in [split, *others]}) == 6
    assert split.sha256() == Split("database", ["a", "b"], split.labels.copy()).sha256()


# CIFAR-10 ----------------------------------------------------------------------------------------
def official_batch(images, labels):
    """A batch as Python 3 and today's numpy would pickle it, keys as bytes."""
    data = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
    return pickle.dumps({b"batch_label": b"x", b"labels": [int(v) for v in labels], b"data": data,
                         b"filenames": [b"f.png"] * len(images)}, protocol=2)


@pytest.fixture(scope="module")
def own_archive(tmp_path_factory):
    """A tiny archive of our own: 5 x 40 train and 40 test images; pixels tell the row, channels differ."""
    root = tmp_path_factory.mktemp("cifar")
    images = np.random.default_rng(0).integers(0, 256, (240, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(240) % 10
    with tarfile.open(root / cifar10.ARCHIVE, "w:gz") as tar:
        for i, name in enumerate(cifar10.BATCHES):
            data = official_batch(images[40 * i:40 * i + 40], labels[40 * i:40 * i + 40])
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return root, images, labels


SIZES = {"query_per_class": 2, "train_per_class": 5}


def test_cifar_protocols(own_archive):
    root, images, labels = own_archive
    got = {name: load_protocol(name, root=root, seed=1, **SIZES) for name in ("cifar10", "cifar10-1", "cifar10-2")}
    for name, protocol in got.items():
        assert protocol.classes[3] == "cat" and len(protocol.query) == 20 and len(protocol.train) == 50
        ids = {split.name: set(split.ids) for split in protocol.splits}
        assert not ids["query"] & (ids["train"] | ids["database"])
        for split in protocol.splits:
            assert len(ids[split.name]) == len(split)
            for i in (0, len(split) - 1):
                _, part, number = split.ids[i].split("/")
                row = int(number) + 200 * (part == "test")
                assert np.array_equal(split.images.read(i), images[row]) and split.labels[i].argmax() == labels[row]
        for split in (protocol.query, protocol.train):
            assert (split.labels.sum(0) == len(split) // 10).all() and (split.labels.sum(1) == 1).all()
    ids = {name: {split.name: set(split.ids) for split in protocol.splits} for name, protocol in got.items()}
    assert len(ids["cifar10"]["database"]) == 170 and not ids["cifar10"]["database"] & ids["cifar10"]["train"]
    assert len(ids["cifar10-1"]["database"]) == 220 and ids["cifar10-1"]["train"] < ids["cifar10-1"]["database"]
    assert ids["cifar10-2"]["train"] == ids["cifar10-2"]["database"]
    classes = got["cifar10-1"].database.labels.argmax(1)
    assert (np.diff(classes) == 0).mean() < 0.3  # shuffled, not class by class


def test_cifar_split_is_a_matter_of_the_seed_alone(own_archive):
    root, _, _ = own_archive
    one, same, other = (load_protocol("cifar10-1", root=root, seed=seed, **SIZES).record() for seed in (1, 1, 2))
    assert one == same and one["seed"] == 1 and one["sha256"]["query"] != other["sha256"]["query"]


def test_cifar_forms_of_root(own_archive, tmp_path):
    root, _, _ = own_archive
    with tarfile.open(root / cifar10.ARCHIVE) as tar:
        for member in tar.getmembers():
            path = tmp_path / member.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
    places = (root, root / cifar10.ARCHIVE, tmp_path, tmp_path / cifar10.FOLDER)
    assert len({str(load_protocol("cifar10", root=place, seed=0, **SIZES).record()) for place in places}) == 1


def test_cifar_too_few_images(own_archive):
    root, _, _ = own_archive
    with pytest.raises(InputError, match="cifar10 needs 100 query . 500 training.*24 of class air.*query_per_class"):
        load_protocol("cifar10", root=root)
    with pytest.raises(InputError, match="cifar10-2 needs 24 query"):
        load_protocol("cifar10-2", root=root, query_per_class=24)
    with pytest.raises(InputError, match="database split is empty"):
        load_protocol("cifar10", root=root, query_per_class=4, train_per_class=20)


def test_cifar_of_the_shared_tool(shared, tmp_path):
    """The archive of the shared real images: Python-2 pickles with the official numpy names."""
    tool, source = shared / "tools" / "make_cifar10.py", shared / "data" / "cifar10_jpeg.tar.xz"
    if not (tool.exists() and source.exists()):
        pytest.skip("the shared CIFAR-10 images are not at hand")
    archive = tmp_path / "small.tar.gz"
    subprocess.run([sys.executable, tool, "--src", source, "--train-per-class", "3", "--test-per-class", "2", "--out",
                    archive], check=True, stdout=subprocess.PIPE)
    protocol = load_protocol("cifar10-1", root=archive, query_per_class=1, train_per_class=2)
    assert [len(split) for split in protocol.splits] == [20, 10, 40]
    with tarfile.open(archive) as tar:
        raw = pickle.loads(tar.extractfile("cifar-10-batches-py/test_batch").read(), encoding="bytes")
    for split in protocol.splits:
        for i, item in enumerate(split.ids):
            if "/test/" in item:
                row = int(item[-5:])
                assert np.array_equal(split.images.read(i).transpose(2, 0, 1).reshape(-1), raw[b"data"][row])
                assert split.labels[i].argmax() == raw[b"labels"][row]


class Attack:
    """A pickle of this runs a command when it is loaded by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def attacks(mark):
    """Hostile or foreign batch files: name -> bytes."""
    good = np.zeros((2, 3072), np.uint8)
    named = {b"labels": [0, 1], b"data": good}
    return {"command": pickle.dumps(Attack(mark), 2), "hidden": pickle.dumps({**named, b"filenames": Attack(mark)}, 2),
            "eval": b"c__builtin__\neval\n(S'open(\"%s\",\"w\")'\ntR." % str(mark).encode(),
            "attribute": b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
            "numpy": b"cnumpy\nload\n(S'x'\ntR.", "state": pickle.dumps({**named, b"data": np.zeros(2, "O")}, 2),
            "float": pickle.dumps({**named, b"data": np.zeros((2, 3072), "f4")}, 2),
            "shape": pickle.dumps({**named, b"data": good[:, :5]}, 2),
            "rows": pickle.dumps({**named, b"data": good[:1]}, 2),
            "label": pickle.dumps({**named, b"labels": [0, 10]}, 2), "keys": pickle.dumps({b"a": 1}, 2),
            "list": pickle.dumps([1, 2], 2), "empty": b"", "noise": bytes(range(256)),
            "cut": pickle.dumps(named, 2)[:500],
            "persistent": b"Pabc\n."}


@pytest.mark.parametrize("kind", sorted(attacks("x")))
def test_no_code_of_a_batch_file_runs(kind, tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(InputError, match="^f is not a CIFAR-10 batch file|^f: a label is outside"):
        cifar10.read_batch(attacks(mark)[kind], "f")
    assert not mark.exists()


def test_the_attack_would_work_on_a_careless_reader(tmp_path):
    pickle.loads(attacks(tmp_path / "mark")["command"])
    assert (tmp_path / "mark").exists()


def test_broken_archives(own_archive, tmp_path):
    whole = (own_archive[0] / cifar10.ARCHIVE).read_bytes()
    archive = tmp_path / cifar10.ARCHIVE
    for data, reason in ((whole[:len(whole) // 2], "broken or cut short"), (b"", "broken or cut short"),
                         (b"no archive", "broken or cut short")):
        archive.write_bytes(data)
        with pytest.raises(InputError, match=reason):
            load_protocol("cifar10", root=tmp_path, **SIZES)
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("readme.html"))
    with pytest.raises(InputError, match="lacks the batch file data_batch_1"):
        load_protocol("cifar10", root=tmp_path, **SIZES)


# the command -------------------------------------------------------------------------------------
def test_list_command(run):
    out = run("-m", "utils.datasets", "list").stdout
    for name, spec in PROTOCOLS.items():
        (line,) = [line for line in out.splitlines() if line.split()[0] == name]
        if spec.counts:
            assert all(str(count or 'rest') in line for count in spec.counts)
    assert "cs.toronto.edu" in out and "cocodataset.org" in out


def test_check_passes_a_sound_folder(folder, run):
    out = run("-m", "utils.datasets", "check", folder).stdout
    assert "own: no fault, images decoded" in out and "train           2 items  sha256" in out


def test_check_names_every_fault(folder, run):
    """All injected faults are found in one run, by place; the fast run sees those that need no decoding."""
    rows = {split: list(some) for split, some in ROWS.items()}
    rows["database"] += [("pics/q.jpg", (1, 0, 1)), ("pics/none.jpg", (0, 0, 0)), ("pics/b.jpg", (0, 1, 1)),
                         ("pics/gone.jpg", (1, 0, 0)), ("pics/cut.jpg", (1, 0, 0)), ("pics/text.jpg", (1, 0, 0)),
                         ("pics/zero.jpg", (1, 0, 0)), ("pics/cut.png", (1, 0, 0))]
    write_folder(folder, rows)
    with open(folder / "train.txt", "a") as file:
        file.write("pics/a.jpg 1 0\npics/b.jpg 1 0 7\n")
    pics = folder / "pics"
    (pics / "gone.jpg").unlink()
    for name in ("cut.jpg", "cut.png"):
        data = (pics / name).read_bytes()
        (pics / name).write_bytes(data[:-30])
    (pics / "text.jpg").write_text("hello")
    (pics / "zero.jpg").write_bytes(b"")
    faults = {"train.txt:3: 2 labels where 3": True, "train.txt:4: label 3 is '7'": True,
              "query.txt:1: query pics/q.jpg is also in": True, "database.txt:5: pics/none.jpg has no label": True,
              "database.txt:6: pics/b.jpg is already in": True, "database.txt:7: ": True,
              "gone.jpg: cannot be read": True, "cut.jpg: truncated JPEG": True, "text.jpg: not an image": True,
              "zero.jpg: the file is empty": True, "cut.png: broken or truncated": False}
    for fast in (False, True):
        done = run("-m", "utils.datasets", "check", folder, *["--fast"] * fast, ok=False)
        assert done.returncode == 1 and not done.stderr
        missed = [fault for fault, always in faults.items() if (always or not fast) and fault not in done.stdout]
        assert not missed, done.stdout
        assert done.stdout.splitlines()[-1].startswith(f"own: {9 if fast else 10} faults"), done.stdout


def test_check_knows_what_a_protocol_promises(tmp_path, run):
    """Training items outside the database, and counts, are faults where the protocol says so (shapes does)."""
    protocol = load_protocol("shapes", root=tmp_path, num_query=3, num_train=4, num_database=8)
    folder = pathlib.Path(protocol.query.images.root)
    sizes = ["--num-query", 3, "--num-train", 4, "--num-database", 8]
    assert "no fault" in run("-m", "utils.datasets", "check", "shapes", "--root", tmp_path, *sizes).stdout
    rows = (folder / "database.txt").read_text().splitlines()
    (folder / "database.txt").write_text("\n".join(row for row in rows if protocol.train.ids[0] not in row) + "\n")
    done = run("-m", "utils.datasets", "check", "shapes", "--root", folder, ok=False)
    assert f"train.txt:1: training item {protocol.train.ids[0]} is not in the database" in done.stdout
    assert "database has 7 items, shapes has 2000" in done.stdout


def test_many_faults_are_cut_short(folder, run):
    with open(folder / "database.txt", "a") as file:
        file.write("".join(f"pics/x{i}.jpg 1 0 0\n" for i in range(50)))
    done = run("-m", "utils.datasets", "check", folder, ok=False)
    assert done.stdout.count("fault: image: ") == 21 and "and 30 more" in done.stdout and "50 faults" in done.stdout


@pytest.mark.parametrize("arguments, message", [
    (["check", "cifar11"], "did you mean 'cifar10"), (["check", "coco"], "--data-path"), (["chek"], "invalid choice"),
    (["make", "cifar10"], "needs no lists"), (["check", "shapes", "--query-per-class", "3"], "no size 'query_per_cla"),
    ([], "list | make | check"), (["check", "shapes", "--seed", "x"], "invalid int"), (["list", "--wrong"], "--wrong")])
def test_wrong_commands_are_one_line(arguments, message, run):
    done = run("-m", "utils.datasets", *arguments, ok=False)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_feature_files_are_data_sets_too(tmp_path, run):
    """A .npz of features goes by its path, through the loader and the check command."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "news.npz", image=rng.random((40, 6), np.float32), text=rng.random((40, 5), np.float32),
             label=np.eye(4, dtype=np.uint8)[np.arange(40) % 4], is_train=np.arange(40) < 30)
    protocol = load_protocol(tmp_path / "news.npz")
    assert [len(split) for split in protocol.splits] == [30, 10, 30] and protocol.train.features.shape == (30, 6)
    assert "no fault" in run("-m", "utils.datasets", "check", tmp_path / "news.npz").stdout
    with pytest.raises(InputError, match="gone.npz does not exist"):
        load_protocol(tmp_path / "gone.npz")
