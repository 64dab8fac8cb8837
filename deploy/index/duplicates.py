"""Near-duplicates of a whole collection: groups as plain values, as a file, as pictures. Nothing is deleted."""
import os

import numpy as np

from utils.files import write_json
from utils.images import ImageError, decode
from utils.plots import retrieval_grid
from utils.retrieval.hamming import distances
from utils.retrieval.near_duplicates import near_groups

ROWS, COLUMNS = 10, 7  # groups of a picture grid, and members beside the first that it shows
PAGES = 20  # picture grids at most


def duplicate_groups(index, radius):
    """Groups of items that are connected by steps of at most ``radius`` bits; every such pair is in one group.

    Args:
        index: Index. radius: from 0 on.

    Returns:
        list of groups, largest first, of equal size in the order of the index; a group is a list of dicts ``id`` and
        ``distance`` (to the first of the group) in the order of the index.
    """
    width = -(-index.info.bits // 8)
    positions, codes = [np.zeros(0, np.int64)], [np.zeros((0, width), np.uint8)]
    for batch, packed in index.codes():
        positions.append(batch)
        codes.append(packed)
    positions, codes = np.concatenate(positions), np.concatenate(codes)
    groups = near_groups(codes, index.info.bits, radius)
    if not groups:
        return []
    ids = iter(index.take(positions[np.concatenate(groups)]).ids)
    named = [[{"id": next(ids), "distance": int(distance)} for distance in distances(codes[group[:1]], codes[group])[0]]
             for group in groups]
    return sorted(named, key=len, reverse=True)


def save_groups(folder, groups, index, radius, root=None):
    """Write ``groups.json`` and, where the pictures are at hand, ``groups-001.png`` and so on.

    Args:
        folder: made when missing. groups: of ``duplicate_groups``. root: folder where the ids are paths of pictures.

    Returns:
        (paths that were written, groups that no grid shows).
    """
    paths = [os.path.join(folder, "groups.json")]
    write_json(paths[0], {"index": index.uri, "radius": radius, "items": len(index), "groups": groups})
    shown = [group for group in groups[:ROWS * PAGES] if root is not None and
             any(os.path.isfile(os.path.join(root, item["id"])) for item in group)]
    for start in range(0, len(shown), ROWS):
        paths.append(os.path.join(folder, f"groups-{start // ROWS + 1:03d}.png"))
        retrieval_grid(paths[-1], [_row(group, root) for group in shown[start:start + ROWS]],
                       title=f"near-duplicates within {radius} bits", headings=("first", "others, with their distance"))
    return paths, len(groups) - len(shown)


def _row(group, root):
    first, others = group[0], group[1:COLUMNS + 1]
    more = f", {len(group) - 1 - len(others)} not shown" if len(group) > COLUMNS + 1 else ""
    return {"query": _picture(first["id"], root), "caption": f"{len(group)} items{more}",
            "matches": [{"item": _picture(item["id"], root), "distance": item["distance"], "caption": item["id"]}
                        for item in others]}


def _picture(name, root):
    """The picture, or its name where it is gone or broken."""
    try:
        return decode(os.path.join(root, name))
    except ImageError:
        return name
