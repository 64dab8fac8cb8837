"""How a command ranks what it finds: its flags, and the ranking. Hamming order, or its first places refined."""
from typing import Any, NamedTuple, Optional

from utils.errors import InputError
from utils.settings import Setting

# Retrieval kernels are imported inside: flags are read before, and --help is answered at once.

FLAGS = {
    "rank": Setting("symmetric", "order of the matches: symmetric, by Hamming distance; asymmetric, its first ones "
                    "again by the product of the query's code before the sign and theirs",
                    choices=("symmetric", "asymmetric"), spelled={"hamming": "symmetric"}),
    "rerank": Setting(None, "how many of the Hamming ranking --rank asymmetric orders again; default 10 times --topk, "
                      "at least 100", kind=int, low=1, shown="N"),
}


class Ranking(NamedTuple):
    """The first k items for each query, best first.

    Attributes:
        closest: least Hamming distance of each query, int [Q].
        distance, position: int [Q, k].
        score: float64 [Q, k], descending; None for the symmetric ranking.
    """

    closest: Any
    distance: Any
    position: Any
    score: Optional[Any]


def depth(options):
    """How many places of the Hamming ranking are wanted: --topk, or those that --rank asymmetric orders again.

    Raises:
        InputError: --rerank without an asymmetric ranking, or less than --topk.
    """
    if options.rank == "symmetric":
        if options.rerank is not None:
            raise InputError("--rerank belongs to --rank asymmetric; give that too, or leave --rerank out")
        return options.topk
    if options.rerank is not None and options.rerank < options.topk:
        raise InputError(f"--rerank {options.rerank} is less than --topk {options.topk}; raise it, for every match "
                         "shown must have been ordered again")
    return options.rerank or max(10 * options.topk, 100)


def rank(options, relaxed, codes, prepared=None):
    """Rank a database as --rank, --rerank and --topk say.

    Args:
        options: attributes ``rank``, ``rerank``, ``topk``.
        relaxed: query codes before the sign, float32 [Q, bits].
        codes: the database's packed codes, uint8 [N, nb].
        prepared: what ``hamming.prepare`` made of them, for many calls.

    Returns:
        Ranking.

    Raises:
        InputError: as ``depth``; codes that do not fit.
    """
    import numpy as np

    from utils.retrieval.asymmetric import refine
    from utils.retrieval.hamming import pack, topk
    distance, position = topk(pack(relaxed), codes if prepared is None else prepared, depth(options))
    if options.rank == "symmetric":
        return Ranking(distance[:, 0], distance, position, None)
    score, order = refine(relaxed, codes, position)
    order = order[:, :options.topk]
    return Ranking(distance[:, 0], np.take_along_axis(distance, order, 1), np.take_along_axis(position, order, 1),
                   score[:, :options.topk])
