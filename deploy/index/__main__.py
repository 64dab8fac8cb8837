"""Build, change and ask an index of codes: ``python -m deploy.index COMMAND INDEX ...``.

    python -m deploy.index build exact:photos CODES         CODES: a code file (.npz), a folder of shards, an index
    python -m deploy.index add exact:photos new.npz
    python -m deploy.index search exact:photos --img cat.jpg --model-dir output/model --topk 10
    python -m deploy.index search exact:photos --id images/1.jpg --radius 6 --label cat --collapse 3
    python -m deploy.index remove exact:photos images/1.jpg images/2.jpg
    python -m deploy.index info|check|compact exact:photos
    python -m deploy.index list exact:photos --count 20     find exact:photos images/1
    python -m deploy.index duplicates exact:photos --radius 3 --save-path output

INDEX is exact:FOLDER (or FOLDER), faiss:FOLDER, milvus:FILE.db or milvus:http://HOST:PORT[/COLLECTION].
"""
import json
import os
import sys

from deploy import engine_flags, ranking
from deploy.index import commands
from deploy.index.queries import SKIPPED
from utils.errors import InputError, run_main
from utils.flags import quiet, read_options
from utils.settings import Setting, nearest

JSON = {"json": Setting(False, "machine-readable result on stdout")}
FILTER = {
    "label": Setting(None, "items with this label, by its name or number", shown="NAME"),
    "prefix": Setting(None, "items whose id begins so", shown="TEXT", free=True),
}
QUERY = {
    "img": Setting(None, "picture, folder, or .txt list of pictures (with --model-dir)", shown="PATH"),
    "text": Setting(None, "words (with --model-dir of a cross-modal model)", shown="WORDS", free=True),
    "codes": Setting(None, "code file, folder of shards or index, whose items all are queries", shown="CODES"),
    "id": Setting(None, "an item of the index", shown="ID", free=True),
    "model_dir": Setting(None, "folder that export_model.py wrote", shown="DIR"),
    "batch_size": Setting(32, "pictures a call", low=1),
    "workers": Setting(2, "decoding threads", low=1),
    "use_gpu": Setting(False, "run the model on the GPU"),
    "threads": Setting(None, "math threads on the CPU; default all cores", kind=int, low=1),
    **engine_flags.FLAGS,
    "bit": Setting(None, "refuse a model of another code length", kind=int, low=1),
}
RADIUS = {"radius": Setting(3, "largest Hamming distance of near-duplicates", low=0)}

# command -> (function, what it does, what stands behind INDEX, its flags)
COMMANDS = {
    "build": (commands.build, "A new index of codes.", "CODES ...", {
        "overwrite": Setting(False, "in place of the index that is there"),
        "approximate": Setting(False, "Faiss: inverted lists, fast and with measured recall, in place of exact search"),
        "lists": Setting(0, "Faiss: number of lists, 0 = about the root of the number of items", low=0),
        "probes": Setting(32, "Faiss: lists that a query looks at", low=1)}),
    "add": (commands.add, "Add codes to an index; they are kept when the command returns.", "CODES ...", {
        "replace": Setting(False, "items with the same ids go; else they are refused")}),
    "remove": (commands.remove, "Remove items from an index.", "[ID ...]", {
        "ids_from": Setting(None, "file of ids, one a line; - for the standard input", shown="FILE"),
        "missing_ok": Setting(False, "ids that are not there are no error")}),
    "search": (commands.search, "Nearest items of queries.", "", {
        **QUERY, **FILTER,
        "topk": Setting(10, "items a query", low=1, also=("k",)),
        "radius": Setting(None, "all items within this Hamming distance, in place of --topk", kind=int, low=0),
        **ranking.FLAGS,
        "collapse": Setting(None, "items within this distance of one before them share its place", kind=int, low=0)}),
    "info": (commands.info, "What an index is.", "", {
        "check": Setting(False, "read everything and compare it with the checksums")}),
    "check": (commands.check, "Read all of an index and compare it with its checksums.", "", {}),
    "list": (commands.list_items, "Items in their order, by pages.", "", {
        **FILTER, "count": Setting(20, "items a page", low=1),
        "after": Setting(-1, "position behind which the page begins, as the page before says", low=-1)}),
    "find": (commands.find, "Items whose id begins so, by pages.", "TEXT", {
        "label": FILTER["label"], "count": Setting(20, "items a page", low=1),
        "after": Setting(-1, "position behind which the page begins, as the page before says", low=-1)}),
    "duplicates": (commands.duplicates, "Groups of near-duplicates of an index; with a query, what is near it.", "", {
        **RADIUS, **QUERY,
        "data_path": Setting(None, "folder where the ids are paths of pictures, for the picture grids", shown="DIR"),
        "save_path": Setting(None, "folder for groups.json and picture grids", shown="DIR")}),
    "compact": (commands.compact, "Give back the room of removed items, join small shards.", "", {}),
}


def main(argv):
    """The command line without the program's name."""
    quiet()
    sys.stdout.reconfigure(errors="surrogateescape")  # file names that are no UTF-8 are printed as they are
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__.strip())
        for name, (_, text, _, _) in COMMANDS.items():
            print(f"  {name:<11}{text}")
        print("Flags of a command: python -m deploy.index COMMAND --help")
        return
    name, *words = argv
    if name not in COMMANDS:
        raise InputError(f"no command {name!r}{nearest(name, COMMANDS)}: it is one of {', '.join(COMMANDS)}")
    function, text, behind, settings = COMMANDS[name]
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    usage = f"-m deploy.index {name} INDEX {behind}".strip()
    options = read_options(words[count:], usage, text, {**settings, **JSON})
    if not count:
        raise InputError(f"{name} which index? python {usage}")
    if count > 1 and not behind:
        raise InputError(f"{name} takes one index, and flags; {words[1]!r} is neither (python -m deploy.index {name} "
                         "--help)")
    answer, lines = function(words[0], words[1:count], options)
    if options.json:
        text = json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False)
        print(text.encode("utf-8", "backslashreplace").decode("utf-8"))  # names that are no Unicode: as JSON escapes
    else:
        print("\n".join(lines))
    if answer.get("skipped"):
        sys.exit(SKIPPED)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    run_main(main)
