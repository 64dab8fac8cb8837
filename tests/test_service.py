"""The search service as it is started and asked: answers, changes that are kept, who may ask, how it ends."""
import io
import json
import os
import pathlib
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from deploy.engines import open_model
from deploy.index import Where, open_index
from deploy.index.question import Question, ask
from deploy.model_folder import MANIFEST, VECTORIZER, read_manifest, write_manifest
from deploy.queries import picture_queries
from deploy.service.client import Client, ServiceError
from deploy.service.pictures import Pictures, find_root
from tests.exported import one_error_line
from tests.serving import Served, small_index
from utils.files import write_json
from utils.retrieval.hamming import pack

CLIENT = ["-m", "deploy.service.client"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, shapes):
    """(model, URI, paths of the pictures)."""
    return small_index(tmp_path_factory, shapes, tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def served(place):
    with Served(*place[:2]) as running:
        yield running


def data(path):
    return pathlib.Path(path).read_bytes()


def ids(answer):
    return [match["id"] for match in answer["matches"]]


# questions ----------------------------------------------------------------------------------
def test_a_picture_finds_what_the_index_command_finds(served, place, run):
    model, uri, paths = place
    status, answer = served.ask("POST", "/v1/search/picture", data(paths[3]), k=7)
    known = json.loads(run("-m", "deploy.index", "search", uri, "--img", paths[3], "--model-dir", model, "--topk", 7,
                           "--json").stdout)["queries"][0]["matches"]
    assert status == 200 and answer["items"] == 40 and answer["bits"] == 20 and answer["exact"]
    assert [(row["id"], row["distance"], row["labels"]) for row in answer["matches"]] == \
        [(row["id"], row["distance"], row["labels"]) for row in known]
    assert paths[3].endswith(answer["matches"][0]["id"]) or answer["matches"][0]["distance"] == 0
    query = int(answer["code"], 16)
    assert all(bin(query ^ int(row["code"], 16)).count("1") == row["distance"] for row in answer["matches"])


@pytest.mark.parametrize("terms", [{}, {"k": 3}, {"label": "star"}, {"label": 4}, {"prefix": "images/d00000"},
                                   {"rank": "asymmetric"}, {"rank": "relaxed", "first": 5}, {"collapse": 2},
                                   {"radius": 4}], ids=str)
def test_terms_are_those_of_the_index(served, place, terms):
    model, uri, paths = place
    index, encoder = open_index(uri), open_model(str(model))
    relaxed = picture_queries(encoder, [paths[0]]).relaxed
    where = Where(index.label(str(terms["label"])) if "label" in terms else None, terms.get("prefix"))
    more = {key: value for key, value in terms.items() if key in ("rank", "first", "collapse")}
    known, = ask(index, pack(relaxed), Question(terms.get("k", 30), where=where, **more), relaxed)
    known = [match for match in known if match.distance <= terms.get("radius", 99)]
    status, answer = served.ask("POST", "/v1/search/picture", data(paths[0]), **{"k": 30, **terms})
    assert status == 200 and ids(answer) == [match.id for match in known] != []
    for row, match in zip(answer["matches"], known):
        assert row.get("score") == pytest.approx(match.score, abs=0.01) and row.get("count") == match.count


def test_an_item_finds_its_neighbours_and_not_itself(served, place):
    name = open_index(place[1]).page(1)[1].ids[0]
    status, answer = served.ask("POST", "/v1/search/item", json.dumps({"id": name}), k=100)
    assert status == 200 and name not in ids(answer) and len(answer["matches"]) == 39
    assert "nothing.jpg" in served.fault(404, "POST", "/v1/search/item", json.dumps({"id": "nothing.jpg"}))
    finer = served.ask("POST", "/v1/search/item", json.dumps({"id": name}), k=5, rank="relaxed")[1]
    assert all("score" in match for match in finer["matches"])


def test_pages(served, place):
    index = open_index(place[1])
    wanted, found, after = [name for _, batch in index.batches() for name in batch.ids], [], -1
    while after is not None:
        status, page = served.ask("GET", "/v1/items", count=7, after=after)
        assert status == 200 and page["items"] == len(wanted)
        found += [row["id"] for row in page["page"]]
        after = page["after"]
        assert after is None or isinstance(after, str)  # numbers of Milvus are beyond those of JavaScript
    assert found == wanted
    assert served.ask("GET", "/v1/items", prefix="images/none")[1]["page"] == []


def test_thumbnails_are_drawn_here(served, place):
    name = open_index(place[1]).page(1)[1].ids[0]
    status, jpeg = served.ask("GET", "/v1/thumbnail", id=name, side=48)
    picture = Image.open(io.BytesIO(jpeg))
    assert status == 200 and picture.format == "JPEG" and max(picture.size) == 48 and not picture.getexif()
    tag = served.headers["etag"]
    assert served.ask("GET", "/v1/thumbnail", id=name, headers={"If-None-Match": tag})[0] == 304
    served.fault(404, "GET", "/v1/thumbnail", id="images/none.jpg")


def test_many_at_once_get_the_answers_that_they_get_alone(served, place):
    alone = {path: served.ask("POST", "/v1/search/picture", data(path), k=5)[1] for path in place[2][:12]}
    found, threads = {}, []
    for path in alone:
        def search(path=path):
            with Client(served.url) as client:
                found[path] = client.search(path, k=5)
        threads.append(threading.Thread(target=search))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path, answer in alone.items():  # the last digits of a network's output may depend on the batch
        apart = bin(int(answer["code"], 16) ^ int(found[path]["code"], 16)).count("1")
        assert apart == 0 and found[path] == answer or apart == 1
    text = served.ask("GET", "/metrics")[1].decode()
    assert 'deephash_batch_size_bucket{work="encode",le="+Inf"}' in text and "deephash_items 40" in text
    assert 'deephash_requests_total{route="page",status="5xx"} 0' in text


# changes ------------------------------------------------------------------------------------
def test_what_is_added_is_found_and_kept_and_what_is_removed_is_gone(tmp_path, tmp_path_factory, shapes):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path)
    name = "trip/红 <b>&\"1\".jpg"
    with Served(model, uri) as served, Client(served.url) as client:
        assert client.add(paths[0], name, ["star", "heart"]) == {"id": name, "replaced": False}
        found = client.like(name, k=3)["matches"][0]
        assert found["distance"] == 0
        match = next(row for row in client.search(paths[0], k=50)["matches"] if row["id"] == name)
        assert match["labels"] == ["star", "heart"] and "%3Cb%3E" in match["thumbnail"]
        assert "already" in served.fault(409, "POST", "/v1/items", data(paths[1]), id=name)
        assert Image.open(io.BytesIO(client.thumbnail(name))).format == "JPEG"
        assert client.add(paths[1], name, replace=True) == {"id": name, "replaced": True}
        client.add(paths[2], "trip/2.jpg")
        assert client.remove(["trip/2.jpg"]) == {"removed": ["trip/2.jpg"]}
        served.fault(404, "DELETE", "/v1/items", id=["images/nothing.jpg", name])
        assert client.items(prefix="trip/")["page"][0]["id"] == name
        assert served.stop() == 0
    index = open_index(uri)
    assert len(index) == 41 and index.has([name, "trip/2.jpg"]).tolist() == [True, False]
    index.check()
    with Served(model, uri, "--read-only") as served, Client(served.url) as client:
        assert client.like(name, k=3)["matches"][0]["distance"] == 0
        assert "read-only" in served.fault(403, "POST", "/v1/items", data(paths[1]), id="a.jpg")
        assert "read-only" in served.fault(403, "DELETE", "/v1/items", id=name)
    kept = [file for _, _, files in os.walk(f"{uri.split(':')[1]}.service/pictures") for file in files]
    assert len(kept) == 1


