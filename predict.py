"""Find the database items nearest to pictures or words.

python predict.py --model-dir output/model --img cat.jpg --topk 10
python predict.py --pretrained output/run/best.safetensors --img folder/ --json
python predict.py --pretrained output/run/best.safetensors --gallery my_photos/ --code-file photos.npz
python predict.py --pretrained output/run/best.safetensors --code-file photos.npz --img cat.jpg
python predict.py --model-dir output/model --text "red circle"          (cross-modal models)
"""
import contextlib
import ctypes
import functools
import json
import os
import sys

import numpy as np

from utils.errors import InputError, run_main
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
    "bit": Setting(None, "refuse a model of another code length", kind=int, low=1),
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
    "json": Setting(False, "machine-readable result on stdout, everything else on stderr"),
    "batch_size": Setting(32, "pictures a call", low=1),
    "workers": Setting(2, "decoding threads", low=1),
    "use_gpu": Setting(False, "run on the GPU"),
    "threads": Setting(None, "math threads on the CPU; default all cores", kind=int, low=1),
    "mkldnn": Setting(False, "oneDNN kernels, float32 (with --model-dir)", also=("enable_mkldnn",)),
    "bf16": Setting(False, "oneDNN kernels, bfloat16 (with --model-dir)"),
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
    if bool(options.model_dir) == bool(options.pretrained):
        raise InputError("give either --model-dir DIR (of export_model.py) or --pretrained CHECKPOINT")
    if options.model_dir:
        return open_with(options)
    if options.mkldnn or options.bf16:
        raise InputError("--mkldnn and --bf16 belong to exported models; give --model-dir")
    from models.encoder import checkpoint_encoder
    encoder = checkpoint_encoder(options.pretrained, options.use_gpu, options.threads)
    check_bits(encoder.manifest, options.bit, options.pretrained)
    return encoder


# queries --------------------------------------------------------------------------------
def query_files(path, roots):
    """Picture files that --img names.

    Args:
        path: a picture, a folder (searched with its sub-folders, in order of names), or a .txt list in the
            format of the data sets (labels are ignored).
        roots: folders where the names of a list may start.

    Raises:
        InputError: nothing there, no picture in the folder, or a listed file that is not found.
    """
    from utils.images import IMAGE_ENDINGS
    if os.path.isdir(path):
        found = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
                 if name.lower().endswith(IMAGE_ENDINGS)]
        if not found:
            raise InputError(f"the folder {path} holds no pictures ({', '.join(IMAGE_ENDINGS)})")
        return sorted(found)
    if not path.lower().endswith(".txt"):
        return [path]
    from utils.datasets.list_file import read_list
    names, _, lines = read_list(path, form="auto")
    if not names:
        raise InputError(f"the list {path} is empty")
    return [_find(name, [os.path.dirname(path), *roots, ".", "/"], f"{path}:{line}")
            for name, line in zip(names, lines)]


def _find(name, roots, where):
    for root in roots:
        if root is not None and os.path.isfile(os.path.join(root, name)):
            return os.path.join(root, name)
    raise InputError(f"{where}: no picture {name} beside the list or in the data folder; correct the list or "
                     "--data-path")


def encode_queries(options, encoder, data):
    """(names, relaxed codes float32 [Q, bits], the first few pictures or texts for the grid)."""
    if options.text is not None:
        if not encoder.manifest.get("text"):
            raise InputError(f"method {encoder.manifest['method']} reads images only; --text needs a cross-modal "
                             "model (djsrh)")
        if encoder.vectorizer is None:
            raise InputError("this model has no vectorizer.json (it was trained on precomputed text features), so it "
                             "cannot read words")
        row = np.asarray(encoder.vectorizer.transform([options.text]), dtype="float32")
        if not row.any():
            raise InputError(f"the model knows none of the words in {options.text!r}; try words of its training texts")
        return [options.text], encoder.encode_text(row), [options.text]
    if len(encoder.manifest["image"]["input"]) == 1:
        return _feature_query(options, encoder, data)
    from utils.datasets.base import FileImages
    from utils.images import read
    from utils.transforms import preprocess
    spec = encoder.manifest["preprocess"]
    if options.img is None:
        names, images = data.protocol.query.ids[:1], data.protocol.query.images
    else:
        names = query_files(options.img, [data.root])
        images = FileImages("", names)
    codes, shown = [], []
    for start in range(0, len(names), options.batch_size):
        pictures = [read(images, i, spec) for i in range(start, min(start + options.batch_size, len(names)))]
        codes.append(encoder.encode(np.stack([preprocess(picture, spec) for picture in pictures])))
        shown += pictures[:max(0, SHOWN - len(shown))]
    return names, np.concatenate(codes), shown


