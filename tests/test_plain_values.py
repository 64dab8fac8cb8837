"""JSON and YAML of strangers: what is plain comes back as it is, what is hostile is refused at once in one line."""
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine import resolve
from tests.hostile import outcomes_of
from utils.errors import InputError
from utils.plain_json import DEEPEST, LARGEST, parse_json, read_json
from utils.plain_yaml import MOST_NODES, parse_yaml
from utils.schema import check, each, either, mapping, number, one_of, row, table, text, truth, whole

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-1 << 63, (1 << 64) - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20)
printable = st.text(st.characters(exclude_categories=("Cs", "Cc")))


@given(plain)
def test_json_comes_back(value):
    assert parse_json(json.dumps(value)) == value == parse_json(json.dumps(value).encode())


@given(st.recursive(st.none() | st.booleans() | st.integers(-1 << 63, (1 << 64) - 1) | st.floats(allow_nan=False)
                    | printable,
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(printable, inner, max_size=4),
                    max_leaves=20))
def test_yaml_comes_back(value):
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


def test_files_beyond_the_limit_are_not_read(tmp_path):
    path = tmp_path / "a.json"
    for size in (LARGEST, LARGEST + 1):
        with open(path, "wb") as file:
            file.write(b"[1]")
            file.write(b" " * (size - 3))
        if size == LARGEST:
            assert read_json(path) == [1]
    with pytest.raises(ValueError, match="longer than 64 MB"):
        read_json(path)
    assert read_json(path, largest=None) == [1]


def test_aliases_are_read_and_dates_are_texts():
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}\ne: *x") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}, "e": {"b": 1}}
    assert parse_yaml("a: 2020-10-11\nb: 2020-13-45") == {"a": "2020-10-11", "b": "2020-13-45"}
    assert parse_yaml("a: {16: b}") == {"a": {16: "b"}}
    with pytest.raises(ValueError, match="a key on line 1 is no text"):
        parse_yaml("a: {16: b}", text_keys=True)  # a manifest, whose digest sorts its keys


def bombs(levels=9, width=10):
    """Aliases of lists, and merges of tables, that unfold to width ** levels."""
    names = "abcdefghijklmnop"[:levels + 1]
    pairs = list(zip(names, names[1:]))
    return {
        "aliases": f"a: &a [{','.join('x' * width)}]\n"
        + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * width)}]\n" for old, new in pairs),
        "merges": "a: &a {x: 1}\n"
        + "".join(f"{new}: &{new} {{<<: [{','.join([f'*{old}'] * width)}]}}\n" for old, new in pairs)}


YAML = {**bombs(), "itself": "&a [*a]", "lists": "[" * 100_000, "lists closed": "[" * 900 + "]" * 900,
        "tables": "{a: " * 100_000, "dashes": "- " * 20_000, "keys": "? " * 20_000, "long number": "a: " + "9" * 5_000,
        "long hexadecimal": "a: 0x" + "f" * 5_000, "sixties": "a: " + ":".join(["1"] * 5_000),
        "many": "- a\n" * (MOST_NODES + 1), "a date that is none": "a: !!timestamp 2020-13-45",
        "code": "a: !!python/object/apply:os.getcwd []", "no number": "a: !!int zz", "no truth": "a: !!bool zz",
        "nothing of a kind": "a: !!int ''", "bytes": "a: !!binary x", "list as key": "? [1]\n: 2",
        "nothing as key": "a: {~: 1}", "two": "a\n---\nb",
        "not UTF-8": b"\xff\xfe\xff", "NUL": "a: \0", "too long": "#" * ((8 << 20) + 1)}
JSON = {"lists": "[" * 1_000_000, "lists closed": "[" * 900 + "]" * 900, "tables": '{"a":' * 100_000,
        "long number": "9" * 5_000, "longer number": '{"a": -' + "9" * 3_000_000 + "}", "65 bits": str(1 << 64),
        "not UTF-8": b"\xff", "empty": "", "words": "{a: 1}"}


@pytest.mark.parametrize("parser, texts", [("utils.plain_yaml import parse_yaml", YAML),
                                           ("utils.plain_json import parse_json", JSON)], ids=["yaml", "json"])
