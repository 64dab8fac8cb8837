"""What stands before the service: who may ask, how much, how long. Every refusal is one line of JSON.

A page of another site that a browser shows on the same machine is refused by its Origin, and by the name that it asked
for (Host): a service on the loopback address is not open to the web because a browser is.
"""
import asyncio
import contextlib
import hmac
import ipaddress
import json
import time
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect

from utils.errors import InputError, printable

LOCAL = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/health", "/ready")  # needs no token; nor does the page, which holds no data
DRAIN = 2.0  # seconds that the rest of a refused upload is read, so that its sender sees why
HEADERS = {
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
                               "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'"}


class Refused(Exception):
    """A request that is answered with a status and one line.

    Attributes:
        status; line; close: whether the connection ends with the answer.
    """

    def __init__(self, status, line, close=False):
        super().__init__(line)
        self.status, self.line, self.close = status, line, close

    @property
    def headers(self):
        """More headers of the answer."""
        return {**({"retry-after": "1"} if self.status in (429, 503) else {}),
                **({"www-authenticate": "Bearer"} if self.status == 401 else {}),
                **({"connection": "close"} if self.close else {})}


def to_json(value):
    """JSON as bytes, in UTF-8; bytes of file names that are no Unicode become escapes of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8",
                                                                                             "backslashreplace")


def is_loopback(host):
    """Whether nothing but this machine reaches an address."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


class Guard:
    """The outermost layer of the service (ASGI)."""

    def __init__(self, app, token=None, hosts=None, most=256, report=lambda route, status, seconds: None):
        """
        Args:
            app: what it stands before.
            token: that requests must bear, or None.
            hosts: names by which the service may be asked, None for any.
            most: requests at once.
            report: callable (name of the endpoint, status, seconds) of every request.
        """
        self.app, self._token, self._hosts, self._most, self._report = app, token, hosts, most, report
        self.running = 0  # requests that are under way

    async def __call__(self, scope, receive, send):
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def answer(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value
                                                             in HEADERS.items() if name.encode() not in given)]
            await send(message)

        self.running += 1
        try:
            self._check(scope)
            await self.app(scope, receive, answer)
        except Refused as refusal:
            await refuse(refusal, answer)
        finally:
            self.running -= 1
            endpoint = scope.get("endpoint")  # of the route that was taken, if any
            self._report(getattr(endpoint, "__name__", ""), status, time.perf_counter() - start)

    def _check(self, scope):
        """Raise Refused for what is not to be served."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._hosts is not None and _host_of(headers.get("host", "")) not in self._hosts:
            raise Refused(421, f"this service is not called {_host_of(headers.get('host', ''))!r}: ask for one of "
                               f"{', '.join(self._hosts)}, or start it with --host-names")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            raise Refused(403, f"pages of {origin} may not ask this service")
        if self._token is not None and scope["path"] not in OPEN and scope["path"].startswith(("/v1", "/metrics",
                                                                                              "/openapi")):
            given = headers.get("authorization", "")
            if not hmac.compare_digest(given.encode("latin-1"), f"Bearer {self._token}".encode()):
                raise Refused(401, "this service wants its token: Authorization: Bearer TOKEN")
        if self.running > self._most and scope["path"] not in OPEN:
            raise Refused(503, f"{self._most} requests are under way, as many as may be: try again in a moment")


def _host_of(text):
    """The name in a Host header, without its port."""
    name, colon, port = text.rpartition(":")
    return name if colon and port.isdigit() else text


async def refuse(refusal, send):
    """Answer with the status and line of a Refused."""
    body = to_json({"error": printable(refusal.line)})
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    await send({"type": "http.response.start", "status": refusal.status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()]})
    await send({"type": "http.response.body", "body": body})


class Uploads:
    """Reads bodies: none too large, none too slow, not too many at once."""

    def __init__(self, most, seconds):
        """
        Args:
            most: bytes of a body; 16 times as many may be held by all requests together.
            seconds: that a body may take.
        """
        self.most, self._seconds, self._held = most, seconds, 0

    @contextlib.asynccontextmanager
    async def read(self, request, most=None):
        """The body of a request as bytes; it counts as held until the block ends.

        Args:
            request: of Starlette. most: bytes, where less is allowed than by default.

        Raises:
            Refused: too large, too slow, or too much is held already.
            ClientDisconnect: the client is gone.
        """
        most, stream, body = most or self.most, request.stream(), bytearray()
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            if "expect" not in request.headers:  # else nothing was sent yet
                await _drain(stream)
            raise _too_large(most)
        try:
            try:
                await asyncio.wait_for(self._collect(stream, body, most), self._seconds)
            except asyncio.TimeoutError:
                raise Refused(408, f"the body did not arrive within {self._seconds:g} seconds", close=True) from None
            yield bytes(body)
        finally:
            self._held -= len(body)

    async def _collect(self, stream, body, most):
        async for piece in stream:
            if len(body) + len(piece) > most:
                await _drain(stream)
                raise _too_large(most)
            if self._held + len(piece) > 16 * self.most:
                raise Refused(503, "too many uploads at once: try again in a moment", close=True)
            self._held += len(piece)
            body += piece


async def _drain(stream):
    """Read what still comes, for a while."""
    async def read():
        async for _ in stream:
            pass
    with contextlib.suppress(asyncio.TimeoutError, ClientDisconnect):
        await asyncio.wait_for(read(), DRAIN)


def _too_large(most):
    return Refused(413, f"the body is larger than {most} bytes: send a smaller one", close=True)


def read_token(path):
    """The token in a file, without blanks around it; None for None.

    Raises:
        InputError: no such file, or nothing that can stand in a header in it.
    """
    if path is None:
        return None
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the token of {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise InputError(f"{path} holds no token: at least 16 letters and digits in one line, as of "
                         "`openssl rand -hex 16`")
    return token
