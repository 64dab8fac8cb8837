"""predict.py end to end: pictures, folders, lists and words in; table, grid and JSON out."""
import json
import os
import shutil

import numpy as np
import pytest

import predict
from tests.exported import BITS, SIZES, checkpoint, exported, one_error_line
from utils.datasets import load_protocol
from utils.errors import InputError
from utils.retrieval.hamming import pack, unpack


@pytest.fixture(scope="module")
def protocol(shapes):
    return load_protocol("shapes", root=str(shapes), **SIZES)


@pytest.fixture(scope="module")
def ask(tmp_path_factory, shapes):
    """``ask("--img", path, ...)`` -> the plain result, in this process; code files are shared by the module."""
    folder = tmp_path_factory.mktemp("predict")

    def call(*arguments, method="hashnet", pretrained=False):
        model = ["--pretrained", checkpoint(tmp_path_factory, shapes, method)[0]] if pretrained else \
            ["--model-dir", exported(tmp_path_factory, shapes, method), "--threads", 1]
        return predict.run(predict.parse(list(map(str, [*model, "--save-path", folder, *arguments]))))
    return call


def ranking(answer):
    return [[(match["distance"], match["id"]) for match in query["matches"]] for query in answer["queries"]]


def test_json_command(run, protocol, tmp_path, shapes, tmp_path_factory):
    """stdout holds JSON and nothing else; the seed's flags with underscores; the grid and the codes are written."""
    done = run("predict.py", "--model-dir", exported(tmp_path_factory, shapes), "--bit", BITS, "--data_path", shapes,
               "--img", protocol.database.images.path(7), "--save_path", tmp_path, "--show", "--topk", 4, "--json",
               env={"DISPLAY": "", "WAYLAND_DISPLAY": ""})
    answer = json.loads(done.stdout)
    assert sorted(os.listdir(tmp_path)) == [f"database_hashnet_{BITS}.npz", "matches.png"]
    assert (tmp_path / "matches.png").read_bytes()[:4] == b"\x89PNG" and answer["grid"] == str(tmp_path / "matches.png")
    assert "No display" in done.stderr
    query, = answer["queries"]
    assert [match["rank"] for match in query["matches"]] == [1, 2, 3, 4]
    assert query["matches"][0]["distance"] == 0 and (answer["bits"], answer["database_items"]) == (BITS, 160)
    for match in query["matches"]:
        i = protocol.database.ids.index(match["id"])
        assert i == match["position"] and os.path.samefile(match["path"], protocol.database.images.path(i))
        assert match["labels"] == [protocol.classes[c] for c in np.flatnonzero(protocol.database.labels[i])]


def test_checkpoint_and_export_answer_alike(ask, protocol, capsys):
    picture = protocol.query.images.path(2)
    first, second = (ask("--img", picture, "--topk", 6, pretrained=flag) for flag in (False, True))
    assert ranking(first) == ranking(second) and first["fingerprint"] == second["fingerprint"]
    out = capsys.readouterr().out
    assert "Load code of database" in out  # the network takes the code file that the predictor built
    table = [line.split()[:2] for line in out.splitlines() if line[:4].strip().isdigit()]
    assert table[:6] == [[str(m["rank"]), str(m["distance"])] for m in first["queries"][0]["matches"]]


def test_folder_list_and_default_query(ask, protocol, tmp_path):
    names = ["b.jpg", "a.jpg", "sub/c.jpg"]
    (tmp_path / "sub").mkdir()
    for name, i in zip(names, (0, 1, 2)):
        shutil.copy(protocol.query.images.path(i), tmp_path / name)
    (tmp_path / "notes.md").write_text("no picture")
    folder = ask("--img", tmp_path, "--batch-size", 2)
    assert [os.path.relpath(query["query"], tmp_path) for query in folder["queries"]] == ["a.jpg", "b.jpg", "sub/c.jpg"]
    (tmp_path / "list.txt").write_text(f"b.jpg 0 1\na.jpg 1 0\n{os.path.abspath(tmp_path)}/sub/c.jpg 1 1\n")
    listed = ask("--img", tmp_path / "list.txt")
    order = [1, 0, 2]  # of the folder's queries
    assert ranking(listed) == [ranking(folder)[i] for i in order]
    assert ranking(ask()) == ranking(listed)[:1]  # the first query of the data set


def test_save_path_as_a_file(ask, protocol, tmp_path):
    answer = ask("--img", protocol.query.images.path(0), "--save-path", tmp_path / "x" / "grid.png")
    assert sorted(os.listdir(tmp_path / "x")) == [f"database_hashnet_{BITS}.npz", "grid.png"]
    assert answer["grid"] == str(tmp_path / "x" / "grid.png")


