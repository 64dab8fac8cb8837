"""Which items a model was trained on, and how the splits at hand compare with those of its training.

A checkpoint keeps the record of its splits (Protocol.record, with a digest of each) and short hashes of the ids of its
training items. A folder that has gained a picture, another seed, another list: the split is drawn anew, and queries may
be items that the model was trained on. Then its figures flatter.
"""
import hashlib

import numpy as np

MOST = 1 << 20  # ids that are kept; of more the digest alone


def id_hashes(ids):
    """Sorted uint64 [n] of n ids; equal hashes of different ids are as good as impossible below a million of them."""
    hashes = (hashlib.blake2b(item.encode("utf-8", "surrogateescape"), digest_size=8).digest() for item in ids)
    return np.sort(np.frombuffer(b"".join(hashes), "<u8").astype("uint64"))


def remember(ids, before=None):
    """Hashes of what a model has been trained on when it was trained on ``ids``.

    Args:
        ids: of the training split.
        before: hashes of what its first weights were trained on, or None.

    Returns:
        uint64 [n], sorted; None where there are more than ``MOST``.
    """
    if len(ids) > MOST:
        return None
    seen = id_hashes(ids) if before is None else np.union1d(id_hashes(ids), before)
    return seen if len(seen) <= MOST else None


def compare(known, seen, protocol):
    """The splits at hand beside those of the training.

    Args:
        known: record (Protocol.record) of the training run; None or without digests = nothing is known.
        seen: hashes of the items that the model was trained on (``remember``), or None.
        protocol: the Protocol at hand.

    Returns:
        dict of plain values for result.json, or None where nothing is known: ``same_data`` (the name is that of the
        training), ``differs`` (names of the splits whose items or labels are not those of the training),
        ``queries`` (how many there are), ``queries_trained_on`` (None = not known).
    """
    if not known or "sha256" not in known:
        return None
    digests = protocol.record()["sha256"]
    differs = [name for name, digest in digests.items() if known["sha256"].get(name) != digest]
    trained = None if seen is None else int(np.isin(id_hashes(protocol.query.ids), seen).sum())
    return {"same_data": known.get("name") == protocol.name, "differs": differs, "queries": len(protocol.query),
            "queries_trained_on": trained}


def note(found):
    """One line about the result of ``compare``, or None where nothing needs to be said."""
    if not found or not found["differs"]:
        return None
    trained, queries = found["queries_trained_on"], found["queries"]
    if not found["same_data"]:  # meant; names such as 0001.jpg may occur in any data
        return f"{trained} of {queries} queries have the names of training items; if they are the same, the figures " \
               "flatter" if trained else None
    what = f"the {' and '.join(found['differs'])} split{'s are' if len(found['differs']) > 1 else ' is'} not that of " \
           "the training run"
    if trained is None:
        return f"{what}, and whether queries were training items is not known (an older checkpoint, or more than " \
               f"{MOST:,} items)"
    return f"{what}; {trained} of {queries} queries were training items" + (", so the figures flatter" if trained
                                                                              else "")
