"""How commands rank what they find: flags, and the ranking of a code file: Hamming order, or its first refined."""
from typing import Any, NamedTuple, Optional

from utils.errors import InputError
from utils.settings import Setting

# Retrieval kernels are imported inside: flags are read before, and --help is answered at once.

RANKS = ("hamming", "asymmetric", "relaxed")
FIRST = 1000  # of the Hamming ranking that are ordered again, where --first does not say
FLAGS = {
    "rank": Setting("hamming", "order of the matches: hamming, by distance; asymmetric, its first ones again by the "
                    "product of the query's code before the sign and theirs; relaxed, by the product of both codes "
                    "before the sign, where they were kept", choices=RANKS),
    "first": Setting(None, f"how many of the Hamming ranking --rank asymmetric or relaxed orders again; default {FIRST}"
                     ", or --topk where that is more", kind=int, low=1, shown="N"),
}
KEEP = {"keep_relaxed": Setting(False, "keep the database's codes before the sign too (float16), for --rank relaxed")}


class Ranking(NamedTuple):
    """The first k items for each query, best first.

    Attributes:
        closest: least Hamming distance of each query, int [Q].
        distance, position: int [Q, k].
        score: float64 [Q, k], descending; None for ``hamming``.
    """

    closest: Any
    distance: Any
    position: Any
    score: Optional[Any]


def depth(options):
    """How many places of the Hamming ranking are wanted: --topk, or those that --rank orders again.

    Raises:
        InputError: --first without a ranking that needs it, or less than --topk.
    """
    if options.rank == "hamming":
        if options.first is not None:
            raise InputError("--first belongs to --rank asymmetric or relaxed; give that too, or leave --first out")
        return options.topk
    if options.first is not None and options.first < options.topk:
        raise InputError(f"--first {options.first} is less than --topk {options.topk}; raise it, for every match "
                         "shown must have been ordered again")
    return options.first or max(FIRST, options.topk)


def rank(options, relaxed, codefile, prepared=None):
    """Rank a database as --rank, --first and --topk say.

    Args:
        options: attributes ``rank``, ``first``, ``topk``.
        relaxed: query codes before the sign, float32 [Q, bits].
        codefile: CodeFile of the database.
        prepared: what ``hamming.prepare`` made of its codes, for many calls.

    Returns:
        Ranking.

    Raises:
        InputError: as ``depth``; codes that do not fit; ``relaxed`` where the database keeps no relaxed codes.
    """
    import numpy as np

    from utils.retrieval.asymmetric import refine
    from utils.retrieval.hamming import pack, topk
    wanted = depth(options)
    if options.rank == "relaxed" and codefile.relaxed is None:
        raise InputError("the codes of the database were made without --keep-relaxed; make them with it (--rebuild), "
                         "or take --rank asymmetric")
    distance, position = topk(pack(relaxed), codefile.codes if prepared is None else prepared, wanted)
    if options.rank == "hamming":
        return Ranking(distance[:, 0], distance, position, None)
    score, order = refine(relaxed, codefile.codes, position, codefile.relaxed if options.rank == "relaxed" else None)
    order = order[:, :options.topk]
    return Ranking(distance[:, 0], np.take_along_axis(distance, order, 1), np.take_along_axis(position, order, 1),
                   score[:, :options.topk])