def test_words_find_pictures_and_pictures_find_words(ask, protocol, shapes, tmp_path_factory):
    import paddle

    from utils.text import Vectorizer
    words = protocol.database.texts[3]
    by_text = ask("--text", words, "--search", "text", method="djsrh")
    assert by_text["queries"][0]["matches"][0]["distance"] == 0
    assert by_text["queries"][0]["matches"][0]["text"] in protocol.database.texts
    assert by_text["code_file"].endswith(f"database_text_djsrh_{BITS}.npz")

    path, method = checkpoint(tmp_path_factory, shapes, "djsrh")
    vectorizer = Vectorizer.load(str(path.parent / "inference" / "vectorizer.json"))
    with paddle.no_grad():
        code = pack(method.encode_text(paddle.to_tensor(vectorizer.transform([words]))).numpy())
    from utils.retrieval.codes import CodeFile
    answer = ask("--text", words, method="djsrh")
    database = CodeFile.load(answer["code_file"])
    apart = (unpack(code, BITS) != unpack(database.codes, BITS)).sum(1)
    best = np.argsort(apart, kind="stable")[:10]
    assert ranking(answer) == [[(int(apart[i]), database.ids[i]) for i in best]]
    assert ranking(answer) == ranking(ask("--text", words, method="djsrh", pretrained=True))
    across = ask("--img", protocol.query.images.path(0), "--search", "text", method="djsrh")
    assert all("text" in match for match in across["queries"][0]["matches"])


def test_grid_survives_missing_pictures(ask, protocol, tmp_path, capsys):
    """A code file can be searched without its data set; then there is a table and no grid."""
    built = ask("--img", protocol.query.images.path(0))
    from utils.retrieval.codes import CodeFile
    codes = CodeFile.load(built["code_file"])
    codes.ids = [f"gone/{i}.jpg" for i in range(len(codes.ids))]
    codes.meta["root"] = None
    codes.save(str(tmp_path / "codes.npz"))
    answer = ask("--img", protocol.query.images.path(0), "--code-file", tmp_path / "codes.npz", "--save-path", tmp_path)
    assert answer["grid"] is None and "No picture grid" in capsys.readouterr().out
    assert [d for d, _ in ranking(answer)[0]] == [d for d, _ in ranking(built)[0]]


def test_show_without_grid_or_display(capsys, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    predict.show("x.png")
    predict.show(None)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and "x.png" in out[0] and "Nothing to show" in out[1]


# mistakes ---------------------------------------------------------------------------------
def test_mistakes_through_the_command(run, shapes, tmp_path, tmp_path_factory):
    model = exported(tmp_path_factory, shapes)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"GIF89a cut")

    def fails(*arguments, words):
        one_error_line(run("predict.py", "--save-path", tmp_path / "out", *arguments, ok=None), *words)

    fails(words=("--model-dir", "--pretrained"))
    fails("--model-dir", model, "--img", tmp_path / "empty", words=("empty", "no pictures"))
    fails("--model-dir", model, "--img", tmp_path / "broken.jpg", "--json", words=("broken.jpg",))
    fails("--model-dir", model, "--text", "red disc", words=("reads images only", "--text"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments, words", [
    (("--bit", 16), "--bit 16"),
    (("--img", "nowhere.jpg"), "nowhere.jpg"),
    (("--search", "text"), "no text codes"),
    (("--search", "sound"), "sound"),
    (("--img", "a.jpg", "--text", "b"), "not both"),
    (("--topk", 0), "at least 1"),
    (("--tpok", 3), "did you mean --topk")])
def test_mistakes(arguments, words, ask):
    with pytest.raises(InputError, match=words):
        ask(*arguments)


def test_unknown_words_and_other_mistakes(ask, tmp_path, protocol):
    with pytest.raises(InputError, match="none of the words"):
        ask("--text", "qqq", method="djsrh")
    with pytest.raises(InputError, match="belong to exported models"):
        ask("--bf16", pretrained=True)
    (tmp_path / "list.txt").write_text("missing.jpg\n")
    with pytest.raises(InputError, match="list.txt:1: no picture missing.jpg"):
        ask("--img", tmp_path / "list.txt")
    with pytest.raises(InputError, match="another model"):
        built = ask("--img", protocol.query.images.path(0))["code_file"]
        ask("--img", protocol.query.images.path(0), "--code-file", built, method="djsrh")