@pytest.mark.slow
def test_processes_share_an_index_and_see_each_others_changes(tmp_path, tmp_path_factory, shapes):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path)
    with Served(model, uri, "--processes", 2) as served:
        errors = []

        def work(number):
            for i in range(6):  # each request on a connection of its own: any process may get it
                name = f"new/{number}-{i}.jpg"
                try:
                    assert served.ask("POST", "/v1/items", data(paths[i]), id=name)[0] == 201
                    for _ in range(4):
                        status, answer = served.ask("POST", "/v1/search/item", json.dumps({"id": name}))
                        assert status == 200, answer
                    if i % 2:
                        assert served.ask("DELETE", "/v1/items", id=name)[0] == 200
                        for _ in range(4):
                            assert served.ask("POST", "/v1/search/item", json.dumps({"id": name}))[0] == 404
                except Exception as error:
                    errors.append(error)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors
        text = served.ask("GET", "/metrics")[1].decode()
        assert "\ndeephash_items_added_total 24\n" in text  # of all processes, whichever is asked
        served.stop()
    index = open_index(uri)
    index.check()
    assert len(index) == 40 + 12


def test_faiss_follows_what_the_service_writes(tmp_path, tmp_path_factory, shapes):
    pytest.importorskip("faiss")
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path, engine="faiss")
    with Served(model, uri) as served, Client(served.url) as client:
        assert client.info()["engine"] == "faiss"
        client.add(paths[0], "new.jpg")
        assert client.like("new.jpg", k=1)["matches"][0]["distance"] == 0 and client.info()["items"] == 41
        client.remove(["new.jpg"])
        assert "new.jpg" not in ids(client.search(paths[0], k=100))


