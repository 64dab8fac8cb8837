"""Engines for the tests of the indexes, and what every one of them must do, written as plain as can be."""
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from deploy.index import Where, build_index
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack, unpack
from utils.retrieval.shard_set import CodesInfo

FINGERPRINT = "0123456789abcdef"
CLASSES = ["cat", "dog", "红", "bird", "a b"]
PACKAGES = {"faiss": ["faiss"], "lists": ["faiss"], "lite": ["pymilvus", "milvus_lite"],
            "server": ["pymilvus", "milvus"]}
ENGINES = ["exact", "faiss", "lite", pytest.param("server", marks=pytest.mark.slow)]
WITH_LISTS = [*ENGINES, "lists"]
_servers = []


def make(n, bits=20, seed=0, prefix="images/", relaxed=False, labels=True, distinct=None):
    """A CodeFile of n items; ``distinct`` bounds the number of different codes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, bits)).astype(np.float16)
    if distinct:
        x = x[rng.integers(0, min(distinct, n), n)] if n else x
    return CodeFile(pack(x), bits, [f"{prefix}{i}.jpg" for i in range(n)],
                    rng.integers(0, 2, (n, len(CLASSES))).astype(np.uint8) if labels else None, FINGERPRINT,
                    {"classes": CLASSES} if labels else {}, x if relaxed else None)


class Place:
    """Where a test's indexes of one engine stand; a skip where its package is absent."""

    def __init__(self, engine, folder):
        for package in PACKAGES.get(engine, []):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"the engine needs {package}: pip install -r requirements-index.txt")
        self.engine, self.folder, self.number = engine, folder, 0

    def uri(self):
        """Of an index that is not there yet."""
        self.number += 1
        if self.engine == "server":
            return f"milvus:{server().address}/t{os.getpid()}_{time.time_ns()}"
        kind, ending = {"lite": ("milvus", ".db"), "lists": ("faiss", "")}.get(self.engine, (self.engine, ""))
        return f"{kind}:{self.folder / f'index{self.number}'}{ending}"

    def build(self, codefile, uri=None, **settings):
        """A new index of a CodeFile."""
        if self.engine == "lists":
            settings.update(lists=2, probes=2)
        return build_index(uri or self.uri(), (CodesInfo.of(codefile), [codefile]), **settings)


SERVE = """
import socket, sys
from milvus import default_server

def free(port):
    # connections of a server that was killed do not keep its port
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port))
        return probe
    except OSError:
        probe.close()

default_server.config.try_bind_port = free
default_server.set_base_dir(sys.argv[1])
default_server.start()
print(default_server.listen_port, flush=True)
sys.stdin.read()
"""


def taken():
    """Whether somebody has the port that the server's etcd has, and no other."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 2380)) == 0


class Server:
    """A Milvus standalone server of the package ``milvus``, with its data in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.start()

    def start(self):
        """Start, or start again on the same data."""
        self.process = subprocess.Popen([sys.executable, "-c", SERVE, str(self.folder)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, start_new_session=True)
        port = self.process.stdout.readline().strip()
        assert port.isdigit(), "the Milvus server did not start"
        self.address = f"http://127.0.0.1:{port}"

    def kill(self):
        """Signal 9 to the server and its starter; both are gone then."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for _ in range(300):
            if not taken():
                break
            time.sleep(0.1)
        self.process.stdin.close()
        self.process.stdout.close()


def server():
    """The session's Server."""
    if not _servers:
        import tempfile
        if taken():
            pytest.skip("port 2380, which the Milvus server needs, is taken")
        _servers.append(Server(tempfile.mkdtemp(prefix="milvus-")))
    return _servers[0]


def stop_servers():
    for running in _servers:
        running.kill()
        shutil.rmtree(running.folder, ignore_errors=True)
    _servers.clear()


class Reference:
    """What an index must answer: items in a list, distances by comparing bits, a stable sort."""

    def __init__(self, codefile):
        self.bits, self.items = codefile.bits, []
        self.add(codefile)

    def add(self, codefile):
        self.remove(codefile.ids)
        signs = unpack(codefile.codes, self.bits) if len(codefile) else []
        labels = codefile.labels if codefile.labels is not None else [None] * len(codefile)
        self.items += list(zip(codefile.ids, signs, labels))

    def remove(self, ids):
        self.items = [item for item in self.items if item[0] not in set(ids)]

    def ranked(self, code, label=None, prefix=None):
        """(distance, id) of all items that a filter lets through, nearest first."""
        query = unpack(code[None], self.bits)[0]
        found = [(int((signs != query).sum()), name) for name, signs, labels in self.items
                 if (label is None or labels[label]) and name.startswith(prefix or "")]
        return sorted(found, key=lambda row: row[0])


def pairs(hits):
    """Hits as the Reference gives them."""
    return list(zip(hits.distance.tolist(), hits.ids))


def agree(index, reference, queries, k=7, radius=6, **where):
    """Whether an index answers as the reference, by k and by radius."""
    for found, code in zip(index.search(queries, k, Where(**where)), queries):
        assert pairs(found) == reference.ranked(code, **where)[:k]
    for found, code in zip(index.within(queries, radius, Where(**where)), queries):
        assert pairs(found) == [row for row in reference.ranked(code, **where) if row[0] <= radius]
