"""Precomputed features and the authors' .mat layouts, on small files written here in exactly those layouts."""
import multiprocessing
import pickle

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from utils.datasets import load_protocol
from utils.datasets.matrices.feature_files import load_features_protocol
from utils.datasets.matrices.splits import DRAWN, draw_by_label
from utils.errors import InputError


def v73(path, **matlab_arrays):
    """Arrays in MATLAB's orientation, stored as MATLAB does: axes reversed, class attribute, user block."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in matlab_arrays.items():
            data = file.create_dataset(name, data=np.ascontiguousarray(value.T))
            data.attrs["MATLAB_class"] = np.bytes_({"uint8": "uint8", "float64": "double"}[value.dtype.name])
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, HDF5 schema 1.00 .".ljust(116) + b"\0" * 8 + b"\x00\x02IM")


def data(n=60, width=14, classes=6, seed=0):
    """(pictures [N, H, W, 3] with H != W, texts [N, D] 0/1, labels [N, C] 0/1)."""
    rng = np.random.RandomState(seed)
    labels = np.eye(classes)[np.arange(n) % classes]
    labels[rng.rand(n) < 0.3, 0] = 1
    return rng.randint(0, 256, (n, 6, 9, 3)).astype("uint8"), (rng.rand(n, width) < 0.3).astype(float), labels


def as_stored(pictures):
    return pictures.transpose(1, 2, 3, 0)  # H x W x 3 x N


def write(layout, folder, pictures, texts, labels):
    if layout == "mirflickr":
        savemat(folder / "mirflickr25k-lall.mat", {"LAll": labels})
        savemat(folder / "mirflickr25k-yall.mat", {"YAll": texts})
        v73(folder / "mirflickr25k-iall.mat", IAll=as_stored(pictures))
        return folder
    if layout == "nuswide":
        savemat(folder / "nus-wide-tc10-lall.mat", {"LAll": labels})
        v73(folder / "nus-wide-tc10-yall.mat", YAll=texts)
        v73(folder / "nus-wide-tc10-iall.mat", IAll=as_stored(pictures))
        return folder / "nus-wide-tc10-yall.mat"
    v73(folder / "FLICKR-25K.mat", images=as_stored(pictures), YAll=texts, LAll=labels)
    return folder / "FLICKR-25K.mat"


NAMES = {"mirflickr": "mirflickr_crossmodal", "nuswide": "nuswide_10", "dcmh": "mirflickr_crossmodal"}


@pytest.mark.parametrize("layout", list(NAMES))
def test_author_layouts(tmp_path, layout):
    pictures, texts, labels = data()
    path = write(layout, tmp_path, pictures, texts, labels)
    protocol = load_features_protocol(path, seed=3, num_query=7, num_train=21)
    assert protocol.name == NAMES[layout] and protocol.topk == 50 and protocol.seed == 3
    assert [len(split) for split in protocol.splits] == [21, 7, 53]
    rows = {split.name: [int(name) for name in split.ids] for split in protocol.splits}
    assert set(rows["train"]) < set(rows["database"])
    assert sorted(rows["query"] + rows["database"]) == list(range(60))
    for split in protocol.splits:
        wanted = rows[split.name]
        assert np.array_equal(split.labels, labels[wanted])
        assert np.array_equal(split.text_features, texts[wanted]) and split.text_features.dtype == np.float32
        assert all(np.array_equal(split.images.read(i), pictures[row]) for i, row in enumerate(wanted))
        assert split.images.size(0) == (9, 6)


def test_split_is_a_function_of_the_seed(tmp_path):
    path = write("mirflickr", tmp_path, *data())
    records = [load_features_protocol(path, seed, num_query=7, num_train=21).record() for seed in (1, 1, 2)]
    assert records[0] == records[1]
    for split in ("train", "query", "database"):
        assert records[0]["sha256"][split] != records[2]["sha256"][split]


def test_database_order_says_nothing_about_the_class(tmp_path):
    path = write("dcmh", tmp_path, *data())
    ids = load_features_protocol(path, 0, num_query=7, num_train=21).database.ids
    assert ids != sorted(ids)


@pytest.mark.parametrize("name", DRAWN)
def test_published_sizes(name):
    num_query, num_train, first, _ = DRAWN[name]
    classes = {"mirflickr_crossmodal": 24, "nuswide_10": 10}[name]
    labels = np.eye(classes, dtype="uint8")[np.arange(20015) % classes]
    query, train = draw_by_label(labels, num_query, num_train, first)
    assert (len(query), len(train)) == (2000, 5000) and not set(query) & set(train)
    counts = labels[query].sum(0), labels[train].sum(0)
    if first == 2:  # 160 + 400 of the first label, 80 + 200 of the others
        assert counts[0].tolist() == [160] + [80] * 23 and counts[1].tolist() == [400] + [200] * 23
    else:
        assert counts[0].tolist() == [200] * 10 and counts[1].tolist() == [500] * 10


def test_rare_labels_are_made_up_for():
    labels = np.zeros((40, 4), "uint8")
    labels[:3, 1] = 1
    labels[3:, 0] = 1
    query, train = draw_by_label(labels, 8, 20)
    assert len(set(query) | set(train)) == 28


def test_wiki(tmp_path):
    rng = np.random.RandomState(0)
    t_train, t_test = rng.rand(5, 10), rng.rand(3, 10)
    savemat(tmp_path / "raw_features.mat", {"T_tr": t_train, "T_te": t_test, "I_tr": rng.rand(5, 128),
                                            "I_te": rng.rand(3, 128)})
    for part, count in (("train", 5), ("test", 3)):
        rows = [f"t{part}{i}\ti{part}{i}\t{1 + i % 2}\n" for i in range(count)]
        (tmp_path / f"{part}set_txt_img_cat.list").write_text("".join(rows))
    features = load_protocol(tmp_path / "raw_features.mat")
    assert features.train.features.shape == (5, 128) and features.name == "wiki"
    (tmp_path / "images" / "art").mkdir(parents=True)
    Image.fromarray(np.full((5, 7, 3), 200, "uint8")).save(tmp_path / "images" / "art" / "itrain0.jpg")
    protocol = load_protocol(tmp_path / "raw_features.mat")
    assert [len(split) for split in protocol.splits] == [5, 3, 5]
    assert protocol.classes[:2] == ["art", "biology"] and protocol.topk == 50
    assert protocol.train.features is None and protocol.train.images.read(0).shape == (5, 7, 3)
    assert protocol.train.labels[:, :2].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]
    np.testing.assert_allclose(protocol.query.text_features, t_test, rtol=1e-6)
    assert set(protocol.database.ids) == set(protocol.train.ids)
    (tmp_path / "testset_txt_img_cat.list").write_text("t i 1\n")
    with pytest.raises(InputError, match="1 lines.*3 rows"):
        load_protocol(tmp_path / "raw_features.mat")
    (tmp_path / "testset_txt_img_cat.list").write_text("t i 11\n")
    with pytest.raises(InputError, match="list:1"):
        load_protocol(tmp_path / "raw_features.mat")


def test_news_features(shared):
    path = shared / "data" / "web_news_features.npz"
    protocol = load_features_protocol(path)
    assert [len(split) for split in protocol.splits] == [1696, 497, 1696] and protocol.topk == 50
    with np.load(path) as file:
        is_train = file["is_train"]
        row = int(protocol.database.ids[0])
        assert np.array_equal(protocol.database.features[0], file["image"][row].astype("float32"))
        assert np.array_equal(protocol.query.text_features, file["text"][~is_train].astype("float32"))
    assert sum(not text.any() for split in (protocol.train, protocol.query) for text in split.text_features) == 7


def matrices(n=20, seed=0):
    rng = np.random.RandomState(seed)
    return {"image": rng.rand(n, 5), "text": rng.rand(n, 3), "label": np.eye(4)[np.arange(n) % 4]}


@pytest.mark.parametrize("kind", ["npz", "v5", "v73"])
def test_plain_matrices_of_any_container_give_the_same_splits(tmp_path, kind):
    arrays = matrices()
    path = tmp_path / f"own.{'npz' if kind == 'npz' else 'mat'}"
    {"npz": np.savez, "v5": lambda p, **a: savemat(p, a), "v73": v73}[kind](path, **arrays)
    protocol = load_features_protocol(path, seed=5, num_query=4, num_train=10)
    assert [len(split) for split in protocol.splits] == [10, 4, 16]
    for split in protocol.splits:
        rows = [int(name) for name in split.ids]
        np.testing.assert_allclose(split.features, arrays["image"][rows], rtol=1e-6)
        np.testing.assert_allclose(split.text_features, arrays["text"][rows], rtol=1e-6)
        assert np.array_equal(split.labels, arrays["label"][rows])
    np.savez(tmp_path / "twin.npz", **arrays)
    assert protocol.record()["sha256"] == load_features_protocol(
        tmp_path / "twin.npz", seed=5, num_query=4, num_train=10).record()["sha256"]


def test_masks_class_numbers_strings_and_names(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, img=np.ones((4, 2)), txt=np.array(["a", "b", "c", ""]), L=np.array([7, 9, 9, 7]),
             is_train=np.array([1, 1, 0, 0]), is_database=np.array([1, 1, 1, 0]), ids=np.array(list("wxyz")),
             classes=np.array(["cat", "dog"]))
    protocol = load_features_protocol(path)
    assert protocol.train.ids == ["w", "x"] and protocol.query.texts == ["c", ""]
    assert sorted(protocol.database.ids) == ["w", "x", "y"]
    assert protocol.train.labels.tolist() == [[1, 0], [0, 1]] and protocol.classes == ["cat", "dog"]


def test_sets_in_two_parts_sparse_tags_and_turned_matrices(tmp_path):
    rng = np.random.RandomState(0)
    parts = {f"{name}_{part}": rng.rand(n, d) for part, n in (("tr", 6), ("te", 2)) for name, d in (("I", 3), ("T", 4))}
    parts.update(L_tr=np.arange(6) % 2 + 1, L_te=np.array([1, 2]))
    savemat(tmp_path / "pair.mat", parts)
    protocol = load_features_protocol(tmp_path / "pair.mat")
    assert [len(split) for split in protocol.splits] == [6, 2, 6]
    np.testing.assert_allclose(protocol.query.features, parts["I_te"], rtol=1e-6)
    assert protocol.query.labels.tolist() == [[1, 0], [0, 1]]

    arrays = matrices()
    savemat(tmp_path / "sparse.mat", {**arrays, "text": csc_matrix(arrays["text"]), "image": arrays["image"].T})
    protocol = load_features_protocol(tmp_path / "sparse.mat")
    rows = [int(name) for name in protocol.database.ids]
    np.testing.assert_allclose(protocol.database.text_features, arrays["text"][rows], rtol=1e-6)
    np.testing.assert_allclose(protocol.database.features, arrays["image"][rows], rtol=1e-6)


@pytest.mark.parametrize("stored", ["v5 HW3N", "v5 NHW3", "v73 [3,W,H,N]", "hdf5 NHW3", "npz"])
def test_pictures_in_other_orders(tmp_path, stored):
    pictures, texts, labels = data(12)
    path = tmp_path / ("set.npz" if stored == "npz" else "set.mat")
    arrays = {"YAll": texts, "LAll": labels}
    if stored == "v5 HW3N":
        savemat(path, {**arrays, "IAll": as_stored(pictures)})
    elif stored == "v5 NHW3":
        savemat(path, {**arrays, "IAll": pictures})
    elif stored == "v73 [3,W,H,N]":
        v73(path, IAll=pictures, **arrays)
    elif stored == "npz":
        np.savez(path, image=pictures, text=texts, label=labels)
    else:
        with h5py.File(path, "w") as file:
            for name, value in {**arrays, "IAll": pictures}.items():
                file.create_dataset(name, data=value)
    split = load_features_protocol(path).database
    for i, name in enumerate(split.ids):
        assert np.array_equal(split.images.read(i), pictures[int(name)])


def _sum_of(images, i, queue):
    queue.put(int(images.read(i).sum()))


def test_stored_pictures_survive_a_fork_and_a_pickle(tmp_path):
    pictures, texts, labels = data()
    images = load_features_protocol(write("dcmh", tmp_path, pictures, texts, labels), num_query=7,
                                    num_train=21).train.images
    first = int(images.read(0).sum())  # opens the file in this process
    assert int(pickle.loads(pickle.dumps(images)).read(0).sum()) == first
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_sum_of, args=(images, i, queue)) for i in range(2)]
    for worker in workers:
        worker.start()
    sums = {queue.get(timeout=20) for _ in workers}
    for worker in workers:
        worker.join(20)
    assert sums == {first, int(images.read(1).sum())}


# bad input ------------------------------------------------------------------------------------------------------
def fault(path, message, **sizes):
    with pytest.raises(InputError, match=message) as error:
        load_features_protocol(path, **sizes)
    assert "\n" not in str(error.value) and str(path).split("/")[-1].split(".")[0] in str(error.value)


@pytest.mark.parametrize("change, message", [
    ({"text": np.ones((19, 3))}, "items, others"),
    ({"label": np.full((20, 4), 3)}, "0 or 1"),
    ({"label": np.arange(20) + 0.5}, "class numbers"),
    ({"image": np.full((20, 5), np.nan)}, "20 rows of image hold NaN"),
    ({"image": np.array(["a"] * 20)}, "matrix of numbers"),
    ({"is_train": np.ones(20)}, "query split is empty"),
    ({"is_query": np.ones(20)}, "no is_train"),
    ({"is_train": np.ones(7)}, "is_train has 7"),
    ({"classes": np.array(["a"])}, "1 classes.*4 columns"),
    ({"ids": np.arange(3)}, "ids has 3"),
])
def test_matrices_that_do_not_fit(tmp_path, change, message):
    path = tmp_path / "set.npz"
    np.savez(path, **{**matrices(), **change})
    fault(path, message)


def test_files_that_are_something_else(tmp_path):
    for name in ("set.npz", "set.mat"):
        fault(tmp_path / name, "does not exist|cannot read")
        for content in (b"", b"hello world, this is a text" * 20):
            (tmp_path / name).write_bytes(content)
            fault(tmp_path / name, "no readable")
    np.savez(tmp_path / "set.npz", **matrices())
    whole = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(whole[:len(whole) // 2])
    fault(tmp_path / "set.npz", "no readable")
    np.savez(tmp_path / "set.npz", image=np.array([{}], dtype=object))
    fault(tmp_path / "set.npz", "no readable")
    np.savez(tmp_path / "set.npz", other=np.ones(3))
    fault(tmp_path / "set.npz", "neither.*found other")
    for cut in (200, 700, 3000):
        v73(tmp_path / "set.mat", **matrices())
        whole = (tmp_path / "set.mat").read_bytes()
        (tmp_path / "set.mat").write_bytes(whole[:cut])
        fault(tmp_path / "set.mat", "no readable")
    savemat(tmp_path / "set.mat", matrices())
    whole = (tmp_path / "set.mat").read_bytes()
    (tmp_path / "set.mat").write_bytes(whole[:len(whole) // 2])
    fault(tmp_path / "set.mat", "no readable")
    savemat(tmp_path / "set.mat", {"image": np.array(["text"])})
    fault(tmp_path / "set.mat", "numbers")


def test_pictures_that_do_not_fit(tmp_path):
    pictures, texts, labels = data(12)
    path = tmp_path / "set.mat"
    v73(path, IAll=as_stored(pictures)[..., :11], YAll=texts, LAll=labels)
    fault(path, "12 pictures")
    v73(path, IAll=as_stored(pictures).astype(float), YAll=texts, LAll=labels)
    fault(path, "uint8")
    v73(path, IAll=as_stored(pictures)[:, :, :2], YAll=texts, LAll=labels)
    fault(path, "height x width x 3")


def test_sizes_and_several_sets(tmp_path):
    np.savez(tmp_path / "set.npz", **matrices())
    fault(tmp_path / "set.npz", "do not fit into 20", num_query=15, num_train=6)
    fault(tmp_path / "set.npz", "no size 'num_database'", num_database=3)
    np.savez(tmp_path / "set.npz", is_train=np.arange(20) < 9, **matrices())
    fault(tmp_path / "set.npz", "own split", num_query=2)
    fault(write("dcmh", tmp_path, *data()), "choose --num-query")  # 60 items are too few for 2,000 + 5,000
    savemat(tmp_path / "other.mat", matrices())
    with pytest.raises(InputError, match="several sets"):
        load_features_protocol(tmp_path)
    savemat(tmp_path / "other-yall.mat", {"YAll": np.ones((20, 3))})
    assert len(load_features_protocol(tmp_path / "other.mat").query) == 2
