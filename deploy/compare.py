"""Two model folders of one network: do they give the same bits, and how good, fast and large are they?

    python deploy/compare.py --model-dir output/model --other-dir output/onnx --exact
    python deploy/compare.py --model-dir output/model --other-dir output/int8 --evaluate --max-drop 0.02

A model folder is what export_model.py, deploy/onnx/convert.py or deploy/slim/quantize.py wrote.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402  (needs the path above)

from utils.errors import InputError, run_main  # noqa: E402
from utils.flags import quiet, read_options  # noqa: E402
from utils.settings import Setting  # noqa: E402

MARGIN = 1e-3  # of the largest |code|: bits of smaller codes may differ between engines
RANDOM = 8  # random inputs of a comparison
NOISE = "random inputs"
GRAPH_FILES = (".json", ".pdmodel", ".pdiparams", ".onnx")


# which data set, and how to go through it
DATA_FLAGS = {
    "dataset": Setting(None, "protocol or folder of lists; default: the one the model was trained on", shown="NAME"),
    "data_path": Setting(None, "folder of the images; default: the one of the training run", shown="DIR"),
    "list_dir": Setting(None, "folder with the lists", shown="DIR"),
    "split_seed": Setting(None, "seed of the split; default: the training run's", kind=int, low=0, also=("seed",)),
    "batch_size": Setting(16, "pictures a call", low=1),
    "workers": Setting(2, "decoding threads", low=1),
    "threads": Setting(None, "math threads; default all cores", kind=int, low=1),
}
FLAGS = {
    "model_dir": Setting(None, "the model to compare with: what export_model.py wrote", shown="DIR"),
    "other_dir": Setting(None, "the model that was made of it", shown="DIR"),
    "images": Setting(64, "query pictures to compare on, 0 = random inputs only", low=0),
    "evaluate": Setting(False, "encode the whole query and database splits with both and print mAP"),
    "exact": Setting(False, "fail where a bit differs although its code is away from zero"),
    "max_drop": Setting(None, "fail where the mAP is lower by more than this (implies --evaluate)", kind=float, low=0,
                        high=1),
    "max_flips": Setting(None, "fail where more than this share of the bits differs", kind=float, low=0, high=1),
    "mkldnn": Setting(False, "run --model-dir with oneDNN kernels, as int8 models always run"),
    "repeat": Setting(10, "measured calls for the speed, 0 = none", low=0),
    **DATA_FLAGS,
}


def parse(argv):
    """The command line as attributes, see FLAGS."""
    return read_options(argv, "compare.py", "Compare two model folders of one network.", FLAGS)


# codes ------------------------------------------------------------------------------------------
def random_inputs(manifest, modality="image", seed=0):
    """Random inputs float32 [RANDOM, ...] of a model: patches of colour of two sizes under noise, or sparse words."""
    rng = np.random.default_rng(seed)
    if modality == "text":
        rows = rng.random([RANDOM, manifest["text"]["dim"]])
        return np.where(rows < 0.8, 0, rows).astype("float32")
    shape = manifest["image"]["input"]
    x = rng.standard_normal([RANDOM, *shape])
    if len(shape) == 3:
        for cells in (2, 7):
            size = -(-max(shape[1:]) // cells)
            coarse = np.kron(rng.standard_normal([RANDOM, shape[0], cells, cells]), np.ones([1, 1, size, size]))
            x = 0.5 * x + coarse[:, :, :shape[1], :shape[2]]
    return x.astype("float32")


def run(predictor, rows, modality="image"):
    """Relaxed codes float32 [N, bits] of inputs."""
    return predictor.encode_text(rows) if modality == "text" else predictor.encode(rows)


def both(reference, other, split, modality, options, vectorizer=None):
    """Relaxed codes of a split from two engines; every picture is decoded once.

    Returns:
        (float32 [n, bits], float32 [n, bits], positions of the n encoded items).
    """
    from deploy.inference_python.encode import batches, text_features
    if modality == "text" or split.features is not None:
        rows = text_features(split, vectorizer) if modality == "text" else np.asarray(split.features, dtype="float32")
        size = options.batch_size
        parts = [(range(i, min(i + size, len(split))), rows[i:i + size], []) for i in range(0, len(split), size)]
    elif split.images is None:
        raise InputError(f"the {split.name} split has no pictures; choose another --dataset")
    else:
        parts = batches(split, reference.manifest["preprocess"], options.batch_size, options.workers)
    first, second, positions = [], [], []
    for good, rows, _ in parts:
        if len(good):
            first.append(run(reference, rows, modality))
            second.append(run(other, rows, modality))
            positions += good
    if not positions:
        raise InputError(f"no picture of the {split.name} split can be read")
    return np.concatenate(first), np.concatenate(second), np.asarray(positions)


def difference(reference, other):
    """How two engines' relaxed codes [N, bits] differ: a dict.

    ``near_zero`` counts the codes of the reference within MARGIN of its largest |code| from zero, ``far_flips`` the
    bits that differ although their code is not among them.
    """
    near = np.abs(reference) <= MARGIN * np.abs(reference).max()
    flips = (reference >= 0) != (other >= 0)
    return {"items": len(reference), "codes": reference.size, "near_zero": int(near.sum()), "flips": int(flips.sum()),
            "far_flips": int((flips & ~near).sum()), "largest": float(np.abs(reference - other).max())}


def say_difference(name, found):
    print(f"----- {name}: {found['flips']} of {found['codes']} bits differ ({found['flips'] / found['codes']:.2%}), "
          f"{found['far_flips']} of them farther than {MARGIN:g} from zero; {found['near_zero']} codes are nearer; "
          f"largest difference {found['largest']:.2g}")


# the whole --------------------------------------------------------------------------------------
def check_pair(reference, other, folders):
    """Raise InputError unless the second model was made of the first."""
    first, second = reference.manifest, other.manifest
    if first["fingerprint"] not in (second["fingerprint"], second.get("made_of")):
        raise InputError(f"{folders[1]} was not made of {folders[0]}: it says model "
                         f"{second.get('made_of') or second['fingerprint']}, not {first['fingerprint']}; convert that "
                         "model again")
    if (first["bits"], first["preprocess"]) != (second["bits"], second["preprocess"]):
        raise InputError(f"{folders[1]} and {folders[0]} have other bits or preprocessing; convert the model again")


def splits(data, options):
    """dict role -> Split to compare on; empty (and said so) where the model's own data set is not at hand."""
    if not (options.images or options.evaluate):
        return {}
    try:
        protocol = data.protocol
    except InputError as error:
        if options.evaluate or options.dataset or options.data_path:
            raise
        print(f"----- Random inputs only: {error}")
        return {}
    if options.evaluate:
        return {"query": protocol.query, "database": protocol.database}
    return {"query": protocol.query.select(range(min(options.images, len(protocol.query))))}


