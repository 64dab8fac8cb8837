"""What a --dataset or a --data-path means: names, paths, folders that are gone, what a folder holds."""
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import test_coco, test_imagenet, test_mirflickr, test_nuswide, test_voc, test_wiki
from utils.datasets import PROTOCOLS, absolute_name, load_protocol, recognise
from utils.datasets.own.write_shards import write_shards
from utils.errors import InputError


def pictures(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (number * 37 % 256, 90, 30)).save(root / name)
    return root


@pytest.fixture
def pets(tmp_path):
    return pictures(tmp_path / "pets", *[f"{kind}/{i}.jpg" for kind in ("cat", "dog") for i in range(4)])


# what a folder holds -----------------------------------------------------------------------------------------------
def official(root):
    """dict protocol -> folder with its official files."""
    test_coco.write_official(root / "coco")
    test_voc.write_official(root / "voc")
    test_mirflickr.write_official(root / "mir")
    test_nuswide.write_official(root / "nus")
    test_imagenet.write_train(root / "imagenet")
    (root / "wiki").mkdir()
    for name in test_wiki.LISTS:
        (root / "wiki" / name).write_text("a\tb\t1\n")
    (root / "cifar").mkdir()
    (root / "cifar" / "cifar-10-python.tar.gz").write_bytes(b"")
    load_protocol("shapes", root=root / "shapes", num_query=2, num_train=2, num_database=2)
    return {"coco": "coco", "voc2012": "voc", "mirflickr": "mir", "nuswide_21": "nus", "imagenet": "imagenet",
            "wiki": "wiki", "cifar10": "cifar", "shapes": "shapes"}


def test_official_folders_are_recognised(tmp_path):
    for name, folder in official(tmp_path).items():
        assert recognise(tmp_path / folder) == name
    assert recognise(tmp_path / "cifar" / "cifar-10-python.tar.gz") == "cifar10"
    pictures(tmp_path / "coco2", "train2014/COCO_train2014_000000000009.jpg")
    for split in ("train", "query", "database"):
        (tmp_path / "coco2" / f"{split}.txt").write_text("train2014/COCO_train2014_000000000009.jpg 1 0\n")
    assert recognise(tmp_path / "coco2") == "coco"
    assert {spec.name for spec in PROTOCOLS.values() if spec.recognises} >= {"coco", "imagenet", "mirflickr"}


