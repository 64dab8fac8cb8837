"""The commands of ``python -m deploy.index``: each gives its answer as plain values, and as lines for people."""
import itertools
import sys

from deploy import ranking
from deploy.index.base import Where, check_root, few
from deploy.index.duplicates import duplicate_groups, save_groups
from deploy.index.queries import find_queries
from deploy.index.question import Question, ask
from deploy.index.uri import build_index, open_codes, open_index
from utils.errors import InputError

_NAMED = 5  # items that a line for people names


# changes ------------------------------------------------------------------------------------
def _sources(paths):
    """(CodesInfo, iterable of CodeFile) of all sources behind each other."""
    if not paths:
        raise InputError("of which codes? name a code file (.npz), a folder of shards, or an index")
    found = [open_codes(path) for path in paths]
    for path, (info, _) in zip(paths[1:], found[1:]):
        found[0][0].refuse(info, f"the codes of {path}")
    return found[0][0], itertools.chain.from_iterable(batches for _, batches in found)


def build(uri, paths, options):
    """A new index."""
    lists = options.lists if options.approximate or options.lists else None
    with build_index(uri, _sources(paths), options.overwrite, lists, options.probes) as index:
        answer = index.stats()
    return answer, [f"Built {uri}:", *_stats_lines(answer)]


def add(uri, paths, options):
    """Add the items of sources. All of them are looked at before the first is added."""
    with open_index(uri) as index:
        _, batches = _sources(paths)
        seen = set()
        for codefile in batches:
            twice = [name for name in codefile.ids if name in seen or seen.add(name)]
            if twice:
                raise InputError(f"the id {twice[0]!r} stands more than once in what is to be added: nothing was added")
            if not options.replace:
                known = [name for name, there in zip(codefile.ids, index.has(codefile.ids)) if there]
                if known:
                    raise InputError(f"{few(known)} in the index already: nothing was added; leave out what is there "
                                     "or give --replace")
        added = [index.add(codefile, options.replace) for codefile in _sources(paths)[1]]
        index.save()
        ids, replaced, items = [name for part in added for name in part.ids], sum(part.replaced for part in added), \
            len(index)
    answer = {"index": uri, "added": len(ids), "replaced": replaced, "items": items, "ids": ids}
    return answer, [f"Added {_count(ids)}" + (f", {replaced} of them in place of others" if replaced else "") +
                    f"; {uri} holds {items} now"]


def remove(uri, ids, options):
    """Remove items by their ids."""
    if options.ids_from is not None:
        ids = [*ids, *_read_ids(options.ids_from)]
    if not ids:
        raise InputError("remove which items? name their ids, or a file of them with --ids-from")
    with open_index(uri) as index:
        removed = index.remove(ids, options.missing_ok)
        index.save()
        items = len(index)
    answer = {"index": uri, "removed": len(removed), "items": items, "ids": removed}
    return answer, [f"Removed {_count(removed)}; {uri} holds {items} now"]


def _read_ids(path):
    try:
        if path == "-":
            text = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                text = file.read()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return [line for line in text.decode("utf-8", "surrogateescape").split("\n") if line]


def compact(uri, _, options):
    """Give back room."""
    with open_index(uri) as index:
        dropped = index.compact()
        answer = {**index.stats(), "dropped": dropped}
    what = "the engine works in the background" if dropped is None else f"the room of {dropped} removed items is free"
    return answer, [f"Compacted {uri}: {what}", *_stats_lines(answer)]


# questions ----------------------------------------------------------------------------------
def search(uri, _, options):
    """Nearest items."""
    first = ranking.depth(options)
    with open_index(uri) as index:
        queries = find_queries(index, options)
        question = Question(options.topk, options.radius, _where(index, options), options.rank, first,
                            options.collapse)
        answers = ask(index, queries.codes, question, queries.relaxed, queries.own)
        answer = {"index": uri, "engine": index.engine, "exact": index.exact, "items": len(index),
                  "rank": options.rank, "queries": [{"query": name, "matches": plain(index, matches)}
                                                    for name, matches in zip(queries.names, answers)],
                  "skipped": queries.skipped}
    return answer, [line for query in answer["queries"] for line in table(query)]


def plain(index, matches):
    """Matches of a query as plain values: a dict each."""
    rows = []
    for rank, match in enumerate(matches, 1):
        row = {"rank": rank, "distance": match.distance, "id": match.id, "labels": index.label_names(match.labels)}
        row.update({} if match.score is None else {"score": round(match.score, 4)})
        row.update({} if match.count is None else {"count": match.count, "others": match.others})
        rows.append(row)
    return rows


