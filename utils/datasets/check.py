"""What is wrong with a data set on this disk; every fault is named.

Looked at: bad list lines, the counts of the literature, items without any label, items twice in a split, queries that
are also in the database or the training split, training items missing from the database where the protocol puts them
there, other labels in one split than in another, images that are missing, empty, no images or cut short. Notes say what
a scan of a user's folder left out.
"""
import collections
import concurrent.futures
import dataclasses
import os

import numpy as np

from utils.datasets.base import Split
from utils.datasets.names import load_data_set
from utils.errors import InputError, printable
from utils.images import ImageError

SHOWN = 20  # faults of one sort that are printed in full


def check(data_set, request, fast=False, workers=None):
    """All faults of a data set.

    Args:
        data_set, request: base.DataSet and base.Request; its ``on_fault`` is set here.
        fast: look at the headers of the images only (and the end marker of JPEG files), decode nothing.
        workers: threads that read images; the number of cores by default.

    Returns:
        Protocol (None where the faults leave none), list of (sort, message); the list is empty for a sound data set.

    Raises:
        InputError: nothing to examine: no such folder, archive or list.
    """
    faults = []
    try:
        protocol = load_data_set(data_set, dataclasses.replace(
            request, on_fault=lambda message: faults.append(("bad line", message))))
    except InputError as error:
        if not faults:
            raise
        return None, faults + [("no data set", str(error))]  # what is left of it says less than the lines at fault
    faults += _counts(data_set, protocol, request.sizes)
    for split in protocol.splits:
        faults += _rows(split)
    if data_set.unlabelled:
        count = sum(sort == "no label" for sort, _ in faults)
        faults = [fault for fault in faults if fault[0] != "no label"]
        protocol.notes.append(f"{count} items without any label, which belong to {data_set.name}")
    faults += _overlaps(data_set, protocol)
    faults += _images(protocol, fast, workers or os.cpu_count() or 1)
    return protocol, faults


def _counts(data_set, protocol, sizes):
    faults = [("empty split", f"the {split.name} split is empty") for split in protocol.splits if not len(split)]
    if data_set.counts and not sizes:
        for split, count in zip((protocol.query, protocol.train, protocol.database), data_set.counts):
            if count is not None and len(split) != count:
                faults.append(("count", f"{split.name} has {len(split)} items, {data_set.name} has {count}"))
    if data_set.classes and len(protocol.classes) != data_set.classes:
        faults.append(("count", f"{len(protocol.classes)} classes, {data_set.name} has {data_set.classes}"))
    return faults


def _rows(split: Split):
    faults = []
    if split.labels is not None:
        for i in np.nonzero(split.labels.sum(1) == 0)[0]:
            faults.append(("no label", f"{split.where(i)}: {split.ids[i]} has no label"))
    first = {}
    for i, item in enumerate(split.ids):
        if item in first:
            faults.append(("twice", f"{split.where(i)}: {item} is already in {split.where(first[item])}"))
        first.setdefault(item, i)
    return faults


def _overlaps(data_set, protocol):
    faults = []
    database = dict(zip(protocol.database.ids, range(len(protocol.database))))
    train = dict(zip(protocol.train.ids, range(len(protocol.train))))
    for i, item in enumerate(protocol.query.ids):
        for other, rows in ((protocol.database, database), (protocol.train, train)):
            if item in rows:
                where = f"{protocol.query.where(i)}: query {item} is also in {other.where(rows[item])}"
                faults.append((f"query in {other.name}", where))
    for i, item in enumerate(protocol.train.ids):
        if data_set.inside and item not in database:
            where = f"{protocol.train.where(i)}: training item {item} is not in the database"
            faults.append(("train not in database", where))
        if item in database and protocol.train.labels is not None and protocol.database.labels is not None:
            if (protocol.train.labels[i] != protocol.database.labels[database[item]]).any():
                where = f"{protocol.train.where(i)}: other labels than in {protocol.database.where(database[item])}"
                faults.append(("labels differ", where))
    return faults


def _images(protocol, fast, workers):
    """Faults of image files; an item of several splits is read once."""
    jobs, seen = [], set()
    for split in protocol.splits:
        if split.images is not None:
            for i, item in enumerate(split.ids):
                if item not in seen:
                    seen.add(item)
                    jobs.append((split, i))

    def look(job):
        split, i = job
        try:
            split.images.size(i) if fast else split.images.read(i)
        except ImageError as error:
            return "image", str(error)
        return None

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return [fault for fault in pool.map(look, jobs) if fault]


def report(name, protocol, faults, fast):
    """The lines that the command prints; ``name``: of a data set without a protocol."""
    lines = []
    if protocol is not None:
        name = protocol.name
        lines += [f"{split.name:<9}{len(split):>8} items  sha256 {split.sha256()}" for split in protocol.splits]
        lines += [f"note: {note}" for note in protocol.notes]
    shown = collections.Counter()
    for sort, message in faults:
        shown[sort] += 1
        if shown[sort] <= SHOWN:
            lines.append(f"fault: {sort}: {message}")
    for sort, count in shown.items():
        if count > SHOWN:
            lines.append(f"fault: {sort}: and {count - SHOWN} more")
    how = "headers read" if fast else "images decoded"
    how = how if protocol is not None else "no image was looked at"
    lines.append(f"{name}: {len(faults)} faults, {how}" if faults else f"{name}: no fault, {how}")
    return [printable(line) for line in lines]
