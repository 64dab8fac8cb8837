"""VOC 2012 lists from small files in the official layout."""
import hashlib
import json
import time

import pytest
from PIL import Image

from utils.datasets import load_protocol
from utils.datasets.protocols import voc
from utils.errors import InputError

SIZES = {"query": 4, "train": 6}


def annotation(name, objects):
    """Text of an annotation as in VOC 2012; objects = (class, difficult or None)."""
    rows = "".join(f"""
	<object>
		<name>{kind}</name>
		<pose>Left</pose>
		<truncated>1</truncated>
		{'' if difficult is None else f'<difficult>{difficult}</difficult>'}
		<bndbox><xmax>471</xmax><xmin>35.5</xmin><ymax>420</ymax><ymin>6</ymin></bndbox>
		<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>
	</object>""" for kind, difficult in objects)
    return f"""<annotation>
	<folder>VOC2012</folder>
	<filename>{name}.jpg</filename>
	<source><database>The VOC2008 Database</database><annotation>PASCAL VOC2008</annotation></source>
	<size><width>500</width><height>442</height><depth>3</depth></size>
	<segmented>0</segmented>{rows}
</annotation>
"""


def write_official(root, count=30):
    """VOCdevkit as unpacked; returns dict path -> set of classes. The first picture has difficult objects only."""
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    truth, names = {}, [f"20{8 + i % 4:02d}_{100 + i * 37:06d}" for i in range(count)]
    for i, name in enumerate(names):
        kinds = {voc.CLASSES[i % 20], voc.CLASSES[(i * 7 + 3) % 20]}
        objects = [(kind, 1 if i == 0 else (0, None)[k % 2]) for k, kind in enumerate(sorted(kinds) * 2)]
        if i % 3 == 1:  # a difficult object beside: it does not count
            objects.append((voc.CLASSES[(i + 5) % 20], 1))
        (base / "Annotations" / f"{name}.xml").write_text(annotation(name, objects))
        Image.new("RGB", (16, 12), (i, 9, 9)).save(base / "JPEGImages" / f"{name}.jpg")
        if i:
            truth[f"JPEGImages/{name}.jpg"] = {kind for kind, difficult in objects if difficult != 1}
    # a picture of the action task: it has files, but is in no list of the classification task
    (base / "Annotations" / "2011_009999.xml").write_text(annotation("2011_009999", [("person", 0)]))
    Image.new("RGB", (16, 12)).save(base / "JPEGImages" / "2011_009999.jpg")
    (base / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{name}\n" for name in sorted(names)))
    return truth


@pytest.fixture
def made(tmp_path):
    truth = write_official(tmp_path / "root")
    record = voc.make_lists(tmp_path / "root", tmp_path / "lists", seed=3, any_count=True, **SIZES)
    return tmp_path, truth, record


def test_lists_hold_every_labelled_picture_once(made):
    folder, truth, record = made
    rows = {}
    for split in ("train", "query", "database"):
        for line in (folder / "lists" / f"{split}.txt").read_text().splitlines():
            path, *labels = line.split()
            assert path not in rows  # the three splits share nothing
            rows[path] = {voc.CLASSES[k] for k, label in enumerate(labels) if label == "1"}
            assert len(labels) == 20
    assert rows == truth and len(truth) == 29
    assert record["counts"] == {"query": 4, "train": 6, "database": 19} and record["left_out_without_a_label"] == 1
    assert (folder / "lists" / "classes.txt").read_text().split() == list(voc.CLASSES)


def test_record_and_repeatability(made):
    folder, _, record = made
    assert json.loads((folder / "lists" / "lists.json").read_text()) == record and record["seed"] == 3
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((folder / "lists" / name).read_bytes()).hexdigest() == digest
    for root in (folder / "root" / "VOCdevkit", folder / "root" / "VOCdevkit" / "VOC2012"):  # wherever one points
        assert voc.make_lists(root, folder / "again", seed=3, any_count=True, **SIZES) == record
    other = voc.make_lists(folder / "root", folder / "other", seed=4, any_count=True, **SIZES)
    assert other["sha256"]["query.txt"] != record["sha256"]["query.txt"]


def test_the_protocol_reads_them_from_any_of_the_three_folders(made):
    folder, truth, _ = made
    records = []
    for root in ("root", "root/VOCdevkit", "root/VOCdevkit/VOC2012"):
        protocol = load_protocol("voc2012", root=folder / root, list_dir=folder / "lists")
        records.append(protocol.record())
        assert protocol.query.images.read(0).shape == (12, 16, 3)
    assert records[0] == records[1] == records[2]
    assert (protocol.topk, protocol.seed, protocol.classes) == (0, 3, list(voc.CLASSES))
    assert [len(split) for split in protocol.splits] == [6, 4, 19]
    assert load_protocol("voc2012", root=folder / root, list_dir=folder / "lists", num_train=6).record() == records[0]
    with pytest.raises(InputError, match="holds 6 items, not 5"):
        load_protocol("voc2012", root=folder / root, list_dir=folder / "lists", num_train=5)


def test_public_lists_are_read_as_they_are(made):
    folder, truth, _ = made
    (folder / "public").mkdir()
    paths = sorted(truth)
    for name, some in (("test.txt", paths[:3]), ("train.txt", paths[3:8]), ("database.txt", paths[8:])):
        (folder / "public" / name).write_text("".join(
            f"VOCdevkit/VOC2012/{path} " + " ".join(str(int(kind in truth[path])) for kind in voc.CLASSES) + "\n"
            for path in some))
    for root in ("root", "root/VOCdevkit"):
        protocol = load_protocol("voc2012", root=folder / root, list_dir=folder / "public")
        assert [len(split) for split in protocol.splits] == [5, 3, 21]
        assert protocol.query.ids == paths[:3] and protocol.query.images.read(0).shape == (12, 16, 3)


def test_commands(made, run):
    folder, _, record = made
    arguments = ["voc2012", "--root", folder / "root", "--list-dir", folder / "by command"]
    sizes = ["--num-query", 4, "--num-train", 6]
    done = run("-m", "utils.datasets", "make", *arguments, *sizes, "--seed", 3, "--any-count")
    assert all(digest in done.stdout for digest in record["sha256"].values()) and "seed 3" in done.stdout
    done = run("-m", "utils.datasets", "make", *arguments, *sizes, ok=False)
    assert done.returncode == 2 and "11540" in done.stderr and done.stderr.count("\n") == 1
    assert "no fault" in run("-m", "utils.datasets", "check", *arguments, *sizes).stdout
    # a query that slips into the database is named with file and line, and so are counts other than the literature's
    lists = folder / "by command"
    with open(lists / "database.txt", "a") as file:
        file.write((lists / "query.txt").read_text().splitlines()[2] + "\n")
    done = run("-m", "utils.datasets", "check", *arguments, ok=False)
    assert done.returncode == 1 and f"{lists}/query.txt:3: query" in done.stdout
    assert f"also in {lists}/database.txt:20" in done.stdout and "train has 6 items, voc2012 has 4000" in done.stdout
    assert "voc2012" in run("-m", "utils.datasets", "list").stdout


BOMB = '<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "lol">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)) + "]><annotation>&j;</annotation>"


@pytest.mark.parametrize("text, reason", [
    (b"", "broken XML"),
    (annotation("x", [("cat", 0)])[:-20].encode(), "broken XML"),
    (annotation("x", [("unicorn", 0)]).encode(), "object 1 is of the unknown class 'unicorn'"),
    (b"<annotation><object/></annotation>", "object 1 is of the unknown class ''"),
    (b"<annotation>\xff\xfe</annotation>", "not UTF-8"),
    (BOMB.encode(), "document type declaration"),
    (BOMB.encode("utf-16"), "not UTF-8"),
    (BOMB.encode("utf-16-le"), "broken XML"),
    (b"<annotation>" + b" " * voc.LARGEST, "larger than 1 MB"),
])
def test_bad_annotations(made, text, reason):
    folder, truth, _ = made
    path = folder / "root" / "VOCdevkit" / "VOC2012" / "Annotations" / f"{sorted(truth)[5][11:-4]}.xml"
    path.write_bytes(text)
    start = time.monotonic()
    with pytest.raises(InputError, match=reason) as error:
        voc.make_lists(folder / "root", folder / "new", any_count=True, **SIZES)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert time.monotonic() - start < 5 and not (folder / "new").exists()


def test_a_byte_order_mark_is_no_fault(made):
    folder, truth, record = made
    path = folder / "root" / "VOCdevkit" / "VOC2012" / "Annotations" / f"{sorted(truth)[5][11:-4]}.xml"
    path.write_bytes(b"\xef\xbb\xbf" + b'<?xml version="1.0" encoding="UTF-8"?>\n' + path.read_bytes())
    assert voc.make_lists(folder / "root", folder / "new", seed=3, any_count=True, **SIZES) == record


def test_bad_folders_and_lists(made, tmp_path):
    folder, truth, _ = made
    base = folder / "root" / "VOCdevkit" / "VOC2012"
    with pytest.raises(InputError, match="does not exist; it should hold VOCdevkit/VOC2012"):
        voc.make_lists(tmp_path / "nowhere")
    with pytest.raises(InputError, match="trainval.txt is missing"):
        voc.make_lists(folder / "lists", folder / "new")
    with pytest.raises(InputError, match="leave no database of the 29"):
        voc.make_lists(folder / "root", folder / "new", query=20, train=9, any_count=True)
    trainval = base / "ImageSets" / "Main" / "trainval.txt"
    whole = trainval.read_text()
    for extra, reason in (("../../secret\n", "31: '../../secret' is no picture id"),
                          (whole.split()[3] + "\n", "31: .* is already in line 4"),
                          ("2008_123456\n", "31: .*2008_123456.jpg is missing")):
        trainval.write_text(whole + extra)
        with pytest.raises(InputError, match=reason):
            voc.make_lists(folder / "root", folder / "new", any_count=True, **SIZES)
    trainval.write_text(whole)
    name = sorted(truth)[7][11:-4]
    (base / "Annotations" / f"{name}.xml").unlink()
    with pytest.raises(InputError, match=f"trainval.txt:[0-9]+: .*{name}.xml is missing"):
        voc.make_lists(folder / "root", folder / "new", any_count=True, **SIZES)
    assert not (folder / "new").exists()


def test_loading_without_lists_or_with_those_of_another_protocol(made):
    folder, _, record = made
    with pytest.raises(InputError, match="utils.datasets make voc2012"):
        load_protocol("voc2012", root=folder / "root", list_dir=folder / "root")
    path = folder / "lists" / "lists.json"
    path.write_text(json.dumps({**record, "protocol": "coco"}))
    with pytest.raises(InputError, match="are those of coco, not of voc2012"):
        load_protocol("voc2012", root=folder / "root", list_dir=folder / "lists")
    path.write_text("{")
    with pytest.raises(InputError, match="lists.json is broken"):
        load_protocol("voc2012", root=folder / "root", list_dir=folder / "lists")


def test_a_full_disk_leaves_the_old_lists(made, monkeypatch):
    folder, _, _ = made
    before = {path.name: path.read_bytes() for path in (folder / "lists").iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("utils.datasets.protocols.list_maker.sha256_file", full)
    with pytest.raises(InputError, match="No space left"):
        voc.make_lists(folder / "root", folder / "lists", seed=9, any_count=True, **SIZES)
    assert {path.name: path.read_bytes() for path in (folder / "lists").iterdir()} == before
