"""Make the stored results that compare_results.py compares with: run the base chain, keep what it found.

    python test_tipc/make_results.py [PATTERN ...] [--mode lite_train_lite_infer] [--jobs 1] [--no_run | --texts]

PATTERN is a config's name, such as hashnet_16 or 'hashnet_*' (default: all). The interpreter that runs this script runs
the chain, so results of another Paddle line are made with its environment's python. They go to
``test_tipc/results/<Paddle line>/<config>_<mode>.json``, and in the form of other projects (official_results.py) to
``python_<config>_results_fp32.txt`` beside it: look at the difference (git diff) before you commit it.
--no_run takes what the last run left in test_tipc/output ($TIPC_OUTPUT). One math thread is used, as in the lite modes.

A file holds, as sorted JSON:

    paddle, device_class     where the results hold to the last bit; commit: of the checkout that made them
    data, pictures           SHA-256 of ids and labels per split, and over the database's picture files
    recipe                   the resolved settings, without places
    fingerprint              of the trained weights
    loss                     per epoch, the terms of its last step as the log rounds them
    mAP                      per direction, of the evaluation
    bits, codes              per code file of infer.py: codes as hexadecimal words, in the order of the database
    query                    the picture that infer.py was asked about, its code, the ten nearest items and distances
    near_zero                per code file (and ``query``) ``position:mask`` of the bits whose relaxed code is below
                             0.01 of the median of the file's: the only ones that may differ on another device class
"""
import argparse
import concurrent.futures
import csv
import fnmatch
import glob
import json
import os
import subprocess
import sys
import textwrap
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = "test_tipc/results"
CONFIG = "train_infer_python.txt"
NEEDED = ("train", "eval", "export", "infer_cpu")
sys.path.insert(0, ROOT)

from test_tipc import compare_results, official_results  # noqa: E402  (needs the path above)
from utils.errors import InputError, run_main  # noqa: E402


def masks(relaxed, threshold):
    """``position:mask`` words (hex) of the items with bits below ``threshold`` of relaxed codes [N, bits]."""
    import numpy as np
    near = np.packbits(np.abs(relaxed) < threshold, axis=1)
    return [f"{i}:{near[i].tobytes().hex()}" for i in np.flatnonzero(near.any(1))]


def near_zero(model_dir, codefiles, picture):
    """The bits near zero of an exported model's codes.

    Args:
        codefiles: dict name -> CodeFile that infer.py wrote with this model.
        picture: path of the query picture, or None.

    Returns:
        dict name -> words of ``masks``.

    Raises:
        InputError: the codes are not those of the files.
    """
    import numpy as np

    from deploy.data import Data
    from deploy.engines import open_model
    from utils.images import decode
    from utils.picture_loader import PictureLoader
    from utils.retrieval.encode import encode
    from utils.retrieval.hamming import pack
    from utils.transforms import preprocess
    encoder = open_model(model_dir, threads=1)
    data, spec, found = Data(encoder.manifest), encoder.manifest["preprocess"], {}
    for name, codefile in codefiles.items():
        relaxed = encode(encoder, getattr(data.protocol, codefile.meta["split"]), codefile.meta["modality"],
                         on_broken="skip", load=PictureLoader(spec), batch_size=1, relaxed=True).codes
        if not np.array_equal(pack(relaxed), codefile.codes):
            raise InputError(f"{model_dir} gives other codes than those in {name}.npz; run the chain again")
        threshold = compare_results.NEAR_ZERO * float(np.median(np.abs(relaxed)))
        found[name] = masks(relaxed, threshold)
        if picture and codefile is compare_results.image_database(codefiles):
            image = preprocess(decode(picture, spec=spec), spec)[None]
            found["query"] = masks(encoder.encode(image), threshold)
    return found


def tipc(script, config, mode):
    """Run a TIPC script for a config with this interpreter; returns its exit status (the words are in its logs)."""
    return subprocess.run(["bash", f"test_tipc/{script}", f"test_tipc/configs/{config}/{CONFIG}", mode], check=False,
                          env={**os.environ, "VENV": os.devnull, "PYTHON": sys.executable},
                          stdout=subprocess.DEVNULL).returncode


