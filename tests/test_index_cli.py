"""python -m deploy.index as it is typed: the whole way, and every mistake as one line."""
import json
import re

import numpy as np
import pytest

from deploy.index.__main__ import COMMANDS, main
from tests.exported import BITS, exported, one_error_line, pictures
from tests.indexes import Place, make
from utils.errors import InputError
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack


@pytest.fixture
def ask(capsys):
    """``ask("list", uri)`` gives what the command prints with --json."""
    def call(*words):
        main([*map(str, words), "--json"])
        return json.loads(capsys.readouterr().out)
    return call


def ids(answer):
    return [row["id"] for row in answer["page"]]


# the way ------------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ["exact", "faiss", "lite"])
def test_from_codes_to_answers(run, tmp_path, engine):
    """Each command in a process of its own."""
    uri = Place(engine, tmp_path).uri()
    make(30, relaxed=True).save(tmp_path / "codes.npz")
    make(4, prefix="new/", seed=3, relaxed=True).save(tmp_path / "new.npz")

    def index(*words):
        return run("-m", "deploy.index", *words).stdout

    assert "items: 30" in index("build", uri, tmp_path / "codes.npz")
    assert "Added 4 items: new/0.jpg, new/1.jpg, new/2.jpg, new/3.jpg" in index("add", uri, tmp_path / "new.npz")
    assert "Removed 1 items: images/7.jpg" in index("remove", uri, "images/7.jpg")
    found = json.loads(index("search", uri, "--codes", tmp_path / "new.npz", "--k", 3, "--json"))
    assert [query["matches"][0]["id"] for query in found["queries"]] == [f"new/{i}.jpg" for i in range(4)]
    assert [len(query["matches"]) for query in found["queries"]] == [3] * 4 and found["items"] == 33
    again = json.loads(index("search", uri, "--codes", tmp_path / "new.npz", "--k", 3, "--json", "--rank", "relaxed"))
    assert "score" in again["queries"][0]["matches"][0]
    assert "33 items" in index("check", uri)
    assert index("list", uri, "--count", 2).splitlines()[2].startswith("more: --after ")
    assert "items: 33" in index("compact", uri) and "items: 33" in index("info", uri, "--check")
    one_error_line(run("-m", "deploy.index", "build", uri, tmp_path / "codes.npz", ok=None), "--overwrite")
    assert "items: 33" in index("build", f"exact:{tmp_path / 'copy'}", uri)


def test_pages_and_filters(ask, tmp_path):
    codes = make(25)
    codes.save(tmp_path / "c.npz")
    uri = tmp_path / "index"
    assert ask("build", uri, tmp_path / "c.npz")["items"] == 25
    first = ask("list", uri, "--count", 10)
    second = ask("list", uri, "--count", 10, "--after", first["after"])
    third = ask("list", uri, "--count", 10, "--after", second["after"])
    assert ids(first) + ids(second) + ids(third) == codes.ids and third["after"] is None and third["items"] == 25
    assert first["page"][3]["code"] == codes.codes[3].tobytes().hex()
    assert ids(ask("find", uri, "images/2")) == [f"images/{i}.jpg" for i in (2, 20, 21, 22, 23, 24)]
    labelled = [f"images/{i}.jpg" for i in np.flatnonzero(codes.labels[:, 2])]
    assert ids(ask("list", uri, "--label", "红", "--count", 99)) == labelled == ids(
        ask("list", uri, "--label", 2, "--count", 99))
    found = ask("search", uri, "--id", "images/3.jpg", "--label", "红", "--prefix", "images/1", "--topk", 99)
    matches = found["queries"][0]["matches"]
    assert {match["id"] for match in matches} == {name for name in labelled if name.startswith("images/1")}
    assert all("红" in match["labels"] for match in matches)


def test_near_duplicates(ask, tmp_path, capsys):
    make(40, distinct=9).save(tmp_path / "c.npz")
    make(2, prefix="new/").save(tmp_path / "new.npz")
    uri = tmp_path / "index"
    ask("build", uri, tmp_path / "c.npz")
    answer = ask("duplicates", uri, "--radius", 0)
    assert answer["grouped"] == sum(map(len, answer["groups"])) > 30 and answer["items"] == 40
    near = ask("duplicates", uri, "--id", answer["groups"][0][0]["id"], "--radius", 0)
    assert [match["id"] for match in near["queries"][0]["matches"]] == [item["id"] for item in answer["groups"][0][1:]]
    assert len(ask("duplicates", uri, "--codes", tmp_path / "new.npz", "--radius", 0)["queries"]) == 2
    main(["duplicates", str(uri), "--save-path", str(tmp_path / "out")])
    assert "nothing was deleted" in capsys.readouterr().out and (tmp_path / "out" / "groups.json").is_file()
    found = ask("search", uri, "--id", answer["groups"][0][0]["id"], "--collapse", 0, "--topk", 3)
    assert all(match["count"] == 1 + len(match["others"]) for match in found["queries"][0]["matches"])


