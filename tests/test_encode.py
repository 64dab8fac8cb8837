"""The one way from a split to codes, and from codes to scores: positions, broken items, rows, directions."""
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from utils.datasets.base import ArrayImages, Split
from utils.errors import InputError
from utils.images import ImageError
from utils.picture_loader import PictureLoader
from utils.retrieval.code_store import CodeStore, broken_pictures, code_file, code_name
from utils.retrieval.codes import CodeFile
from utils.retrieval.encode import encode, need_codes
from utils.retrieval.encoder import modalities
from utils.retrieval.hamming import pack
from utils.retrieval.metrics import evaluate
from utils.retrieval.score import file_tag, labelled, overall, prefix, score, score_curves
from utils.text import Vectorizer
from utils.transforms import preprocess, preprocess_spec

SPEC = preprocess_spec(10, 8)
BITS = 12


class Projection:
    """An Encoder: random projections of pictures, feature rows of 5 numbers, and texts."""

    bits, fingerprint, precision, engine = BITS, "0123456789abcdef", "fp32", "numpy"

    def __init__(self, texts=("red disc", "blue square")):
        self.manifest = {"method": "toy", "bits": BITS, "preprocess": SPEC, "text": {"dim": 4}}
        self.vectorizer = Vectorizer.fit(texts)
        self.calls = []

    def _project(self, x):
        self.calls.append(len(x))
        x = x.reshape(len(x), -1)
        return (x @ np.random.default_rng(x.shape[1]).standard_normal((x.shape[1], BITS))).astype("float32")

    encode = encode_text = _project


class Images(ArrayImages):
    """Pictures of which some are broken."""

    broken = ()

    def read(self, i):
        if self.rows[i] in self.broken:
            raise ImageError(f"{self.rows[i]}.jpg: broken")
        return super().read(i)

    def select(self, positions):
        return Images(self.array, self.rows[positions])


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (23, 12, 11, 3), dtype=np.uint8))
    return Split("database", [f"{i}.jpg" for i in range(23)], rng.integers(0, 2, (23, 3)).astype(np.uint8), images,
                 texts=["red disc" if i % 2 else "blue square" for i in range(23)])


LOAD = PictureLoader(SPEC, 2)


@settings(max_examples=20, deadline=None)
@given(positions=st.lists(st.integers(0, 22), max_size=9), size=st.integers(1, 30))
def test_any_positions_and_batch_size_give_the_same_codes(positions, size):
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (23, 12, 11, 3), dtype=np.uint8))
    one = Split("query", list(map(str, range(23))), images=images)
    inputs = np.stack([preprocess(one.images.read(i), SPEC) for i in range(23)])
    expected = Projection()._project(inputs)
    found = encode(Projection(), one, positions=positions, load=LOAD, batch_size=size, relaxed=True)
    np.testing.assert_array_equal(found.positions, positions)
    assert found.codes.dtype == np.float32 and found.messages == []
    np.testing.assert_allclose(found.codes, expected[positions], rtol=1e-3, atol=1e-3)
    packed = encode(Projection(), one, positions=positions, load=LOAD, batch_size=size)
    np.testing.assert_array_equal(packed.codes, pack(found.codes) if positions else np.zeros((0, 2), np.uint8))


def test_broken_pictures_end_it_or_are_left_out(split, monkeypatch):
    monkeypatch.setattr(Images, "broken", {3, 4, 22})
    encoder = Projection()
    with pytest.raises(InputError, match="^3.jpg: broken$"):
        encode(encoder, split, load=LOAD, batch_size=5)
    found = encode(encoder, split, on_broken="skip", load=LOAD, batch_size=5)
    assert found.positions.tolist() == [i for i in range(23) if i not in (3, 4, 22)]
    assert found.messages == ["3.jpg: broken", "4.jpg: broken", "22.jpg: broken"]
    whole = encode(encoder, split.select(found.positions), load=LOAD, batch_size=5)
    np.testing.assert_array_equal(whole.codes, found.codes)
    codefile = code_file(encoder, split, found, "database", "image", {}, ["a", "b", "c"])
    assert codefile.ids == [split.ids[i] for i in found.positions] and codefile.meta["skipped"] == 3
    np.testing.assert_array_equal(codefile.labels, split.labels[found.positions])

    none = encode(encoder, split, positions=[3, 22], on_broken="skip", load=LOAD)
    assert none.codes.shape == (0, 2) and none.codes.dtype == np.uint8
    with pytest.raises(InputError, match="no picture of the database split can be read: 3.jpg"):
        need_codes(none, split)
    assert broken_pictures(["a", "b", "c", "d"]) == "4 broken pictures: a; b; c and 1 more"


def test_rows_take_the_place_of_pictures(split):
    rows = np.random.default_rng(1).random((23, 5))
    split.features = rows
    encoder = Projection()
    found = encode(encoder, split, batch_size=10)
    assert encoder.calls == [10, 10, 3]
    np.testing.assert_array_equal(found.codes, pack(Projection()._project(rows.astype("float32"))))


def test_texts_are_read_by_the_models_vectorizer_unless_there_are_features(split):
    encoder = Projection()
    words = encode(encoder, split, "text", batch_size=7, relaxed=True)
    expected = encoder._project(encoder.vectorizer.transform(split.texts))
    np.testing.assert_allclose(words.codes, expected, rtol=1e-5, atol=1e-5)
    split.text_features = np.ones((23, 4))
    expected = pack(encoder._project(np.ones((23, 4), "float32")))
    np.testing.assert_array_equal(encode(encoder, split, "text").codes, expected)
    split.text_features, encoder.vectorizer = None, None
    with pytest.raises(InputError, match="database split has no texts"):
        encode(encoder, split, "text")
    split.images = None
    with pytest.raises(InputError, match="database split has no pictures"):
        encode(encoder, split)


