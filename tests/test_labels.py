"""Class numbers or 0/1 columns: one rule for lists, manifests and feature files, told, and overruled by --labels."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.datasets import list_file, load_protocol
from utils.datasets.labels import class_number, one_hot, zeros
from utils.errors import InputError

CHECK = ("-m", "utils.datasets", "check")


@pytest.fixture
def pics(tmp_path):
    """Twelve pictures 0.png to 11.png."""
    for i in range(12):
        Image.new("RGB", (20, 16), (i * 20, 90, 30)).save(tmp_path / f"{i}.png")
    return tmp_path


def number_list(count, classes):
    return "".join(f"{i}.png {i % classes}\n" for i in range(count))


def labels_of(protocol):
    """dict id -> list of class names, of query and database."""
    return {item: [protocol.classes[c] for c in np.flatnonzero(row)] for split in (protocol.query, protocol.database)
            for item, row in zip(split.ids, split.labels)}


# lists ------------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=20), st.sampled_from([" ", "\t", "  "]))
def test_class_numbers_are_read_back(tmp_path_factory, numbers, gap):
    path = tmp_path_factory.getbasetemp() / "numbers.txt"
    path.write_text("".join(f"a b/{i}.jpg{gap}{number}\n" for i, number in enumerate(numbers)))
    for form in ("index", "auto"):
        paths, labels, _ = list_file.read_list(path, form=form)
        assert labels.tolist() == numbers and paths == [f"a b/{i}.jpg" for i in range(len(numbers))]


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_a_lone_column_is_class_numbers_and_a_note_says_so(pics, classes, run):
    (pics / "list.txt").write_text(number_list(12, classes))
    done = run(*CHECK, pics / "list.txt")
    assert "no fault" in done.stdout
    assert f"holds class numbers: {classes} classes, {classes} of them with pictures (--labels multihot" in done.stdout
    for form in ("auto", "index"):
        protocol = load_protocol(pics / "list.txt", labels=form)
        assert len(protocol.classes) == classes and (protocol.train.labels.sum(1) == 1).all()
        assert labels_of(protocol) == {f"{i}.png": [f"class_{i % classes}"] for i in range(12)}


def test_multihot_reads_one_column_of_0_and_1_and_nothing_else(pics, run):
    (pics / "list.txt").write_text(number_list(12, 2))
    protocol = load_protocol(pics / "list.txt", labels="multihot")
    assert protocol.classes == ["class_0"] and labels_of(protocol)["3.png"] == ["class_0"]
    assert labels_of(protocol)["2.png"] == [] and protocol.notes == []
    (pics / "list.txt").write_text(number_list(12, 3))
    done = run(*CHECK, pics / "list.txt", "--labels", "multihot", ok=False)
    assert done.returncode == 1 and "list.txt:3: label 1 is '2', it must be 0 or 1" in done.stdout


@pytest.mark.parametrize("query", ["val_list.txt", "test_list.txt"])
def test_a_folder_of_paddleclas_or_paddlex_trains(query, pics, run):
    """Path and class number, no database list: the training pictures are the database."""
    (pics / "train_list.txt").write_text(number_list(9, 3))
    (pics / query).write_text("9.png 0\n10.png 1\n11.png 2\n")
    (pics / "labels.txt").write_text("cat\ndog\nbird\n")
    protocol = load_protocol(pics, labels="index")
    assert protocol.classes == ["cat", "dog", "bird"] and protocol.query.ids == ["9.png", "10.png", "11.png"]
    assert sorted(protocol.database.ids) == sorted(protocol.train.ids) and len(protocol.train) == 9
    assert protocol.database.ids != protocol.train.ids  # shuffled: a list in the order of classes colours ties
    assert any("no database.txt: the 9 pictures" in note for note in protocol.notes)
    out = pics / "run"
    run("main_single_gpu.py", "--dataset", pics, "--labels", "index", "--bit", 8, "--backbone", "ConvNet:width=8",
        "--epoch", 1, "--batch-size", 4, "--resize-size", 16, "--crop-size", 16, "--no-pretrained", "--output-dir", out,
        "--no-visualdl")
    result = json.loads((out / "result.json").read_text())
    assert result["recipe"]["labels"] == "index"


def test_lists_with_several_columns_stay_what_they_are(pics):
    rows = [(1, 0), (0, 1), (1, 1), (0, 0)] * 3
    for gap in (" ", ","):  # PaddleClas writes several labels with commas
        (pics / "list.txt").write_text("".join(f"{i}.png\t{gap.join(map(str, row))}\n" for i, row in enumerate(rows)))
        protocol = load_protocol(pics / "list.txt")
        assert labels_of(protocol) == {f"{i}.png": [f"class_{c}" for c in (0, 1) if row[c]]
                                       for i, row in enumerate(rows)}
        assert protocol.notes == []
    with pytest.raises(InputError, match="list.txt:1: 2 labels where one class number"):
        load_protocol(pics / "list.txt", labels="index")


def test_faults_of_class_numbers(pics, run):
    (pics / "list.txt").write_text("0.png 0\n1.png 0.5\n2.png -1\n3.png cat\n4.png 1 0\n5.png\n6.png 1\n"
                                   "7.png 99999999\n")
    done = run(*CHECK, pics / "list.txt", ok=False)
    for fault in ("2: label is '0.5', it must be a class number", "3: label is '-1'", "4: label is 'cat'",
                  "5: 2 labels where one class number", "6: 0 labels where one class number",
                  "8: class number 99999999 is not within"):
        assert f"list.txt:{fault}" in done.stdout, done.stdout
    (pics / "list.txt").write_text("0.png 0\n1.png 900000\n")
    with pytest.raises(InputError, match="2 items in 900001 classes are too many; are these class numbers"):
        load_protocol(pics / "list.txt")
    (pics / "list.txt").write_text(number_list(12, 4))
    (pics / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match="list.txt:4: class number 3, but 3 classes are named.*0 to 2"):
        load_protocol(pics / "list.txt")


def test_labels_belong_to_own_data_only(pics, run):
    for name in ("cifar10", "shapes"):
        done = run(*CHECK, name, "--root", pics / "x", "--labels", "index", ok=False)
        assert done.returncode == 2 and f"{name}: --labels is for your own" in done.stderr
    with pytest.raises(InputError, match="choose one of auto, index, multihot"):
        load_protocol(pics, labels="onehot")


# manifests --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("column", ["target", "label", "class", "category", "Target", "has_cat"])
def test_a_lone_csv_column_of_0_and_1_is_two_classes(column, pics, run):
    (pics / "m.csv").write_text(f"filename,{column}\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(12)))
    protocol = load_protocol(pics / "m.csv")
    assert len(protocol.classes) == 2 and (protocol.train.labels.sum(1) == 1).all()
    assert labels_of(protocol)["0.png"] != labels_of(protocol)["1.png"]
    out = run(*CHECK, pics / "m.csv").stdout
    assert "no fault" in out and "no label" not in out
    if column.lower() in ("target", "category"):
        assert f"note: column {column} is taken for the labels" in out
    if column == "has_cat":
        assert "column has_cat" in out and "holds class numbers: 2 classes" in out
    single = load_protocol(pics / "m.csv", labels="multihot")
    assert len(single.classes) == 1 and labels_of(single)["1.png"] and not labels_of(single)["0.png"]


def test_index_orders_classes_by_number(pics):
    (pics / "m.csv").write_text("path,label\n" + "".join(f"{i}.png,{i}\n" for i in range(12)))
    protocol = load_protocol(pics / "m.csv", labels="index")
    assert protocol.classes == [f"class_{i}" for i in range(12)]
    assert labels_of(protocol) == {f"{i}.png": [f"class_{i}"] for i in range(12)}
    assert load_protocol(pics / "m.csv").classes == sorted(map(str, range(12)))  # names, as they always were
    (pics / "m.csv").write_text("path,a,b\n0.png,0,1\n1.png,1,0\n")
    with pytest.raises(InputError, match="--labels index reads one column of class numbers, and a and b"):
        load_protocol(pics / "m.csv", labels="index")
    (pics / "m.csv").write_text("path,y\n0.png,3\n1.png,4\n2.png,5\n")
    with pytest.raises(InputError, match="--labels index, but there is no column of labels; name it label"):
        load_protocol(pics / "m.csv", labels="index")


def test_jsonl_forms(pics):
    def write(values):
        (pics / "m.jsonl").write_text("".join(json.dumps({"path": f"{i}.png", "labels": value}) + "\n"
                                              for i, value in enumerate(values)))
    write([[i % 2] for i in range(12)])  # one number each: class numbers
    assert labels_of(load_protocol(pics / "m.jsonl"))["0.png"] == ["class_0"]
    assert labels_of(load_protocol(pics / "m.jsonl", labels="multihot"))["0.png"] == []
    write([[3, 1], [0]] * 6)
    assert labels_of(load_protocol(pics / "m.jsonl", labels="index"))["0.png"] == ["class_1", "class_3"]
    with pytest.raises(InputError, match=r"m.jsonl:1: labels \[3, 1\] are neither.*--labels index"):
        load_protocol(pics / "m.jsonl")
    write(["[" * 400 + "]" * 400, "a"])
    with pytest.raises(InputError, match="m.jsonl:1: labels"):
        load_protocol(pics / "m.jsonl")


# which columns are labels ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["", "Unnamed: 0", "index"])
def test_the_index_column_of_pandas_is_no_class(name, pics, run):
    (pics / "m.csv").write_text(f"{name},path,cat,dog\n" + "".join(f"{i},{i}.png,{i % 2},{(i + 1) % 2}\n"
                                                                  for i in range(12)))
    protocol = load_protocol(pics / "m.csv")
    assert protocol.classes == ["cat", "dog"]
    assert any("not used: " + (name or "column 1") in note for note in protocol.notes)


def test_all_rows_decide_what_a_column_is(pics):
    rows = [(i, i % 2, (i + 1) % 2, 640 + i if i else 1, "x" if i else "") for i in range(12)]
    text = "path,cat,dog,width,remark\n" + "".join(f"{i}.png,{a},{b},{w},{r}\n" for i, a, b, w, r in rows)
    (pics / "m.csv").write_text(text)
    assert load_protocol(pics / "m.csv").classes == ["cat", "dog"]  # width is 1 in the first row alone
    (pics / "m.csv").write_text(text.replace("0.png,0,1", "0.png,2,1"))  # the first row is at fault, and named
    with pytest.raises(InputError, match="m.csv:2: column cat is '2', it must be 0 or 1 as in most rows"):
        load_protocol(pics / "m.csv")


def test_a_wide_header_takes_no_time(pics):
    """Every column was compared with every other: 100,000 took minutes."""
    (pics / "m.csv").write_text("path," + ",".join(f"c{i}" for i in range(100_000)) + "\n" + "".join(
        f"{i}.png" + ",0" * 100_000 + "\n" for i in range(2)))
    assert len(load_protocol(pics / "m.csv").classes) == 100_000
    rows = [{"path": f"{i}.png", **{f"c{k}{i}": 0 for k in range(100_000)}} for i in range(2)]
    (pics / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_protocol(pics / "m.jsonl").database) == 1


# lists at fault from the first line on -------------------------------------------------------------------------------
BAD = [("list.txt", "image label\n0.png 0 1\n1.png 1 0\n2.png 1 1\n", ["list.txt:1: 'image label' names no picture"]),
       ("list.txt", "filename\n0.png\n1.png\n", ["list.txt:1: 'filename' names no picture"]),
       ("list.txt", "0.png 0.5 0.1\n1.png 0.2 0.3\n", ["list.txt:1: label 1 is '0.5'", "list.txt:2: label 1 is '0.2'"]),
       ("list.txt", "0.png -1\n1.png -1\n", ["list.txt:1: label is '-1'", "list.txt:2: label is '-1'"]),
       ("list.txt", "0.png 1\n1.png 0 1\n2.png 1 0\n", ["list.txt:1: 1 labels where 2 are expected"]),
       ("m.jsonl", '{"file_name": "0.png"}\n{"file_name": "1.png"}\n',
        ["m.jsonl:1: no column path", "m.jsonl:2: no column path", "there are file_name"]),
       ("m.csv", "path,labels\n../0.png,a\n../1.png,b\n",
        ["m.csv:2: path '../0.png' leaves", "m.csv:3: path '../1.png'"])]


@pytest.mark.parametrize("name, text, faults", BAD)
def test_check_names_every_bad_row_even_if_none_is_good(name, text, faults, pics, run):
    (pics / name).write_text(text)
    done = run(*CHECK, pics / name, ok=False)
    assert done.returncode == 1 and not done.stderr and all(fault in done.stdout for fault in faults), done.stdout
    assert "0 picture" not in done.stdout
    with pytest.raises(InputError, match=f"{name}:[12]: "):  # a training names the first
        load_protocol(pics / name)


def test_the_same_in_a_folder_of_lists(pics, run):
    for name in ("train", "query", "database"):
        (pics / f"{name}.txt").write_text("0.png 0.5\n")
    done = run(*CHECK, pics, ok=False)
    assert done.returncode == 1
    assert all(f"{name}.txt:1: label" in done.stdout for name in ("train", "query", "database"))


# foreign prefixes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", [1, 5])
def test_a_foreign_prefix_is_seen_though_the_first_pictures_are_missing(missing, pics, run):
    (pics / "in").mkdir()
    for i in range(12):
        (pics / f"{i}.png").rename(pics / "in" / f"{i}.png")
    (pics / "list.txt").write_text("".join(f"/home/somebody/data/in/{i}.png 1 0\n" for i in [*range(90, 90 + missing),
                                                                                            *range(12)]))
    done = run(*CHECK, pics / "list.txt", ok=False)
    assert done.returncode == 1 and f"{missing} faults" in done.stdout
    assert f"list.txt:1: {pics}/in/90.png: cannot be read" in done.stdout
    protocol = load_protocol(pics / "list.txt", skip_broken=True)
    assert len(protocol.query) + len(protocol.database) == 12


# numbers ------------------------------------------------------------------------------------------------------------
def test_limits():
    assert one_hot([2, 0], 3, "x").tolist() == [[0, 0, 1], [1, 0, 0]]
    for rows, classes in ((2, 2_000_000), (1 << 22, 1 << 20)):
        with pytest.raises(InputError, match="too many"):
            zeros(rows, classes, "x")
    for text in ("-1", "1.0", "", "\u0663", "1e3", "99999999"):
        with pytest.raises(ValueError):
            class_number(text)
    assert class_number(" 007 ") == 7


# feature files -------------------------------------------------------------------------------------------------------
def test_labels_of_feature_files(tmp_path, run):
    rng = np.random.default_rng(0)
    image = rng.random((20, 3), np.float32)
    path = tmp_path / "f.npz"
    np.savez(path, image=image, label=np.arange(20) % 2)
    assert load_protocol(path).train.labels.shape[1] == 2
    assert load_protocol(path, labels="multihot").train.labels.shape[1] == 1
    np.savez(path, image=image, label=np.eye(4)[np.arange(20) % 4])
    assert load_protocol(path).train.labels.shape[1] == 4
    for arrays, fault in (({"label": np.arange(20) - 1}, r"class number -1 \(row 0 first\)"),
                          ({"label": np.arange(20) % 3, "ids": ["a", "b"] * 10},
                           "the id a is that of row 0 and of row 2"),
                          ({"label": np.full(20, np.nan)}, "class numbers or 0/1 columns")):
        np.savez(path, image=image, **arrays)
        done = run(*CHECK, path, ok=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        with pytest.raises(InputError, match=fault):
            load_protocol(path)
    np.savez(path, image=image, label=np.eye(4)[np.arange(20) % 4])
    with pytest.raises(InputError, match="--labels index reads one class number an item"):
        load_protocol(path, labels="index")
