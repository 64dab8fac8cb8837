"""Search engines over codes, behind one interface (``base.Index``) and chosen by a URI; ``python -m deploy.index``.

``exact:FOLDER`` (or just ``FOLDER``), ``faiss:FOLDER``, ``milvus:FILE.db``, ``milvus:http://HOST:PORT[/COLLECTION]``.
What may enter: engines and what one asks of them. No network of a model but through deploy's engines.
"""
from deploy.index.base import Hits, Index, Where
from deploy.index.uri import build_index, open_index

__all__ = ["Hits", "Index", "Where", "build_index", "open_index"]
