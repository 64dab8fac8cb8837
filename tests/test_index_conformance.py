"""One suite for all engines: what an index answers, keeps and refuses does not depend on what is behind it."""
import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from deploy.index import Where, open_index
from deploy.index.question import Question, ask
from tests.conftest import ROOT
from tests.indexes import CLASSES, ENGINES, FINGERPRINT, WITH_LISTS, Reference, agree, make, pairs
from utils.errors import InputError
from utils.retrieval.hamming import unpack

engines = pytest.mark.parametrize("place", ENGINES, indirect=True)
engines_and_lists = pytest.mark.parametrize("place", WITH_LISTS, indirect=True)


# answers ------------------------------------------------------------------------------------
@engines_and_lists
@pytest.mark.parametrize("rank", ["asymmetric", "relaxed"])
def test_finer_rankings(place, rank):
    """The first of the Hamming ranking by the product with the relaxed query, after additions and removals."""
    parts = [make(90, relaxed=True), make(30, seed=2, prefix="more/", relaxed=True)]
    index, ids = place.build(parts[0]), [name for part in parts for name in part.ids]
    index.add(parts[1])
    index.remove(ids[3:6])
    queries = make(4, seed=9, relaxed=True)
    rows = np.concatenate([unpack(part.codes, 20) if rank == "asymmetric" else part.relaxed for part in parts])
    rows, place_of = rows.astype(float), {name: i for i, name in enumerate(ids)}
    for q, answer in enumerate(ask(index, queries.codes, Question(5, rank=rank, first=20), queries.relaxed)):
        first = sorted(place_of[name] for name in index.search(queries.codes[q:q + 1], 20)[0].ids)
        scores = rows[first] @ queries.relaxed[q].astype(float)
        best = np.argsort(-scores, kind="stable")[:5]
        assert [match.id for match in answer] == [ids[first[i]] for i in best]
        assert [match.score for match in answer] == pytest.approx(scores[best])


@engines_and_lists
@pytest.mark.parametrize("seed", [0, 1])
def test_a_life(place, seed):
    """Adding, replacing, removing, compacting and opening again, at random; asked in between."""
    rng = np.random.default_rng(seed)
    first = make(120, seed=seed, distinct=40)
    index, reference = place.build(first), Reference(first)
    for turn in range(8):
        act = rng.integers(0, 5)
        if act <= 1:
            more = make(int(rng.integers(1, 40)), seed=100 + turn, prefix=f"{turn}/", distinct=5)
            assert index.add(more).ids == more.ids
            reference.add(more)
        elif act == 2:
            again = make(9, seed=200 + turn)
            again.ids = [str(name) for name in rng.choice([item[0] for item in reference.items], 8, replace=False)]
            again.ids.append(f"new{turn}")
            assert index.add(again, replace=True).replaced == 8
            reference.add(again)
        elif act == 3:
            names = [str(name) for name in rng.choice([item[0] for item in reference.items], 10, replace=False)]
            assert index.remove(names) == names
            reference.remove(names)
        else:
            index.save()
            index.compact()
        if turn % 3 == 2:
            uri = index.uri
            index.close()
            index = open_index(uri, FINGERPRINT)
        assert len(index) == len(reference.items)
        agree(index, reference, make(3, seed=turn).codes, k=int(rng.integers(1, 60)), radius=int(rng.integers(0, 9)))
        agree(index, reference, make(1, seed=turn).codes, label=2)
    agree(index, reference, first.codes[:2], prefix="images/1")
    agree(index, reference, first.codes[:2], prefix="3/", label=4)
    index.check()
    index.close()


