"""Every data set in small, in the form that its real files have: what a command needs to run on it."""
import io
import pickle
import tarfile

import cv2
import numpy as np

from tests.conftest import SHAPES_SIZES
from utils.datasets import PROTOCOLS

PER_SPLIT = {"query": 12, "train": 40, "database": 60}


def picture(rng, side=40):
    """JPEG bytes of a few coloured patches, so that no two pictures are alike."""
    pixels = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((side // 5, side // 5, 1))).astype(np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def write_picture(path, rng):
    """A picture file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(rng))


def multi_hot(rng, items, classes):
    """Labels int [items, classes] of 0 and 1, one to three a row, every class among the first rows."""
    labels = (rng.random((items, classes)) < 1 / classes).astype(int)
    labels[np.arange(items), np.arange(items) % classes] = 1
    return labels


def cifar10(folder):
    """The official archive with 24 training and 8 test pictures a class."""
    rng = np.random.default_rng(0)
    path = folder / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        def add(name, value):
            data = pickle.dumps(value, 2)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, items in [*((f"data_batch_{i}", 48) for i in range(1, 6)), ("test_batch", 80)]:
            add(name, {b"batch_label": name.encode(), b"labels": [i % 10 for i in range(items)],
                       b"data": rng.integers(0, 256, (items, 3072), np.uint8),
                       b"filenames": [f"{name}_{i}.png".encode() for i in range(items)]})
        add("batches.meta", {b"num_cases_per_batch": 48, b"num_vis": 3072,
                             b"label_names": [f"class{i}".encode() for i in range(10)]})
    return ["--data-path", path]


def listed(folder, name, place="{split}_{i:03d}.jpg", texts=False):
    """Pictures and the three lists of a protocol, as public repositories give them; texts beside where asked for."""
    rng = np.random.default_rng(1)
    lists = folder / "lists"
    lists.mkdir()
    written = []
    for split, items in PER_SPLIT.items():
        items = max(items, PROTOCOLS[name].classes)
        labels = multi_hot(rng, items, PROTOCOLS[name].classes)
        paths = [place.format(split=split, i=i) for i in range(items)]
        for path in paths:
            write_picture(folder / "pictures" / path, rng)
        written += paths
        (lists / f"{split}.txt").write_text("".join(f"{path} {' '.join(map(str, row))}\n"
                                                    for path, row in zip(paths, labels)))
    if texts:
        words = [f"word{i}" for i in range(30)]
        (lists / "tags.txt").write_text("".join(f"{word}\n" for word in words))
        rows = [f'{{"image": "{path}", "text": "{" ".join(rng.choice(words, 4, replace=False))}"}}\n'
                for path in written]
        (lists / "texts.jsonl").write_text("".join(rows))
    return ["--data-path", folder / "pictures", "--list-dir", lists]


def imagenet(folder, name):
    """As ``listed``, in the folders of ILSVRC 2012."""
    (folder / "pictures" / "train").mkdir(parents=True)
    return listed(folder, name, "train/n{i:08d}/n{i:08d}_{split}.JPEG")


def wiki(folder):
    """The distribution's lists, texts and images."""
    rng = np.random.default_rng(2)
    from utils.datasets.protocols.wiki import CLASSES, LISTS
    for name, items in zip(LISTS, (40, 12)):
        rows = []
        for i in range(items):
            text, image, label = f"{items}-{i}-text", f"{items}-{i}", i % 10
            rows.append(f"{text}\t{image}\t{label + 1}\n")
            write_picture(folder / "images" / CLASSES[label] / f"{image}.jpg", rng)
            (folder / "texts").mkdir(exist_ok=True)
            words = " ".join(f"word{w}" for w in rng.integers(0, 30, 6))
            (folder / "texts" / f"{text}.xml").write_text(
                f"<document>\n<text>\n{CLASSES[label]} {words}</text>\n</document>\n")
        (folder / name).write_text("".join(rows))
    return ["--data-path", folder]


def features(folder):
    """An .npz of image features, text features and labels."""
    rng = np.random.default_rng(3)
    label = np.eye(5, dtype=np.uint8)[np.arange(80) % 5]
    np.savez(folder / "pairs.npz", image=rng.random((80, 16)).astype("float16"), label=label,
             text=rng.random((80, 20)).astype("float16"), is_train=np.arange(80) < 60)
    return ["--dataset", folder / "pairs.npz"]


def class_folders(folder):
    """A user's own pictures: a sub-folder a class."""
    rng = np.random.default_rng(4)
    for i in range(60):
        write_picture(folder / "pictures" / "cat dog sun".split()[i % 3] / f"{i}.jpg", rng)
    return ["--dataset", folder / "pictures"]


def flags(dataset, folder, modalities=("image",)):
    """Make a data set small in ``folder`` (empty, a pathlib.Path); returns the flags that make a main use it.

    Args:
        dataset: name of a protocol, or None for the user's own data.
        modalities: of the method; a pair of them makes own data an .npz of features.
    """
    text = "text" in modalities
    if dataset is None:
        return features(folder) if text else class_folders(folder)
    if dataset == "shapes":
        return ["--data-path", folder] + [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]
    if dataset.startswith("cifar10"):
        return [*cifar10(folder), "--train-per-class", 6, "--query-per-class", 3]
    if dataset == "wiki":
        return wiki(folder)
    if dataset.startswith("imagenet"):
        return imagenet(folder, dataset)
    places = {"coco": "train2014/{split}_{i:03d}.jpg", "voc2012": "JPEGImages/{split}_{i:03d}.jpg"}
    if dataset.startswith("mirflickr"):  # its folder is known by its first picture
        write_picture(folder / "pictures" / "im1.jpg", np.random.default_rng(5))
    return listed(folder, dataset, places.get(dataset, "{split}_{i:03d}.jpg"), text)