def _feature_query(options, encoder, data):
    """The query of a model that reads feature vectors: the first of the data set."""
    if options.img is not None:
        raise InputError("this model reads precomputed features, not pictures; leave --img out or ask with --text")
    query = data.protocol.query
    return query.ids[:1], encoder.encode(np.asarray(query.features[:1], dtype="float32")), [query.ids[0]]


# results --------------------------------------------------------------------------------
def label_names(codefile, position, classes):
    """Class names of a database item, None where the database has no labels."""
    if codefile.labels is None:
        return None
    columns = np.flatnonzero(codefile.labels[position])
    return [classes[c] if c < len(classes) else str(int(c)) for c in columns]


def results(names, distance, position, codefile, data, texts=None):
    """Plain values: one dict a query with its ranked matches."""
    classes = codefile.meta.get("classes") or data.classes
    out = []
    for name, apart, places in zip(names, distance, position):
        matches = [{"rank": rank, "distance": int(d), "id": codefile.ids[i], "position": int(i),
                    "path": data.path(codefile.ids[i], codefile.meta.get("root")),
                    "labels": label_names(codefile, i, classes),
                    **({"text": texts[codefile.ids[i]]} if texts is not None else {})}
                   for rank, (d, i) in enumerate(zip(apart, places), 1)]
        out.append({"query": name, "matches": matches})
    return out


def table(query):
    """The lines of one query's table."""
    lines = [f"----- Query: {query['query']}", f"{'rank':>4} {'distance':>8}  path (labels)"]
    for match in query["matches"]:
        labels = "" if match["labels"] is None else f"  ({', '.join(match['labels']) or 'no label'})"
        text = f"  {match['text']!r}" if "text" in match else ""
        lines.append(f"{match['rank']:>4} {match['distance']:>8}  {match['path']}{labels}{text}")
    return lines


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
    options = parse(argv)
    quiet()
    sys.stdout.reconfigure(errors="surrogateescape")  # file names that are no UTF-8 are printed as they are
    if not options.json:
        run(options)
        return
    with stdout_to_stderr():
        answer = run(options)
    print(json.dumps(answer, indent=2, ensure_ascii=False))


