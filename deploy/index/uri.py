"""From a URI to an index: the one place that knows which engines there are."""
import os

from deploy.index.exact_index import ExactIndex
from deploy.index.faiss_index import FaissIndex
from deploy.index.milvus_index import MilvusIndex
from deploy.index.store import Store
from utils.errors import InputError
from utils.retrieval.codes import CodeFile
from utils.retrieval.shard_set import CodesInfo

ENGINES = ("exact", "faiss", "milvus")


def split_uri(uri):
    """``engine:place`` -> (engine, place); a bare path is ``exact``.

    Raises:
        InputError: an engine that is not there, or no place.
    """
    engine, colon, place = str(uri).partition(":")
    if not colon or (len(engine) == 1 and place[:1] in "\\/") or (engine not in ENGINES and os.path.exists(uri)):
        engine, place = "exact", str(uri)  # a path, on Windows with its drive
    if engine not in ENGINES:
        raise InputError(f"no engine {engine!r} in {uri}: it is one of {', '.join(ENGINES)} (engine:PLACE)")
    if not place:
        raise InputError(f"{uri} names no place: write {engine}:{'FILE.db' if engine == 'milvus' else 'FOLDER'}")
    return engine, place


def on_server(uri):
    """Whether the index of a URI is on a server, not in files of this machine."""
    engine, place = split_uri(uri)
    return engine == "milvus" and place.startswith(("http://", "https://"))


def open_index(uri, fingerprint=None):
    """The index at a URI.

    Args:
        uri: ``exact:FOLDER``, ``faiss:FOLDER``, ``milvus:FILE.db`` or ``milvus:http://HOST:PORT[/COLLECTION]``.
        fingerprint: of the model that will search it; None accepts any.

    Returns:
        deploy.index.base.Index.

    Raises:
        InputError: none there, damaged, of another model, or the engine's package is not installed.
    """
    engine, place = split_uri(uri)
    if engine == "exact":
        return ExactIndex(uri, Store(place, fingerprint))
    if engine == "faiss":
        return FaissIndex(uri, Store(place, fingerprint))
    return MilvusIndex(uri, place, fingerprint)


def build_index(uri, source, overwrite=False, lists=None, probes=32):
    """A new index, all of it or nothing.

    Args:
        uri: as for ``open_index``. source: what ``open_codes`` gives. overwrite: in place of what is there.
        lists, probes: of Faiss' inverted file; None for exact search, 0 for a number that fits the collection.

    Returns:
        the Index, opened.

    Raises:
        InputError: there is one already, an id stands twice, or it cannot be written.
    """
    engine, place = split_uri(uri)
    if lists is not None and engine != "faiss":
        raise InputError(f"approximate search by lists is Faiss': build faiss:{place}, not {uri}")
    info, batches = source
    if engine == "exact":
        return ExactIndex(uri, Store.build(place, info, batches, overwrite))
    if engine == "milvus":
        return MilvusIndex.build(uri, place, info, batches, overwrite)
    index = FaissIndex(uri, Store.build(place, info, batches, overwrite))
    if lists is not None:
        index.build_lists(lists, probes)
    return index


def open_codes(path):
    """Codes to build an index of: a code file (.npz), a folder of shards, or another index by its URI.

    Returns:
        (CodesInfo, iterable of CodeFile).

    Raises:
        InputError: none of these, or damaged.
    """
    if os.path.isfile(path):
        codefile = CodeFile.load(path)
        return CodesInfo.of(codefile), [codefile]
    index = open_index(path)
    return index.info, (batch for _, batch in index.batches())
