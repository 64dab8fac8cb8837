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

from deploy.differences import MARGIN, compare_random, describe, difference, random_inputs  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.flags import quiet, read_options  # noqa: E402
from utils.folders import standing  # noqa: E402
from utils.retrieval.code_store import code_file  # noqa: E402
from utils.retrieval.encode import encode, need_codes  # noqa: E402
from utils.retrieval.encoder import modalities  # noqa: E402
from utils.retrieval.hamming import pack  # noqa: E402
from utils.retrieval.score import labelled, prefix, score  # noqa: E402
from utils.settings import Setting  # noqa: E402

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


class Pair:
    """Two encoders of one network as one (utils/retrieval/encoder.py) whose codes stand side by side, [N, 2 bits].

    So every picture is read once for both.
    """

    def __init__(self, reference, other):
        self.encoders = reference, other
        self.bits, self.manifest, self.vectorizer = 2 * reference.bits, reference.manifest, reference.vectorizer

    def prepare(self, sample):
        """Nothing to do: both are model folders."""

    def encode(self, images):
        """Images -> relaxed codes of the first, then of the second."""
        return np.hstack([encoder.encode(images) for encoder in self.encoders])

    def encode_text(self, rows):
        """Text features -> relaxed codes of the first, then of the second."""
        return np.hstack([encoder.encode_text(rows) for encoder in self.encoders])


def encode_splits(pair, splits, options):
    """Both encoders' codes of splits.

    Args:
        pair: Pair.
        splits: dict role -> Split.
        options: flags.

    Returns:
        dict (role, modality) -> list of the two encoders' Encoded, relaxed.

    Raises:
        InputError: not one item of a split can be read.
    """
    from utils.picture_loader import PictureLoader  # decoding is not always wanted, and cv2 takes its time
    load = PictureLoader(pair.manifest["preprocess"], options.workers)
    found = {}
    for role, split in splits.items():
        for modality in modalities(pair):
            both = need_codes(encode(pair, split, modality, on_broken="skip", load=load,
                                     batch_size=options.batch_size, relaxed=True), split)
            found[role, modality] = [both._replace(codes=codes) for codes in np.split(both.codes, 2, axis=1)]
    return found


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


def splits_to_compare(data, options):
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


def score_both(pair, codes, data):
    """mAP in each direction for both encoders.

    Args:
        pair: Pair.
        codes: of ``encode_splits``, with query and database.
        data: deploy.data.Data.

    Returns:
        dict direction -> (name of the metric, value of the first encoder, of the second).
    """
    reports = []
    for i, encoder in enumerate(pair.encoders):
        files = {"query": {}, "database": {}}
        for (role, modality), encoded in codes.items():
            packed = encoded[i]._replace(codes=pack(encoded[i].codes))
            files[role][modality] = code_file(encoder, getattr(data.protocol, role), packed, role, modality,
                                              data.request, data.protocol.classes)
        if not labelled(*files.values()):
            raise InputError(f"--evaluate needs labels, and {data.name} has none")
        topk = data.protocol.topk if data.topk is None else data.topk
        reports.append(score(files["query"], files["database"], topk, data.ap))
    first, second = reports
    return {direction: (first[direction]["definition"]["name"], first[direction]["mAP"], second[direction]["mAP"])
            for direction in first}


def rates(encoders, rows, repeat, clock):
    """Images a second of the best call of each engine; they take turns: other load on the machine meets both."""
    best = [float("inf")] * len(encoders)
    for call in range(repeat + 1):
        for i, encoder in enumerate(encoders):
            start = clock()
            encoder.encode(rows)
            if call:  # the first one warms up
                best[i] = min(best[i], clock() - start)
    return [len(rows) / seconds for seconds in best]


def size(folder, manifest):
    """Bytes of the graphs and weights of a model folder."""
    return sum(os.path.getsize(os.path.join(standing(folder), name)) for name in manifest["files"]
               if os.path.splitext(name)[1] in GRAPH_FILES and name != (manifest.get("text") or {}).get("vectorizer"))


def compare(options):
    """Compare as the flags say, print what is found.

    Returns:
        dict: ``random`` and ``codes`` (modality -> difference on random inputs and on the splits), ``mAP`` (direction
        -> name and both values).

    Raises:
        InputError: the models do not belong together; ``--exact``, ``--max-flips`` or ``--max-drop`` is violated.
    """
    from deploy.data import Data  # the folders are looked at first
    from deploy.engines import open_model
    folders = options.model_dir, options.other_dir
    pair = Pair(open_model(folders[0], threads=options.threads, mkldnn=options.mkldnn),
                open_model(folders[1], threads=options.threads, mkldnn=False))
    check_pair(*pair.encoders, folders)
    data = Data(pair.manifest, options.dataset, options.data_path, options.list_dir, options.split_seed)
    splits = splits_to_compare(data, options)
    codes = encode_splits(pair, splits, options)
    found = {"random": compare_random(*pair.encoders), "codes": {}, "mAP": {}}
    for modality, one in found["random"].items():
        print(f"----- {one['items']} random {modality} inputs: {describe(one)}")
        if splits:
            sides = [np.concatenate([codes[role, modality][i].codes for role in splits]) for i in (0, 1)]
            found["codes"][modality] = difference(*sides)
            print(f"----- {len(sides[0])} {modality}s of the {' and '.join(splits)} split: "
                  f"{describe(found['codes'][modality])}")
    if options.evaluate:
        found["mAP"] = score_both(pair, codes, data)
        for direction, (name, first, second) in found["mAP"].items():
            print(f"----- {prefix(direction)}{name}: {second:.6f} of {folders[1]}, {first:.6f} of {folders[0]}, "
                  f"difference {second - first:+.6f}")
    if options.repeat:
        say_rates(pair, options)
    sizes = [size(folder, encoder.manifest) for folder, encoder in zip(folders, pair.encoders)]
    print(f"----- size: {sizes[1] / 1e6:.2f} against {sizes[0] / 1e6:.2f} MB ({sizes[1] / sizes[0]:.2f} times)")
    judge(found, options)
    return found


def say_rates(pair, options):
    """Measure both encoders' speed and print it."""
    rows = np.resize(random_inputs(pair.manifest), [options.batch_size, *pair.manifest["image"]["input"]])
    # one thread: its own time, which other work on the machine does not disturb
    clock, unit = (time.process_time, "CPU second") if options.threads == 1 else (time.perf_counter, "second")
    first, second = rates(pair.encoders, rows, options.repeat, clock)
    print(f"----- speed: {second:.1f} against {first:.1f} images a {unit} ({second / first:.2f} times), batches of "
          f"{options.batch_size}")


def judge(found, options):
    """Raise InputError where the flags ask for more than was found."""
    if options.exact:
        every = [*found["random"].values(), *found["codes"].values()]
        wrong, total = (sum(one[key] for one in every) for key in ("far_flips", "codes"))
        if wrong:
            raise InputError(f"{options.other_dir} gives other bits than {options.model_dir}: {wrong} of {total} "
                             f"differ although their code is farther than {MARGIN:g} from zero")
    if options.max_flips is not None:
        for one in (found["codes"] or found["random"]).values():  # noise is no picture: int8 ranges are for pictures
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
    """Compare the two model folders that the flags name, print the differences.

    Raises:
        InputError: a folder is not given, cannot be read, or the models differ more than is allowed.
    """
    options = parse(argv)
    if not options.model_dir or not options.other_dir:
        raise InputError("--model-dir and --other-dir are needed: two model folders")
    options.evaluate = options.evaluate or options.max_drop is not None
    quiet()
    compare(options)


if __name__ == "__main__":
    run_main(main)