def score(codes, data, rule):
    """mAP of each direction for both engines.

    Args:
        codes: dict (role, modality) -> what ``both`` returns.

    Returns:
        dict direction -> (name of the metric, value of the first engine, of the second).
    """
    from utils.retrieval.hamming import pack
    from utils.retrieval.metrics import evaluate
    query, database = data.protocol.query, data.protocol.database
    if query.labels is None or database.labels is None:
        raise InputError(f"--evaluate needs labels, and {data.request['dataset']} has none")
    topk = data.protocol.topk if data.topk is None else data.topk
    modalities = [modality for role, modality in codes if role == "query"]
    found = {}
    for source in modalities:
        for target in modalities:
            asked, held = codes["query", source], codes["database", target]
            reports = [evaluate(pack(asked[i]), pack(held[i]), query.labels[asked[2]], database.labels[held[2]],
                                asked[i].shape[1], topk=topk, ap=rule) for i in (0, 1)]
            found[f"{source[0]}->{target[0]}".upper()] = (reports[0]["definition"]["name"], reports[0]["mAP"],
                                                          reports[1]["mAP"])
    return found


def rates(predictors, rows, repeat, clock):
    """Images a second of the best call of each engine; they take turns: other load on the machine meets both."""
    best = [float("inf")] * len(predictors)
    for call in range(repeat + 1):
        for i, predictor in enumerate(predictors):
            start = clock()
            predictor.encode(rows)
            if call:  # the first one warms up
                best[i] = min(best[i], clock() - start)
    return [len(rows) / seconds for seconds in best]


def size(folder, manifest):
    """Bytes of the graphs and weights of a model folder."""
    return sum(os.path.getsize(os.path.join(folder, name)) for name in manifest["files"]
               if os.path.splitext(name)[1] in GRAPH_FILES and name != (manifest.get("text") or {}).get("vectorizer"))