# words --------------------------------------------------------------------------------------
def test_words_in_english_and_chinese(tmp_path, tmp_path_factory, shapes):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path, "djsrh")
    model = shutil.copytree(model, tmp_path / "model")
    known = json.loads((model / VECTORIZER).read_text())
    column = known["vocabulary"].index("heart")
    known["vocabulary"][-1] = "红心"  # a word of training texts in Chinese, in the place of a rare one
    write_json(model / VECTORIZER, known)
    manifest = read_manifest(str(model))
    (model / MANIFEST).unlink()
    write_manifest(str(model), {key: value for key, value in manifest.items() if key not in ("format", "files")})
    with Served(model, uri) as served, Client(served.url) as client:
        assert client.info()["words"] and column >= 0
        english, chinese = client.text("a heart"), client.text("一颗红心！")
        assert len(english["matches"]) == len(chinese["matches"]) == 10 and english["code"] != chinese["code"]
        assert client.text("红心")["code"] == client.text("红心 zzz")["code"]
        assert "none of the words" in served.fault(400, "POST", "/v1/search/text", json.dumps({"text": "zzz"}))


def test_an_image_model_takes_no_words(served):
    assert "images only" in served.fault(400, "POST", "/v1/search/text", json.dumps({"text": "heart"}))
    assert not served.ask("GET", "/v1/info")[1]["words"]


# who may ask --------------------------------------------------------------------------------
def test_a_token_is_wanted_where_one_is_set(tmp_path, place):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with Served(*place[:2], "--token-file", tmp_path / "token", "--read-only") as served:
        for path in ("/v1/info", "/v1/items", "/metrics", "/openapi.json"):
            assert "token" in served.fault(401, "GET", path)
            assert served.fault(401, "GET", path, headers={"Authorization": "Bearer 0123456789abcdeF"})
            assert served.ask("GET", path, headers={"Authorization": "Bearer 0123456789abcdef"})[0] == 200
        for path in ("/health", "/ready", "/", "/page.js"):
            assert served.ask("GET", path)[0] == 200
        with Client(served.url, "0123456789abcdef") as client:
            assert client.info()["items"] == 40
        with Client(served.url) as client, pytest.raises(ServiceError, match="token") as caught:
            client.info()
        assert caught.value.status == 401


def test_pages_of_other_sites_may_not_ask(served):
    assert "evil" in served.fault(403, "POST", "/v1/search/picture", b"x", headers={"Origin": "http://evil.example"})
    assert "evil" in served.fault(421, "GET", "/v1/info", headers={"Host": "evil.example:8765"})
    assert served.ask("GET", "/v1/info", headers={"Origin": f"http://{served.address}"})[0] == 200
    assert "access-control-allow-origin" not in {name.lower() for name in served.headers}
    assert "default-src 'none'" in served.headers["content-security-policy"]


