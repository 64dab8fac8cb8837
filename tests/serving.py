"""A search service as a process of its own, on a small index of the shapes set, for the tests of the service."""
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlencode

import numpy as np
import pytest

from deploy.engines import open_model
from deploy.index import build_index
from tests.conftest import ROOT
from tests.exported import exported, pictures
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack
from utils.retrieval.shard_set import CodesInfo


def small_index(tmp_path_factory, shapes, folder, name="hashnet", engine="exact", count=40, uri=None):
    """(model folder, URI of a new index of pictures of the shapes set, their paths)."""
    model = exported(tmp_path_factory, shapes, name)
    part, images = pictures(shapes, count, "database")
    encoder = open_model(str(model))
    relaxed = encoder.encode(images)
    meta = {"classes": encoder.manifest["dataset"]["classes"], "root": part.images.root}
    codes = CodeFile(pack(relaxed), encoder.bits, part.ids[:count], part.labels[:count].astype(np.uint8),
                     encoder.fingerprint, meta, relaxed.astype(np.float16))
    uri = uri or f"{engine}:{folder / 'index'}"
    build_index(uri, (CodesInfo.of(codes), [codes])).close()
    return model, uri, [part.images.path(i) for i in range(count)]


class Served:
    """A service that runs; ``with`` ends it."""

    def __init__(self, model, uri, *flags, env=None):
        for package in ("fastapi", "uvicorn"):
            pytest.importorskip(package, reason="the service needs fastapi and uvicorn: requirements-service.txt")
        words = [sys.executable, "-m", "deploy.service", "--model-dir", model, "--index", uri, "--port", 0, *flags]
        self.process = subprocess.Popen(list(map(str, words)), cwd=ROOT, text=True, stderr=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, start_new_session=True,
                                        env={**os.environ, "GLOG_v": "0", **(env or {})})
        self.log, self.address, found = [], None, threading.Event()

        def follow():
            for line in self.process.stderr:
                self.log.append(line)
                said = re.search(r"running on http://([\d.]+:\d+)", line)
                if said:
                    self.address = said[1]
                    found.set()
            found.set()
        self._reader = threading.Thread(target=follow, daemon=True)
        self._reader.start()
        found.wait(300)
        self.url = f"http://{self.address}"
        if not self.address or not self._becomes_ready():
            self.kill()
            raise AssertionError("never ready: " + "".join(self.log))

    def _becomes_ready(self):
        """Whether it answers; the port of several processes is open before they are."""
        for _ in range(600):
            try:
                if self.ask("GET", "/ready")[0] == 200:
                    return True
            except OSError:
                pass
            time.sleep(0.1)
        return False

    def ask(self, method, path, body=None, headers=None, timeout=60, **query):
        """(status, JSON or bytes of the answer) of one request."""
        connection = http.client.HTTPConnection(self.address, timeout=timeout)
        try:
            text = urlencode(query, doseq=True)
            connection.request(method, path + (f"?{text}" if text else ""), body, headers or {})
            answer = connection.getresponse()
            data = answer.read()
            self.headers = dict(answer.headers)
            if answer.headers.get_content_type() == "application/json":
                data = json.loads(data)
            return answer.status, data
        finally:
            connection.close()

    def fault(self, status, *arguments, **more):
        """The one line with which a request is refused."""
        found, answer = self.ask(*arguments, **more)
        assert found == status and list(answer) == ["error"] and "\n" not in answer["error"], (found, answer)
        assert "Traceback" not in "".join(self.log)
        return answer["error"]

    def kill(self):
        """Signal 9, to all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """End as a supervisor would; returns the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(60)
        self._reader.join(10)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.stop()