def compare(options):
    """Compare as the flags say, print what is found.

    Returns:
        dict: codes (modality -> ``difference``), mAP (direction -> name and both values), rates, sizes.

    Raises:
        InputError: the models do not belong together; ``--exact``, ``--max-flips`` or ``--max-drop`` is violated.
    """
    from deploy.inference_python.encode import Data, open_vectorizer
    from deploy.inference_python.predictor import open_predictor
    folders = options.model_dir, options.other_dir
    reference = open_predictor(folders[0], threads=options.threads, mkldnn=options.mkldnn)
    other = open_predictor(folders[1], threads=options.threads)
    check_pair(reference, other, folders)
    manifest = reference.manifest
    data = Data(manifest, options.dataset, options.data_path, options.list_dir, options.split_seed)
    parts = splits(data, options)
    modalities = ["image", "text"] if manifest.get("text") else ["image"]
    vectorizer = open_vectorizer(manifest, folders[0]) if "text" in modalities else None
    codes = {(role, modality): both(reference, other, split, modality, options, vectorizer)
             for role, split in parts.items() for modality in modalities}
    found = {"codes": {}, "mAP": {}}
    for modality in modalities:
        rows = random_inputs(manifest, modality)
        pairs = {NOISE: (run(reference, rows, modality), run(other, rows, modality))}
        if parts:
            own = [codes[role, modality] for role in parts]
            name = f"{modality}s of the {' and '.join(parts)} split"
            pairs[name] = [np.concatenate([pair[i] for pair in own]) for i in (0, 1)]
        for name, pair in pairs.items():
            found["codes"][modality, name] = difference(*pair)
            say_difference(f"{len(pair[0])} {name if name != NOISE else f'random {modality} inputs'}",
                           found["codes"][modality, name])
    if options.evaluate:
        found["mAP"] = score(codes, data, manifest.get("recipe", {}).get("ap", "hits"))
        for direction, (name, first, second) in found["mAP"].items():
            print(f"----- {direction + ' ' if direction != 'I->I' else ''}{name}: {second:.6f} of {folders[1]}, "
                  f"{first:.6f} of {folders[0]}, difference {second - first:+.6f}")
    if options.repeat:
        rows = np.resize(random_inputs(manifest), [options.batch_size, *manifest["image"]["input"]])
        # one thread: its own time, which other work on the machine does not disturb
        clock, unit = (time.process_time, "CPU second") if options.threads == 1 else (time.perf_counter, "second")
        found["rates"] = rates((reference, other), rows, options.repeat, clock)
        print(f"----- speed: {found['rates'][1]:.1f} against {found['rates'][0]:.1f} images a {unit} "
              f"({found['rates'][1] / found['rates'][0]:.2f} times), batches of {options.batch_size}")
    found["sizes"] = [size(folder, p.manifest) for folder, p in zip(folders, (reference, other))]
    print(f"----- size: {found['sizes'][1] / 1e6:.2f} against {found['sizes'][0] / 1e6:.2f} MB "
          f"({found['sizes'][1] / found['sizes'][0]:.2f} times)")
    judge(found, options)
    return found


def judge(found, options):
    """Raise InputError where the flags ask for more than was found."""
    if options.exact:
        wrong = sum(one["far_flips"] for one in found["codes"].values())
        if wrong:
            total = sum(one["codes"] for one in found["codes"].values())
            raise InputError(f"{options.other_dir} gives other bits than {options.model_dir}: {wrong} of {total} "
                             f"differ although their code is farther than {MARGIN:g} from zero")
    if options.max_flips is not None:
        own = [one for (_, name), one in found["codes"].items() if name != NOISE] or list(found["codes"].values())
        for one in own:  # noise is no picture: int8 ranges are for pictures
            if one["flips"] > options.max_flips * one["codes"]:
                raise InputError(f"{one['flips'] / one['codes']:.1%} of the bits of {options.other_dir} differ from "
                                 f"those of {options.model_dir}, --max-flips allows {options.max_flips:.1%}")
    if options.max_drop is not None:
        for direction, (name, first, second) in found["mAP"].items():
            if first - second > options.max_drop:
                raise InputError(f"the {direction} {name} of {options.other_dir} is {second:.4f}, lower by "
                                 f"{first - second:.4f} than {first:.4f} of {options.model_dir}; {options.max_drop} is "
                                 "allowed")


def main(argv):
    options = parse(argv)
    if not options.model_dir or not options.other_dir:
        raise InputError("--model-dir and --other-dir are needed: two model folders")
    options.evaluate = options.evaluate or options.max_drop is not None
    quiet()
    compare(options)


if __name__ == "__main__":
    run_main(main)