def stored_results(config, mode):
    """(Paddle line, dict to store) of what a run left.

    Raises:
        InputError: a step before the comparison has not passed.
    """
    from utils.training.result import git_commit
    folder = os.path.join(os.environ.get("TIPC_OUTPUT", "test_tipc/output"), config, mode)
    try:
        with open(os.path.join(folder, "steps.tsv"), encoding="utf-8") as file:
            steps = {row[0]: row[1] for row in csv.reader(file, delimiter="\t") if len(row) > 1}
    except OSError:
        steps = {}
    for step in NEEDED:
        if steps.get(step) != "passed":
            raise InputError(f"{config}: step {step} {steps.get(step, 'was not run')}; see the logs in {folder}")
    evaluations = glob.glob(os.path.join(folder, "*_cpu", "eval", "result.json"))
    if len(evaluations) != 1:
        raise InputError(f"{config}: one evaluation on the CPU is expected below {folder}, found {len(evaluations)}")
    options = argparse.Namespace(eval_file=evaluations[0], train_log=os.path.join(folder, "train.log"),
                                 log_file=os.path.join(folder, "python_infer_cpu_batchsize_1.log"),
                                 codes=os.path.join(folder, "codes_cpu_batchsize_1"))
    try:
        results, run = compare_results.collect(options)
        verdict = compare_results.Verdict(say=lambda text: None)
        compare_results.compare_with_itself(verdict, results, run, 1e-6)
    except compare_results.Unusable as error:
        raise InputError(f"{config}: {error}") from None
    if verdict.faults:
        raise InputError(f"{config}: Paddle Inference and the evaluation differ: {', '.join(verdict.faults)}")
    weak = near_zero(os.path.join(folder, "inference"), run["codefiles"], run["inference"]["query"]["image"])
    results["codes"] = {name: textwrap.wrap(" ".join(codes), 118) for name, codes in results["codes"].items()}
    results["near_zero"] = {name: textwrap.wrap(" ".join(words), 118) for name, words in weak.items()}
    results["bits"] = next(iter(run["codefiles"].values())).bits
    results["commit"] = git_commit()
    return compare_results.line_of(results["paddle"]), results


def write(path, results):
    """Write stored results; returns ``new``, ``changed`` or ``same``: then all but the commit is as in the file."""
    from utils.files import write_text
    text = json.dumps(results, indent=1, sort_keys=True, allow_nan=False) + "\n"
    if not os.path.exists(path):
        write_text(path, text)
        return "new"
    known, values = compare_results.read_json(path), json.loads(text)
    if {**known, "commit": None} == {**values, "commit": None}:
        return "same"  # the file stays as it is
    write_text(path, text)
    return "changed"


def write_text_results(line, config, results):
    """The .txt file of a config's lite run, from its stored results."""
    from utils.files import write_text
    text = official_results.text_of(results)
    if text:
        write_text(official_results.path_of(f"{FOLDER}/{line}", config), text)


def write_all_texts():
    """Make every .txt file anew from the stored results; returns how many."""
    ending = "_lite_train_lite_infer.json"
    paths = glob.glob(f"{FOLDER}/*/*{ending}")
    for path in paths:
        write_text_results(path.split(os.sep)[-2], os.path.basename(path)[:-len(ending)],
                           compare_results.read_stored(path))
    return len(paths)


def chosen(patterns):
    """Names of the configs that match, sorted."""
    names = sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(f"test_tipc/configs/*/{CONFIG}"))
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"no config is called {pattern}; there are {' '.join(names)}")
    return [name for name in names if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def main(argv):
    """Run the chosen configs and store their results; see the docstring above.

    Raises:
        InputError: no config is called so, the data cannot be prepared, or a config has no new results.
    """
    parser = argparse.ArgumentParser(description="Make the stored results of TIPC")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    parser.add_argument("--mode", default="lite_train_lite_infer")
    parser.add_argument("--jobs", type=int, default=1, help="configs at a time")
    parser.add_argument("--texts", action="store_true", help="make the .txt files from the .json files, no more")
    parser.add_argument("--no_run", action="store_true", help="take what the last run left")
    options = parser.parse_args(argv)
    os.chdir(ROOT)
    if options.texts:
        print(f"{write_all_texts()} made")
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # for the chain, and before Paddle is imported here
    configs = chosen(options.patterns)
    start = time.monotonic()
    if not options.no_run and tipc("prepare.sh", configs[0], options.mode):
        raise InputError(f"the data of {options.mode} could not be prepared")
    faults = 0
    with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs)) as pool:
        waiting = {config: None if options.no_run else
                   pool.submit(tipc, "test_train_inference_python.sh", config, options.mode) for config in configs}
        for config, job in waiting.items():
            if job is not None:
                job.result()
            try:
                line, results = stored_results(config, options.mode)
            except InputError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                faults += 1
                continue
            path = f"{FOLDER}/{line}/{config}_{options.mode}.json"
            print(f"{path}: {write(path, results)}", flush=True)
            if options.mode == "lite_train_lite_infer":
                write_text_results(line, config, results)
    print(f"{len(configs) - faults} of {len(configs)} made in {time.monotonic() - start:.0f} s")
    if faults:
        raise InputError(f"{faults} configs have no new results")


if __name__ == "__main__":
    run_main(main)