def table(query):
    """The lines of a query's matches (``plain``)."""
    lines = [f"----- Query: {query['query']}", f"{'rank':>4} {'distance':>8}  id (labels)"]
    for row in query["matches"]:
        more = "" if row["labels"] is None else f"  ({', '.join(row['labels']) or 'no label'})"
        more += f"  score {row['score']}" if "score" in row else ""
        more += f"  x{row['count']}" if row.get("count", 1) > 1 else ""
        lines.append(f"{row['rank']:>4} {row['distance']:>8}  {row['id']}{more}")
    return lines if query["matches"] else [*lines[:1], "nothing found"]


def _where(index, options):
    label = getattr(options, "label", None)
    return Where(None if label is None else index.label(label), getattr(options, "prefix", None))


def info(uri, _, options):
    """What an index is."""
    with open_index(uri) as index:
        if options.check:
            index.check()
        answer = {**index.stats(), **({"whole": True} if options.check else {})}
    return answer, _stats_lines(answer)


def check(uri, _, options):
    """Everything is as it was written."""
    with open_index(uri) as index:
        index.check()
        answer = {"index": uri, "items": len(index), "whole": True}
    return answer, [f"{uri} is whole: {answer['items']} items"]


def list_items(uri, _, options):
    """A page of items."""
    return _page(uri, options)


def find(uri, words, options):
    """A page of the items whose ids begin so."""
    if len(words) != 1:
        raise InputError("find what? one text with which ids begin")
    options.prefix = words[0]
    return _page(uri, options)


def _page(uri, options):
    with open_index(uri) as index:
        positions, items = index.page(options.count, options.after, _where(index, options))
        rows = [{"position": int(position), "id": name, "code": code.tobytes().hex(),
                 "labels": index.label_names(None if items.labels is None else items.labels[i])}
                for i, (position, name, code) in enumerate(zip(positions, items.ids, items.codes))]
        following = int(positions[-1]) if len(positions) == options.count else None
        answer = {"index": uri, "items": len(index), "page": rows, "after": following}
    lines = [f"{row['position']:>10}  {row['code']}  {row['id']}" +
             ("" if row["labels"] is None else f"  ({', '.join(row['labels']) or 'no label'})") for row in rows]
    return answer, [*(lines or ["no items"]), *([f"more: --after {following}"] if following is not None else [])]


def duplicates(uri, _, options):
    """Groups of near-duplicates; or what is near a query."""
    check_root(options.data_path)
    with open_index(uri) as index:
        if any(getattr(options, name) is not None for name in ("img", "text", "codes", "id")):
            return _near(index, options)
        groups = duplicate_groups(index, options.radius)
        answer = {"index": uri, "radius": options.radius, "items": len(index),
                  "grouped": sum(map(len, groups)), "groups": groups}
        lines = [f"{len(groups)} groups of near-duplicates within {options.radius} bits, {answer['grouped']} of "
                 f"{len(index)} items; nothing was deleted"]
        if options.save_path is not None:
            paths, hidden = save_groups(options.save_path, groups, index, options.radius,
                                        options.data_path or index.info.meta.get("root"))
            lines += [f"Wrote {path}" for path in paths]
            lines += [f"{hidden} groups are in no picture grid: see {paths[0]}"] if hidden else []
        else:
            lines += [f"{len(group):>6}  {_named([item['id'] for item in group])}" for group in groups[:20]]
    return answer, lines


def _near(index, options):
    queries = find_queries(index, options)
    answers = ask(index, queries.codes, Question(radius=options.radius), leave_out=queries.own)
    answer = {"index": index.uri, "radius": options.radius, "queries": [
        {"query": name, "matches": plain(index, matches)} for name, matches in zip(queries.names, answers)],
        "skipped": queries.skipped}
    lines = []
    for query in answer["queries"]:
        near = query["matches"]
        lines.append(f"{query['query']}: " + (f"{len(near)} near-duplicates, the nearest {near[0]['id']} at distance "
                                              f"{near[0]['distance']}" if near else "new"))
    return answer, lines


# words --------------------------------------------------------------------------------------
def _count(ids):
    """``3 items: a, b, c``."""
    return f"{len(ids)} items" + (": " if ids else "") + _named(ids)


def _named(ids):
    return ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")


def _stats_lines(stats):
    shown = {key: value for key, value in stats.items() if key not in ("classes", "meta", "uri")}
    return [f"{key:>12}: {value}" for key, value in shown.items()]
