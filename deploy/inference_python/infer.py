"""Answer a query with an exported model through Paddle Inference (the TIPC entry).

python deploy/inference_python/infer.py --model-dir output/model --img-path cat.jpg --benchmark True
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from deploy import engine_flags, ranking  # noqa: E402
from utils.errors import InputError, run_main, say  # noqa: E402
from utils.flags import quiet, read_options  # noqa: E402
from utils.peer_flags import DATA_SETS  # noqa: E402
from utils.settings import ALL, Setting  # noqa: E402  (needs the path above)

FLAGS = {
    "model_dir": Setting(None, "folder that export_model.py wrote", shown="DIR"),
    "bit": Setting(None, "refuse a model of another code length", kind=int, low=1),
    "dataset": Setting(None, "protocol or folder of lists; default: the one the model was trained on", shown="NAME",
                       spelled=DATA_SETS),
    "data_path": Setting(None, "folder of the images; default: the one of the training run", shown="DIR"),
    "list_dir": Setting(None, "folder with the database and query lists", shown="DIR"),
    "split_seed": Setting(None, "seed of the split; default: the training run's", kind=int, low=0, also=("seed",)),
    "save_path": Setting("./output", "where the database codes are kept"),
    "code_file": Setting(None, "database codes; default <save-path>/database_<method>_<bits>.npz", shown="FILE"),
    "rebuild": Setting(False, "encode the database even if there is a code file"),
    "img_path": Setting(None, "query picture; default: the first query of the split", shown="FILE"),
    "topk": Setting(1, "matches to print", low=1),
    **ranking.FLAGS,
    **ranking.KEEP,
    "batch_size": Setting(1, "pictures a call, of the database and of the benchmark", low=1),
    "workers": Setting(2, "decoding threads", low=1),
    "use_gpu": Setting(False, "run on the GPU"),
    "threads": Setting(None, "math threads on the CPU; default all cores", kind=int, low=1),
    **engine_flags.FLAGS,
    "evaluate": Setting(False, "encode the query split too and print mAP"),
    "map_topk": Setting(None, "K of mAP@K, 0 = all; default: the training run's", kind=int, low=0, spelled=ALL),
    "benchmark": Setting(False, "print the usual benchmark section"),
    "warmup": Setting(1, "unmeasured calls of the benchmark", low=0),
    "repeat": Setting(10, "measured calls of the benchmark", low=1),
}


def parse(argv):
    """The command line as attributes, see FLAGS."""
    return read_options(argv, "infer.py", "Query a database of images with an exported hashing model.", FLAGS)


def query_image(options, data, spec):
    """(name, picture decoded as the manifest's preprocessing ``spec`` says, or feature vector) of the query."""
    from utils.images import decode, read
    if options.img_path:
        return options.img_path, decode(options.img_path, spec=spec)
    query = data.protocol.query
    if not len(query):
        raise InputError(f"the query split of {data.name} is empty; give --img-path")
    return query.ids[0], query.features[0] if query.features is not None else read(query.images, 0, spec)


def model_input(predictor, item):
    """Decoded picture uint8 [H, W, 3] or feature vector [D] -> a batch of one."""
    import numpy as np

    from utils.transforms import preprocess
    wanted = predictor.manifest["image"]["input"]
    if item.ndim == 1:
        return np.asarray(item, dtype="float32")[None]
    if len(wanted) == 1:
        raise InputError(f"this model reads feature vectors of {wanted[0]} numbers, not pictures; leave --img-path out")
    return preprocess(item, predictor.manifest["preprocess"])[None]


def evaluate_codes(store, databases, map_topk=None):
    """Retrieval metrics of the engine's codes: the query split against the database's codes.

    Args:
        store: utils.retrieval.code_store.CodeStore.
        databases: dict modality -> CodeFile.
        map_topk: K of mAP@K, 0 = all; None = the training run's.

    Returns:
        (dict direction -> report of utils.retrieval.metrics.evaluate, number of broken queries that were skipped).
    """
    from utils.datasets import trained_on
    from utils.retrieval.score import labelled, score
    data = store.data
    if data.protocol.query.labels is None or not labelled(databases):
        raise InputError(f"--evaluate needs labels, and {data.name} has none")
    topk = data.topk if map_topk is None else map_topk
    note = trained_on.note(trained_on.compare(*store.encoder.trained_on, data.protocol))
    if note:
        say(f"----- Note: {note}")
    queries = {modality: store.build("query", modality, relaxed=True) for modality in databases}
    reports = score(queries, databases, data.protocol.topk if topk is None else topk, data.ap)
    return reports, max(codefile.meta["skipped"] for codefile in queries.values())


def benchmark(predictor, codefile, database, options, item, start_up):
    """Time --batch-size queries again and again, on the database's codes and words; print the report of the stages."""
    import numpy as np

    from deploy.autolog import AutoLogger
    from utils.images import decode
    spec = predictor.manifest["preprocess"]
    log = AutoLogger(f"{predictor.manifest['method']}_{predictor.bits}", batch_size=options.batch_size,
                     data_num=options.repeat, input_shape=",".join(map(str, predictor.manifest["image"]["input"])),
                     precision=predictor.precision,
                     device="gpu" if options.use_gpu else "cpu", runtime=predictor.runtime(),
                     extra={"start_up_time(s)": start_up if start_up is None else round(start_up, 3),
                            "database_items": database.shape[1]})
    for call in range(options.warmup + options.repeat):
        if call == options.warmup:
            log.times.calls.clear()
        log.times.start()
        items = [decode(options.img_path, spec=spec) if options.img_path else item for _ in range(options.batch_size)]
        images = np.concatenate([model_input(predictor, one) for one in items])
        log.times.stamp()
        code = predictor.encode(images)
        log.times.stamp()
        ranking.rank(options, code, codefile, database)
        log.times.end(stamp=True)
    log.report()


def main(argv):
    """Encode, and search or evaluate, with the exported model that the flags name.

    Raises:
        InputError: what is wrong with the flags, the model or the data.
    """
    options = parse(argv)
    if not options.model_dir:
        raise InputError("--model-dir DIR is missing (the folder that export_model.py wrote)")
    quiet()
    # inside, here and above: --help and wrong flags are answered at once
    from deploy.autolog import since_process_start
    from deploy.data import Data, code_store
    from deploy.engines import open_with
    from deploy.model_folder import check_bits, read_manifest
    from deploy.queries import SKIPPED
    from utils.retrieval.hamming import pack, prepare
    from utils.retrieval.score import prefix

    ranking.depth(options)
    engine_flags.precision_of(options)
    manifest = read_manifest(options.model_dir)
    check_bits(manifest, options.bit, options.model_dir)
    data = Data(manifest, options.dataset, options.data_path, options.list_dir, options.split_seed)
    name, item = query_image(options, data, manifest["preprocess"])
    start = time.perf_counter()
    predictor = open_with(options)
    start_up = since_process_start()
    say(f"----- Load model from {options.model_dir}: {manifest['method']}, {manifest['bits']} bits, "
        f"{predictor.precision}, fingerprint {predictor.fingerprint} ({time.perf_counter() - start:.2f} s)")
    code = predictor.encode(model_input(predictor, item))

    store = code_store(predictor, data, options.batch_size, options.workers)
    path = options.code_file or os.path.join(options.save_path, store.name())
    codefile = store.open(path, rebuild=options.rebuild, keep_relaxed=options.keep_relaxed)
    database = prepare(codefile.codes)
    best = ranking.rank(options, code, codefile, database)
    found = [data.path(codefile.ids[i], codefile.meta.get("root")) for i in best.position[0]]
    say(f"----- Query: {name}")
    say(f"----- Query code: {pack(code)[0].tobytes().hex()}")
    say(f"----- Predicted Hamm_min: {best.closest[0]}")
    say(f"----- Found matched picture: {found[0]}")
    if options.topk > 1:
        for i, match in enumerate(found):
            score = "" if best.score is None else f" {best.score[0, i]:>11.4f}"
            say(f"{i + 1:>4} {best.distance[0, i]:>4}{score}  {match}")
    skipped = 0
    if options.evaluate:
        databases = {"image": codefile}
        if manifest.get("text"):
            databases["text"] = store.open(os.path.join(os.path.dirname(path), store.name("text")), "text",
                                           options.rebuild, keep_relaxed=options.keep_relaxed)
        reports, skipped = evaluate_codes(store, databases, options.map_topk)
        say(f"----- Code bits: {(code[0] >= 0).astype(int).tolist()}")  # this and `mAP:` are read by TIPC's scripts
        for direction, report in reports.items():
            say(f"----- {prefix(direction)}{report['definition']['name']}: {report['mAP']:.6f} "
                f"(tie-aware expectation {report['mAP_expected']:.6f}), {predictor.precision} codes of "
                f"{predictor.engine}")
            say(f"----- {prefix(direction)}{report['definition']['name']} asymmetric: "
                f"{report['mAP_asymmetric']:.6f} ({report['definition']['asymmetric']})")
            say(f"----- {prefix(direction)}mAP: {report['mAP']:.6f}")
    if options.benchmark:
        benchmark(predictor, codefile, database, options, item, start_up)
    if skipped:
        sys.exit(SKIPPED)


if __name__ == "__main__":
    run_main(main)
