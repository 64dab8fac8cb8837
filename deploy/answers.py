"""What was found: ranked database items as plain values, as lines of a table, and as pictures."""
import os

import numpy as np

from utils.images import ImageError, decode


def label_names(codefile, position, classes):
    """Class names of a database item, None where the database has no labels."""
    if codefile.labels is None:
        return None
    columns = np.flatnonzero(codefile.labels[position])
    return [classes[c] if c < len(classes) else str(int(c)) for c in columns]


def results(names, ranking, codefile, data, texts=None):
    """Plain values: one dict a query with its ranked matches.

    Args:
        names: of the queries.
        ranking: deploy.ranking.Ranking.
        codefile: the database.
        data: deploy.data.Data.
        texts: dict id -> text of the database, where these are searched.

    Returns:
        list of dicts ``query``, ``matches``: ``rank``, ``distance``, ``id``, ``position``, ``path``, ``labels``,
        ``score`` of an asymmetric ranking, ``text`` where texts are searched, and ``gone: true`` where the picture is
        not there any more.
    """
    classes, root = codefile.meta.get("classes") or data.classes, codefile.meta.get("root")
    out = []
    for q, (name, apart, places) in enumerate(zip(names, ranking.distance, ranking.position)):
        matches = []
        for rank, (d, i) in enumerate(zip(apart, places), 1):
            item = codefile.ids[i]
            matches.append({"rank": rank, "distance": int(d), "id": item, "position": int(i),
                            "path": data.path(item, root), "labels": label_names(codefile, i, classes),
                            **({} if ranking.score is None else {"score": float(ranking.score[q, rank - 1])}),
                            **({"text": texts[item]} if texts is not None else {}),
                            **({"gone": True} if data.gone(item, root) else {})})
        out.append({"query": name, "matches": matches})
    return out


def table(query):
    """The lines of one query's table."""
    scored = "score" in query["matches"][0]
    lines = [f"----- Query: {query['query']}",
             f"{'rank':>4} {'distance':>8}{'score':>12}  path (labels)" if scored else
             f"{'rank':>4} {'distance':>8}  path (labels)"]
    for match in query["matches"]:
        labels = "" if match["labels"] is None else f"  ({', '.join(match['labels']) or 'no label'})"
        text = f"  {match['text']!r}" if "text" in match else ""
        gone = "  [gone]" if "gone" in match else ""
        score = f"{match['score']:>12.4f}" if scored else ""
        lines.append(f"{match['rank']:>4} {match['distance']:>8}{score}  {match['path']}{labels}{text}{gone}")
    return lines


class DatabasePictures:
    """Pictures of database items: from their files where they are some, else from the data set."""

    def __init__(self, data):
        self.data = data

    def read(self, match):
        """uint8 [H, W, 3] of a match of ``results``; its id where the data set has features in place of pictures.

        Raises:
            ImageError: the picture is gone, or broken since it was encoded.
            InputError: the data set is not at hand.
        """
        if "gone" in match:
            raise ImageError(f"{match['id']}: gone")
        if os.path.isfile(match["path"]):
            return decode(match["path"])
        split = self.data.protocol.database
        if split.images is None:
            return match["id"]
        return split.images.read(self.data.places[match["id"]])