def run(options):
    """Answer the queries; prints the tables, writes the grid, returns the plain result.

    With --gallery and no query the codes of the gallery are made or brought up to date, and that is all.
    """
    from deploy.data import Data
    from deploy.index import ExactIndex
    from utils.picture_loader import PictureLoader
    from utils.retrieval.code_store import CodeStore
    from utils.retrieval.encode import encode
    from utils.retrieval.hamming import pack
    if options.text is not None and options.img is not None:
        raise InputError("give --img or --text, not both")
    if options.gallery is not None and (options.dataset or options.list_dir):
        raise InputError("--gallery takes the place of a data set; leave out --dataset and --list-dir")
    if options.gallery is not None and not os.path.exists(options.gallery) and "{" not in options.gallery:
        raise InputError(f"--gallery {options.gallery} does not exist; name a folder of pictures, a manifest (.csv, "
                         ".jsonl) or a list (.txt)")
    encoder = open_encoder(options)
    manifest = encoder.manifest
    if options.search == "text" and not manifest.get("text"):
        raise InputError(f"method {manifest['method']} has no text codes; --search text needs a cross-modal model")
    data = Data(manifest, options.dataset, options.data_path, options.list_dir, options.split_seed,
                options.gallery or known_gallery(options))
    index_only = options.gallery is not None and options.img is None and options.text is None
    if data.gallery is not None and not index_only and options.img is None and options.text is None:
        raise InputError(f"{options.code_file} holds the codes of a gallery; ask with --img or --text")
    names, relaxed, shown = ([], None, []) if index_only else encode_queries(options, encoder, data)

    as_file = options.save_path.lower().endswith(ENDINGS)
    folder = os.path.dirname(options.save_path) if as_file else options.save_path
    store = CodeStore(encoder, data, functools.partial(
        encode, on_broken="skip", load=PictureLoader(manifest["preprocess"], options.workers),
        batch_size=options.batch_size))
    path = options.code_file or os.path.join(folder, store.name(options.search))
    codefile = store.open(path, options.search, options.rebuild, options.gallery is not None)
    if index_only:
        print(f"----- {len(codefile.ids)} items of {options.gallery} can be searched: --code-file {path} --img PICTURE")
        distance = position = ()
    else:
        distance, position = ExactIndex(codefile).search(pack(relaxed), options.topk)
    texts = None
    if options.search == "text" and data.protocol.database.texts is not None:
        texts = dict(zip(data.protocol.database.ids, data.protocol.database.texts))
    answer = {"method": manifest["method"], "bits": manifest["bits"], "fingerprint": manifest["fingerprint"],
              "precision": encoder.precision, "search": options.search, "code_file": path,
              "database_items": len(codefile.ids), "grid": None,
              "queries": results(names, distance, position, codefile, data, texts)}
    if index_only:
        return answer
    for query in answer["queries"]:
        print("\n".join(table(query)))
    print(f"----- Predicted Hamm_min: {distance[0, 0]}")
    print(f"----- Found matched picture: {answer['queries'][0]['matches'][0]['path']}")
    grid = options.save_path if as_file else os.path.join(folder, "matches.png")
    if draw(grid, shown, answer["queries"], codefile, data):
        answer["grid"] = grid
        print(f"----- Save picture grid in: {grid}")
    if options.show:
        show(answer["grid"])
    return answer


def known_gallery(options):
    """The gallery whose codes --code-file holds, where no other data are asked for; else None."""
    from utils.retrieval.codes import CodeFile
    if options.dataset or not options.code_file or not os.path.isfile(options.code_file):
        return None
    return (CodeFile.load(options.code_file).meta.get("data") or {}).get("gallery")


def draw(path, shown, queries, codefile, data):
    """Write the picture grid of the first queries.

    Args:
        shown: query pictures (uint8 [H, W, 3]) or texts.
        queries: what ``results`` made.

    Returns:
        True if it was written; without the database's pictures there is none, and a line says so.
    """
    from utils.images import ImageError
    from utils.plots import retrieval_grid
    try:
        read = database_reader(codefile, data)
        known = query_labels(data) if codefile.labels is not None else {}
        rows = []
        for item, query in zip(shown, queries):
            labels = known.get(query["query"], known.get(os.path.normpath(query["query"])))
            matches = []
            for match in query["matches"][:SHOWN]:
                try:
                    picture = read(match)
                except ImageError:  # gone or broken since it was encoded
                    picture = match["id"]
                relevant = None if labels is None else bool((labels & codefile.labels[match["position"]]).any())
                matches.append({"item": match.get("text", picture), "distance": match["distance"], "relevant": relevant,
                                "caption": ", ".join(match["labels"] or [])})
            rows.append({"query": item, "caption": "" if isinstance(item, str) else os.path.basename(query["query"]),
                         "matches": matches})
    except InputError as error:
        print(f"----- No picture grid: {error}")
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


def database_reader(codefile, data):
    """Function (match) -> picture of a database item: from its file where it is one, else from the data set."""
    from utils.images import decode

    def read(match):
        if os.path.isfile(match["path"]):
            return decode(match["path"])
        split = data.protocol.database
        if split.images is None:
            return match["id"]
        if not places:
            places.update((name, i) for i, name in enumerate(split.ids))
        if match["id"] not in places:
            raise InputError(f"the database of {data.request['dataset']} has no item {match['id']}")
        return split.images.read(places[match["id"]])

    places = {}
    return read


def show(grid):
    """Open the grid in the system's picture viewer, or say why not."""
    if grid is None:
        print("----- Nothing to show: there is no picture grid")
    elif not has_display():
        print(f"----- No display to show it on; the picture grid is in {grid}")
    else:
        from PIL import Image
        Image.open(grid).show()


if __name__ == "__main__":
    run_main(main)