def test_own_data_are_recognised_by_their_path(pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recognise("pets") == str(pets)  # absolute
    flat = pictures(tmp_path / "flat", "deep/down/a.png")
    assert recognise(flat) == str(flat)
    listed = tmp_path / "listed"
    listed.mkdir()
    (listed / "train.txt").write_text("a.jpg 1 0\n")
    assert recognise(listed) == str(listed)
    whole = load_protocol(pets).database
    write_shards([whole], [], str(tmp_path / "shards"), say=lambda line: None)
    assert recognise(tmp_path / "shards") == str(tmp_path / "shards")
    (tmp_path / "features").mkdir()
    np.savez(tmp_path / "features" / "news.npz", image=np.zeros((4, 3)), label=[0, 1, 0, 1])
    assert recognise(tmp_path / "features") == recognise(tmp_path / "features" / "news.npz") == \
        str(tmp_path / "features" / "news.npz")


def test_nothing_to_recognise(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.docx").write_bytes(b"x")
    (tmp_path / "docs" / ".hidden.jpg").write_bytes(b"x")
    for path in (tmp_path / "docs", tmp_path / "docs" / "a.docx", tmp_path / "gone"):
        assert recognise(path) is None


# names ----------------------------------------------------------------------------------------------------------------
def test_absolute_names(pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in PROTOCOLS:
        assert absolute_name(name) == name
    assert absolute_name("pets") == absolute_name(pets) == str(pets)
    assert absolute_name("a/{000..003}.tar") == str(tmp_path / "a" / "{000..003}.tar")
    assert absolute_name("list.csv") == str(tmp_path / "list.csv")  # also where it is not there (yet)
    assert absolute_name("cifar11") == "cifar11"  # a name that is wrong stays as typed, for the message


@pytest.mark.parametrize("name, near", [
    ("MIRFLICKR25K", "mirflickr"), ("WIKI", "wiki"), ("NUSWIDE", "nuswide_21"), ("imagenet100", "imagenet"),
    ("nus-wide-tc21", "nuswide_21"), ("NUS-WIDE-TC10", "nuswide_10"), ("flickr25k", "mirflickr"), ("MSCOCO", "coco"),
    ("CIFAR10-1", "cifar10-1"), ("pascal-voc", "voc2012")])
def test_names_of_papers_get_a_hint(name, near, run):
    done = run("-m", "utils.datasets", "check", name, ok=False)
    assert done.returncode == 2 and f"unknown data set '{name}'; did you mean '{near}'?" in done.stderr
    assert done.stderr.count("\n") == 1


# folders that are gone ----------------------------------------------------------------------------------------------
def test_a_folder_that_is_gone_is_named_and_data_path_takes_its_place(pets, tmp_path, run):
    before = load_protocol(pets).record()
    moved = tmp_path / "elsewhere" / "pets"
    shutil.move(pets, moved)
    done = run("-m", "utils.datasets", "check", pets, ok=False)
    assert done.returncode == 2 and f"the folder {pets}" in done.stderr and "--data-path NEW" in done.stderr
    assert "unknown data set" not in done.stderr and done.stderr.count("\n") == 1
    assert "no fault" in run("-m", "utils.datasets", "check", pets, "--data-path", moved).stdout
    assert load_protocol(pets, root=moved).record() == before
    with pytest.raises(InputError, match=f"the folder {pets}.* does not exist"):
        load_protocol(pets, root=tmp_path / "nowhere")


@pytest.mark.parametrize("name, text", [("own.csv", "path,labels\ncat/0.jpg,x\ndog/0.jpg,y\n"),
                                        ("own.txt", "cat/0.jpg 1 0\ndog/0.jpg 0 1\n")])
def test_a_file_that_is_gone_is_looked_for_in_the_data_path(name, text, pets):
    (pets / name).write_text(text)
    gone = pets.parent / "gone" / name
    assert len(load_protocol(gone, root=pets).database) == 1
    with pytest.raises(InputError, match=f"{name} does not exist .*--dataset NEW or --data-path NEW"):
        load_protocol(gone)


def test_feature_files_and_shards_that_moved(pets, tmp_path):
    file = tmp_path / "new" / "news.npz"
    file.parent.mkdir()
    np.savez(file, image=np.random.rand(20, 3).astype("f"), label=np.arange(20) % 2)
    for root in (file, file.parent):
        assert len(load_protocol("/gone/news.npz", root=root).query) == 2
    write_shards([load_protocol(pets).database], [], str(tmp_path / "shards"), per_shard=3, say=lambda line: None)
    assert len(load_protocol("/gone/{000000..000002}.tar", root=tmp_path / "shards").database) == 6
    with pytest.raises(InputError, match="there is no shard /gone/000000.tar"):
        load_protocol("/gone/{000000..000002}.tar")


# nobody's folder is written into -------------------------------------------------------------------------------------
def test_shapes_is_drawn_into_no_folder_of_the_user(pets, run):
    before = sorted(path.name for path in pets.rglob("*"))
    for command in (("make", "shapes", "--root", pets), ("check", "shapes", "--data-path", pets)):
        done = run("-m", "utils.datasets", *command, ok=False)
        assert done.returncode == 2 and f"{pets} holds other files (cat, dog)" in done.stderr
    assert sorted(path.name for path in pets.rglob("*")) == before
    new = pets.parent / "new"
    small = ["--num-query", 2, "--num-train", 2, "--num-database", 2]
    for seed in (0, 1):  # two sets side by side
        run("-m", "utils.datasets", "make", "shapes", "--root", new, *small, "--seed", seed)
    assert len(list(pathlib.Path(new).iterdir())) == 2