def test_hostile_texts_are_refused_within_limits(tmp_path, parser, texts):
    reader = f"from {parser} as parse\nfrom utils.errors import InputError\n" \
             "def read(path):\n    try:\n        parse(open(path, 'rb').read())\n" \
             "    except ValueError as error:\n        assert str(error).count('\\n') == 0\n" \
             "        raise InputError('no: ' + str(error))\n"
    found = outcomes_of(reader, {name: (f"{number}.txt", data if isinstance(data, bytes) else data.encode())
                                 for number, (name, data) in enumerate(texts.items())}, tmp_path, 300 << 20, 20)
    assert {name: answer for name, answer in found.items() if not answer.startswith("refused: no: ")} == {}


def test_depth_is_counted():
    for parse in (parse_json, parse_yaml):
        assert parse("[" * DEEPEST + "]" * DEEPEST)
        with pytest.raises(ValueError, match=f"more than {DEEPEST} deep"):
            parse("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


@pytest.mark.parametrize("content, word", [
    ("bit: [16, 32]", "bit = [16, 32], expected a whole number from 1 to 1024"), ("bit: {}", "whole number"),
    ("dataset: [a]", "expected a text"), ("method: [a]", "expected a text or null"), ("datasets: {a: 1}", "a list of"),
    ("datasets: [1]", "datasets[0] is 1"), ("by_bit: {x: {epoch: 1}}", "a key of by_bit is 'x'"),
    ("by_bit: {16: [1]}", "by_bit.16 is a list"), ("16: 3", "unknown key 16"), ("x", "`key: value`"),
    ("learning_rate: {a: 1}", "finite number"), (bombs()["aliases"], "aliases unfolded"), ("[" * 5_000, "deep"),
    ("epoch: " + "9" * 5_000, "64 bits"), ("seed: 2020-13-45", "'2020-13-45'")])
def test_a_hostile_recipe_is_one_line(tmp_path, content, word):
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        resolve(["--config", str(path)])
    assert word in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


# schema -------------------------------------------------------------------------------------------
KIND = table({"bits": whole(1, 1024), "input": each(whole(1), 1, 3)},
             {"engine": one_of("paddle", "onnx"), "flips": either(mapping(number(0))), "pair": row(text(), truth),
              "files": mapping(text("[0-9a-f]{4}", "4 hex digits"), one_of("a", "b"), 1)})
GOOD = {"bits": 16, "input": [3, 32, 32], "engine": "onnx", "flips": {"image": .5}, "pair": ["x", True],
        "files": {"a": "00ff"}}


@pytest.mark.parametrize("change, message", [
    ({"bits": True}, "bits is True, expected a whole number from 1 to 1024"), ({"bits": 0}, "bits is 0, expected"),
    ({"bits": "16"}, "bits is '16'"), ({"input": []}, "input is a list of 0, expected a list from 1 to 3"),
    ({"input": [3, 0]}, "input[1] is 0, expected a whole number of at least 1"),
    ({"engine": "tensorrt"}, "engine is 'tensorrt', expected one of paddle, onnx"),
    ({"flips": {"image": float("nan")}}, "flips.image is nan, expected a finite number of at least 0"),
    ({"flips": 3}, "flips is 3, expected a table or null"),
    ({"pair": ["x"]}, "pair is a list of 1, expected a list of 2"),
    ({"pair": ["x", 1]}, "pair[1] is 1, expected true or false"), ({"files": {}}, "files is a table of 0 keys"),
    ({"files": {"a": "00FF"}}, "files.a is '00FF', expected 4 hex digits"),
    ({"files": {"../a": "00ff"}}, "a key of files is '../a', expected one of a, b"),
    ({"more": 1}, "without 'more'")])
def test_a_value_that_does_not_fit_is_named(change, message):
    check(GOOD, KIND, "file.yml")
    with pytest.raises(InputError) as caught:
        check({**GOOD, **change}, KIND, "file.yml", "make it again")
    assert str(caught.value).startswith("file.yml: ") and str(caught.value).endswith("; make it again")
    assert message in str(caught.value)


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="a table with bits"):
        check({"input": [1]}, KIND, "file.yml")
    with pytest.raises(InputError, match="file.yml: it holds a list of 0, expected a table of `key: value`"):
        check([], KIND, "file.yml")
