"""The embedded set: the same bytes everywhere, files that any reader opens, labels and captions that tell the truth."""
import hashlib
import io
import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.datasets import load_protocol
from utils.datasets import seeded as draw
from utils.datasets.protocols import jpeg_encoder as jpeg
from utils.datasets.protocols import shapes
from utils.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL = {"num_query": 5, "num_train": 12, "num_database": 24}
# of all files of the SMALL set with seed 7; changes only together with shapes.VERSION
SMALL_SHA256 = "24cd26c5394cfe29aaa00453a6f8985948ac2e07671d5751d5d068a5b3572629"


def folder_sha256(folder):
    """SHA-256 over the names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def start(root, seed=7):
    """A process that generates the SMALL set below ``root``."""
    code = (f"from utils.datasets import load_protocol; "
            f"print(load_protocol('shapes', root={str(root)!r}, seed={seed}, **{SMALL!r}).record())")
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def test_two_processes_make_the_pinned_bytes_and_do_not_clash(tmp_path):
    """Two start at once in one place, a third elsewhere: one folder each, nothing left over, the same bytes."""
    together = [start(tmp_path / "a"), start(tmp_path / "a"), start(tmp_path / "b")]
    records = []
    for process in together:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        records.append(out)
    assert len(set(records)) == 1
    for name in "ab":
        (folder,) = (tmp_path / name).iterdir()  # exactly one: no temporary folder stays
        assert folder_sha256(folder) == SMALL_SHA256


def test_another_seed_is_another_set(tmp_path):
    one, two = (load_protocol("shapes", root=tmp_path, seed=seed, **SMALL) for seed in (1, 2))
    assert not set(map(str, one.query.texts)) & set(two.query.texts) or not np.array_equal(one.query.images.read(0),
                                                                                          two.query.images.read(0))
    assert one.record()["sha256"]["database"] != two.record()["sha256"]["database"]


def test_an_image_does_not_depend_on_the_sizes(tmp_path):
    small = load_protocol("shapes", root=tmp_path, seed=7, **SMALL)
    large = load_protocol("shapes", root=tmp_path, seed=7, num_query=8, num_train=3, num_database=30)
    for item in small.database.ids + small.query.ids:
        split = large.query if item in large.query.ids else large.database
        position = split.ids.index(item)
        assert pathlib.Path(split.images.path(position)).read_bytes() == (
            pathlib.Path(small.query.images.root) / item).read_bytes()


def test_contents(tmp_path):
    protocol = load_protocol("shapes", root=tmp_path, seed=7, **SMALL)
    assert [len(split) for split in protocol.splits] == [12, 5, 24]
    assert set(protocol.train.ids) <= set(protocol.database.ids)
    assert not set(protocol.query.ids) & set(protocol.database.ids)
    assert protocol.database.ids != sorted(protocol.database.ids)  # shuffled
    for split in protocol.splits:
        assert split.labels.shape == (len(split), len(protocol.classes)) and split.labels.dtype == np.uint8
        assert (split.labels.sum(1) >= 1).all() and (split.labels.sum(1) <= 3).all()
        assert split.images.read(0).shape == (128, 128, 3) and all(split.texts)
    again = load_protocol("shapes", root=protocol.query.images.root)  # its own folder as the root
    assert again.record()["sha256"] == protocol.record()["sha256"]


def test_labels_and_captions_fit():
    """A kind that a caption names is in the labels; most kinds are named; all kinds, colours and grounds occur."""
    words = {word: kind for kind, (names, _) in shapes.KINDS.items() for word in names}
    named = labelled = 0
    counts = np.zeros(len(shapes.CLASSES), int)
    texts = []
    for i in range(150):
        _, labels, text = shapes.draw_image(3, 1, i)
        kinds = {shapes.CLASSES[k] for k in np.nonzero(labels)[0]}
        found = {kind for word, kind in words.items() if f" {word}" in f" {text}"}
        assert found <= kinds and found, (text, kinds)
        named, labelled = named + len(found), labelled + len(kinds)
        counts += labels
        texts.append(text)
    assert 0.8 < named / labelled < 1
    assert (counts > 5).all()
    assert all(any(word in text for text in texts) for word in (*shapes.COLOURS, *shapes.TEXTURES))


def test_random_codes_are_poor(tmp_path):
    """The share of relevant pairs, which random codes reach as mAP, leaves room for learning."""
    labels = np.array([shapes.draw_image(5, 1, i)[1] for i in range(120)]).astype(int)
    share = (labels @ labels.T > 0)[~np.eye(120, dtype=bool)].mean()
    assert 0.1 < share < 0.3


def test_bad_sizes_and_places(tmp_path):
    with pytest.raises(InputError, match="train <= database"):
        load_protocol("shapes", root=tmp_path, num_train=10, num_database=9)
    with pytest.raises(InputError, match="num_query"):
        load_protocol("shapes", root=tmp_path, num_queries=10)
    with pytest.raises(InputError, match="1 or more"):
        load_protocol("shapes", root=tmp_path, num_query=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="--data-path"):
        load_protocol("shapes", root=tmp_path / "file", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(shapes, "encode_batch", full)
    with pytest.raises(InputError, match="No space left"):
        load_protocol("shapes", root=tmp_path, **SMALL)
    assert not list(tmp_path.iterdir())


def test_texts_file_faults(tmp_path):
    folder = pathlib.Path(load_protocol("shapes", root=tmp_path, seed=7, **SMALL).query.images.root)
    texts = folder / "texts.jsonl"
    rows = texts.read_text().splitlines()
    assert set(json.loads(rows[0])) == {"image", "text"}
    texts.write_text("\n".join(rows[:2] + ["{broken"] + rows[3:]))
    with pytest.raises(InputError, match=r"texts.jsonl:3"):
        load_protocol("shapes", root=folder)
    texts.write_text("\n".join(rows[1:]))
    with pytest.raises(InputError, match="no text for images/q000000.jpg"):
        load_protocol("shapes", root=folder)


# the encoder -------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 100), st.integers(0, 2 ** 32 - 1),
       st.sampled_from([0, 3, 9]))
def test_encoder_is_as_good_as_pillows(rows, columns, quality, seed, smooth):
    """Both readers open the file and agree; the error is that of libjpeg's encoder at the same quality."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (16 * rows, 16 * columns, 3), dtype=np.uint8)
    if smooth:
        image = cv2.normalize(cv2.GaussianBlur(image, (0, 0), smooth), None, 0, 255, cv2.NORM_MINMAX)
    (data,) = jpeg.encode_batch(image[None], quality)
    ours = np.asarray(Image.open(io.BytesIO(data)))
    other = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(ours.astype(int) - other).max() <= 2
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    theirs = np.asarray(Image.open(buffer))

    def error(result):
        return np.abs(result.astype(int) - image).mean()
    assert error(ours) <= error(theirs) * 1.05 + 0.3


