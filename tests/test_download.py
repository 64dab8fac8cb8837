"""The download helper against a server on this machine: whole, resumed, cut, wrong and refused."""
import hashlib
import http.server
import io
import socket
import threading
import zipfile

import numpy as np
import pytest

from utils.datasets import PROTOCOLS
from utils.datasets import download as module
from utils.datasets.download import SOURCES, Source, command, download
from utils.datasets.protocols import cifar10
from utils.errors import InputError

CONTENT = np.random.default_rng(0).integers(0, 256, 700_001, dtype=np.uint8).tobytes()


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends ``server.content``; ``ranges``: knows Range; ``cuts``: bytes after which the next connections end."""

    def do_GET(self):
        server, content, status = self.server, self.server.content, 200
        server.seen.append(self.headers.get("Range"))
        if server.status != 200:
            return self.send_error(server.status)
        start = 0
        if server.ranges and self.headers.get("Range"):
            start, status = int(self.headers["Range"][len("bytes="):-1]), 206
            if start >= len(content):
                return self.send_error(416)
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[:server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "WAIT", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.ranges, server.cuts, server.status, server.seen, server.shift = CONTENT, True, [], 200, [], 0
    server.url = f"http://127.0.0.1:{server.server_port}/data.bin"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def source(server, content=CONTENT, **more):
    return Source(server.url, "data.bin", len(content), ("sha256", hashlib.sha256(content).hexdigest()), **more)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file_is_checked_renamed_and_not_fetched_again(server, tmp_path):
    said = []
    path = download(source(server, after="go on in {root}"), str(tmp_path / "new"), say=said.append)
    assert open(path, "rb").read() == CONTENT and names(tmp_path / "new") == ["data.bin"]
    assert said[-1] == f"go on in {tmp_path / 'new'}"
    download(source(server), str(tmp_path / "new"), say=said.append)
    assert len(server.seen) == 1 and "is right" in said[-1]


def test_an_interrupted_download_goes_on(server, tmp_path):
    server.cuts = [300_000, 100_000]
    download(source(server), str(tmp_path), say=print)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.seen == [None, "bytes=300000-", "bytes=400000-"]


def test_another_run_goes_on_where_the_first_one_stopped(server, tmp_path):
    server.cuts = [300_000, 0, 0, 0]
    with pytest.raises(InputError, match=r"after 300,000 of 700,001 bytes; the same command goes on"):
        download(source(server), str(tmp_path), say=print)
    assert names(tmp_path) == ["data.bin.part"] and (tmp_path / "data.bin.part").stat().st_size == 300_000
    server.seen.clear()
    download(source(server), str(tmp_path), say=print)
    assert server.seen == ["bytes=300000-"] and (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges, server.cuts = False, [300_000]
    download(source(server), str(tmp_path), say=print)
    assert server.seen == [None, "bytes=300000-"] and (tmp_path / "data.bin").read_bytes() == CONTENT


def test_wrong_bytes_are_removed(server, tmp_path):
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(InputError, match="other bytes than the official file .sha256 .*removed"):
        download(source(server), str(tmp_path), say=print)
    assert names(tmp_path) == []
    server.content = CONTENT
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)  # the beginning of something else
    with pytest.raises(InputError, match="other bytes"):
        download(source(server), str(tmp_path), say=print)
    assert names(tmp_path) == []
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"x")
    with pytest.raises(InputError, match="700,002 bytes, not 700,001"):
        download(source(server), str(tmp_path), say=print)
    assert names(tmp_path) == []


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server, tmp_path):
    server.content = b"<html>please log in</html>"
    with pytest.raises(InputError, match="has 26 bytes where the official file has 700,001"):
        download(source(server), str(tmp_path), say=print)
    server.content = CONTENT[:600_000]
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:500_000])
    with pytest.raises(InputError, match="has 600,000 bytes where"):
        download(source(server), str(tmp_path), say=print)
    assert names(tmp_path) == ["data.bin.part"]  # of the right file, perhaps: another mirror may go on
    server.content, server.shift = CONTENT, 5
    with pytest.raises(InputError, match="answers with other bytes than were asked for"):
        download(source(server), str(tmp_path), say=print)


def test_a_part_that_the_server_cannot_continue_starts_again(server, tmp_path, monkeypatch):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:500_000])
    asked = []
    start = Handler.do_GET

    def do_get(self):
        asked.append(self.headers.get("Range"))
        if len(asked) == 1:
            return self.send_error(416)
        return start(self)

    monkeypatch.setattr(Handler, "do_GET", do_get)
    download(source(server), str(tmp_path), say=print)
    assert asked == ["bytes=500000-", None] and (tmp_path / "data.bin").read_bytes() == CONTENT


def test_http_errors(server, tmp_path):
    server.status = 404
    with pytest.raises(InputError, match="HTTP 404 .*put it at .*data.bin; or name a mirror"):
        download(source(server), str(tmp_path), say=print)
    assert len(server.seen) == 1
    server.status = 503
    with pytest.raises(InputError, match="HTTP 503 .*nothing was received"):
        download(source(server), str(tmp_path), say=print)
    assert len(server.seen) == 1 + module.PATIENCE and names(tmp_path) == []


def test_no_connection_and_bad_addresses(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/data.bin"  # bound and not listening: refused
        with pytest.raises(InputError, match="cannot download .*refused.*Without a connection: fetch ") as told:
            download(source(server), str(tmp_path), url, say=print)
    assert "\n" not in str(told.value) and str(tmp_path / "data.bin") in str(told.value) and names(tmp_path) == []
    for url in ("file:///etc/passwd", "ftp://host/x", "data.bin", "http:///x"):
        with pytest.raises(InputError, match="an http or https address is expected"):
            download(source(server), str(tmp_path), url, say=print)
    with pytest.raises(InputError, match="cannot download http://127.0.0.1:x/"):
        download(source(server), str(tmp_path), "http://127.0.0.1:x/", say=print)


def test_what_stands_in_the_way(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT[:-5])
    with pytest.raises(InputError, match="is not the official file .699,996 bytes, not 700,001.; remove it"):
        download(source(server), str(tmp_path), say=print)
    assert (tmp_path / "data.bin").stat().st_size == 699_996  # a user's file is not removed
    with pytest.raises(InputError, match="cannot write .*data.bin"):
        download(source(server), str(tmp_path / "data.bin"), say=print)
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "other").mkdir()
    with open(tmp_path / "other" / "data.bin.part", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another download is writing"):
            download(source(server), str(tmp_path / "other"), say=print)
    assert server.seen == []


def test_members_of_a_zip_are_unpacked(server, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("annotations/a.json", "[1]")
        file.writestr("annotations/b.json", "[2]")
    server.content = packed.getvalue()
    one = source(server, server.content, unpack=("annotations/a.json",))
    download(one, str(tmp_path), say=print)
    assert (tmp_path / "annotations" / "a.json").read_text() == "[1]" and names(tmp_path / "annotations") == ["a.json"]
    (tmp_path / "annotations" / "a.json").unlink()
    download(one, str(tmp_path), say=print)  # from the archive at hand
    assert (tmp_path / "annotations" / "a.json").exists() and len(server.seen) == 1
    with pytest.raises(InputError, match="has no readable annotations/c.json"):
        download(source(server, server.content, unpack=("annotations/c.json",)), str(tmp_path), say=print)


def test_the_official_sources():
    """Names and sizes as published; the names are those that the readers look for."""
    assert SOURCES["cifar10"].file == cifar10.ARCHIVE and SOURCES["cifar10-2"] is SOURCES["cifar10"]
    assert set(SOURCES) <= set(PROTOCOLS)
    for one in SOURCES.values():
        assert len(one.checksum[1]) == 2 * hashlib.new(one.checksum[0]).digest_size and one.size > 100_000_000


def test_the_command(server, tmp_path, run, monkeypatch):
    called = ("-m", "utils.datasets", "download")
    text = run(*called, "cifar10", "--root", tmp_path, "--url", server.url, ok=False).stderr
    assert "has 700,001 bytes where the official file has 170,498,071" in text and text.count("\n") == 1
    assert names(tmp_path) == []
    text = run(*called, "cifar", ok=False).stderr
    assert text.startswith("error: cifar is not downloaded here; choose one of: cifar10, coco")
    assert "obtain it yourself" in run(*called, "shapes", ok=False).stderr
    assert "--root" in run(*called, "coco", ok=False).stderr

    class Options:
        name, root, url = "cifar10", str(tmp_path), server.url
    monkeypatch.setitem(SOURCES, "cifar10", source(server))
    command(Options, PROTOCOLS)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
