"""NUS-WIDE: lists from small files in the official layout, lists of other people, pictures as people keep them."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from utils.datasets import load_protocol
from utils.datasets.__main__ import main
from utils.datasets.protocols import nuswide, nuswide_files
from utils.errors import InputError
from utils.text import Vectorizer

N, C, TAGS = 360, 81, 12
SIZES = ["--num-query", 42, "--num-train", 105]


def picture(i):
    return f"folder_{i % 7}/{i:04d}_{7000 + 11 * i}.jpg"


def truth():
    """uint8 [N, C]: every eighth picture has no concept, concepts 3 and 5 are equally frequent, frequencies fall."""
    rng = np.random.RandomState(0)
    labels = (rng.rand(N, C) < np.linspace(.25, .01, C)[(np.arange(C) * 37) % C]).astype("uint8")
    labels[::8] = 0
    labels[:, 3] = rng.rand(N) < .2
    labels[::8] = 0
    labels[:, 5] = np.roll(labels[:, 3], 8)
    return labels


def write_official(root, labels=None, parts=False):
    """The annotation files; with ``parts`` only TrainTestLabels, as Groundtruth also holds them."""
    labels = truth() if labels is None else labels
    names = [f"concept{(column * 29) % C:02d}" for column in range(C)]
    for folder in ("Groundtruth/AllLabels", "Groundtruth/TrainTestLabels", "ConceptsList", "ImageList", "NUS_WID_Tags"):
        (root / folder).mkdir(parents=True)
    (root / "ConceptsList" / "Concepts81.txt").write_text("".join(f"{name}\r\n" for name in names))
    order = np.random.RandomState(1).permutation(len(labels))   # Imagelist.txt is in no order that matters

    def images(file, rows):
        (root / "ImageList" / file).write_text("".join(picture(i).replace("/", "\\") + "\r\n" for i in rows))

    def table(name, column, rows):
        end = ["\n", "\r\n", " \n"][column % 3]
        (root / "Groundtruth" / name).write_bytes("".join(f"{labels[i, column]}{end}" for i in rows).encode())

    images("Imagelist.txt", order)
    if parts:
        (root / "Groundtruth" / "AllLabels").rmdir()
        for part, rows in (("Train", order[100:]), ("Test", order[:100])):
            images(f"{part}Imagelist.txt", rows)
            for column, name in enumerate(names):
                table(f"TrainTestLabels/Labels_{name}_{part}.txt", column, rows)
    else:
        for column, name in enumerate(names):
            table(f"AllLabels/Labels_{name}.txt", column, order)
    tags = {i: [t for t in range(TAGS) if (i * (t + 3)) % 5 == 0] if i % 9 else [] for i in range(len(labels))}
    text = root / "NUS_WID_Tags"
    (text / "TagList1k.txt").write_text("".join(f"tag{t}\n" for t in range(TAGS)))
    (text / "AllTags1k.txt").write_text("".join("\t".join(str(int(t in tags[i])) for t in range(TAGS)) + "\t\n"
                                                for i in order))
    raw = [f"{7000 + 11 * i}      {' '.join(f'tag{t}' for t in tags[i])} " for i in order]
    (text / "All_Tags.txt").write_bytes("\n".join(line + ("café" if i == 17 else "北京" if i == 18 else "")
                                                  for i, line in zip(order, raw)).encode() + b"\n")
    data = (text / "All_Tags.txt").read_bytes().replace("café".encode(), "café".encode("latin-1"))
    (text / "All_Tags.txt").write_bytes(data)
    return labels, names, tags


def write_pictures(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (200, 10, 10)).save(root / name)


def flickr_name(i):
    """A name as in the picture set of thuml/HashNet."""
    return f"{i + 5}_{7000 + 11 * i}_a3b{i}f_m.jpg"


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    root = tmp_path_factory.mktemp("nus")
    write_official(root)
    write_pictures(root / "Flickr", [picture(i) for i in range(N)])
    return root


@pytest.fixture(scope="module")
def made_21(official, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    return folder, nuswide.make_lists("nuswide_21", official, folder, 3, 42, 105, any_count=True)


def read(folder, split):
    rows = [line.split() for line in (folder / f"{split}.txt").read_text().splitlines()]
    return {row[0]: np.array(row[1:], int) for row in rows}, len(rows)


def command(capsys, *arguments, status=0):
    """What ``python -m utils.datasets`` prints with these arguments."""
    try:
        main([str(argument) for argument in arguments])
        assert status == 0
    except SystemExit as stop:
        assert stop.code == status
    return capsys.readouterr().out


# the protocols --------------------------------------------------------------------------------------------------
def test_nuswide_21_holds_the_frequent_concepts(made_21):
    folder, record = made_21
    labels = truth()
    names = [f"concept{(column * 29) % C:02d}" for column in range(C)]
    frequency = labels.sum(0).astype(int)
    wanted = sorted(range(C), key=lambda c: (-frequency[c], c))[:21]
    assert (folder / "classes.txt").read_text().split() == [names[c] for c in wanted]
    assert frequency[3] == frequency[5] and wanted.index(5) == wanted.index(3) + 1   # equal ones: the official order
    splits = {split: read(folder, split) for split in ("query", "train", "database")}
    assert [splits[split][1] for split in ("query", "train")] == [42, 105]
    everything = {**splits["query"][0], **splits["database"][0]}
    assert len(everything) == splits["query"][1] + splits["database"][1]   # nothing twice, no query in the database
    assert set(everything) == {picture(i) for i in range(N) if labels[i, wanted].any()}
    assert set(splits["train"][0]) < set(splits["database"][0])
    for i in range(N):
        if picture(i) in everything:
            assert (everything[picture(i)] == labels[i, wanted]).all()
    for split, least in (("query", 2), ("train", 5)):
        assert (sum(splits[split][0].values()) >= least).all()
    assert record["pictures_with_a_label"] == len(everything) and record["literature"] == 195834
    assert record["concepts"][names[wanted[0]]] == frequency[wanted[0]]
    assert list(splits["database"][0]) != sorted(splits["database"][0])


def test_same_seed_same_lists_whatever_the_files_order(official, made_21, tmp_path):
    again = nuswide.make_lists("nuswide_21", official, tmp_path / "again", 3, 42, 105, any_count=True)
    other = nuswide.make_lists("nuswide_21", official, tmp_path / "other", 4, 42, 105, any_count=True)
    assert again == made_21[1] and other["sha256"]["query.txt"] != again["sha256"]["query.txt"]
    write_official(tmp_path / "parts", parts=True)
    parts = nuswide.make_lists("nuswide_21", tmp_path / "parts", tmp_path / "lists", 3, 42, 105, any_count=True)
    assert parts == again   # TrainTestLabels gives what AllLabels gives


def test_loading_and_pictures_in_one_folder(official, made_21, tmp_path):
    protocol = load_protocol("nuswide_21", root=official, list_dir=made_21[0])
    assert protocol.topk == 5000 and protocol.seed == 3 and len(protocol.classes) == 21
    assert protocol.query.images.read(0).shape == (7, 9, 3)
    (tmp_path / "images").mkdir()
    write_pictures(tmp_path / "images", [picture(i).split("/")[1] for i in range(N)])   # as mirrors unpack them
    flat = load_protocol("nuswide_21", root=tmp_path, list_dir=made_21[0])
    assert flat.record() == protocol.record()
    assert all(flat.database.images.size(i) == (9, 7) for i in range(len(flat.database)))


@pytest.mark.parametrize("name", ["nuswide_21", "nuswide_10", "nuswide_21_m", "nuswide_81_m"])
def test_make_and_check(name, official, tmp_path, capsys):
    root = official
    if name.endswith("_m"):
        root = tmp_path / "m"
        write_official(root)
        write_pictures(root / "images", [flickr_name(i) for i in range(N) if i % 4])
        (root / "images" / "readme.txt").write_text("x")
    sizes = ["--num-query", 30, "--num-train", 60] if name == "nuswide_10" else SIZES
    arguments = [name, "--root", root, "--list-dir", tmp_path / "lists", "--seed", 2, *sizes]
    printed = command(capsys, "make", *arguments, "--any-count")
    record = json.loads((tmp_path / "lists" / "lists.json").read_text())
    assert all(digest in printed for digest in record["sha256"].values()) and "seed 2" in printed
    assert f"{name}: no fault" in command(capsys, "check", *arguments)
    if name.endswith("_m"):
        labels = truth()
        protocol = load_protocol(name, root=root, list_dir=tmp_path / "lists")
        some = np.arange(C) if name == "nuswide_81_m" else np.argsort(-labels[np.arange(N) % 4 > 0].sum(0),
                                                                      kind="stable")[:21]
        row_of = {flickr_name(i): i for i in range(N)}
        assert len(protocol.query) + len(protocol.database) == sum(labels[i, some].any() for i in range(N) if i % 4)
        for split in protocol.splits:
            assert (split.labels == labels[[row_of[item] for item in split.ids]][:, some]).all()
            assert split.labels.any(1).all()


def test_the_official_counts_are_asked_for(official, tmp_path, run, monkeypatch):
    done = run("-m", "utils.datasets", "make", "nuswide_21", "--root", official, "--list-dir", tmp_path / "x", ok=False)
    assert done.returncode == 2 and "360 pictures" in done.stderr and "269648" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "x").exists()
    monkeypatch.setattr(nuswide, "ROWS", N)
    for name, count in (("nuswide_21", 195834), ("nuswide_10", 186577)):
        with pytest.raises(InputError, match=f"pictures have one of .* {count}"):
            nuswide.make_lists(name, official, tmp_path / "x", 0, 42, 105)
    write_pictures(tmp_path / "m" / "images", [flickr_name(1)])
    write_official(tmp_path / "m" / "official")
    for name in ("Groundtruth", "ConceptsList", "ImageList"):
        (tmp_path / "m" / "official" / name).rename(tmp_path / "m" / name)
    with pytest.raises(InputError, match="holds 1 pictures of NUS-WIDE.*223496"):
        nuswide.make_lists("nuswide_81_m", tmp_path / "m", tmp_path / "x")


# tags -----------------------------------------------------------------------------------------------------------
def test_tags_of_nuswide_10(official, tmp_path):
    _, _, tags = write_official(tmp_path / "raw")
    (tmp_path / "raw" / "NUS_WID_Tags" / "AllTags1k.txt").unlink()
    (tmp_path / "raw" / "Flickr").symlink_to(official / "Flickr")
    row_of = {picture(i): i for i in range(N)}
    common = nuswide.make_lists("nuswide_10", official, tmp_path / "1k", 0, 30, 60, any_count=True)
    raw = nuswide.make_lists("nuswide_10", tmp_path / "raw", tmp_path / "words", 0, 30, 60, any_count=True)
    assert "1k" in common["tags_from"] and "All_Tags" in raw["tags_from"] and raw["tag_lines_read_as_latin_1"] == 1
    assert {name: common["sha256"][f"{name}.txt"] for name in ("train", "query", "database")} == {
        name: raw["sha256"][f"{name}.txt"] for name in ("train", "query", "database")}
    protocol = load_protocol("nuswide_10", root=official, list_dir=tmp_path / "1k")
    words = load_protocol("nuswide_10", root=tmp_path / "raw", list_dir=tmp_path / "words")
    assert protocol.topk == 50 and protocol.query.text_features.dtype == np.float32
    assert words.query.text_features is None
    for split, other in zip(protocol.splits, words.splits):
        wanted = np.array([[t in tags[row_of[item]] for t in range(TAGS)] for item in split.ids])
        assert np.array_equal(split.text_features, wanted)
        for item, text, more in zip(split.ids, split.texts, other.texts):
            foreign = {17: ["café"], 18: ["北京"]}.get(row_of[item], [])
            assert text.split() == [f"tag{t}" for t in tags[row_of[item]]] and more.split() == text.split() + foreign
    assert any(not text for text in protocol.database.texts)   # untagged pictures stay
    assert "tag3" in Vectorizer.fit(words.train.texts).vocabulary


def test_the_authors_matrices_win_unless_lists_are_named(official, tmp_path):
    labels = np.eye(10)[np.arange(80) % 10]
    savemat(tmp_path / "nus-wide-tc10-lall.mat", {"LAll": labels})
    savemat(tmp_path / "nus-wide-tc10-yall.mat", {"YAll": np.ones((80, 4))})
    savemat(tmp_path / "nus-wide-tc10-iall.mat", {"IAll": np.zeros((6, 6, 3, 80), "uint8")})
    protocol = load_protocol("nuswide_10", root=tmp_path, num_query=20, num_train=30)
    assert [len(split) for split in protocol.splits] == [30, 20, 60] and protocol.query.text_features.shape == (20, 4)
    assert protocol.query.labels.sum(0).tolist() == [2] * 10
    nuswide.make_lists("nuswide_10", official, tmp_path / "lists", 0, 30, 60, any_count=True)
    (tmp_path / "Flickr").symlink_to(official / "Flickr")
    listed = load_protocol("nuswide_10", root=tmp_path, list_dir=tmp_path / "lists")
    assert listed.query.ids[0].startswith("folder_")
    savemat(official / "ConceptsList" / "Concepts81.mat", {"names": np.ones(3)})   # part of the official distribution
    with pytest.raises(InputError, match="utils.datasets make nuswide_10|no nuswide_10 lists"):
        load_protocol("nuswide_10", root=official, list_dir=tmp_path / "none")


# lists of other people ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prefix", ["./data/nuswide_81/images/", "/home/somebody/dataset/nus_wide/", "images/", ""])
def test_public_lists_are_read_as_they_are(prefix, tmp_path, capsys):
    write_pictures(tmp_path / "root" / "images", [flickr_name(i) for i in range(30)])
    labels = np.eye(81, dtype=int)[np.arange(30) % 81]
    labels[7] = 0
    for name, rows in (("test", range(6)), ("train", range(6, 16)), ("database", range(6, 30))):
        (tmp_path / f"{name}.txt").write_text("".join(
            f"{prefix}{flickr_name(i)} {' '.join(map(str, labels[i]))}\n" for i in rows))
    protocol = load_protocol("nuswide_81_m", root=tmp_path / "root", list_dir=tmp_path)
    assert [len(split) for split in protocol.splits] == [10, 6, 24] and protocol.database.labels.shape == (24, 81)
    assert protocol.query.images.size(5) == (9, 7)
    printed = command(capsys, "check", "nuswide_81_m", "--root", tmp_path / "root", "--list-dir", tmp_path,
                      "--num-query", 6, "--num-train", 10, status=1)
    assert "2 faults" in printed and "has no label" in printed and f"{tmp_path / 'train.txt'}:2" in printed


def test_a_picture_that_is_query_and_database_item(made_21, official, tmp_path, capsys):
    for file in made_21[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    line = (tmp_path / "query.txt").read_text().splitlines()[4]
    with open(tmp_path / "database.txt", "a") as file:
        file.write(f"{line}\n")
    count = len((tmp_path / "database.txt").read_text().splitlines())
    printed = command(capsys, "check", "nuswide_21", "--root", official, "--list-dir", tmp_path, *SIZES, status=1)
    fault = f"{tmp_path / 'query.txt'}:5: query {line.split()[0]} is also in {tmp_path / 'database.txt'}:{count}"
    assert "1 faults" in printed and fault in printed


# bad input ------------------------------------------------------------------------------------------------------
def change(root, file, line, text):
    path = root / file
    lines = path.read_bytes().split(b"\n")
    lines[line - 1:line] = [] if text is None else [text]
    path.write_bytes(b"\n".join(lines))


LABELS = "Groundtruth/AllLabels/Labels_concept29.txt"


@pytest.mark.parametrize("file, line, text, message", [
    (LABELS, 12, b"2", r"concept29.txt:12: '2' where 0 or 1"),
    (LABELS, 360, b"-1130179", r"concept29.txt:360: '-1130179' where 0 or 1"),
    (LABELS, 3, b"0 1", r"concept29.txt:3: 2 values where 1 is"),
    (LABELS, 8, b"", r"concept29.txt:8: 0 values where 1 is"),
    (LABELS, 360, None, r"concept29.txt:359: the file ends after 359 lines, .*Imagelist.txt has 360"),
    (LABELS, 1, b"0\n1", r"concept29.txt:361: the file has 361 lines, .*Imagelist.txt only 360"),
    ("ImageList/Imagelist.txt", 5, None, r"Labels_concept00.txt:360: the file has 360 lines.*only 359"),
    ("ImageList/Imagelist.txt", 5, b"..\\up\\1_2.jpg", r"Imagelist.txt:5: '../up/1_2.jpg' is not the path"),
    ("ImageList/Imagelist.txt", 5, b"C:\\data\\1_2.jpg", r"Imagelist.txt:5: .* is not the path"),
    ("ImageList/Imagelist.txt", 5, b"a note", r"Imagelist.txt:5: 'a note' is not the path"),
    ("ImageList/Imagelist.txt", 5, b"a\xff\\1_2.jpg", r"Imagelist.txt.*not UTF-8"),
    ("NUS_WID_Tags/AllTags1k.txt", 9, b"0\t1\t", r"AllTags1k.txt:9: 2 values where 12 are"),
    ("NUS_WID_Tags/AllTags1k.txt", 360, None, r"AllTags1k.txt:359: the file ends after 359"),
])
def test_bad_rows_are_named(tmp_path, file, line, text, message):
    write_official(tmp_path)
    change(tmp_path, file, line, text)
    with pytest.raises(InputError, match=message) as error:
        nuswide.make_lists("nuswide_10", tmp_path, tmp_path / "lists", 0, 30, 60, any_count=True)
    assert "\n" not in str(error.value) and not (tmp_path / "lists").exists()


def test_bad_raw_tags(tmp_path):
    write_official(tmp_path)
    (tmp_path / "NUS_WID_Tags" / "AllTags1k.txt").unlink()
    path = tmp_path / "NUS_WID_Tags" / "All_Tags.txt"
    whole = path.read_bytes()
    for line, text, message in ((4, None, "All_Tags.txt:359: the file has 359 lines"),
                                (1, b"", "All_Tags.txt:1: tags of picture|All_Tags.txt:2: tags of picture")):
        path.write_bytes(whole)
        for at in (line, line + 1) if text is not None else (line,):   # the first row may have none of the ten concepts
            change(tmp_path, "NUS_WID_Tags/All_Tags.txt", at, text)
        with pytest.raises(InputError, match=message):
            nuswide.make_lists("nuswide_10", tmp_path, tmp_path / "lists", 0, 30, 60, any_count=True)
    path.unlink()
    with pytest.raises(InputError, match="All_Tags.txt is missing, and so is AllTags1k.txt; unpack NUS_WID_Tags.zip"):
        nuswide.make_lists("nuswide_10", tmp_path, tmp_path / "lists", 0, 30, 60, any_count=True)


@pytest.mark.parametrize("file", [LABELS, "ConceptsList/Concepts81.txt", "ImageList/Imagelist.txt"])
def test_missing_files(tmp_path, file):
    write_official(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=f"{tmp_path / file} is missing"):
        nuswide.make_lists("nuswide_21", tmp_path, tmp_path / "lists", 0, 42, 105, any_count=True)


def test_the_same_picture_twice(tmp_path):
    write_official(tmp_path)
    lines = (tmp_path / "ImageList" / "Imagelist.txt").read_bytes().split(b"\n")
    change(tmp_path, "ImageList/Imagelist.txt", 20, lines[2])
    with pytest.raises(InputError, match=r"Imagelist.txt:20: .* is already in line 3"):
        nuswide.make_lists("nuswide_21", tmp_path, tmp_path / "lists", 0, 42, 105, any_count=True)


def test_wrong_roots_and_sizes(official, made_21, tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        nuswide.make_lists("nuswide_21", tmp_path / "nowhere", tmp_path / "lists")
    with pytest.raises(InputError, match="Concepts81.txt is missing"):
        nuswide.make_lists("nuswide_21", tmp_path, tmp_path / "lists")
    with pytest.raises(InputError, match="300 queries and 105 training"):
        nuswide.make_lists("nuswide_21", official, tmp_path / "lists", 0, 300, 105, any_count=True)
    with pytest.raises(InputError, match="holds no picture of NUS-WIDE"):
        write_official(tmp_path / "bare")
        nuswide.make_lists("nuswide_81_m", tmp_path / "bare", tmp_path / "lists", 0, 42, 105, any_count=True)
    with pytest.raises(InputError, match="does not exist"):
        load_protocol("nuswide_21", root=tmp_path / "nowhere", list_dir=made_21[0])
    with pytest.raises(InputError, match="holds none of the first pictures"):
        load_protocol("nuswide_21", root=tmp_path, list_dir=made_21[0])
    with pytest.raises(InputError, match="make nuswide_21"):
        load_protocol("nuswide_21", root=official, list_dir=tmp_path)
    with pytest.raises(InputError, match="42 items, not 5"):
        load_protocol("nuswide_21", root=official, list_dir=made_21[0], num_query=5)
    with pytest.raises(InputError, match="are those of nuswide_21"):
        load_protocol("nuswide_81_m", root=official, list_dir=made_21[0])


# rows of numbers ------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(data=st.data(), width=st.integers(1, 5), block=st.integers(1, 40))
def test_rows_are_read_whatever_blanks_and_blocks(tmp_path_factory, data, width, block):
    rows = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=width, max_size=width), max_size=12))
    gap = data.draw(st.sampled_from([" ", "\t", "  "]))
    end = data.draw(st.sampled_from(["\n", "\r\n", " \n", "\t\r\n"]))
    tail = data.draw(st.sampled_from(["", "\n", "\n\n", " \n"]))
    path = tmp_path_factory.getbasetemp() / "rows.txt"
    path.write_bytes((end.join(gap.join(map(str, row)) for row in rows) + tail).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nuswide_files, "_BLOCK", block)
        found = [row for values in nuswide_files.read_rows(path, width, (len(rows), "x")) for row in values.tolist()]
    assert found == rows