def test_encoder_batches_and_flat_images():
    """A file does not depend on its neighbours in the batch; the extreme colours come back."""
    rng = np.random.default_rng(0)
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    images = np.stack([np.tile(np.uint8(colour), (32, 32, 1)) for colour in colours]
                      + [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(3)])
    together = jpeg.encode_batch(images)
    assert together == [jpeg.encode_batch(image[None])[0] for image in images]
    for colour, data in zip(colours, together):
        got = np.asarray(Image.open(io.BytesIO(data))).astype(int)
        assert np.abs(got - colour).max() <= 3


# the random numbers ------------------------------------------------------------------------------
def test_splitmix_against_its_published_values():
    """First outputs of SplitMix64 with seed 1234567 (the test vector that goes round with the algorithm)."""
    state, want = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]
    step = 0x9E3779B97F4A7C15
    assert draw.mix([(state + i * step) % 2 ** 64 for i in range(3)]).tolist() == want


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(0, 2 ** 40), st.integers(0, 50))
def test_permutations(n, seed, purpose):
    order = draw.permutation(n, seed, purpose)
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, draw.permutation(n, seed, purpose))


def test_permutations_are_fair():
    """Where item 0 lands is uniform: chi-square over 10 places, 9 degrees of freedom, p = 1e-4 at 33.7."""
    places = [int(np.nonzero(draw.permutation(10, seed) == 0)[0][0]) for seed in range(2000)]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 33.7
    draws = draw.Draw(4)
    values = np.bincount([draws.between(3, 12) for _ in range(5000)], minlength=13)[3:]
    assert len(values) == 10 and ((values - 500) ** 2 / 500).sum() < 33.7
