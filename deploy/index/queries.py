"""What an index is asked with: pictures, words, codes, or an item that it holds."""
import sys
from typing import List, NamedTuple, Optional

import numpy as np

from deploy.index.uri import open_codes
from utils.errors import InputError
from utils.retrieval.hamming import pack

SKIPPED = 3  # exit status of a command that could not read all of what it was asked with, as in predict.py


class Queries(NamedTuple):
    """Queries of a command line.

    Attributes:
        names: Q names for people. codes: packed, uint8 [Q, ceil(bits / 8)].
        relaxed: before the sign, float [Q, bits], or None where that is not known.
        own: for each the id of the item of the index that it is, None where it is none.
        skipped: list of dicts ``query`` and ``reason``: those that could not be read.
    """

    names: List[str]
    codes: np.ndarray
    relaxed: Optional[np.ndarray]
    own: List[Optional[str]]
    skipped: List[dict]


def find_queries(index, options):
    """Queries of --img, --text, --codes or --id.

    Raises:
        InputError: none or several of them, nothing that can be read, or another model than that of the index.
    """
    given = [name for name in ("img", "text", "codes", "id") if getattr(options, name) is not None]
    if len(given) != 1:
        raise InputError("ask with one of --img, --text, --codes and --id" +
                         (f", not with --{' and --'.join(given)}" if given else ""))
    if options.id is not None:
        item = index.get([options.id])
        return Queries([options.id], np.ascontiguousarray(item.codes), item.relaxed, [options.id], [])
    return _from_codes(index, options.codes) if options.codes is not None else _from_model(index, options)


def _from_codes(index, path):
    info, batches = open_codes(path)
    check_model(index, info.fingerprint, path)
    batches = list(batches)
    names = [name for batch in batches for name in batch.ids]
    if not names:
        raise InputError(f"{path} holds no codes to ask with")
    relaxed = np.concatenate([batch.relaxed for batch in batches]) if info.relaxed else None
    return Queries(names, np.concatenate([batch.codes for batch in batches]), relaxed, [None] * len(names), [])


def _from_model(index, options):
    from deploy.engines import open_with  # with Paddle, which takes a second
    from deploy.queries import find_pictures, picture_queries, text_query
    if options.model_dir is None:
        raise InputError("--img and --text need --model-dir, the folder of the exported model of the index")
    encoder = open_with(options, _say)
    check_model(index, encoder.fingerprint, options.model_dir)
    note_precision(index, encoder, _say)
    if options.text is not None:
        found = text_query(encoder, options.text)
    else:
        paths, lost = find_pictures(options.img, [], _say)
        found = picture_queries(encoder, paths, lost, options.batch_size, options.workers)
    for name, reason in found.skipped:
        _say(f"note: skipped {name}: {reason}")
    return Queries(found.split.ids, pack(found.relaxed), found.relaxed, [None] * len(found.relaxed),
                   [{"query": name, "reason": reason} for name, reason in found.skipped])


def check_model(index, fingerprint, what):
    """Raise InputError unless codes of this fingerprint can be compared with those of the index."""
    if fingerprint != index.info.fingerprint:
        raise InputError(f"{what} is of another model (fingerprint {fingerprint or 'unknown'}) than {index.uri} "
                         f"({index.info.fingerprint or 'unknown'}): ask with the model that made the index")


def note_precision(index, encoder, say):
    """Say where the index has no codes of the encoder's precision."""
    if encoder.precision not in index.info.precision.split("+"):
        say(f"note: the codes of the index are {index.info.precision}, the query's {encoder.precision}: some bits may "
            "differ")


def _say(line):
    print(line, file=sys.stderr)
