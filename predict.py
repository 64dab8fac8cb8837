"""Find the database items nearest to pictures or words.

python predict.py --model-dir output/model --img cat.jpg --topk 10
python predict.py --pretrained output/run/best.safetensors --img folder/ --json
python predict.py --pretrained output/run/best.safetensors --gallery my_photos/ --code-file photos.npz
python predict.py --pretrained output/run/best.safetensors --code-file photos.npz --img cat.jpg
python predict.py --model-dir output/model --text "red circle"          (cross-modal models)
"""
import contextlib
import ctypes
import json
import os
import sys

from deploy import engine_flags, ranking
from utils.errors import InputError, run_main, say
from utils.flags import quiet, read_options
from utils.peer_flags import DATA_SETS
from utils.settings import Setting

ENDINGS = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp")  # of --save-path as a file
SHOWN = 10  # queries in the picture grid


FLAGS = {
    "img": Setting(None, "picture, folder, or .txt list of pictures; default: the first query of the data set",
                   shown="PATH", also=("img_path",)),
    "text": Setting(None, "query in words (cross-modal models)", shown="WORDS", free=True),
    "search": Setting("image", "which codes of the database to search", choices=("image", "text")),
    "model_dir": Setting(None, "folder that export_model.py wrote (Paddle Inference)", shown="DIR"),
    "pretrained": Setting(None, "checkpoint, in place of --model-dir", shown="CKPT"),
    "method": Setting(None, "refuse a model of another method; or the file of a method from outside, whose checkpoint "
                      "--pretrained is", shown="NAME|FILE"),
    "bit": Setting(None, "refuse a model of another code length; without a model: output/weights_BIT.pdparams, as in "
                   "paddle_hashnet", kind=int, low=1),
    "dataset": Setting(None, "protocol or folder of lists; default: the one the model was trained on", shown="NAME",
                       spelled=DATA_SETS),
    "gallery": Setting(None, "search these pictures, in place of a data set: a folder with its sub-folders, a manifest "
                       "(.csv, .jsonl) or a list; without a query the codes are made and that is all", shown="PATH"),
    "data_path": Setting(None, "folder of the images; default: the one of the training run", shown="DIR"),
    "list_dir": Setting(None, "folder with the database list", shown="DIR"),
    "split_seed": Setting(None, "seed of the split; default: the training run's", kind=int, low=0, also=("seed",)),
    "code_file": Setting(None, "database codes; default database_<method>_<bits>.npz (with --gallery gallery_...) in "
                         "the folder of --save-path; made when missing", shown="FILE"),
    "rebuild": Setting(False, "encode the database even if there is a code file (new, changed and gone pictures of a "
                       "--gallery are seen without)"),
    "save_path": Setting("./output", "folder for matches.png (or the picture's name itself)"),
    "show": Setting(False, "open the picture grid in a window"),
    "topk": Setting(10, "matches a query", low=1),
    **ranking.FLAGS,
    **ranking.KEEP,
    "json": Setting(False, "machine-readable result on stdout, everything else on stderr"),
    "batch_size": Setting(32, "pictures a call", low=1),
    "workers": Setting(2, "decoding threads", low=1),
    "use_gpu": Setting(False, "run on the GPU"),
    "threads": Setting(None, "math threads on the CPU; default all cores", kind=int, low=1),
    **engine_flags.FLAGS,
}


def parse(argv):
    """The command line as attributes, see FLAGS."""
    return read_options(argv, "predict.py", "Nearest database items of a picture, a folder, a list of pictures, or a "
                        "text.", FLAGS)


# models ---------------------------------------------------------------------------------
def open_encoder(options):
    """The Encoder of --model-dir or --pretrained, checked against --method."""
    if not options.method:
        return _open(options)
    from models import find_method
    wanted = find_method(options.method).name  # before the checkpoint of a method from outside is read
    encoder = _open(options)
    if wanted != encoder.manifest["method"]:
        raise InputError(f"--method {options.method}, but {options.model_dir or options.pretrained} is of method "
                         f"{encoder.manifest['method']}")
    return encoder


