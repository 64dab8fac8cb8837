"""Ask a search service: a class for programs, and a command. Needs Python's standard library alone.

    python -m deploy.service.client search cat.jpg --k 5
    python -m deploy.service.client text "a red heart" --server http://127.0.0.1:8765
    python -m deploy.service.client like images/1.jpg
    python -m deploy.service.client add photos/*.jpg --folder trip --label cat
    python -m deploy.service.client remove trip/1.jpg
    python -m deploy.service.client list --prefix trip/
    python -m deploy.service.client info

Each command prints the service's answer as JSON. DEEPHASH_TOKEN holds the token of a service that wants one.
"""
import http.client
import json
import os
import sys
from urllib.parse import urlencode, urlsplit

from utils.errors import InputError, run_main
from utils.flags import read_options
from utils.plain_json import parse_json
from utils.settings import Setting

SERVER = "http://127.0.0.1:8765"
RESENT = ("GET", "DELETE")  # may be sent again when a connection that was kept open turns out to be gone


class ServiceError(InputError):
    """What the service refused, or that it does not answer.

    Attributes:
        status: of HTTP; None where nothing answers.
    """

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status


class Client:
    """A connection to a service, for one thread at a time.

    Example:
        with Client() as client:
            client.add("cat.jpg", "pets/cat.jpg", labels=["cat"])
            for match in client.search("query.jpg", k=5)["matches"]:
                print(match["distance"], match["id"])
    """

    def __init__(self, server=SERVER, token=None, timeout=60.0):
        """
        Args:
            server: address. token: the service's, or None. timeout: seconds to wait for an answer.

        Raises:
            InputError: no address of a server.
        """
        parts = urlsplit(server)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise InputError(f"{server} is no address of a service: write http://HOST:PORT")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.server, self._path = server, parts.path.rstrip("/")
        self._connection = kind(parts.hostname, port, timeout=timeout)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Let go of the connection."""
        self._connection.close()

    # questions ------------------------------------------------------------------------------
    def search(self, picture, **terms):
        """Nearest items of a picture.

        Args:
            picture: its path, or the bytes of its file.
            terms: ``k``, ``radius``, ``label``, ``prefix``, ``rank``, ``first``, ``collapse`` of the service.

        Returns:
            dict as ``deploy.service.schemas.Answer``.

        Raises:
            ServiceError: the service refuses or does not answer. InputError: the file cannot be read.
        """
        return self._ask("POST", "/v1/search/picture", terms, _bytes(picture))

    def text(self, words, **terms):
        """Nearest items of words; else as ``search``."""
        return self._ask("POST", "/v1/search/text", terms, json.dumps({"text": words}).encode())

    def like(self, name, **terms):
        """Items nearest to the one with this id; else as ``search``."""
        return self._ask("POST", "/v1/search/item", terms, json.dumps({"id": name}).encode())

    def items(self, count=20, after=-1, label=None, prefix=None):
        """A page of items, as ``deploy.service.schemas.Page``; ``after`` of a page is where the next one begins."""
        return self._ask("GET", "/v1/items", {"count": count, "after": after, "label": label, "prefix": prefix})

    def info(self):
        """What the service is, as ``deploy.service.schemas.Info``."""
        return self._ask("GET", "/v1/info", {})

    def thumbnail(self, name, side=256):
        """JPEG bytes of an item's picture."""
        return self._ask("GET", "/v1/thumbnail", {"id": name, "side": side})

    # changes --------------------------------------------------------------------------------
    def add(self, picture, name, labels=(), replace=False):
        """Add a picture; when the call returns it is on the service's disk.

        Args:
            picture: its path, or the bytes of its file. name: its id. labels: names of its labels.
            replace: in the place of the item with this id; else that is refused with status 409.
        """
        terms = [("id", name), *(("label", label) for label in labels), ("replace", str(bool(replace)).lower())]
        return self._ask("POST", "/v1/items", terms, _bytes(picture))

    def remove(self, names):
        """Remove items; none of them goes where one is not there (status 404)."""
        return self._ask("DELETE", "/v1/items", [("id", name) for name in names])

    # the wire -------------------------------------------------------------------------------
    def _ask(self, method, path, terms, body=None):
        pairs = terms.items() if isinstance(terms, dict) else terms
        query = urlencode([(key, value) for key, value in pairs if value is not None], errors="surrogatepass")
        target = self._path + path + (f"?{query}" if query else "")
        fresh = self._connection.sock is None
        try:
            status, kind, data = self._send(method, target, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if fresh or method not in RESENT:
                raise ServiceError(f"{self.server} does not answer ({error or type(error).__name__}): is the service "
                                   "running?") from error
            return self._ask(method, path, terms, body)
        if kind != "application/json" and status < 400:
            return data
        try:
            answer = parse_json(data)
        except ValueError:
            answer = None
        if status >= 400 or answer is None:
            said = answer.get("error") if isinstance(answer, dict) else None
            raise ServiceError(f"{self.server}: {said or f'status {status}, and no reason that this client knows'}",
                               status)
        return answer

    def _send(self, method, target, body):
        headers = {**self._headers, **({"Content-Type": "application/octet-stream"} if body is not None else {})}
        try:
            self._connection.request(method, target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if self._connection.sock is None:
                raise  # refused before all of it was sent: the answer may be there already
        answer = self._connection.getresponse()
        return answer.status, answer.headers.get_content_type(), answer.read()


def _bytes(picture):
    if isinstance(picture, (bytes, bytearray)):
        return bytes(picture)
    try:
        with open(picture, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"cannot read {picture}: {error.strerror or error}") from error


# the command --------------------------------------------------------------------------------
FLAGS = {
    "server": Setting(SERVER, "address of the service"),
    "token_file": Setting(None, "file with its token; default: DEEPHASH_TOKEN", shown="FILE"),
    "timeout": Setting(60.0, "seconds to wait for an answer", above=0),
}
TERMS = {
    "k": Setting(10, "places of the answer", low=1, also=("topk",)),
    "radius": Setting(None, "leave out what is farther away", kind=int, low=0),
    "label": Setting(None, "items with this label", shown="NAME", free=True),
    "prefix": Setting(None, "items whose id begins so", shown="TEXT", free=True),
    "rank": Setting(None, "order of the first ones: hamming, asymmetric, relaxed", shown="NAME"),
    "collapse": Setting(None, "near-duplicates within this distance share a place", kind=int, low=0),
}
ADD = {
    "folder": Setting("", "folder in front of the names", shown="TEXT", free=True),
    "label": Setting(None, "their labels, with commas", shown="NAMES", free=True),
    "replace": Setting(False, "in the place of items with the same ids"),
}
LIST = {"count": Setting(20, "items a page", low=1), "after": Setting(-1, "as the page before says", low=-1),
        "label": TERMS["label"], "prefix": TERMS["prefix"]}


def _terms(options):
    return {name: getattr(options, name) for name in TERMS}


def _search(client, words, options):
    return client.search(_one(words, "picture"), **_terms(options))


def _text(client, words, options):
    return client.text(_one(words, "text in quotes"), **_terms(options))


def _like(client, words, options):
    return client.like(_one(words, "id"), **_terms(options))


def _add(client, words, options):
    if not words:
        raise InputError("add which pictures? name their files")
    labels = options.label.split(",") if options.label else []
    front = options.folder.strip("/")
    names = ["/".join(filter(None, [front, os.path.basename(path)])) for path in words]
    return {"added": [client.add(path, name, labels, options.replace) for path, name in zip(words, names)]}


def _remove(client, words, options):
    if not words:
        raise InputError("remove which items? name their ids")
    return client.remove(words)


def _list(client, words, options):
    return client.items(options.count, options.after, options.label, options.prefix)


def _one(words, what):
    if len(words) != 1:
        raise InputError(f"ask with one {what}, got {len(words)}")
    return words[0]


COMMANDS = {"search": (_search, "FILE", TERMS), "text": (_text, "WORDS", TERMS), "like": (_like, "ID", TERMS),
            "add": (_add, "FILE ...", ADD), "remove": (_remove, "ID ...", {}), "list": (_list, "", LIST),
            "info": (lambda client, words, options: client.info(), "", {})}


def main(argv):
    """The command line without the program's name."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    name, *words = argv
    if name not in COMMANDS:
        raise InputError(f"no command {name!r}: it is one of {', '.join(COMMANDS)}")
    function, behind, settings = COMMANDS[name]
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    options = read_options(words[count:], f"-m deploy.service.client {name} {behind}".strip(), "Ask a search service.",
                           {**settings, **FLAGS})
    token = os.environ.get("DEEPHASH_TOKEN")
    if options.token_file is not None:
        token = _bytes(options.token_file).decode("ascii", "replace").strip()
    with Client(options.server, token, options.timeout) as client:
        print(json.dumps(function(client, words[:count], options), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    run_main(main)
