"""The text vectoriser: tokens of two languages, deterministic vocabulary, a JSON file that survives anything."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import InputError
from utils.text import Vectorizer, empty_rows, tokenize


def test_words_are_lower_case_and_chinese_runs_become_pairs():
    assert tokenize("A red CAR, don't stop!") == ["a", "red", "car", "don't", "stop"]
    assert tokenize("don\u2019t") == ["don't"]
    assert tokenize("\u7ea2\u8272\u6c7d\u8f66") == ["\u7ea2\u8272", "\u8272\u6c7d", "\u6c7d\u8f66"]
    assert tokenize("\u732b") == ["\u732b"]
    assert tokenize("iPhone\u624b\u673a15") == ["iphone", "\u624b\u673a", "15"]
    assert tokenize("\uff23\uff21\uff32") == ["car"]  # full-width letters
    assert tokenize("caf\u00e9 na\u00efve_x") == ["caf\u00e9", "na\u00efve", "x"]
    assert tokenize(" \n\u3002!?_") == []


def test_vocabulary_is_the_most_frequent_with_ties_by_code_points():
    texts = ["b a", "b c", "b a d"]
    assert Vectorizer.fit(texts, limit=2).vocabulary == ["b", "a"]
    assert Vectorizer.fit(texts, limit=9).vocabulary == ["b", "a", "c", "d"]
    assert Vectorizer.fit(texts, min_documents=2).vocabulary == ["b", "a"]
    assert Vectorizer.fit(["d a a a a b", "c"]).vocabulary == ["a", "b", "c", "d"]  # documents count, not words


def test_bag_of_words_and_tfidf_values():
    texts = ["cat cat dog", "cat"]
    assert Vectorizer.fit(texts, kind="bow").transform(["dog cat cat", "dog bird"]).tolist() == [[1, 1], [0, 1]]
    row = Vectorizer.fit(texts).transform(["cat cat dog"])[0]
    raw = np.array([2 * (np.log(3 / 3) + 1), np.log(3 / 2) + 1])  # cat in 2 of 2 texts, dog in 1
    np.testing.assert_allclose(row, raw / np.linalg.norm(raw), rtol=1e-6)


def test_unknown_or_missing_words_give_a_zero_row_that_is_counted():
    rows = Vectorizer.fit(["cat", "dog"]).transform(["", "bird", "cat"])
    assert np.isfinite(rows).all() and rows.dtype == np.float32
    assert empty_rows(rows) == 2
    assert Vectorizer.fit(["cat"]).transform([]).shape == (0, 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=6), st.sampled_from(["tfidf", "bow"]))
def test_any_texts_survive_the_file(texts, kind):
    texts = texts + ["word"]
    made = Vectorizer.fit(texts, kind=kind)
    read = Vectorizer.from_dict(json.loads(json.dumps(made.to_dict())))
    rows = made.transform(texts)
    assert np.array_equal(rows, read.transform(texts))
    assert read.to_dict() == made.to_dict() == Vectorizer.fit(reversed(texts), kind=kind).to_dict()
    assert (rows >= 0).all()
    if kind == "tfidf":
        norms = np.linalg.norm(rows, axis=1)
        assert (np.isclose(norms, 1, atol=1e-5) | (norms == 0)).all()


def test_file(tmp_path):
    path = tmp_path / "vectorizer.json"
    made = Vectorizer.fit(["a red car", "\u7ea2\u8272\u6c7d\u8f66"])
    made.save(path)
    assert np.array_equal(Vectorizer.load(path).transform(["red \u7ea2\u8272"]), made.transform(["red \u7ea2\u8272"]))
    assert json.loads(path.read_text(encoding="utf-8"))["kind"] == "tfidf"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}',
                                     '{"format": 1, "kind": "bow", "vocabulary": ["a", "b"], "idf": [1]}',
                                     '{"format": 1, "kind": "bow", "vocabulary": ["a", "a"], "idf": [1, 1]}',
                                     '{"format": 1, "kind": "bow", "vocabulary": ["a"], "idf": [null]}',
                                     '{"format": 1, "kind": "bow", "vocabulary": [1], "idf": [1]}',
                                     '{"format": 1, "kind": "bow", "vocabulary": ["a"], "idf": [true]}',
                                     '{"format": 1, "kind": "bow", "vocabulary": [], "idf": []}',
                                     '{"format": 1, "kind": "bow", "vocabulary": "ab", "idf": [1, 1]}',
                                     '{"format": 1, "kind": ["bow"], "vocabulary": ["a"], "idf": [1]}',
                                     '{"format": 1, "kind": "bow", "vocabulary": %s, "idf": []}' % ("[" * 5000),
                                     '{"format": 1, "kind": "other", "vocabulary": ["a"], "idf": [1]}'])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "v.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        Vectorizer.load(path)
    assert "\n" not in str(error.value)


def test_missing_file_and_texts_without_words():
    with pytest.raises(InputError, match="cannot read"):
        Vectorizer.load("/nowhere/v.json")
    with pytest.raises(InputError, match="2 training texts"):
        Vectorizer.fit(["", "!!"])
    with pytest.raises(InputError, match="tfidf"):
        Vectorizer.fit(["a"], kind="word2vec")
