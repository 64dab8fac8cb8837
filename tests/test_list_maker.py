"""The frame that the named sets share: the lists are those of ever, and where they are looked for."""
import hashlib
import json

import pytest
from PIL import Image

from tests import test_coco, test_imagenet, test_mirflickr, test_nuswide, test_voc
from utils.datasets import load_protocol
from utils.datasets.__main__ import main
from utils.errors import InputError

# SHA-256 over counts, names and SHA-256 of all files that ``make`` wrote with seed 3 before the sets had one frame
PINNED = {
    "coco": "637fdae5a12e4f9d40ed2c7d975b2268d75d8de2a7a42fd5f03f600de57d86ea",
    "voc2012": "5396d0b9adbc9644807c39880099d4b092acdac141d1f76d336c6a4bfecd08c9",
    "mirflickr": "bbf2c2f94f078e27a3eb214e27799db58f2ac6ece623a358a46ab6548eb972a3",
    "mirflickr_crossmodal": "07e5db07d53d8e92e4127480027502ec38054932b7afe16453ef7ed44e85a49c",
    "nuswide_21": "f94a7dede19c9a4fd844d4cfebe05747b2ff7c5b525b393302f3a2da5381c890",
    "nuswide_10": "30a8102a1fbb033518379e1449f282d99daffdaf19857f517e612867bbe7b668",
    "nuswide_21_m": "0a2acf3a0f8ee1aa03453ee11c7a0e7ca324bcf1c1340c156e0459ef4fa854b6",
    "nuswide_81_m": "9338748f8a0add18838919813e437d95a3c219699da0a1790a88c7c9441342a9",
    "imagenet": "f14145c9fe0d9296b1bfd1a17c17dc390d134eb8946c527929b7315deaa8dbf6",
    "imagenet-13k": "30b9752a47f600499761d5bfc986574bf112c01aea1bb7666596a0dcdd8aeb2c"}
SIZES = {"coco": (5, 6), "voc2012": (4, 6), "mirflickr": (8, 12), "mirflickr_crossmodal": (8, 12),
         "nuswide_21": (42, 105), "nuswide_10": (42, 105), "nuswide_21_m": (42, 105), "nuswide_81_m": (20, 30),
         "imagenet": (None, 200), "imagenet-13k": (None, 100)}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Folder with small official files of every set that has lists."""
    root = tmp_path_factory.mktemp("official")
    test_coco.write_official(root / "coco")
    test_voc.write_official(root / "voc2012")
    test_mirflickr.write_official(root / "mirflickr")
    test_nuswide.write_official(root / "nuswide")
    test_nuswide.write_pictures(root / "nuswide" / "images", [test_nuswide.flickr_name(i) for i in range(360) if i % 3])
    test_imagenet.write_train(root / "imagenet")
    test_imagenet.write_val(root / "imagenet", "csv")
    return root


@pytest.mark.parametrize("name", PINNED)
def test_lists_are_those_of_ever(name, roots, tmp_path):
    root = roots / name.split("_")[0].replace("-13k", "")
    query, train = SIZES[name]
    sizes = ["--num-train", train] + ["--num-query", query] * (query is not None)
    command = ["make", name, "--root", root, "--list-dir", tmp_path, "--seed", 3, "--any-count", *sizes]
    main([str(word) for word in command])
    record = json.loads((tmp_path / "lists.json").read_text())
    for file, digest in record["sha256"].items():
        assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == digest
    whole = json.dumps([record["counts"], sorted(record["sha256"].items())], sort_keys=True)
    assert hashlib.sha256(whole.encode()).hexdigest() == PINNED[name]


def test_lists_beside_the_pictures_are_found_and_told(tmp_path, monkeypatch):
    """The layout of the seeds: the three lists lie in the data folder."""
    from utils.datasets.protocols import coco
    monkeypatch.setitem(coco.MAKER.__dict__, "folder", str(tmp_path / "none"))  # as in a checkout without lists
    path = "train2014/COCO_train2014_000000000009.jpg"
    (tmp_path / "coco" / "train2014").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "coco" / path)
    with pytest.raises(InputError, match="no coco lists in .*none"):
        load_protocol("coco", root=tmp_path / "coco")
    for name in ("train", "test", "database"):
        (tmp_path / "coco" / f"{name}.txt").write_text(f"data/coco/{path} {'1 ' * 80}\n")
    protocol = load_protocol("coco", root=tmp_path / "coco")
    assert protocol.query.ids == [path] and protocol.topk == 5000
    assert protocol.notes == [f"the lists in {tmp_path / 'coco'} were taken; there are none in {tmp_path / 'none'}"]
