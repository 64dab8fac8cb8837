"""Scores of query codes against database codes in every direction: the only place that knows and names directions.

A direction is what is asked -> what is found: ``I->I``, and for cross-modal models ``I->T``, ``T->I``, ``T->T``.
"""
import numpy as np

from utils.errors import InputError
from utils.retrieval import metrics

_LETTERS = {"image": "I", "text": "T"}
_PLAIN = "I->I"  # what images alone have: it needs no mention


def score(query, database, topk=0, ap="hits"):
    """Retrieval metrics in every direction.

    Args:
        query, database: dict modality -> CodeFile with labels; modalities are ``image`` and ``text``. Where a query's
            file has relaxed codes, float32, the asymmetric figure stands beside the symmetric one.
        topk, ap: see utils.retrieval.metrics.evaluate.

    Returns:
        dict direction -> report of utils.retrieval.metrics.evaluate.

    Raises:
        InputError: no labels, or files that do not fit together.
    """
    return {name: metrics.evaluate(asked.codes, held.codes, asked.labels, held.labels, asked.bits, topk=topk, ap=ap,
                                   relaxed=asked.relaxed)
            for name, asked, held in _directions(query, database)}


def score_curves(query, database):
    """dict direction -> utils.retrieval.metrics.curves; arguments as for ``score``."""
    return {name: metrics.curves(asked.codes, held.codes, asked.labels, held.labels, asked.bits)
            for name, asked, held in _directions(query, database)}


def _directions(query, database):
    for source, asked in query.items():
        for target, held in database.items():
            if asked.bits != held.bits:
                raise InputError(f"query codes have {asked.bits} bits, database codes {held.bits}")
            yield f"{_LETTERS[source]}->{_LETTERS[target]}", asked, held


def labelled(*files):
    """True where every code file of the dicts has labels: only then there is anything to score."""
    return all(codefile.labels is not None for one in files for codefile in one.values())


def overall(reports):
    """One number to choose by: the mean of I->T and T->I where they are, else I->I; None without reports."""
    crossing = [report["mAP"] for name, report in reports.items() if name in ("I->T", "T->I")]
    if crossing:
        return float(np.mean(crossing))
    return reports[_PLAIN]["mAP"] if reports else None


# names for lines and files ---------------------------------------------------------------------------------------
def prefix(direction):
    """What stands before a figure in a line: ``I->T ``, and nothing for images alone."""
    return "" if direction == _PLAIN else f"{direction} "


def file_tag(direction):
    """What a file of this direction adds to its name: ``_I2T``, and nothing for images alone."""
    return "" if direction == _PLAIN else "_" + direction.replace("->", "2")


def modality_tag(modality):
    """What a code file of this modality has in its name: ``text_``, and nothing for images."""
    return "" if modality == "image" else f"{modality}_"