@engines
@pytest.mark.parametrize("bits", [1, 12, 64, 100])
def test_any_code_length(place, bits):
    codes = make(50, bits)
    index = place.build(codes)
    agree(index, Reference(codes), make(3, bits, seed=1).codes, radius=bits // 3)
    assert np.array_equal(index.get(codes.ids[7:9]).codes, codes.codes[7:9])
    index.close()


@engines_and_lists
def test_equal_distances_follow_the_order_of_the_items(place):
    """Two codes only: whatever k is, it cuts through equal distances."""
    codes = make(300, distinct=2)
    index, reference = place.build(codes), Reference(codes)
    more = make(50, distinct=2, prefix="more/")
    index.add(more)
    reference.add(more)
    index.save()
    for k in (1, 2, 50, 149, 333):
        agree(index, reference, codes.codes[:2], k=k, radius=0)
    index.close()


@engines
def test_more_than_there_are(place):
    codes = make(5)
    index = place.build(codes)
    assert [len(found) for found in index.search(codes.codes[:2], 5000)] == [5, 5]
    assert [len(found) for found in index.within(codes.codes[:2], 5000)] == [5, 5]
    assert index.search(codes.codes[:0], 3) == [] == index.within(codes.codes[:0], 3)
    index.close()


@engines
def test_an_empty_index(place):
    index = place.build(make(0))
    assert len(index) == 0 and index.stats()["items"] == 0
    query = make(2).codes
    assert [len(found) for found in index.search(query, 3) + index.within(query, 3)] == [0, 0, 0, 0]
    assert index.page(5)[1].ids == [] == list(index.batches()) and not index.has(["a"]).any()
    assert index.add(make(0)).ids == []
    index.check()
    codes = make(4)
    index.add(codes)
    agree(index, Reference(codes), query)
    index.remove(codes.ids)
    assert len(index) == 0 and [len(found) for found in index.search(query, 3)] == [0, 0]
    index.close()


@engines
def test_search_by_the_id_of_an_item(place):
    codes = make(60)
    index = place.build(codes)
    item = index.get(["images/9.jpg"])
    assert pairs(index.search(item.codes, 1)[0]) == [(0, "images/9.jpg")]
    assert np.array_equal(item.labels, codes.labels[9:10]) and index.label_names(item.labels[0]) == [
        name for name, on in zip(CLASSES, codes.labels[9]) if on]
    assert index.get(["images/3.jpg", "images/1.jpg", "images/3.jpg"]).ids == [
        "images/3.jpg", "images/1.jpg", "images/3.jpg"]
    assert index.has(["images/59.jpg", "images/60.jpg"]).tolist() == [True, False]
    with pytest.raises(InputError, match="'none', 'nor this' are not in the index"):
        index.get(["images/3.jpg", "none", "nor this"])
    found = index.search(item.codes, 4)[0]
    assert np.array_equal(index.take(found.position).codes, index.get(found.ids).codes)
    index.close()


@engines
def test_pages(place):
    index = place.build(make(25))
    names, after = [], -1
    while True:
        positions, items = index.page(10, after)
        names.append(items.ids)
        if len(positions) < 10:
            break
        after = int(positions[-1])
    assert [len(page) for page in names] == [10, 10, 5] and sum(names, []) == make(25).ids
    assert index.page(4, where=Where(prefix="images/2"))[1].ids == [f"images/{i}.jpg" for i in (2, 20, 21, 22)]
    labels = make(25).labels[:, 1]
    assert index.page(99, where=Where(label=1))[1].ids == [f"images/{i}.jpg" for i in np.flatnonzero(labels)]
    assert [len(batch) for _, batch in index.batches(10)] == [10, 10, 5]
    with pytest.raises(InputError, match="at least one"):
        index.page(0)
    index.close()


@engines
def test_any_id(place):
    names = ["", " blanks ", "two\nlines", "nul\0", "图像/猫.jpg", "\udcff no Unicode", "😀", "a'b\"c\\d", "50%",
             "50%25", "%41", "_", "a_c", "abc", "../../etc/passwd", "<b>", "x" * 3000, "\U0010ffff", "{}", "$x"]
    codes = dataclasses.replace(make(len(names)), ids=names)
    index = place.build(codes)
    assert index.page(99)[1].ids == names and index.has(names).all()
    assert index.get(names[::-1]).ids == names[::-1]
    for prefix in ("a", "a_", "%", "50%", "\udcff", "图", "\U0010ffff", "'"):
        assert index.page(99, where=Where(prefix=prefix))[1].ids == [name for name in names if name.startswith(prefix)]
    assert index.remove(names[3:]) == names[3:] and len(index) == 3
    index.close()


@engines
def test_relaxed_codes_are_kept(place):
    codes = make(6, relaxed=True)
    index = place.build(codes)
    index.add(make(3, prefix="more/", relaxed=True, seed=1))
    assert np.array_equal(index.get(codes.ids[2:4]).relaxed, codes.relaxed[2:4])
    with pytest.raises(InputError, match="without relaxed codes"):
        index.add(make(3, prefix="other/"))
    assert len(index) == 9
    index.close()
    index = place.build(make(6))
    index.add(make(3, prefix="more/", relaxed=True, seed=1))  # more than it keeps: left out
    assert index.get(["more/0.jpg"]).relaxed is None
    index.close()


# what is refused ----------------------------------------------------------------------------
@engines
def test_an_id_stands_once(place):
    codes = make(6)
    index, reference = place.build(codes), Reference(codes)
    twice = dataclasses.replace(make(4, prefix="new/"), ids=["a", "b", "a", "a"])
    for replace in (False, True):
        with pytest.raises(InputError, match="'a' is more than once among the items to add"):
            index.add(twice, replace)
    known = dataclasses.replace(make(4, seed=3), ids=["a", "images/1.jpg", "images/2.jpg", "b"])
    with pytest.raises(InputError, match="'images/1.jpg', 'images/2.jpg' are in the index already.*--replace"):
        index.add(known)
    assert len(index) == 6 and not index.has(["a"]).any()
    agree(index, reference, codes.codes[:2])
    assert index.add(known, replace=True).replaced == 2
    reference.add(known)
    agree(index, reference, known.codes)
    with pytest.raises(InputError, match="stands more than once"):
        place.build(twice)
    index.close()


@engines
@pytest.mark.parametrize("change, words", [
    ({"fingerprint": "feed"}, "another model.*feed.*0123456789abcdef"),
    ({"bits": 17, "codes": np.zeros((5, 3), np.uint8)}, "17 bits, the collection has 20"),
    ({"codes": np.full((5, 3), 255, np.uint8)}, "behind bit 20"), ({"labels": None}, "no label columns"),
    ({"labels": np.zeros((5, 3), np.uint8)}, "3 label columns, the collection has 5"),
    ({"meta": {"classes": CLASSES[::-1]}}, "other class names"), ({"ids": ["a"]}, "5 codes but 1 ids"),
    ({"codes": np.zeros((5, 20))}, "packed codes")])
def test_codes_that_do_not_belong(place, change, words):
    index = place.build(make(6))
    with pytest.raises(InputError, match=words) as error:
        index.add(dataclasses.replace(make(5, prefix="new/"), **change))
    assert "\n" not in str(error.value) and len(index) == 6
    index.close()


@engines
def test_questions_that_have_no_answer(place):
    index = place.build(make(6))
    for query in (make(1, 28).codes, make(1, 12).codes, np.full((1, 3), 255, np.uint8), np.zeros((1, 3)),
                  np.zeros(3, np.uint8), [[1, 2, 3]]):
        with pytest.raises(InputError, match="query codes"):
            index.search(query, 3)
        with pytest.raises(InputError, match="query codes"):
            index.within(query, 3)
    code = make(1).codes
    for k in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="at least one"):
            index.search(code, k)
    for radius in (-1, 2.5):
        with pytest.raises(InputError, match="radius"):
            index.within(code, radius)
    for label in (-1, 5):
        with pytest.raises(InputError, match=f"no label {label}: .* from 0 to 4"):
            index.search(code, 3, Where(label=label))
    assert index.label("红") == 2 and index.label("3") == 3
    with pytest.raises(InputError, match="no label 'cow'; it knows cat, dog"):
        index.label("cow")
    index.close()
    index = place.build(make(6, labels=False))
    with pytest.raises(InputError, match="no labels to filter by"):
        index.search(code, 3, Where(label=0))
    assert index.search(code, 3)[0].labels is None
    index.close()