def test_removing_by_a_file(ask, tmp_path):
    names = ["a b", "图", "\udcff", "-x", "c"]
    codes = make(5)
    codes.ids = names
    codes.save(tmp_path / "c.npz")
    ask("build", tmp_path / "index", tmp_path / "c.npz")
    (tmp_path / "ids").write_bytes("a b\n图\n".encode() + b"\xff\n-x\n")
    assert ask("remove", tmp_path / "index", "--ids-from", tmp_path / "ids")["ids"] == names[:4]
    assert ask("remove", tmp_path / "index", "c", "--ids-from", tmp_path / "ids", "--missing-ok") == {
        "index": str(tmp_path / "index"), "removed": 1, "items": 0, "ids": ["c"]}


def test_a_picture_through_the_model(run, shapes, tmp_path, tmp_path_factory):
    model = exported(tmp_path_factory, shapes)
    split, images = pictures(shapes, 12, "database")
    from deploy.inference_python.predictor import Predictor
    engine = Predictor(str(model), threads=1)
    relaxed = engine.encode(images)
    CodeFile(pack(relaxed), BITS, split.ids[:12], fingerprint=engine.fingerprint,
             meta={"root": split.images.root}).save(tmp_path / "c.npz")
    run("-m", "deploy.index", "build", tmp_path / "index", tmp_path / "c.npz")
    for rank in ("hamming", "asymmetric"):
        done = run("-m", "deploy.index", "search", tmp_path / "index", "--img", split.images.path(5), "--model-dir",
                   model, "--topk", 3, "--rank", rank, "--threads", 1, "--json")
        matches = json.loads(done.stdout)["queries"][0]["matches"]
        assert len(matches) == 3 and split.ids[5] in [match["id"] for match in matches]
        assert ("score" in matches[0]) == (rank == "asymmetric")
    (tmp_path / "list.txt").write_text(f"{split.images.path(5)} 1\nnowhere.jpg 1\n")
    done = run("-m", "deploy.index", "duplicates", tmp_path / "index", "--img", tmp_path / "list.txt", "--model-dir",
               model, "--radius", 0, ok=None)
    assert done.returncode == 3 and "near-duplicates, the nearest" in done.stdout
    assert "skipped nowhere.jpg" in done.stderr
    other = exported(tmp_path_factory, shapes, seed=4)
    one_error_line(run("-m", "deploy.index", "search", tmp_path / "index", "--img", split.images.path(5), "--model-dir",
                       other, ok=None), "another model")


# mistakes -----------------------------------------------------------------------------------
@pytest.mark.parametrize("words, text", [
    ("serch x", "did you mean search?"), ("search", "search which index"), ("search INDEX", "ask with one of --img"),
    ("search INDEX y --id a", "'y' is neither"), ("search INDEX --id none", "'none' is not in the index"),
    ("search INDEX --id a --img b", "not with --img and --id"), ("search INDEX --img b", "need --model-dir"),
    ("search INDEX --id images/1.jpg --topk 0", "at least 1"),
    ("search INDEX --id images/1.jpg --radius -1", "at least 0"),
    ("search INDEX --id images/1.jpg --label cow", "knows no label 'cow'"),
    ("search INDEX --tpk 3", "did you mean --topk"),
    ("search INDEX --id images/1.jpg --rank asymmetric", "relaxed codes of the query"),
    ("search NONE --id a", "no collection of codes at"), ("search fais:x --id a", "no engine 'fais'"),
    ("search milvus:x --id a", "neither FILE.db"), ("search faiss: --id a", "names no place"),
    ("search milvus:NONE/y.db --id a", "no index at"), ("build NONE", "of which codes"),
    ("build NONE NONE", "no collection"),
    ("build INDEX CODES", "--overwrite"), ("build exact:NONE CODES --approximate", "build faiss:"),
    ("build faiss:NONE CODES --approximate --lists 9", "9 lists need at least 351 items"),
    ("add INDEX CODES", "in the index already"), ("add NONE CODES", "no collection"),
    ("add INDEX CODES CODES --replace", "stands more than once"), ("remove INDEX", "remove which items"),
    ("remove INDEX none", "'none' is not in the index: nothing was removed"),
    ("remove INDEX --ids-from NONE", "cannot read"), ("find INDEX", "find what"), ("find INDEX a b", "find what"),
    ("duplicates INDEX --data-path NONE", "no folder"), ("list INDEX --count 0", "at least 1"),
    ("build NONE GARBAGE", "damaged or no code file")])
def test_mistakes(words, text, tmp_path):
    if words.startswith("build faiss:"):
        pytest.importorskip("faiss")
    make(30).save(tmp_path / "c.npz")
    (tmp_path / "garbage").write_bytes(b"what is this")
    main(["build", str(tmp_path / "index"), str(tmp_path / "c.npz")])
    paths = {"INDEX": "index", "NONE": "none", "CODES": "c.npz", "GARBAGE": "garbage"}
    words = re.sub("|".join(paths), lambda found: str(tmp_path / paths[found[0]]), words)
    with pytest.raises(InputError, match=text) as error:
        main(words.split())
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("none", "y.db")) == [
        "c.npz", "garbage", "index"]


def test_a_mistake_is_one_line_and_status_2(run, tmp_path):
    one_error_line(run("-m", "deploy.index", "info", tmp_path / "none", ok=None), "no collection of codes")


def test_help(capsys):
    main([])
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        out = capsys.readouterr().out
        assert not end.value.code and f"deploy.index {name} INDEX" in out and "--json" in out
