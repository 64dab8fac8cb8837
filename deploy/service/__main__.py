"""Serve an index over HTTP, with a page to search on: ``python -m deploy.service --model-dir DIR --index URI``.

    python -m deploy.service --model-dir output/model --index exact:output/photos
    curl --data-binary @cat.jpg "http://127.0.0.1:8765/v1/search/picture?k=5"

The service listens on this machine alone unless --host says otherwise; give it a token then (--token-file).
"""
import json
import os
import signal
import sys
import tempfile

from deploy import engine_flags, ranking
from utils.cpu import share_cores
from utils.errors import InputError, run_main, say
from utils.flags import quiet, read_options
from utils.settings import Setting

FLAGS = {
    "model_dir": Setting(None, "folder that export_model.py wrote", shown="DIR"),
    "index": Setting(None, "exact:FOLDER, faiss:FOLDER, milvus:FILE.db or milvus:http://HOST:PORT (python -m "
                     "deploy.index build)", shown="URI"),
    "host": Setting("127.0.0.1", "address to listen on; 0.0.0.0 for every one of this machine"),
    "port": Setting(8765, "port to listen on; 0 for a free one", low=0, high=65535),
    "processes": Setting(1, "processes that share the port and the mapped index", low=1),
    "data_path": Setting(None, "folder where the ids are paths of pictures; default: the one that the index knows",
                         shown="DIR"),
    "data_dir": Setting(None, "folder for the pictures that are added; default: beside the index", shown="DIR"),
    "read_only": Setting(False, "nothing can be added or removed"),
    **ranking.FLAGS,
    "token_file": Setting(None, "file with the token that requests must bear", shown="FILE"),
    "host_names": Setting(None, "names by which the service may be asked, with commas; default: on this machine "
                          "alone localhost, else any", shown="NAMES"),
    "batch_size": Setting(32, "most queries that are encoded together", low=1),
    "wait_ms": Setting(20.0, "milliseconds to wait at most for queries that are on their way", low=0),
    "workers": Setting(None, "decoding threads; default: the cores", kind=int, low=1),
    "max_upload": Setting(20_000_000, "bytes of a picture", low=1),
    "max_pixels": Setting(None, "pixels of a picture; default: DEEPHASH_MAX_IMAGE_PIXELS, else 50 million", kind=int,
                          low=1),
    "max_requests": Setting(256, "requests at once", low=1),
    "body_seconds": Setting(30.0, "seconds that an upload may take", above=0),
    "answer_seconds": Setting(30.0, "seconds that each step of an answer may take", above=0),
    "access_log": Setting(False, "one line a request"),
    "use_gpu": Setting(False, "run the model on the GPU"),
    "threads": Setting(None, "math threads on the CPU; default all cores", kind=int, low=1),
    **engine_flags.FLAGS,
    "bit": Setting(None, "refuse a model of another code length", kind=int, low=1),
}
GRACE = 30  # seconds that requests have to end when the service does
SILENCE = 60  # seconds that a process may be silent before it is replaced: one that starts on a busy machine is


def main(argv):
    """The command line without the program's name."""
    quiet()
    share_cores()
    options = read_options(argv, "-m deploy.service", "Serve an index over HTTP, with a page to search on.", FLAGS)
    for name in ("model_dir", "index"):
        if getattr(options, name) is None:
            raise InputError(f"give --{name.replace('_', '-')}; --help says more")
    try:
        import uvicorn
    except ImportError:
        raise InputError("the service needs fastapi and uvicorn: sh scripts/setup.sh --service, or pip install -r "
                         "requirements-service.txt") from None
    from deploy.index.uri import on_server, split_uri
    from deploy.service.guard import is_loopback, read_token
    from deploy.service.service import set_limits
    set_limits(options)
    if read_token(options.token_file) is None and not is_loopback(options.host):
        say(f"note: whoever reaches {options.host} may search, add and remove: give --token-file, or --read-only")
    if options.processes > 1 and split_uri(options.index)[0] == "milvus" and not on_server(options.index):
        raise InputError(f"{options.index} is a file that one process opens: --processes 1, or a Milvus server")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn sends itself the signal again when all is done
    with tempfile.TemporaryDirectory(prefix="deephash-") as folder:
        options.metrics_dir = folder
        serve(uvicorn, options)


def serve(uvicorn, options):
    """Run the service until it is told to end."""
    from deploy.service.app import FAILED, OPTIONS, create
    from deploy.service.connections import PatientH11
    settings = {"host": options.host, "port": options.port, "http": PatientH11, "ws": "none", "lifespan": "on",
                "workers": options.processes, "access_log": options.access_log, "server_header": False,
                "timeout_graceful_shutdown": GRACE, "timeout_worker_healthcheck": SILENCE, "backlog": 2048,
                "log_level": "info"}
    if options.processes == 1:
        uvicorn.run(create(options), **settings)
        return
    os.environ[OPTIONS] = json.dumps(vars(options))
    uvicorn.run("deploy.service.app:create_worker", factory=True, **settings)
    if os.path.exists(os.path.join(options.metrics_dir, FAILED)):
        sys.exit(2)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    run_main(main)
