"""A question to an index: k or a radius, a filter, a finer ranking, near-duplicates in one place."""
import dataclasses
from typing import List, Optional

import numpy as np

from deploy.index.base import EVERYTHING, Where, settled
from deploy.ranking import FIRST, RANKS
from utils.errors import InputError
from utils.retrieval.asymmetric import refine
from utils.retrieval.hamming import distances

SHOWN = 20  # near-duplicates that an answer names


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of each query.

    Attributes:
        k: places of the answer. radius: all items within it, in place of k.
        where: Where.
        rank: ``hamming``; ``asymmetric``, the first ones again by their codes' product with the relaxed query; or
            ``relaxed``, by the product of both relaxed codes.
        first: how many of the Hamming ranking are ranked again.
        collapse: items within this distance of one that stands before them share its place; None for all a place.
    """

    k: int = 10
    radius: Optional[int] = None
    where: Where = EVERYTHING
    rank: str = "hamming"
    first: int = FIRST
    collapse: Optional[int] = None


@dataclasses.dataclass
class Match:
    """One place of an answer.

    Attributes:
        id, distance, position; labels: uint8 [C] or None.
        score: of the finer ranking, None for ``hamming``.
        count: items of the collection (that the filter lets through) within ``collapse`` of this one, itself included.
        others: ids of the first ``SHOWN`` of these others.
    """

    id: str
    distance: int
    position: int
    labels: Optional[np.ndarray] = None
    score: Optional[float] = None
    count: Optional[int] = None
    others: List[str] = dataclasses.field(default_factory=list)


def ask(index, codes, question, relaxed=None, leave_out=None):
    """Answers to queries.

    Args:
        index: Index. codes: packed codes of the queries, uint8 [Q, ceil(bits / 8)].
        question: Question. relaxed: the queries' codes before the sign, float [Q, bits], for the finer rankings.
        leave_out: for each query the id of an item that is no answer to it (the query itself), or None.

    Returns:
        list of Q lists of Match.

    Raises:
        InputError: as ``Index.search``; a ranking that query or index do not have.
    """
    if question.rank not in RANKS:
        raise InputError(f"no rank {question.rank!r}: it is one of {', '.join(RANKS)}")
    if question.rank != "hamming" and relaxed is None:
        raise InputError(f"rank {question.rank} needs the relaxed codes of the query: ask with a picture, or with "
                         "codes that were kept relaxed (--keep-relaxed)")
    if question.rank == "relaxed" and not index.info.relaxed:
        raise InputError(f"{index.uri} keeps no relaxed codes: encode with --keep-relaxed, or rank asymmetric")
    leave_out = leave_out or [None] * len(codes)
    if question.rank == "hamming" and question.collapse is None and not any(leave_out):
        return [_matches(hits) for hits in _candidates(index, codes, question, question.k)]
    return [settled(lambda q=q: _one(index, codes[q:q + 1], question, None if relaxed is None else relaxed[q:q + 1],
                                     leave_out[q])) for q in range(len(codes))]


def _one(index, code, question, relaxed, leave_out):
    """The answer to one query: as many candidates as its places need."""
    finer = question.rank != "hamming"
    wanted = max(question.k * (1 if question.collapse is None else 4), question.first if finer else 0) + bool(leave_out)
    while True:
        hits, = _candidates(index, code, question, wanted)
        matches = [match for match in _matches(hits) if match.id != leave_out]
        if finer and matches:
            matches = _finer(index, matches, question.rank, relaxed)
        if question.collapse is not None and matches:
            matches = _collapse(index, matches, question)
        if question.radius is not None:
            return matches
        if len(matches) >= question.k or len(hits) < wanted:
            return matches[:question.k]
        wanted *= 4


def _candidates(index, codes, question, wanted):
    if question.radius is not None:
        return index.within(codes, question.radius, question.where)
    return index.search(codes, wanted, question.where)


def _matches(hits):
    return [Match(name, int(distance), int(position), None if hits.labels is None else hits.labels[i])
            for i, (name, distance, position) in enumerate(zip(hits.ids, hits.distance, hits.position))]


def _finer(index, matches, rank, relaxed):
    """The matches by descending score, ties by position."""
    matches = sorted(matches, key=lambda match: match.position)
    items = index.take([match.position for match in matches])
    scores, order = refine(np.asarray(relaxed, np.float64), items.codes, np.arange(len(matches))[None],
                           items.relaxed if rank == "relaxed" else None)
    return [dataclasses.replace(matches[i], score=float(score)) for i, score in zip(order[0], scores[0])]


def _collapse(index, matches, question):
    """One match for all that lie near it, in the order given; counts over the whole collection."""
    codes = index.take([match.position for match in matches]).codes
    free, places = np.ones(len(matches), bool), []
    for i in range(len(matches)):
        if free[i]:
            places.append(i)
            free &= distances(codes[i:i + 1], codes)[0] > question.collapse
            if question.radius is None and len(places) == question.k:
                break
    around = index.within(codes[places], question.collapse, question.where)
    return [dataclasses.replace(matches[i], count=len(near),
                                others=[name for name in near.ids if name != matches[i].id][:SHOWN])
            for i, near in zip(places, around)]