@engines
def test_removing_what_is_not_there(place):
    codes = make(6)
    index = place.build(codes)
    with pytest.raises(InputError, match="'none' is not in the index: nothing was removed"):
        index.remove(["images/1.jpg", "none"])
    assert len(index) == 6
    assert index.remove(["images/1.jpg", "none", "images/1.jpg"], missing_ok=True) == ["images/1.jpg"]
    assert index.remove([]) == [] and len(index) == 5 and not index.has(["images/1.jpg"]).any()
    index.add(dataclasses.replace(make(1, seed=9), ids=["images/1.jpg"]))  # free again, and last now
    assert index.page(9)[1].ids == [f"images/{i}.jpg" for i in (0, 2, 3, 4, 5, 1)]
    index.close()


@engines
def test_opening(place):
    uri = place.uri()
    with pytest.raises(InputError, match="no (collection|index)"):
        open_index(uri)
    index = place.build(make(6), uri)
    with pytest.raises(InputError, match="already.*--overwrite"):
        place.build(make(3), uri)
    index.close()
    with pytest.raises(InputError, match="another model.*0123456789abcdef.*feed"):
        open_index(uri, "feed")
    index = open_index(uri, FINGERPRINT)
    assert len(index) == 6 and index.info.classes == CLASSES
    stats = index.stats()
    assert (stats["items"], stats["bits"], stats["fingerprint"], stats["labels"]) == (6, 20, FINGERPRINT, 5)
    index.close()
    index = place.build(make(3, 12), uri, overwrite=True)
    index.close()
    with open_index(uri) as index:
        assert len(index) == 3 and index.info.bits == 12


@engines
def test_another_process_finds_what_was_added(place):
    index = place.build(make(6))
    index.add(make(2, prefix="new/"))
    index.remove(["images/3.jpg"])
    uri = index.uri
    index.close()
    code = f"from deploy.index import open_index; print(*open_index({uri!r}).page(99)[1].ids)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert done.stdout.split() == [f"images/{i}.jpg" for i in (0, 1, 2, 4, 5)] + ["new/0.jpg", "new/1.jpg"], done.stderr


@engines
def test_one_engine_from_another(place, tmp_path):
    """An index is a source of codes for another one."""
    from deploy.index.uri import build_index, open_codes
    codes = make(30, relaxed=True)
    index = place.build(codes)
    index.remove(["images/4.jpg"])
    uri = index.uri
    index.close()
    copy = build_index(f"exact:{tmp_path / 'copy'}", open_codes(uri))
    reference = Reference(codes)
    reference.remove(["images/4.jpg"])
    agree(copy, reference, codes.codes[:3])
    assert np.array_equal(copy.get(["images/9.jpg"]).relaxed, codes.relaxed[9:10])