def test_code_names():
    assert code_name("hashnet", 64) == "database_hashnet_64.npz"
    assert code_name("djsrh", 16, "text", "bf16", "gallery") == "gallery_text_djsrh_16_bf16.npz"


def test_a_refreshed_gallery_keeps_the_finer_half_of_its_codes(split, monkeypatch):
    """New, changed and gone items: the relaxed codes of a file go with its packed ones."""
    class Gallery:
        request, name, root, classes = {"gallery": "here"}, "here", None, []
        gallery = "here"

        class protocol:
            classes, notes = ["a", "b", "c"], []

    stamps = {i: f"{i}" for i in range(23)}
    monkeypatch.setattr(Images, "stamp", lambda self, i: stamps[self.rows[i]], raising=False)
    monkeypatch.setattr(Images, "root", "here", raising=False)
    encoder = Projection()
    store = CodeStore(encoder, Gallery, partial(encode, on_broken="skip", load=LOAD), lambda text: None)
    Gallery.protocol.database = split.select(range(12))
    codefile = store.build()
    codefile.relaxed = encode(encoder, split.select(range(12)), load=LOAD, relaxed=True).codes.astype("float16")
    assert store.refresh(codefile) is None
    stamps[4] = "changed"
    Gallery.protocol.database = split.select([*range(2, 12), 20, 21])
    encoder.calls.clear()
    fresh = store.refresh(codefile)
    assert sum(encoder.calls) == 3 and fresh.ids == Gallery.protocol.database.ids
    expected = encode(encoder, Gallery.protocol.database, load=LOAD, relaxed=True).codes
    np.testing.assert_array_equal(fresh.codes, pack(expected))
    np.testing.assert_allclose(fresh.relaxed, expected, rtol=2e-3, atol=0.1)
    fresh.check()


def test_a_store_says_what_does_not_fit(split, tmp_path):
    class Whole:
        request, name, root, gallery, classes = {"dataset": "toy"}, "toy", None, None, []

        class protocol:
            database, classes, notes = split, ["a", "b", "c"], ["a note"]

    said, encoder = [], Projection()

    def open_store(data=Whole):
        return CodeStore(encoder, data, partial(encode, on_broken="skip", load=LOAD), said.append)
    path = str(tmp_path / open_store().name())
    built = open_store().open(path)
    assert said[0] == "----- Note: a note" and "Encoded 23 database images" in said[1] and path in said[2]
    loaded = open_store().open(path)
    assert loaded.ids == built.ids and "Load code of database" in said[-1]
    with pytest.raises(InputError, match="text codes are wanted"):
        open_store().open(path, "text")
    other = type("Other", (Whole,), {"request": {"dataset": "other"}, "name": "other"})
    with pytest.raises(InputError, match="toy.*other.*--rebuild"):
        open_store(other).open(path)
    encoder.precision = "bf16"
    open_store().open(path)
    assert "codes are fp32, the query's bf16" in said[-2]
    split.ids[0] = "another.jpg"
    with pytest.raises(InputError, match="another list of toy"):
        open_store().open(path)
    encoder.fingerprint = "feed"
    with pytest.raises(InputError, match="another model"):
        open_store().open(path)


# scores ------------------------------------------------------------------------------------------
def files(seed, n, names):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < 0.5).astype(np.uint8)
    return {name: CodeFile(pack(rng.standard_normal((n, BITS))), BITS, list(map(str, range(n))), labels)
            for name in names}


def test_every_direction_is_scored_once():
    query, database = files(0, 6, ["image", "text"]), files(1, 40, ["image", "text"])
    reports = score(query, database, 10, "min")
    assert list(reports) == ["I->I", "I->T", "T->I", "T->T"]
    assert reports["I->T"] == evaluate(query["image"].codes, database["text"].codes, query["image"].labels,
                                       database["text"].labels, BITS, topk=10, ap="min")
    assert overall(reports) == (reports["I->T"]["mAP"] + reports["T->I"]["mAP"]) / 2
    images = score({"image": query["image"]}, {"image": database["image"]})
    assert list(images) == ["I->I"] and overall(images) == images["I->I"]["mAP"] and overall({}) is None
    assert list(score_curves(query, database)) == list(reports)
    assert [prefix(name) + file_tag(name) for name in reports] == ["", "I->T _I2T", "T->I _T2I", "T->T _T2T"]
    assert labelled(query, database)
    database["text"].labels = None
    assert not labelled(query, database)
    with pytest.raises(InputError, match="no labels"):
        score(query, database)
    database["image"].bits = 16
    with pytest.raises(InputError, match="12 bits, database codes 16"):
        score(query, database)


def test_modalities():
    encoder = Projection()
    assert modalities(encoder) == ["image", "text"]
    encoder.manifest = {}
    assert modalities(encoder) == ["image"]


def test_the_room_needs_numpy_and_numba_only():
    code = ("import sys, utils.retrieval.code_store, utils.retrieval.score, utils.retrieval.encoder; "
            "print([m for m in ('paddle', 'cv2', 'PIL', 'utils.datasets', 'tqdm') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
