"""Wikipedia pairs from small files in the official layout."""
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from utils.datasets import find_data_set, load_protocol
from utils.datasets.__main__ import main
from utils.datasets.base import Request
from utils.datasets.protocols.wiki import CLASSES, LISTS
from utils.errors import InputError
from utils.text import Vectorizer

SIZES = {"train": 24, "test": 8}


def words(part, i):
    return f"{CLASSES[i % 10]} & caf\u00e9 number{i} of {part}"


def write_official(root, texts=True, images=True, features=True):
    """The distribution's files; dict part -> [(text id, image id, category from 0)]."""
    rng = np.random.RandomState(0)
    rows = {part: [(f"{part}{i:02d}-text", f"{part}{i // 2:02d}-image", i % 10 // 2) for i in range(count)]
            for part, count in SIZES.items()}   # two articles share a picture
    for part, name in zip(rows, LISTS):
        (root / name).write_text("".join(f"{text}\t{image}\t{label + 1}\n" for text, image, label in rows[part]))
        for i, (text, image, label) in enumerate(rows[part]):
            if texts:
                (root / "texts").mkdir(exist_ok=True)
                content = '<?xml version="1.0" encoding="UTF-8" ?>\n<document>\n<text>\n' \
                          f"{words(part, i)}\n\n second  line </text>\n</document>\n"
                (root / "texts" / f"{text}.xml").write_bytes(
                    content.replace("&", "&amp;").encode("latin-1" if i == 3 else "utf-8"))
            if images:
                (root / "images" / CLASSES[label]).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 6), (10, 200, 10)).save(root / "images" / CLASSES[label] / f"{image}.jpg")
    if features:
        savemat(root / "raw_features.mat", {f"{kind}_{part[:2]}": rng.rand(count, width) for kind, width in
                                            (("T", 10), ("I", 128)) for part, count in SIZES.items()})
    return rows


def test_sections_are_texts(tmp_path):
    rows = write_official(tmp_path, features=False)   # raw_features.mat is not needed then
    protocol = load_protocol("wiki", root=tmp_path)
    assert [len(split) for split in protocol.splits] == [24, 8, 24] and protocol.topk == 50
    assert protocol.classes == list(CLASSES) and protocol.train.text_features is None
    assert protocol.query.texts == [f"{words('test', i)} second line" for i in range(8)]   # markup and blanks gone
    assert protocol.train.texts[3] == f"{words('train', 3)} second line"                   # a file in Latin-1
    assert protocol.train.ids == [f"{CLASSES[label]}/{image}.jpg#{text}" for text, image, label in rows["train"]]
    assert sorted(protocol.database.ids) == sorted(protocol.train.ids) and protocol.database.ids != protocol.train.ids
    assert protocol.train.labels.argmax(1).tolist() == [label for _, _, label in rows["train"]]
    assert protocol.train.labels.sum(1).tolist() == [1] * 24 and protocol.query.images.read(0).shape == (6, 8, 3)
    assert "number7" in Vectorizer.fit(protocol.train.texts).vocabulary


def test_topics_where_there_are_no_sections(tmp_path):
    write_official(tmp_path, texts=False)
    protocol = load_protocol("wiki", root=tmp_path)
    assert protocol.train.texts is None and protocol.train.text_features.shape == (24, 10)
    assert protocol.query.images.size(0) == (8, 6)
    again = load_protocol(str(tmp_path / "raw_features.mat"))
    assert again.record() == protocol.record()


def test_features_where_there_are_no_pictures(tmp_path):
    write_official(tmp_path, images=False)
    protocol = load_protocol("wiki", root=tmp_path)
    assert protocol.train.features.shape == (24, 128) and protocol.train.images is None and protocol.train.texts


def test_the_seed_shuffles_the_database_only(tmp_path):
    write_official(tmp_path)
    one, same, other = (load_protocol("wiki", root=tmp_path, seed=seed).record()["sha256"] for seed in (1, 1, 2))
    assert one == same and one["train"] == other["train"] and one["database"] != other["database"]


def test_make_and_check(tmp_path, run, capsys):
    write_official(tmp_path)
    main(["make", "wiki", "--root", str(tmp_path), "--any-count"])
    printed = capsys.readouterr().out
    assert "8 queries (literature 693), 24 training" in printed and "texts/" in printed and "sha256" in printed
    with pytest.raises(InputError, match="8 queries and 24 training pairs, but Wikipedia has 693 and 2173"):
        find_data_set("wiki").make(Request(str(tmp_path)))
    (tmp_path / "images" / "art" / "test00-image.jpg").write_bytes(b"")
    done = run("-m", "utils.datasets", "check", "wiki", "--root", tmp_path, ok=False)
    assert done.returncode == 1 and "count: query has 8 items, wiki has 693" in done.stdout
    assert "test00-image.jpg" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("spoil, message", [
    (lambda root: (root / LISTS[0]).unlink(), "trainset_txt_img_cat.list is missing"),
    (lambda root: (root / LISTS[1]).write_text("a b 1\n\nc d 11\n"), "testset_txt_img_cat.list:3: expected '<text"),
    (lambda root: (root / LISTS[1]).write_text("a b 1\nc d\n"), "testset_txt_img_cat.list:2: expected"),
    (lambda root: (root / LISTS[1]).write_text("\n"), "testset_txt_img_cat.list is empty"),
    (lambda root: (root / LISTS[1]).write_text("a ../../b 1\n"), "testset_txt_img_cat.list:1: expected"),
    (lambda root: (root / LISTS[1]).write_bytes(b"caf\xe9 b 1\n"), "cannot read .*testset_txt_img_cat.list"),
    (lambda root: (root / "texts" / "test05-text.xml").unlink(), "img_cat.list:6: .*test05-text.xml is missing"),
    (lambda root: (root / "texts" / "test05-text.xml").write_text("<document>"), "list:6: .*xml has no <text>"),
])
def test_bad_files(tmp_path, spoil, message):
    write_official(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load_protocol("wiki", root=tmp_path)
    assert "\n" not in str(error.value)


def test_wrong_roots_and_missing_features(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        load_protocol("wiki", root=tmp_path / "nowhere")
    with pytest.raises(InputError, match="trainset_txt_img_cat.list is missing"):
        load_protocol("wiki", root=tmp_path)
    write_official(tmp_path, texts=False, features=False)
    with pytest.raises(InputError, match="neither texts/.*xml nor raw_features.mat"):
        load_protocol("wiki", root=tmp_path)
    savemat(tmp_path / "raw_features.mat", {"T_tr": np.ones((24, 10)), "T_te": np.ones((7, 10))})
    with pytest.raises(InputError, match="testset_txt_img_cat.list has 8 lines, and T_te of raw_features.mat 7 rows"):
        load_protocol("wiki", root=tmp_path)
    savemat(tmp_path / "raw_features.mat", {"T_tr": np.ones((24, 10))})
    with pytest.raises(InputError, match="has no T_te, and there is no texts"):
        load_protocol("wiki", root=tmp_path)
