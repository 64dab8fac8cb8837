"""Search your own pictures: the first call looks at all of them, later ones at what is new.

python search.py photos/ cat.jpg                     pictures like this one
python search.py photos/ "a red disc"                in words (a cross-modal model)
python search.py photos/                             bring the index up to date, and that is all
python search.py photos/ --open                      and open a page to search on
"""
import hashlib
import json
import os
import sys

from deploy import engine_flags, ranking
from utils.errors import InputError, printable, run_main
from utils.flags import quiet, read_options
from utils.settings import Setting

MODELS = ("output/onnx", "output/model", "output/quickstart/inference")  # where the commands of README.md make them
SHOWN = 3  # unreadable pictures that the closing line names

FLAGS = {
    "model_dir": Setting(None, f"folder of an exported model; default: the first of {', '.join(MODELS)} that is there",
                         shown="DIR"),
    "topk": Setting(10, "pictures to show", low=1, also=("k",)),
    **ranking.FLAGS,
    "collapse": Setting(None, "pictures within so many bits of one before them share its place", kind=int, low=0),
    "index": Setting(None, "folder of the index; default: one for each folder and model below output/search",
                     shown="DIR"),
    "forget": Setting(False, "drop pictures that are gone, even where a drive seems to be missing"),
    "rebuild": Setting(False, "look at all pictures anew"),
    "open": Setting(False, "then open a page to search on, until Ctrl-C (requirements-service.txt)"),
    "json": Setting(False, "machine-readable result on stdout, everything else on stderr"),
    "batch_size": Setting(32, "pictures a call", low=1),
    "workers": Setting(2, "decoding threads", low=1),
    "use_gpu": Setting(False, "run the model on the GPU"),
    "threads": Setting(None, "math threads on the CPU; default all cores", kind=int, low=1),
    **engine_flags.FLAGS,
    "bit": Setting(None, "refuse a model of another code length", kind=int, low=1),
}


def parse(argv):
    """(folder, query or None, flags as attributes).

    Raises:
        InputError: no folder, or more than a query.
    """
    count = next((i for i, word in enumerate(argv) if word.startswith("-") and len(word) > 1), len(argv))
    options = read_options(argv[count:], "search.py FOLDER [QUERY]", "Pictures of a folder that are like a picture, or "
                           "fit words.", FLAGS)
    if not 1 <= count <= 2:
        raise InputError("search which folder? python search.py FOLDER [QUERY] [--flag VALUE ...]" if not count else
                         f"one folder and one query, not {argv[2]!r} too; put words in quotes")
    ranking.depth(options)
    return argv[0], argv[1] if count == 2 else None, options


def choose_model(options):
    """Folder of the model: --model-dir, or the first of ``MODELS``.

    Raises:
        InputError: there is none; the line says how to get one.
    """
    if options.model_dir:
        return options.model_dir
    for folder in MODELS:
        if os.path.isdir(folder):
            return folder
    raise InputError(f"no model at {', '.join(MODELS)}: name one with --model-dir, export a checkpoint (python "
                     "export_model.py --pretrained CHECKPOINT --save-inference-dir output/model), or make the embedded "
                     "one in minutes: sh scripts/quickstart.sh")


def default_place(folder, fingerprint):
    """Folder of the index of a folder's pictures and a model."""
    path = os.path.realpath(folder)
    name = os.path.basename(path) or "root"
    where = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return os.path.join("output", "search", f"{name}_{where}_{fingerprint[:8]}")


def find_query(query, encoder, folder, options):
    """deploy.queries.Queries of a picture (a folder or a list of some) or of words.

    Raises:
        InputError: nothing of that name, and the model reads no words.
    """
    from deploy.queries import find_pictures, picture_queries, text_query
    from utils.image_header import HEIF_ENDINGS, read_heif
    if os.path.exists(query):
        if query.lower().endswith(HEIF_ENDINGS) and not read_heif():
            raise InputError(f"{query} is a HEIC picture: pip install pillow-heif (requirements-photos.txt) reads it")
        paths, lost = find_pictures(query, [folder], options.say)
        return picture_queries(encoder, paths, lost, options.batch_size, options.workers)
    if not encoder.manifest.get("text"):
        raise InputError(f"there is no picture {query}, and {options.model_dir} reads pictures only (words need a "
                         "cross-modal model)")
    return text_query(encoder, query)


def search(photos, queries, options):
    """Plain values: a dict a query; its ``matches`` are those of ``python -m deploy.index search``, with paths."""
    from deploy.index.commands import plain
    from deploy.index.question import Question, ask
    from utils.retrieval.hamming import pack
    question = Question(options.topk, rank=options.rank, first=ranking.depth(options), collapse=options.collapse)
    found = []
    for name, matches in zip(queries.split.ids, ask(photos.index, pack(queries.relaxed), question, queries.relaxed)):
        rows = plain(photos.index, matches)
        for row in rows:
            row["path"] = os.path.join(photos.folder, row["id"])
            row.update({} if os.path.isfile(row["path"]) else {"gone": True})
        found.append({"query": name, "matches": rows})
    return found


