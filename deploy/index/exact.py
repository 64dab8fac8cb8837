"""Exact search: every code is compared with every query."""
import numpy as np

from utils.errors import InputError
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import topk


class ExactIndex:
    """Exact Hamming search over a code file.

    The result is the true one: distance ascending, ties in database order. Memory: ceil(bits / 8)
    bytes an item (64 bits: 8 MB a million items) beside ids and labels, and k results a query. Cost:
    one XOR and popcount per item and 8 bytes of code, O(queries x items), no training, no build time.

    Other engines offer the same ``add``, ``search``, ``save`` and ``load``.
    """

    def __init__(self, codefile):
        """
        Args:
            codefile: utils.retrieval.codes.CodeFile; its rows give the positions that ``search`` returns.
        """
        self.codefile = codefile

    def __len__(self):
        return len(self.codefile.ids)

    def add(self, codefile):
        """Append the items of another code file of the same model.

        Raises:
            InputError: the codes come from other weights, have another length, or only one side has labels.
        """
        own = self.codefile
        if (own.bits, own.fingerprint) != (codefile.bits, codefile.fingerprint):
            raise InputError(f"cannot add {codefile.bits}-bit codes of model {codefile.fingerprint} to an index of "
                             f"{own.bits}-bit codes of model {own.fingerprint}; encode the items with the same model")
        if (own.labels is None) != (codefile.labels is None):
            raise InputError("cannot add items with labels to an index without labels, or the other way round")
        labels = None if own.labels is None else np.concatenate([own.labels, codefile.labels])
        self.codefile = CodeFile(codes=np.concatenate([own.codes, codefile.codes]), bits=own.bits,
                                 ids=[*own.ids, *codefile.ids], labels=labels,
                                 fingerprint=own.fingerprint, meta=own.meta)

    def search(self, query, k):
        """The k nearest items of each query.

        Args:
            query: packed codes uint8 [Q, ceil(bits / 8)].
            k: neighbours a query; at most the number of items is returned.

        Returns:
            (distance int32 [Q, k], position int64 [Q, k]), distance ascending, ties by position.

        Raises:
            InputError: k below 1, or queries of another length.
        """
        query = np.ascontiguousarray(query, dtype="uint8")
        width = self.codefile.codes.shape[1]
        if query.ndim != 2 or query.shape[1] != width:
            raise InputError(f"query codes have shape {list(query.shape)}, this index needs [n, {width}] bytes "
                             f"({self.codefile.bits} bits); encode the query with the model of the index")
        if k < 1:
            raise InputError(f"k = {k}: ask for at least one neighbour")
        return topk(query, self.codefile.codes, min(k, len(self)))

    def save(self, path):
        """Write the items as a code file."""
        self.codefile.save(path)

    @classmethod
    def load(cls, path, fingerprint=None):
        """Read a code file; with ``fingerprint``, refuse one of another model (InputError)."""
        return cls(CodeFile.load(path, fingerprint=fingerprint))
