"""Finer rankings, near-duplicates in one place, groups of near-duplicates: against brute force."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deploy.index import Where, build_index
from deploy.index.duplicates import duplicate_groups, save_groups
from deploy.index.question import Question, ask
from tests.indexes import make
from utils.errors import InputError
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import distances, pack, unpack
from utils.retrieval.near_duplicates import near_groups
from utils.retrieval.shard_set import CodesInfo

quick = settings(max_examples=60, deadline=None)


def built(folder, codes):
    return build_index(str(folder), (CodesInfo.of(codes), [codes]))


def noisy(n, bits, centres, flips, seed):
    """Packed codes near a few centres."""
    rng = np.random.default_rng(seed)
    signs = rng.standard_normal((centres, bits))[rng.integers(0, centres, n)]
    return pack(np.where(rng.random((n, bits)) < flips, -signs, signs))


# groups -------------------------------------------------------------------------------------
@quick
@given(n=st.integers(0, 60), bits=st.sampled_from([1, 5, 16, 40, 64, 65, 130]), radius=st.integers(0, 9),
       seed=st.integers(0, 10**6))
def test_groups_are_the_connected_components(n, bits, radius, seed):
    codes = noisy(n, bits, 9, 0.04, seed)
    near = distances(codes, codes) <= radius if n else np.zeros((0, 0), bool)
    label = np.arange(n)
    while True:
        lower = np.array([label[row].min() for row in near], int)
        if np.array_equal(lower, label):
            break
        label = lower
    expected = [np.flatnonzero(label == first).tolist() for first in np.unique(label)]
    assert [group.tolist() for group in near_groups(codes, bits, radius)] == [g for g in expected if len(g) > 1]


def test_groups_refuse_nonsense():
    with pytest.raises(InputError, match="radius"):
        near_groups(np.zeros((3, 2), np.uint8), 16, -1)
    with pytest.raises(InputError, match="not a code of 20 bits"):
        near_groups(np.zeros((3, 2), np.uint8), 20, 1)


def test_groups_of_an_index_as_file_and_pictures(tmp_path):
    codes = CodeFile(noisy(60, 32, 20, 0.02, 0), 32, [f"{i}.png" for i in range(60)])
    index = built(tmp_path / "index", codes)
    index.remove(["3.png"])
    groups = duplicate_groups(index, 2)
    kept = np.delete(np.arange(60), 3)
    expected = near_groups(codes.codes[kept], 32, 2)
    assert sorted([item["id"] for item in group] for group in groups) == sorted(
        [f"{kept[i]}.png" for i in group] for group in expected)
    sizes = [len(group) for group in groups]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 3
    for group in groups:
        apart = distances(*(index.get([item["id"] for item in part]).codes for part in (group[:1], group)))[0]
        assert [item["distance"] for item in group] == apart.tolist()

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(60):
        Image.new("RGB", (20 + i, 30), (4 * i, 0, 90)).save(pictures / f"{i}.png")
    (pictures / groups[0][0]["id"]).write_bytes(b"broken")
    (pictures / groups[0][1]["id"]).unlink()
    paths, hidden = save_groups(str(tmp_path / "out"), groups, index, 2, str(pictures))
    assert hidden == 0 and len(paths) == 1 + -(-len(groups) // 10)
    assert json.loads((tmp_path / "out" / "groups.json").read_text())["groups"] == groups
    assert all(Image.open(path).height > 150 for path in paths[1:])
    assert save_groups(str(tmp_path / "none"), groups, index, 2)[1] == len(groups)
    assert len(index) == 59


# rankings -----------------------------------------------------------------------------------
@pytest.fixture
def ranked(tmp_path):
    """(index of 80 items with relaxed codes, CodeFile, queries)."""
    codes = make(80, 24, relaxed=True)
    return built(tmp_path / "index", codes), codes, make(5, 24, seed=7, relaxed=True)


@pytest.mark.parametrize("rank", ["asymmetric", "relaxed"])
def test_a_finer_ranking_refines_the_first_of_the_hamming_ranking(ranked, rank):
    index, codes, queries = ranked
    items = unpack(codes.codes, 24).astype(float) if rank == "asymmetric" else codes.relaxed.astype(float)
    for first in (10, 80):
        answers = ask(index, queries.codes, Question(4, rank=rank, first=first), queries.relaxed)
        for q, answer in enumerate(answers):
            candidates = np.sort(index.search(queries.codes[q:q + 1], first)[0].position)
            scores = items[candidates] @ queries.relaxed[q].astype(float)
            best = np.argsort(-scores, kind="stable")[:4]
            assert [match.position for match in answer] == candidates[best].tolist()
            assert [match.score for match in answer] == pytest.approx(scores[best])


def test_rankings_that_are_not_to_be_had(tmp_path, ranked):
    index, _, queries = ranked
    with pytest.raises(InputError, match="needs the relaxed codes of the query"):
        ask(index, queries.codes, Question(rank="asymmetric"))
    index = built(tmp_path / "other", make(5, 24))
    with pytest.raises(InputError, match="keeps no relaxed codes"):
        ask(index, queries.codes, Question(rank="relaxed"), queries.relaxed)
    assert len(ask(index, queries.codes[:1], Question(rank="asymmetric"), queries.relaxed[:1])[0]) == 5


def test_the_query_itself_is_left_out(ranked):
    index, codes, _ = ranked
    found, other = ask(index, codes.codes[:2], Question(3), leave_out=["images/0.jpg", None])
    hits = index.search(codes.codes[:1], 4)[0]
    assert [match.id for match in found] == [name for name in hits.ids if name != "images/0.jpg"]
    assert other[0].id == "images/1.jpg"
    near, = ask(index, codes.codes[:1], Question(radius=8), leave_out=["images/0.jpg"])
    assert [match.id for match in near] == index.within(codes.codes[:1], 8)[0].ids[1:]


# one place ----------------------------------------------------------------------------------
@quick
@given(seed=st.integers(0, 10**6), radius=st.integers(0, 5), k=st.integers(1, 12), label=st.sampled_from([None, 1]))
def test_near_duplicates_share_a_place(tmp_path_factory, seed, radius, k, label):
    rng = np.random.default_rng(seed)
    codes = CodeFile(noisy(90, 20, 12, 0.05, seed), 20, [str(i) for i in range(90)],
                     rng.integers(0, 2, (90, 3)).astype(np.uint8))
    index, query = built(tmp_path_factory.mktemp("index"), codes), noisy(1, 20, 12, 0.05, seed)
    answer, = ask(index, query, Question(k, where=Where(label), collapse=radius))
    here = np.flatnonzero(codes.labels[:, label]) if label is not None else np.arange(90)
    apart, places = distances(query, codes.codes)[0], []
    between = distances(codes.codes, codes.codes)
    for i in here[np.argsort(apart[here], kind="stable")]:
        if all(between[i, place] > radius for place in places):
            places.append(int(i))
    assert [match.position for match in answer] == places[:k]
    for match in answer:
        near = here[between[match.position, here] <= radius]
        assert match.count == len(near) and set(match.others) <= {str(i) for i in near if i != match.position}


def test_one_picture_in_five_sizes_takes_one_place(tmp_path):
    signs = np.where(np.random.default_rng(0).random((12, 32)) < 0.5, -1, 1)
    signs = np.concatenate([np.repeat(signs[:1], 5, 0), signs[1:]])
    signs[1, 0] *= -1
    codes = CodeFile(pack(signs), 32, [f"size{i}" for i in range(5)] + [f"other{i}" for i in range(11)])
    index = built(tmp_path, codes)
    plain, = ask(index, codes.codes[:1], Question(4))
    once, = ask(index, codes.codes[:1], Question(4, collapse=1))
    assert [match.id[:4] for match in plain] == ["size"] * 4
    assert [match.id[:4] for match in once] == ["size"] + ["othe"] * 3
    assert once[0].count == 5 and once[0].others == ["size2", "size3", "size4", "size1"]
    assert once[1].count == 1 and once[1].others == []
