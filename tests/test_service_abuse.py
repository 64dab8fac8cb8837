"""What a search service must withstand: each a clear refusal in one line of JSON, and the next request is served."""
import contextlib
import io
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from deploy.index import open_index
from deploy.service.client import Client, ServiceError
from tests.conftest import ROOT
from tests.serving import Served, small_index

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"


@pytest.fixture(scope="module")
def place(tmp_path_factory, shapes):
    return small_index(tmp_path_factory, shapes, tmp_path_factory.mktemp("abuse"))


@pytest.fixture(scope="module")
def served(place):
    with Served(*place[:2], "--max-upload", 1_000_000, "--body-seconds", 2, "--max-requests", 40) as running:
        yield running
        assert running.ask("GET", "/ready")[0] == 200 and "Traceback" not in "".join(running.log)


def data(path):
    return pathlib.Path(path).read_bytes()


def png(width, height, pixels=b""):
    """A PNG of a size that its header says, whatever pixels it has."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + \
        chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


def encoded(kind, size=(64, 48), **more):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, kind, **more)
    return file.getvalue()


# uploads ------------------------------------------------------------------------------------
@pytest.mark.parametrize("body", [b"", b"no image", SVG, HTML, b"\xff\xd8\xff\xe0", encoded("JPEG")[:500],
                                  png(20_000, 20_000), png(7000, 7000, bytes(7001 * 7000)), encoded("PNG")[:300],
                                  b"GIF89a" + bytes(40), b"\x89PNG\r\n\x1a\n" + b"x" * 99],
                         ids=["empty", "text", "svg", "html", "jpeg-start", "jpeg-cut", "20000x20000", "bomb",
                              "png-cut", "gif-broken", "png-broken"])
def test_what_is_no_picture_is_refused(served, body):
    bomb = len(body) < 1_000_000 and body[16:20] == struct.pack(">I", 7000)
    for route, query in (("/v1/search/picture", {}), ("/v1/items", {"id": "bad.jpg"})):
        if bomb:  # 49 million pixels are just allowed; it costs time, no more
            continue
        line = served.fault(400, "POST", route, body, **query)
        assert line.startswith("the picture: ")
        if body == png(20_000, 20_000):
            assert "20000 x 20000" in line
    if bomb:
        assert served.ask("POST", "/v1/search/picture", body)[0] == 200
    assert served.ask("GET", "/v1/items", prefix="bad")[1]["page"] == []


def test_a_form_and_a_wrong_body_are_named(served):
    assert "not a form" in served.fault(415, "POST", "/v1/search/picture", b"--x",
                                        headers={"Content-Type": "multipart/form-data; boundary=x"})
    for body, word in ((b"", "JSON"), (b"{", "JSON"), (b'{"txt": "a"}', "txt"), (b'{"text": 3}', "string"),
                       (b'{"text": ""}', "at least 1"), (b"[" * 60_000, "JSON")):
        assert word in served.fault(422, "POST", "/v1/search/text", body)
    assert "larger" in served.fault(413, "POST", "/v1/search/text", b'{"text": "' + b"a" * 70_000 + b'"}')


def test_wrong_terms_are_named(served, place):
    picture = data(place[2][0])
    for terms, word in (({"k": 0}, "k"), ({"k": 1001}, "k"), ({"k": "x"}, "k"), ({"radius": -1}, "radius"),
                        ({"rank": "best"}, "rank"), ({"first": 10 ** 9}, "first"), ({"prefix": "x" * 2000}, "prefix")):
        assert served.fault(422, "POST", "/v1/search/picture", picture, **terms).startswith(word)
    assert "no label 'none'" in served.fault(400, "POST", "/v1/search/picture", picture, label="none")
    assert "collapse" in served.fault(400, "POST", "/v1/search/picture", picture, collapse=9)
    assert "Not Found" in served.fault(404, "GET", "/v1/nothing")
    assert "Not Allowed" in served.fault(405, "GET", "/v1/search/picture")
    served.fault(422, "GET", "/v1/items", count=0)
    served.fault(422, "DELETE", "/v1/items")


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "a//b.jpg", "a/./b.jpg", "a\\..\\b.jpg",
                                  "a\0b.jpg", "a\nb.jpg", "\u202ejpg.a", ".", "..", "a/", "é" * 600])
def test_ids_that_are_no_plain_path_are_refused(served, place, name):
    line = served.fault(400, "POST", "/v1/items", data(place[2][0]), id=name)
    assert "id" in line and line.isprintable()
    served.fault(404, "GET", "/v1/thumbnail", id=name)


def test_names_and_types_that_are_html_stay_data(served, place):
    name = "<img src=x onerror=alert(1)>.jpg"
    with Client(served.url) as client:
        client.add(data(place[2][0]), name)
        assert client.like(name, k=1)["matches"]
        jpeg = client.thumbnail(name)
    assert jpeg[:2] == b"\xff\xd8"
    served.ask("GET", "/v1/thumbnail", id=name)
    assert served.headers["content-type"] == "image/jpeg" and served.headers["x-content-type-options"] == "nosniff"
    served.ask("GET", "/v1/items", prefix="<img")
    assert served.headers["content-type"] == "application/json"
    assert served.ask("DELETE", "/v1/items", id=name)[0] == 200
    smuggled = encoded("JPEG", comment=b"<script>alert(1)</script>")
    with Client(served.url) as client:
        client.add(smuggled, "comment.jpg")
        assert b"script" in smuggled and b"script" not in client.thumbnail("comment.jpg")
        client.remove(["comment.jpg"])


# sizes and time -----------------------------------------------------------------------------
def test_100_megabytes_are_refused_before_they_are_kept(served):
    memory = resident(served)
    with Client(served.url) as client, pytest.raises(ServiceError, match="larger than 1000000 bytes") as caught:
        client.search(bytes(100_000_000))
    assert caught.value.status == 413

    def chunks():
        for _ in range(100):
            yield bytes(1_000_000)
    assert "larger" in served.fault(413, "POST", "/v1/search/picture", chunks())
    assert resident(served) < memory + 30_000_000


def resident(served):
    with open(f"/proc/{served.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connected(served):
    host, port = served.address.split(":")
    return contextlib.closing(socket.create_connection((host, int(port)), timeout=30))


def test_a_body_that_trickles_in_is_given_up(served):
    with connected(served) as client:
        client.sendall(b"POST /v1/search/picture HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        start = time.monotonic()
        for _ in range(5):
            client.sendall(b"x")
            time.sleep(0.2)
        answer = b""
        while not answer.endswith(b"}"):  # head and body may come one after the other
            piece = client.recv(4000)
            assert piece, answer
            answer += piece
        assert time.monotonic() - start < 10
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 408 " in head.splitlines()[0] and "did not arrive" in json.loads(body)["error"]


def test_heads_that_trickle_in_are_given_up_while_others_are_served(served):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(served)) for _ in range(30)]
        for client in slow:
            client.sendall(b"GET /v1/info HTTP/1.1\r\n")
        kept = stack.enter_context(connected(served))  # a second request on a connection that has served one
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in kept.recv(4000)
        kept.sendall(b"GET /v1/info HTT")
        start = time.monotonic()
        while time.monotonic() - start < 30:
            assert served.ask("GET", "/health")[0] == 200
            with contextlib.suppress(OSError):
                for client in slow:
                    client.sendall(b"X: y\r\n")
            time.sleep(0.5)
            kept.settimeout(0.1)
            with contextlib.suppress(socket.timeout, ConnectionResetError):
                if kept.recv(1) == b"":
                    break
        assert 5 < time.monotonic() - start < 20
        for client in slow:
            client.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(4000) == b""


def test_clients_that_hang_up_leave_nothing(served, place):
    picture = data(place[2][0])
    for part in (0, 10, len(picture) // 2, len(picture) - 1, len(picture)):
        with connected(served) as client:
            client.sendall(b"POST /v1/items?id=gone.jpg HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                           % len(picture) + picture[:part])
    time.sleep(0.5)
    found = served.ask("GET", "/v1/items", prefix="gone")[1]["page"]
    assert [row["id"] for row in found] in ([], ["gone.jpg"])  # all of it had come, so it may have been added
    if found:
        served.ask("DELETE", "/v1/items", id="gone.jpg")
    with connected(served) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" * 20)  # TLS on a plain port
        assert b" 400 " in client.recv(4000)


def test_more_requests_than_may_be_at_once_are_refused(served, place):
    picture, statuses = data(place[2][0]), []
    with contextlib.ExitStack() as stack:
        for _ in range(40):  # uploads that have begun
            client = stack.enter_context(connected(served))
            client.sendall(b"POST /v1/search/picture HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        time.sleep(0.5)
        assert "try again" in served.fault(503, "POST", "/v1/search/picture", picture)
        assert served.headers["retry-after"] == "1"
        statuses.append(served.ask("GET", "/health")[0])
    assert statuses == [200]
    for _ in range(50):
        if served.ask("POST", "/v1/search/picture", picture)[0] == 200:
            return
        time.sleep(0.2)
    pytest.fail("never served again")


# changes ------------------------------------------------------------------------------------
def test_two_services_and_a_command_write_to_one_index(tmp_path, tmp_path_factory, shapes, run):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path)
    with Served(model, uri) as one, Served(model, uri) as other:
        statuses = []

        def add(served, number):
            statuses.append(served.ask("POST", "/v1/items", data(paths[number]), id=f"both/{number}.jpg")[0])
        threads = [threading.Thread(target=add, args=(served, number)) for number in range(8)
                   for served in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [201] * 8 + [409] * 8  # of two that add one id, one does
        run("-m", "deploy.index", "remove", uri, "both/3.jpg")
        for served in (one, other):
            assert served.fault(404, "POST", "/v1/search/item", b'{"id": "both/3.jpg"}')
            assert served.ask("POST", "/v1/search/item", b'{"id": "both/4.jpg"}')[0] == 200
    open_index(uri).check()


def test_another_writer_that_stays_makes_it_busy(tmp_path, tmp_path_factory, shapes):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path)
    with Served(model, uri) as served:
        lock = f"{uri.split(':')[1]}/.lock"
        holder = subprocess.Popen([sys.executable, "-c", "import sys\nfrom utils.files import owned\n"
                                   f"with owned({lock!r}):\n    print(1, flush=True)\n    sys.stdin.read()"], cwd=ROOT,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        holder.stdout.readline()
        try:
            answer = []
            waiting = threading.Thread(target=lambda: answer.append(
                served.fault(503, "POST", "/v1/items", data(paths[0]), id="busy.jpg")))
            waiting.start()
            assert served.ask("POST", "/v1/search/picture", data(paths[0]))[0] == 200  # searches do not wait
            waiting.join()
            assert "being changed by process" in answer[0]
        finally:
            holder.kill()
            holder.communicate()
        assert served.ask("POST", "/v1/items", data(paths[0]), id="busy.jpg")[0] == 201


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a small disk, as root")
@pytest.mark.parametrize("full", ["index", "pictures"])
def test_a_full_disk_loses_nothing(tmp_path, tmp_path_factory, shapes, full):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        model, uri, paths = small_index(tmp_path_factory, shapes, disk if full == "index" else tmp_path)
        own = tmp_path / "own" if full == "index" else disk / "own"
        with Served(model, uri, "--data-dir", own) as served:
            assert served.ask("POST", "/v1/items", data(paths[0]), id="kept.jpg")[0] == 201
            with open(disk / "ballast", "wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            for replace in ("false", "true"):
                name = "kept.jpg" if replace == "true" else "full.jpg"
                assert "free some space" in served.fault(503, "POST", "/v1/items", data(paths[1]), id=name,
                                                         replace=replace)
            assert served.ask("POST", "/v1/search/picture", data(paths[0]))[0] == 200
            assert served.ask("GET", "/v1/thumbnail", id="kept.jpg")[0] == 200
            (disk / "ballast").unlink()
            assert served.ask("POST", "/v1/items", data(paths[1]), id="full.jpg")[0] == 201
        index = open_index(uri)
        index.check()
        assert len(index) == 42 and index.has(["kept.jpg", "full.jpg"]).all()
    finally:
        subprocess.run(["umount", "-l", disk])


def test_an_index_that_goes_away_makes_it_not_ready(tmp_path, tmp_path_factory, shapes):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path)
    with Served(model, uri) as served:
        (tmp_path / "index").rename(tmp_path / "away")
        assert served.ask("POST", "/v1/search/picture", data(paths[0]))[0] in (200, 400, 503)
        assert served.ask("GET", "/health")[0] == 200
        assert served.fault(503, "GET", "/ready")
        (tmp_path / "away").rename(tmp_path / "index")
        assert served.ask("GET", "/ready")[0] == 200
        assert served.ask("POST", "/v1/search/picture", data(paths[0]))[0] == 200