def main(argv):
    """Bring the index of a folder up to date, and answer the query.

    Raises:
        InputError: what is wrong with the words, the model, the pictures or the index.
    """
    folder, query, options = parse(argv)
    options.say = lambda line: print(printable(line), file=sys.stderr if options.json else sys.stdout)
    quiet()
    # inside: --help and wrong flags are answered at once
    from deploy.engines import open_with
    from deploy.index.queries import note_precision
    from deploy.photos import Photos
    options.model_dir = choose_model(options)
    encoder = open_with(options, options.say)
    place = options.index or default_place(folder, encoder.fingerprint)
    known = encoder.manifest.get("dataset") or {}
    options.say(f"----- Model: {options.model_dir} ({encoder.manifest['method']}, {encoder.bits} bits, trained on "
                f"{known.get('name', 'unknown pictures')}; {encoder.engine}, {encoder.precision})")
    photos = Photos(folder, place, encoder, options.rebuild)
    note_precision(photos.index, encoder, options.say)
    update = bring_up_to_date(photos, options)
    answer = {"folder": folder, "index": place, "model": options.model_dir, "items": len(photos.index), **update,
              "rank": options.rank, "queries": [], "skipped": []}
    if query is not None and answer["items"]:
        queries = find_query(query, encoder, folder, options)
        answer["queries"] = search(photos, queries, options)
        answer["skipped"] = [{"query": name, "reason": reason} for name, reason in queries.skipped]
    tell(answer, options)
    if options.open:
        photos.index.close()
        open_page(place, options)
    if answer["skipped"]:
        from deploy.queries import SKIPPED
        sys.exit(SKIPPED)


def bring_up_to_date(photos, options):
    """What has changed, as plain values; where another process is at it, a note of that."""
    from deploy.photos import LOCK
    try:
        done = photos.update(options.batch_size, options.workers, options.forget)
    except InputError as error:
        if "is being changed by" not in str(error):
            raise
        options.say(f"----- Note: {error}")
        return {"new": 0, "changed": 0, "gone": 0, "unreadable": [], "left_out": [f"not looked at: {LOCK}"]}
    return {**done._asdict(), "unreadable": [{"id": name, "reason": reason} for name, reason in done.unreadable]}


def tell(answer, options):
    """Print the answer."""
    for query in answer["queries"]:
        options.say(f"----- Query: {query['query']}")
        for row in query["matches"]:
            score = f" {row['score']:>11.4f}" if "score" in row else ""
            more = f"  x{row['count']}" if row.get("count", 1) > 1 else ""
            more += "  [not there]" if "gone" in row else ""
            options.say(f"{row['rank']:>4} {row['distance']:>8}{score}  {row['path']}{more}")
    for one in answer["skipped"]:
        options.say(f"----- Skipped query {one['query']}: {one['reason']}")
    options.say(f"----- {answer['items']} pictures of {answer['folder']} can be searched ({answer['new']} new, "
                f"{answer['changed']} changed, {answer['gone']} gone); the index is {answer['index']}")
    lost = answer["unreadable"]
    lines = list(answer["left_out"])
    if lost:
        names = "; ".join(one["reason"] for one in lost[:SHOWN]) + ("; ..." if len(lost) > SHOWN else "")
        lines.insert(0, f"{len(lost)} pictures could not be read (--json names all): {names}")
    options.say(f"----- Left out: {'; '.join(lines) or 'nothing'}")
    if options.json:
        print(json.dumps(answer, indent=2, ensure_ascii=False), flush=True)


def open_page(place, options):
    """Serve the index to this machine alone, and open its page in the browser; returns when that is ended."""
    import socket
    import threading

    from deploy.service.__main__ import main as serve
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    options.say(f"----- {url} until Ctrl-C")
    threading.Thread(target=show_page, args=(url, options.say), daemon=True).start()
    words = ["--model-dir", options.model_dir, "--index", place, "--read-only", "--port", str(port), "--rank",
             options.rank]
    for name in ("use_gpu", "threads", "precision", "mkldnn", "bf16"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}={value}"]
    serve(words)


def show_page(url, say):
    """Open a page of this machine in the browser as soon as it answers."""
    import time
    import urllib.request
    import webbrowser
    while True:
        try:
            urllib.request.urlopen(f"{url}ready", timeout=5).close()
            break
        except OSError:
            time.sleep(.1)
    if not webbrowser.open(url):
        say(f"----- No browser to open; the page is {url}")


if __name__ == "__main__":
    run_main(main)