# starting and ending ------------------------------------------------------------------------
def test_mistakes_are_one_line(tmp_path, place, run, tmp_path_factory, shapes):
    model, uri, _ = place

    def service(*words):
        return run("-m", "deploy.service", *words, ok=None)
    one_error_line(service("--index", uri), "--model-dir")
    one_error_line(service("--model-dir", model), "--index")
    one_error_line(service("--model-dir", model, "--index", tmp_path / "none"), "build one")
    one_error_line(service("--model-dir", tmp_path, "--index", uri), "inference.yml")
    (tmp_path / "token").write_text("short")
    one_error_line(service("--model-dir", model, "--index", uri, "--token-file", tmp_path / "token"), "16 letters")
    other, foreign, _ = small_index(tmp_path_factory, shapes, tmp_path, "djsrh")
    one_error_line(service("--model-dir", model, "--index", foreign), "another model")
    one_error_line(service("--model-dir", model, "--index", f"milvus:{tmp_path}/x.db", "--processes", 2),
                   "--processes 1")
    one_error_line(service("--model-dir", model, "--index", uri, "--data-path", tmp_path / "none"), "--data-path is")
    one_error_line(run(*CLIENT, "info", "--server", "http://127.0.0.1:9", ok=None), "is the service running")
    one_error_line(run(*CLIENT, "info", "--server", "ftp://x", ok=None), "http://HOST:PORT")
    one_error_line(run(*CLIENT, "serch", ok=None), "search")


@pytest.mark.slow
def test_processes_that_cannot_start_end_the_command(tmp_path, place, run):
    done = run("-m", "deploy.service", "--model-dir", place[0], "--index", tmp_path / "none", "--processes", 2,
               "--port", 0, ok=None, timeout=120)
    one_error_line(done, "build one")


def test_the_client_command(served, place, run):
    found = json.loads(run(*CLIENT, "search", place[2][3], "--k", 2, "--server", served.url).stdout)
    assert len(found["matches"]) == 2
    added = json.loads(run(*CLIENT, "add", place[2][3], "--folder", "cli", "--label", "star,moon", "--server",
                           served.url).stdout)["added"]
    name = added[0]["id"]
    assert name.startswith("cli/")
    listed = json.loads(run(*CLIENT, "list", "--prefix", "cli/", "--server", served.url).stdout)
    assert [(row["id"], sorted(row["labels"])) for row in listed["page"]] == [(name, ["moon", "star"])]
    assert json.loads(run(*CLIENT, "like", name, "--k", 1, "--server", served.url).stdout)["matches"]
    one_error_line(run(*CLIENT, "add", place[2][3], "--folder", "cli", "--server", served.url, ok=None), "already")
    assert json.loads(run(*CLIENT, "remove", name, "--server", served.url).stdout)["removed"] == [name]
    one_error_line(run(*CLIENT, "remove", name, "--server", served.url, ok=None), name)


def test_what_is_under_way_is_finished_when_the_service_ends(tmp_path, tmp_path_factory, shapes):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path)
    answers = []
    with Served(model, uri) as served:
        def add(number):
            try:
                answers.append(served.ask("POST", "/v1/items", data(paths[number]), id=f"end/{number}.jpg")[0])
            except OSError:
                answers.append(None)  # it came after the end
        threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        served.process.terminate()
        for thread in threads:
            thread.join()
        assert served.stop() == 0 and "Traceback" not in "".join(served.log)
    assert set(answers) <= {201, None, 503}
    found = open_index(uri).has([f"end/{number}.jpg" for number in range(20)])
    assert found.sum() >= answers.count(201)


def test_a_folder_of_pictures_that_is_not_there_is_said(tmp_path, capsys):
    assert find_root(None, None) is None and find_root(str(tmp_path), "none") == find_root(None, str(tmp_path))
    assert capsys.readouterr().out == ""
    find_root(None, "photos that are not here")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "photos that are not here" in said and "--data-path" in said


def test_paths_of_the_users_pictures_stay_inside_their_folder(tmp_path):
    (tmp_path / "root").mkdir()
    for name in ("root/in.jpg", "out.jpg"):
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / name)
    found = Pictures(None, str(tmp_path / "root")).find
    assert found("in.jpg") and found("x/../in.jpg")
    for name in ("../out.jpg", str(tmp_path / "out.jpg"), "a\0b", "..", ""):
        assert found(name) is None