def _open(options):
    from deploy.engines import open_with
    from deploy.model_folder import check_bits
    if options.bit and not options.model_dir and not options.pretrained:
        # paddle_hashnet's command names no model: --bit says which of the four in its folder output is meant
        weights = f"output/weights_{options.bit}"
        options.pretrained = weights if os.path.isfile(f"{weights}.pdparams") else None
    if bool(options.model_dir) == bool(options.pretrained):
        raise InputError("give either --model-dir DIR (of export_model.py) or --pretrained CHECKPOINT")
    if options.model_dir:
        return open_with(options)
    if options.mkldnn or engine_flags.precision_of(options) != "fp32":
        raise InputError("--mkldnn, --bf16 and --precision belong to exported models; give --model-dir")
    from models.encoder import checkpoint_encoder
    from utils.training.checkpoint import find_checkpoint
    path = find_checkpoint(options.pretrained)
    if path != options.pretrained:
        say(f"----- Checkpoint: {path}")
    encoder = checkpoint_encoder(path, options.use_gpu, options.threads)
    check_bits(encoder.manifest, options.bit, path)
    return encoder


@contextlib.contextmanager
def stdout_to_stderr():
    """Send everything that is printed meanwhile, by Python or by C++ code, to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).fflush(None)  # C's own buffer, else it would follow after the switch back
        os.dup2(kept, 1)
        os.close(kept)


def has_display():
    """True where a window can be opened."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main(argv):
    """Answer the queries of the flags; exit status ``SKIPPED`` where some could not be read.

    Raises:
        InputError: see ``run``.
    """
    options = parse(argv)
    quiet()
    if options.json:
        with stdout_to_stderr():
            answer = run(options)
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        answer = run(options)
    if answer["skipped"]:
        from deploy.queries import SKIPPED
        sys.exit(SKIPPED)


def run(options):
    """Answer the queries; prints the tables, writes the grid.

    With --gallery and no query the codes of the gallery are made or brought up to date, and that is all.

    Returns:
        Plain values: ``method``, ``bits``, ``fingerprint``, ``precision``, ``engine``, ``search``, ``rank``,
        ``code_file``, ``database_items``, ``grid`` (its file, or None), ``queries`` (see deploy.answers.results),
        ``skipped`` (those that could not be read, each with ``query`` and ``reason``).

    Raises:
        InputError: what is wrong with flags, model or data; not one query can be read.
    """
    # inside, here and below: --help and wrong flags are answered at once
    from deploy.answers import results, table
    from deploy.data import Data, code_store
    check_flags(options)
    encoder = open_encoder(options)
    manifest = encoder.manifest
    if options.search == "text" and not manifest.get("text"):
        raise InputError(f"method {manifest['method']} has no text codes; --search text needs a cross-modal model")
    data = Data(manifest, options.dataset, options.data_path, options.list_dir, options.split_seed,
                options.gallery or known_gallery(options))
    queries = ask(options, encoder, data)

    as_file = options.save_path.lower().endswith(ENDINGS)
    folder = os.path.dirname(options.save_path) if as_file else options.save_path
    store = code_store(encoder, data, options.batch_size, options.workers)
    path = options.code_file or os.path.join(folder, store.name(options.search))
    codefile = store.open(path, options.search, options.rebuild, options.gallery is not None,
                          options.keep_relaxed)
    answer = {"method": manifest["method"], "bits": encoder.bits, "fingerprint": encoder.fingerprint,
              "precision": encoder.precision, "engine": encoder.engine, "search": options.search, "rank": options.rank,
              "code_file": path, "database_items": len(codefile), "grid": None, "queries": [], "skipped": []}
    if queries is None:
        say(f"----- {len(codefile)} items of {options.gallery} can be searched: --code-file {path} --img PICTURE")
        return answer
    texts = None
    if options.search == "text" and data.protocol.database.texts is not None:
        texts = dict(zip(data.protocol.database.ids, data.protocol.database.texts))
    found = ranking.rank(options, queries.relaxed, codefile)
    answer["queries"] = results(queries.split.ids, found, codefile, data, texts)
    for query in answer["queries"]:
        for line in table(query):
            say(line)
    say(f"----- Predicted Hamm_min: {found.closest[0]}")
    say(f"----- Found matched picture: {answer['queries'][0]['matches'][0]['path']}")
    answer["skipped"] = [{"query": name, "reason": reason} for name, reason in queries.skipped]
    for name, reason in queries.skipped:
        say(f"----- Skipped query {name}: {reason}")
    if queries.skipped:
        say(f"----- {len(queries.skipped)} of {len(queries.skipped) + len(queries.split)} queries were skipped")
    grid = options.save_path if as_file else os.path.join(folder, "matches.png")
    if draw(grid, queries.shown(SHOWN, manifest["preprocess"]), answer["queries"], codefile, data):
        answer["grid"] = grid
        say(f"----- Save picture grid in: {grid}")
    if options.show:
        show(answer["grid"])
    return answer


