"""The application: routes, faults as one line of JSON, the page, and the Guard in front of all of it."""
import contextlib
import json
import os
import signal
import sys
import threading
import types
from multiprocessing import connection, parent_process

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from deploy.index.base import Unavailable
from deploy.service.batching import Busy
from deploy.service.guard import LOCAL, Guard, Refused, is_loopback, read_token
from deploy.service.metrics import ROUTES
from deploy.service.routes import VERSION, Json, api, describe, router
from deploy.service.searcher import Conflict, Unknown
from deploy.service.service import Service
from utils.errors import InputError, printable

OPTIONS = "DEEPHASH_SERVICE"  # environment variable: the options of the command, for the processes that it starts
FAILED = "failed"  # file beside the counters: a process could not start
PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
         ".js": "text/javascript; charset=utf-8", ".webmanifest": "application/manifest+json"}
STATUS = ((Unknown, 404), (Conflict, 409), (Unavailable, 503), (Busy, 503), (InputError, 400))


def create(options):
    """The application of one process.

    Args:
        options: attributes as ``deploy.service.__main__.FLAGS``.

    Raises:
        InputError: token, model or index cannot be read or do not fit.
    """
    token, service = read_token(options.token_file), Service(options)

    @contextlib.asynccontextmanager
    async def lifespan(_):
        yield
        service.close()

    app = FastAPI(title="PaddleDeepHash search", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
                  description="Pictures and words to the nearest items of an index of binary codes.")
    app.state.service = service
    app.include_router(api)
    app.include_router(router)
    _add_page(app)
    _add_faults(app)

    def report(name, status, seconds):
        route = name if name in ROUTES else "other"
        service.metrics.add("deephash_requests_total", 1, route, f"{status // 100}xx")
        service.metrics.observe("deephash_request_seconds", seconds, route)

    app.add_middleware(Guard, token=token, hosts=_hosts(options), most=options.max_requests, report=report)
    return app


def create_worker():
    """The application of one of several processes, with the options that the command has left in the environment."""
    parent = parent_process()

    def follow():  # a process whose parent was killed serves nobody
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="follow", daemon=True).start()
    options = types.SimpleNamespace(**json.loads(os.environ[OPTIONS]))
    try:
        return create(options)
    except InputError as error:  # the others meet the same: the first one says it, and the command ends
        with contextlib.suppress(FileExistsError), open(os.path.join(options.metrics_dir, FAILED), "x"):
            print(f"error: {error}", file=sys.stderr, flush=True)
        os.kill(parent.pid, signal.SIGTERM)
        raise SystemExit(2) from None


def _hosts(options):
    """Names by which the service may be asked; None for any."""
    if options.host_names:
        return [name.strip() for name in options.host_names.split(",")]
    return LOCAL if is_loopback(options.host) else None


def _add_faults(app):
    """Every fault as a status and one line."""
    @app.exception_handler(Refused)
    async def refused(_, error):
        return Json({"error": printable(error.line)}, error.status, error.headers)

    @app.exception_handler(InputError)
    async def mistake(_, error):
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        return Json({"error": str(error)}, status, {"retry-after": "1"} if status == 503 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_, error):
        return Json({"error": printable(describe(error.errors()[0]))}, 422)

    @app.exception_handler(HTTPException)
    async def other(request, error):
        return Json({"error": printable(f"{request.method} {request.url.path}: {error.detail}")}, error.status_code,
                    error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(*_):
        return Response(status_code=400)  # nobody reads it

    @app.exception_handler(Exception)
    async def ours(*_):
        return Json({"error": "a fault of the service, which its log shows"}, 500)


def _add_page(app):
    """The files of the page; they are read once."""
    for name in sorted(os.listdir(PAGE)):
        with open(os.path.join(PAGE, name), "rb") as file:
            data = file.read()
        path = "/" if name == "index.html" else f"/{name}"
        app.add_api_route(path, _sender(data, TYPES[os.path.splitext(name)[1]]), include_in_schema=False)


def _sender(data, kind):
    async def page():
        return Response(data, headers={"content-type": kind, "cache-control": "no-cache"})
    return page
