"""Milvus behind the service: a file of milvus-lite, and a server that several processes share."""
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.index import build_index, open_index
from deploy.index.uri import open_codes
from tests.indexes import Place, server
from tests.serving import Served, small_index

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("milvus_servers")]


@pytest.fixture
def place(request, tmp_path, tmp_path_factory, shapes):
    """(model, URI, paths of the pictures, flag --data-dir and its value)."""
    uri = Place(request.param, tmp_path).uri()
    return *small_index(tmp_path_factory, shapes, tmp_path, uri=uri), ["--data-dir", tmp_path / "own"]


def data(path):
    return pathlib.Path(path).read_bytes()


def found(answer):
    return [(match["distance"], match["id"]) for match in answer["matches"]]


@pytest.mark.parametrize("place", ["lite", "server"], indirect=True)
def test_a_life(place, tmp_path, run):
    """Asked by picture and id, paged, added to, replaced, removed from, and started again."""
    model, uri, paths, own = place
    with open_index(uri) as index:
        copy = build_index(f"exact:{tmp_path / 'copy'}", open_codes(uri))
        ids = index.page(99)[1].ids
    body = data(paths[3])
    with Served(model, uri, *own) as served, Served(model, copy.uri) as exact:
        for terms in ({"k": 7}, {"k": 40, "radius": 5}, {"label": "star"}, {"prefix": "images/d00000"}, {"collapse": 1},
                      {"rank": "asymmetric"}):
            answers = [each.ask("POST", "/v1/search/picture", body, **terms) for each in (served, exact)]
            assert [status for status, _ in answers] == [200, 200]
            assert found(answers[0][1]) == found(answers[1][1]) and answers[0][1]["items"] == 40
        assert answers[0][1]["engine"] == "milvus" and answers[0][1]["exact"]
        asked = '{"id": "%s"}' % ids[3]
        answers = [each.ask("POST", "/v1/search/item", asked, k=5)[1] for each in (served, exact)]
        assert found(answers[0]) == found(answers[1]) and ids[3] not in [name for _, name in found(answers[0])]
        assert "no item" in served.fault(404, "POST", "/v1/search/item", '{"id": "none"}')
        page = served.ask("GET", "/v1/items", count=30)[1]
        rest = served.ask("GET", "/v1/items", count=30, after=page["after"])[1]
        assert [item["id"] for item in page["page"] + rest["page"]] == ids and rest["after"] is None
        assert served.ask("GET", "/v1/thumbnail", id=ids[3])[1][:2] == b"\xff\xd8"
        assert served.ask("POST", "/v1/items", body, id="trip/1.jpg", label="star") == (
            201, {"id": "trip/1.jpg", "replaced": False})
        assert served.ask("POST", "/v1/items", data(paths[4]), id="trip/2.jpg")[0] == 201
        assert "already" in served.fault(409, "POST", "/v1/items", body, id="trip/1.jpg")
        assert served.ask("POST", "/v1/items", body, id="trip/2.jpg", replace="true")[1]["replaced"]
        answer = served.ask("POST", "/v1/search/picture", body, prefix="trip/")[1]
        assert found(answer) == [(0, "trip/1.jpg"), (0, "trip/2.jpg")] and answer["items"] == 42
        assert served.ask("DELETE", "/v1/items", id=["trip/1.jpg", ids[0]])[0] == 200
        assert "not in the index" in served.fault(404, "DELETE", "/v1/items", id=["trip/2.jpg", "trip/1.jpg"])
        assert b"deephash_items 40" in served.ask("GET", "/metrics")[1]
        if not uri.startswith("milvus:http"):
            done = run("-m", "deploy.index", "info", uri, ok=False)
            assert done.returncode == 2 and done.stderr.count("\n") == 1
            assert "another process has it open" in done.stderr
        assert served.stop() == 0
    with Served(model, uri, *own) as served:
        answer = served.ask("POST", "/v1/search/picture", body, prefix="trip/")[1]
        assert found(answer) == [(0, "trip/2.jpg")] and answer["items"] == 40
        assert served.ask("GET", "/" + answer["matches"][0]["thumbnail"])[1][:2] == b"\xff\xd8"
        assert "no picture" in served.fault(404, "GET", "/v1/thumbnail", id="trip/1.jpg")
        assert "Traceback" not in "".join(served.log)


@pytest.mark.parametrize("place", ["server"], indirect=True)
def test_processes_share_a_server_and_see_each_others_changes(place):
    model, uri, paths, own = place
    bodies = [data(path) for path in paths[:6]]
    with Served(model, uri, *own, "--processes", 2) as served:
        def act(i):
            """Each answer may come from another process than the one before."""
            name, body = f"new/{i}.jpg", bodies[i % 6]
            assert served.ask("POST", "/v1/items", body, id=name)[0] == 201
            assert name in [hit for _, hit in near(served, body)]
            if i % 2:
                assert served.ask("DELETE", "/v1/items", id=name)[0] == 200
                assert name not in [hit for _, hit in near(served, body)]
            return name

        with ThreadPoolExecutor(4) as pool:
            names = list(pool.map(act, range(12)))
        assert served.ask("GET", "/v1/info")[1]["items"] == 46
        assert served.stop() == 0
    with open_index(uri) as index:
        assert index.has(names).tolist() == [i % 2 == 0 for i in range(12)]
        index.check()


def near(served, body):
    status, answer = served.ask("POST", "/v1/search/picture", body, k=40, prefix="new/")
    assert status == 200, answer
    return found(answer)


@pytest.mark.parametrize("place", ["server"], indirect=True)
def test_a_server_that_goes_and_comes_back(place):
    model, uri, paths, own = place
    body = data(paths[3])
    with Served(model, uri, *own, "--answer-seconds", 4) as served:
        assert served.ask("POST", "/v1/items", body, id="kept.jpg")[0] == 201
        before = found(served.ask("POST", "/v1/search/picture", body)[1])
        server().kill()
        for path in ("/v1/search/picture", "/v1/items?id=lost.jpg"):
            assert served.fault(503, "POST", path, body)
        assert served.fault(503, "GET", "/ready") and served.ask("GET", "/health")[0] == 200
        server().start()
        stop = time.time() + 180
        while served.ask("GET", "/ready")[0] != 200:
            assert time.time() < stop, served.log
            time.sleep(1)
        assert found(served.ask("POST", "/v1/search/picture", body)[1])[:3] == before[:3]
        assert served.ask("POST", "/v1/items", body, id="after.jpg")[0] == 201
        assert "Traceback" not in "".join(served.log)
    with open_index(uri) as index:
        assert index.has(["kept.jpg", "after.jpg"]).all()
        index.check()