def check_flags(options):
    """Raise InputError where flags contradict each other, before anything is read."""
    if options.text is not None and options.img is not None:
        raise InputError("give --img or --text, not both")
    ranking.depth(options)
    if options.gallery is None:
        return
    if options.dataset or options.list_dir:
        raise InputError("--gallery takes the place of a data set; leave out --dataset and --list-dir")
    if not os.path.exists(options.gallery) and "{" not in options.gallery:
        raise InputError(f"--gallery {options.gallery} does not exist; name a folder of pictures, a manifest (.csv, "
                         ".jsonl) or a list (.txt)")


def known_gallery(options):
    """The gallery whose codes --code-file holds, where no other data are asked for; else None."""
    from utils.retrieval.codes import CodeFile
    if options.dataset or not options.code_file or not os.path.isfile(options.code_file):
        return None
    return (CodeFile.load(options.code_file).meta.get("data") or {}).get("gallery")


def ask(options, encoder, data):
    """The Queries that the flags name; None where only the codes of --gallery are wanted."""
    from deploy import queries
    if options.text is not None:
        return queries.text_query(encoder, options.text)
    if options.img is not None:
        paths, lost = queries.find_pictures(options.img, [data.root])
        return queries.picture_queries(encoder, paths, lost, options.batch_size, options.workers)
    if options.gallery is not None:
        return None
    if data.gallery is not None:
        raise InputError(f"{options.code_file} holds the codes of a gallery; ask with --img or --text")
    return queries.first_query(encoder, data)


def draw(path, shown, queries, codefile, data):
    """Write the picture grid of the first queries.

    Args:
        shown: query pictures (uint8 [H, W, 3]) or texts.
        queries: what ``results`` made.

    Returns:
        True if it was written; without any picture of the database there is none, and a line says so.
    """
    from deploy.answers import DatabasePictures
    from utils.images import ImageError
    from utils.plots import retrieval_grid
    pictures, known = DatabasePictures(data), query_labels(data) if codefile.labels is not None else {}
    rows, faults, drawn = [], [], 0
    for item, query in zip(shown, queries):
        labels = known.get(query["query"], known.get(os.path.normpath(query["query"])))
        matches = []
        for match in query["matches"][:SHOWN]:
            picture = match.get("text")
            try:
                picture = picture or pictures.read(match)
                drawn += 1
            except ImageError as error:  # gone or broken since it was encoded: its name stands there
                picture = match["id"]
                faults.append(error)
            except InputError as error:
                say(f"----- No picture grid: {error}")
                return False
            relevant = None if labels is None else bool((labels & codefile.labels[match["position"]]).any())
            matches.append({"item": picture, "distance": match["distance"], "relevant": relevant,
                            "caption": ", ".join(match["labels"] or [])})
        rows.append({"query": item, "caption": "" if isinstance(item, str) else os.path.basename(query["query"]),
                     "matches": matches})
    if not drawn:
        say(f"----- No picture grid: {faults[0]}")
        return False
    retrieval_grid(path, rows)
    return True


def query_labels(data):
    """dict id or path -> labels uint8 [C] of the data set's own queries: their matches are framed by relevance."""
    try:
        query = data.protocol.query
    except InputError:  # a code file without its data set
        return {}
    if query.labels is None:
        return {}
    path = getattr(query.images, "path", lambda i: query.ids[i])
    return {name: query.labels[i] for i in range(len(query)) for name in (query.ids[i], os.path.normpath(path(i)))}


def show(grid):
    """Open the grid in the system's picture viewer, or say why not."""
    if grid is None:
        say("----- Nothing to show: there is no picture grid")
    elif not has_display():
        say(f"----- No display to show it on; the picture grid is in {grid}")
    else:
        from PIL import Image
        Image.open(grid).show()


if __name__ == "__main__":
    run_main(main)
