"""Requests to Milvus: errors of one line, collections that are whole or not there, rows, positions, names."""
import base64
import dataclasses
import json
import logging
import os
import re
import time
import warnings

import numpy as np

from deploy.index.base import Unavailable
from utils.errors import InputError
from utils.plain_json import parse_json
from utils.retrieval.shard_set import CodesInfo

ROWS = 1000  # rows of one request
_BLOCK = 1 << 12  # rows that share a millisecond of the clock
_EPOCH_MS = 1577836800000  # 2020-01-01: 41 bits of milliseconds last until 2089
_LONGEST = 65535  # bytes of a name
_TIMEOUT = 120.0
LAST = "\U0010ffff"  # behind everything that a stored name holds


class Client:
    """A MilvusClient whose errors are of one line: InputError, or Unavailable once it was open."""

    def __init__(self, uri, address):
        try:
            from pymilvus import MilvusClient  # an optional package
        except ImportError:
            raise InputError("the engine milvus needs the packages pymilvus and milvus-lite: pip install -r "
                             "requirements-index.txt") from None
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
        self.uri, self.served, self._address = uri, address.startswith("http"), address
        logging.disable(logging.CRITICAL)  # milvus-lite writes to the root logger, and raises besides
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="pkg_resources")  # milvus-lite imports it, with a warning
                self._client = MilvusClient(uri=address, token=os.environ.get("MILVUS_TOKEN", ""), timeout=20)
        except Exception as error:
            hint = "is the server up, and the address right?" if self.served else \
                "another process has it open (milvus-lite serves one), or it is damaged"
            raise InputError(f"cannot open {uri}: {_line(error)}; {hint}") from error
        finally:
            logging.disable(logging.NOTSET)

    def __call__(self, name, *arguments, **settings):
        """A method of MilvusClient by its name; questions with consistency ``Strong``."""
        if name in ("search", "query"):
            settings["consistency_level"] = "Strong"
        try:
            return getattr(self._client, name)(*arguments, timeout=_TIMEOUT, **settings)
        except Exception as error:  # pymilvus and gRPC raise nearly anything
            raise Unavailable(f"{self.uri} could not {name.replace('_', ' ')}: {_line(error)}") from error

    def generations(self, name, whole=True):
        """Numbers of the collections of a name that were built to their end; or of those that were not."""
        there = set(self("list_collections"))
        numbers = [int(match[1]) for match in (re.fullmatch(re.escape(name) + r"_(\d+)", found) for found in there)
                   if match]
        return [number for number in numbers if (f"{name}_{number}_info" in there) == whole]

    def make(self, name, info):
        """An empty collection."""
        from pymilvus import DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False,
                                            description=json.dumps(dataclasses.asdict(info), allow_nan=False))
        schema.add_field("position", DataType.INT64, is_primary=True)
        schema.add_field("name", DataType.VARCHAR, max_length=_LONGEST)
        schema.add_field("code", DataType.BINARY_VECTOR, dim=8 * -(-info.bits // 8))
        schema.add_field("labels", DataType.ARRAY, element_type=DataType.INT32, max_capacity=4096)
        if info.relaxed:
            schema.add_field("relaxed", DataType.VARCHAR, max_length=_LONGEST)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        self("create_collection", name, schema=schema, index_params=index, consistency_level="Strong")

    def close(self):
        """End the connection, and the process behind a file: no other one could open it."""
        self._client.close()
        if not self.served:
            from milvus_lite.server_manager import server_manager_instance
            server_manager_instance.release_server(self._address)


def parse_address(place):
    """(address, name of the collection) of what stands behind ``milvus:``."""
    if place.startswith(("http://", "https://")):
        scheme, _, rest = place.partition("://")
        host, _, name = rest.strip("/").partition("/")
        name = name or "codes"
        if not host or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,200}", name):
            raise InputError(f"milvus:{place} is no address: write milvus:http://HOST:PORT/COLLECTION, the collection "
                             "in letters, digits and _")
        return f"{scheme}://{host}", name
    if not place.endswith(".db"):
        raise InputError(f"milvus:{place} is neither FILE.db (milvus-lite) nor http://HOST:PORT[/COLLECTION]")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,36}", os.path.basename(place)):
        raise InputError(f"milvus:{place}: milvus-lite wants a file name of at most 36 letters, digits, dots, - and _")
    return place, "codes"


def read_info(client, name, uri):
    """CodesInfo of a collection, from its description."""
    try:
        return CodesInfo(**parse_json(client("describe_collection", name)["description"]))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the collection {name} of {uri} was not made by this program: choose another") from error


def fill(client, name, batches):
    """All rows of a new collection."""
    seen, clock = set(), Clock()
    for codefile in batches:
        twice = [item for item in codefile.ids if item in seen or seen.add(item)]
        if twice:
            raise InputError(f"the id {twice[0]!r} stands more than once in what the index is to be built of: leave "
                             "one out")
        insert(client, name, clock.positions(len(codefile)), codefile)
    client("flush", name)


def insert(client, name, positions, codefile):
    """Rows of a CodeFile; ``positions`` are theirs."""
    names = [stored(item) for item in codefile.ids]
    long = [item for item, text in zip(codefile.ids, names) if len(text.encode("utf-8")) > _LONGEST]
    if long:
        raise InputError(f"the id {long[0][:40]!r}... is longer than the {_LONGEST} bytes that Milvus keeps")
    rows = [{"position": position, "name": text, "code": code.tobytes(), "labels": []}
            for position, text, code in zip(positions, names, codefile.codes)]
    for i, row in enumerate(rows):
        if codefile.labels is not None:
            row["labels"] = np.flatnonzero(codefile.labels[i]).tolist()
        if codefile.relaxed is not None:
            row["relaxed"] = base64.b64encode(codefile.relaxed[i].tobytes()).decode("ascii")
    for start in range(0, len(rows), ROWS):
        # a request that is sent again after the connection broke must not put the rows there twice
        client("upsert", name, rows[start:start + ROWS])


class Clock:
    """Positions that grow: 41 bits of milliseconds, 10 of chance (two writers in one millisecond), 12 of the row."""

    def __init__(self):
        self._last, self._chance = 0, int.from_bytes(os.urandom(2), "little") & 1023

    def positions(self, count):
        """The next ``count`` positions."""
        found = []
        while len(found) < count:
            self._last = max(self._last + 1, time.time_ns() // 1_000_000 - _EPOCH_MS)
            base = (self._last << 22) | (self._chance << 12)
            found += range(base, base + min(_BLOCK, count - len(found)))
        return found


# Names stand in filter expressions and in messages of gRPC, which neither take everything.
_SPECIAL = re.compile("[\\x00-\\x1f\\x7f\"'\\\\%\ud800-\udfff" + LAST + "]")


def stored(name):
    """An id as Milvus keeps it: what would need quoting, and what is no Unicode, in %XX of its bytes."""
    def escape(match):
        return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
    return _SPECIAL.sub(escape, name)


def shown(text):
    """An id from what ``stored`` made of it."""
    return re.sub("(?:%[0-9A-F]{2})+", lambda match: bytes.fromhex(match[0].replace("%", "")).decode(
        "utf-8", "surrogatepass"), text)


def _line(error):
    """One short line of an exception."""
    text = getattr(error, "message", None) or getattr(error, "details", lambda: None)() or str(error)
    return " ".join(str(text).split())[:200] or type(error).__name__
