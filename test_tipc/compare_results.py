"""Compare a TIPC run with itself (Paddle Inference against the evaluation) and with stored results.

    python test_tipc/compare_results.py --eval_file RUN/eval/result.json --log_file OUT/python_infer_cpu_batchsize_1.log
        [--codes OUT/codes_cpu_batchsize_1] [--train_log OUT/train.log]
        [--gt_file 'test_tipc/results/{paddle}/hashnet_16_lite_train_lite_infer.json'] [--across_versions]

As other projects call theirs, with files of their form (official_results.py), which it also compares without
--eval_file:

    python test_tipc/compare_results.py --gt_file 'test_tipc/results/paddle3.3/python_hashnet_16_*.txt'
        --log_file 'test_tipc/output/python_infer_cpu_*.log' --atol 1e-3 --rtol 1e-3

--codes is the folder (or one file) where infer.py left its code files, --train_log what training printed. ``{paddle}``
in --gt_file becomes the Paddle line of the run, ``paddle3.3`` or ``paddle2.6``: the evaluation's result.json names it.
Run it on the machine, and with the OMP_NUM_THREADS, of the run.

Exit status, and the last line:

    0    ``verdict: same as stored, exact`` (or ``near``; or ``same`` where no --gt_file is given)
    1    ``error: they differ: ...``, after a line ending in ``DIFFERS`` for each fault
    2    ``error: cannot compare: ...``: a file is missing or damaged
    77   ``skipped: no stored results ...`` for this config, mode and Paddle line. Nothing else differs; it is no pass

One line is printed for each thing compared. Against the run itself:

- model: the evaluation, infer.py and every code file name the same weights (an export of another checkpoint);
- mAP: of Paddle Inference within --atol of the evaluation's, per direction;
- codes: those of Paddle Inference against those of the evaluation (the file of the same name beside --eval_file); one
  bit of a thousand may differ, for batches of another size may round otherwise (a changed inference.yml differs in
  many);
- distances: the nearest item and its distance that infer.py printed, against those counted anew from the codes.

Against the stored results, by one of three rules, which the line ``rule:`` names:

- exact, where Paddle version and device class (CPU model, instruction set, math threads) are those of the stored
  results. Codes, and the ten nearest items and distances of the query: no difference. mAP: 1e-6. Losses of every epoch:
  1e-5 of the value (and the 1e-5 that the log rounds to).
- near, on another device class or patch version, where the last digits of training differ. Bits of codes away from
  zero: no difference. A bit is near zero where the relaxed code is below 0.01 of the median of its code file (stored);
  a quarter of those, and two, may differ. mAP: 0.01 (the codes of most queries are not stored). Losses: 1e-3 of the
  value.
- across versions: the stored results of another Paddle line, only if --across_versions is given; as near. Without it
  such a file is an error.

Data or settings that are not those of the stored results are one line, and nothing else is compared with them then.
``python test_tipc/make_results.py`` makes the stored results.
"""
import argparse
import glob
import hashlib
import math
import os
import platform
import re
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from test_tipc import official_results  # noqa: E402  (needs the path above)
from utils import plain_json  # noqa: E402
from utils.errors import InputError  # noqa: E402

FORMAT = 1
INSTRUCTIONS = ("avx512f", "avx2", "avx", "sse4_2")
NEAREST = 10  # items of the query that are stored
SKIPPED = 77
EXACT = {"mAP": 1e-6, "loss": 1e-5}
NEAR = {"mAP": 1e-2, "loss": 1e-3}
NEAR_ZERO = 1e-2  # of the median |relaxed code|
NEAR_SHARE, NEAR_EXTRA = 0.25, 2  # of the bits near zero that may differ on another device class
ROUNDED = 1.5e-5  # two losses printed with five decimals
ENGINE_SHARE = 1e-3  # of all bits, between Paddle Inference and the evaluation
KINDS = {"paddle": str, "device_class": str, "bits": int, "data": dict, "recipe": dict, "mAP": dict,
         "loss": (list, type(None)), "query": (dict, type(None))}  # of stored results
PLACES = ("data_path", "list_dir", "backbone_weights")  # settings that say where, not what


# a step in a training log, in one line or several: its epoch, and its loss terms
STEP = re.compile(r"^(?:[\d:]+ )?epoch: \[(\d+)/\d+\], step: \[[\d/]+\],\s+(?:eta: \S+,\s+)?lr: \S+,\s+"
                  r"(loss: [^\[]*?),\s+avg_reader_cost:", re.MULTILINE)


class Unusable(InputError):
    """Something needed for a comparison is missing or damaged; one line."""


# What a run left ----------------------------------------------------------------------------------
def read_json(path):
    """A JSON object, or Unusable."""
    try:
        value = plain_json.read_json(path)
    except (OSError, ValueError) as error:
        raise Unusable(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise Unusable(f"{path} holds no JSON object")
    return value


def read_stored(path):
    """Stored results with their packed lines taken apart, or Unusable."""
    stored = read_json(path)
    if stored.get("format") != FORMAT:
        raise Unusable(f"{path} has format {stored.get('format')!r}, {FORMAT} is read; run make_results.py again")
    try:
        stored["codes"] = {name: " ".join(lines).split() for name, lines in stored["codes"].items()}
        stored["near_zero"] = {name: {int(position): int(mask, 16) for position, mask in
                                      (word.split(":") for word in " ".join(lines).split())}
                               for name, lines in stored["near_zero"].items()}
        for key, kind in KINDS.items():
            if not isinstance(stored[key], kind):
                raise ValueError(f"{key} is {stored[key]!r:.40}")
        [(value["code"], value["nearest"]) for value in [stored["query"]] if value is not None]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unusable(f"{path} is damaged ({error!r}); run make_results.py again") from None
    return stored


def read_text(path):
    """The text of a log, or Unusable."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}") from None


def read_evaluation(path):
    """Paddle version, device, fingerprint, mAP per direction, data (SHA-256 per split) and recipe of a result.json."""
    result = read_json(path)
    try:
        found = {"mAP": {direction: float(values["mAP"]) for direction, values in result["metrics"].items()},
                 "fingerprint": result.get("fingerprint"), "data": result.get("protocol", {}).get("sha256"),
                 "recipe": {key: value for key, value in result.get("recipe", {}).items() if key not in PLACES}}
        found.update({key: result.get("environment", {}).get(key) for key in ("paddle", "device")})
        found["mAP"]["I->I"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unusable(f"{path} holds no metrics of I->I, or is damaged") from None
    return found


def read_inference(path):
    """What infer.py printed: fingerprint, mAP per direction, the query and its nearest item, device and threads."""
    text = read_text(path)

    def last(pattern, default=None):
        found = re.findall(pattern, text, re.MULTILINE)
        return found[-1] if found else default

    metrics = {(direction or "I->I"): float(value) for direction, value in
               re.findall(r"^----- (?:([IT]->[IT]) )?mAP@\w+: ([0-9.]+|nan)", text, re.MULTILINE)}
    if "I->I" not in metrics:
        raise Unusable(f"{path} holds no `----- mAP@...:` line")
    return {"fingerprint": last(r"fingerprint ([0-9a-f]{16})\b"), "mAP": metrics,
            "device": last(r"runtime_device: (\w+)", "cpu"),
            "threads": last(r"cpu_math_library_num_threads: (\d+)", "?"),
            "query": {"image": last(r"^----- Query: (.*)$"), "code": last(r"^----- Query code: ([0-9a-f]+)$"),
                      "distance": last(r"^----- Predicted Hamm_min: (\d+)$"),
                      "match": last(r"^----- Found matched picture: (.*)$")}}


def read_losses(path):
    """Loss terms of the last step that each epoch logged: list of dict name -> float."""
    epochs = {}
    for epoch, terms in STEP.findall(read_text(path)):
        epochs[int(epoch)] = {name: float(value) for name, value in re.findall(r"(\w+): ([^\s,]+)", terms)}
    if not epochs:
        raise Unusable(f"{path} holds no `epoch: [...], ... loss: ...` line")
    return [epochs[epoch] for epoch in sorted(epochs)]


def read_codes(path):
    """dict name -> utils.retrieval.codes.CodeFile of a folder's code files, or of one file."""
    from utils.errors import InputError
    from utils.retrieval.codes import CodeFile
    names = sorted(glob.glob(os.path.join(glob.escape(path), "*.npz"))) if os.path.isdir(path) else [path]
    try:
        found = {os.path.basename(name)[:-len(".npz")]: CodeFile.load(name) for name in names}
    except InputError as error:
        raise Unusable(str(error)) from None
    if not found:
        raise Unusable(f"no code file (.npz) in {path}; infer.py writes them to its --save-path")
    return found


def hex_codes(codefile):
    """Codes of a code file as hexadecimal strings, one an item."""
    return [row.tobytes().hex() for row in codefile.codes]


def picture_digest(codefile):
    """SHA-256 over the picture files of a code file in their order, or None where they are not at hand."""
    digest, root = hashlib.sha256(), codefile.meta.get("root")
    if root is None or codefile.meta.get("modality", "image") != "image":
        return None
    try:
        for name in codefile.ids:
            with open(os.path.join(root, name), "rb") as file:
                digest.update(file.read())
    except OSError:
        return None
    return digest.hexdigest()


def nearest(codefile, code):
    """["<id> <distance>", ...] of the nearest items of a code (hex), distance ascending, ties in database order."""
    query = np.frombuffer(bytes.fromhex(code), np.uint8)
    distance = np.unpackbits(codefile.codes ^ query, axis=1).sum(1)
    order = np.argsort(distance, kind="stable")[:NEAREST]
    return [f"{codefile.ids[i]} {distance[i]}" for i in order]


def device_class(devices, threads):
    """On what the last digits of results depend, as text; empty where it is not known, or no CPU."""
    if any(device != "cpu" for device in devices) or threads == "?":
        return ""
    words = ["cpu", platform.system(), platform.machine()]
    if os.path.exists("/proc/cpuinfo"):
        values = dict(re.findall(r"^(\w[\w ]*?)\s*: (.*)$", read_text("/proc/cpuinfo"), re.MULTILINE))
        words += [values[key] for key in ("vendor_id", "cpu family", "model") if key in values]
        words += [flag for flag in INSTRUCTIONS if flag in values.get("flags", "").split()][:1]
    words += [f"{key}={os.environ[key]}" for key in ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS") if os.environ.get(key)]
    return " ".join([*words, f"threads={threads}"])


def line_of(version):
    """3.3.1 -> paddle3.3: the folder of stored results."""
    return "paddle" + ".".join(str(version).split(".")[:2])


def collect(options):
    """What a run found, in the form that is stored (but for the bits near zero), and what only the run itself has.

    Returns:
        (results: dict, run: dict with ``inference``, ``codefiles``, ``evaluation_codes``).
    """
    evaluation, inference = read_evaluation(options.eval_file), read_inference(options.log_file)
    results = {"format": FORMAT, "paddle": evaluation["paddle"],
               "device_class": device_class([evaluation["device"], inference["device"]], inference["threads"])}
    results.update({key: evaluation[key] for key in ("fingerprint", "data", "recipe", "mAP")})
    results["loss"] = read_losses(options.train_log) if options.train_log else None
    results["codes"] = results["query"] = results["pictures"] = None
    run = {"inference": inference, "codefiles": {}, "evaluation_codes": {}}
    if options.codes:
        run["codefiles"] = read_codes(options.codes)
        results["codes"] = {name: hex_codes(codefile) for name, codefile in run["codefiles"].items()}
        for name in run["codefiles"]:
            beside = os.path.join(os.path.dirname(options.eval_file), name + ".npz")
            if os.path.isfile(beside):
                run["evaluation_codes"].update(read_codes(beside))
        database = image_database(run["codefiles"])
        query = inference["query"]
        if database is not None and query["code"]:
            if len(query["code"]) != 2 * database.codes.shape[1]:
                raise Unusable(f"{options.log_file}: the query code {query['code']} is not of {database.bits} bits")
            results["query"] = {"image": os.path.basename(query["image"]), "code": query["code"],
                                "nearest": nearest(database, query["code"])}
        results["pictures"] = picture_digest(database) if database is not None else None
    return results, run


def image_database(codefiles):
    """The code file of the database's images, or None."""
    for codefile in codefiles.values():
        if codefile.meta.get("modality") == "image" and codefile.meta.get("split") == "database":
            return codefile
    return None


# Comparing ----------------------------------------------------------------------------------------
class Verdict:
    """Prints a line for each thing compared and remembers the faults."""

    def __init__(self, say=print):
        self.faults, self.say = [], say

    def line(self, name, good, text):
        """Say how the comparison ``name`` went, and keep it among the faults where it is not good."""
        if not good:
            self.faults.append(name)
        self.say(f"{name}: {text}" + ("" if good else ", DIFFERS"))


def differing_bits(first, second, masks=None):
    """Bits that differ between two lists of hex codes.

    Args:
        masks: dict position -> mask (int) of the bits near zero.

    Returns:
        (bits that differ away from zero, bits that differ near zero, position of the first item of the former or None).
    """
    away = near = 0
    where = None
    for i, (a, b) in enumerate(zip(first, second)):
        if a == b:
            continue
        changed, mask = int(a, 16) ^ int(b, 16), (masks or {}).get(i, 0)
        near += ones(changed & mask)
        away += ones(changed & ~mask)
        where = i if changed & ~mask and where is None else where
    return away, near, where


def ones(number):
    """How many bits of a number are 1."""
    return bin(number).count("1")


def compare_with_itself(verdict, results, run, atol):
    """Paddle Inference against the evaluation of the same checkpoint."""
    inference = run["inference"]
    names = {"evaluation": results["fingerprint"], "infer.py": inference["fingerprint"],
             **{name: codefile.fingerprint for name, codefile in run["codefiles"].items()}}
    known = {value for value in names.values() if value}
    if known:
        verdict.line("model", len(known) == 1, f"fingerprint {known.pop()}" if len(known) == 1 else
                     "other weights: " + ", ".join(f"{name} {value}" for name, value in names.items()))
    for direction, wanted in results["mAP"].items():
        got = inference["mAP"].get(direction, math.nan)
        verdict.line("mAP" if direction == "I->I" else f"mAP {direction}", abs(wanted - got) <= atol,  # NaN fails
                     f"of the evaluation {wanted:.6f}, of Paddle Inference {got:.6f}, tolerance {atol:g}")
    for name, other in run["evaluation_codes"].items():
        compare_engines(verdict, name, run["codefiles"][name], other)
    query = inference["query"]
    if results["query"] and query["distance"] is not None:
        item, distance = results["query"]["nearest"][0].rsplit(" ", 1)
        verdict.line("nearest item", query["distance"] == distance and str(query["match"]).endswith(item),
                     f"{query['match']} at {query['distance']} as infer.py says, {item} at {distance} from the codes")


def compare_engines(verdict, name, codefile, other):
    """Code file of Paddle Inference against that of the evaluation."""
    if codefile.ids != other.ids or codefile.bits != other.bits:
        verdict.line(f"engine codes {name}", False, f"{len(codefile)} items of {codefile.bits} bits, the evaluation "
                     f"has {len(other)} of {other.bits} or with other names")
        return
    total = codefile.bits * len(codefile)
    count, _, where = differing_bits(hex_codes(codefile), hex_codes(other))
    verdict.line(f"engine codes {name}", count <= ENGINE_SHARE * total,
                 f"{count:,} of {total:,} bits differ from the evaluation's, limit {int(ENGINE_SHARE * total):,}"
                 + ("" if where is None else f" (first {codefile.ids[where]})"))


def compare_with_stored(verdict, results, run, stored, exact):
    """A run against stored results."""
    rule = EXACT if exact else NEAR
    for name in ("data", "pictures", "recipe"):
        text = difference(results[name], stored.get(name))
        if text:
            verdict.line(name, False, f"{text}: nothing else is compared; where this is meant, run make_results.py "
                         "again")
            return
    same = results["fingerprint"] == stored.get("fingerprint")
    print("weights: " + ("same fingerprint as stored" if same else "another fingerprint than stored (the last digits "
                         "are enough for that; no fault by itself)"))
    compare_losses(verdict, results["loss"], stored["loss"], rule["loss"])
    for direction, wanted in stored["mAP"].items():
        values = [found["mAP"].get(direction, math.nan) for found in (results, run["inference"])]
        verdict.line(f"stored mAP {direction}", all(abs(value - wanted) <= rule["mAP"] for value in values),
                     f"{values[0]:.6f} evaluated, {values[1]:.6f} inferred, stored {wanted:.6f}, tolerance "
                     f"{rule['mAP']:g}")
    flipped = compare_codes(verdict, results, run, stored, exact)
    if results["query"] is None or stored["query"] is None:
        print("distances: not compared, no query code")
        return
    wanted, got = stored["query"]["nearest"], results["query"]["nearest"]
    count = sum(a != b for a, b in zip(wanted, got)) + abs(len(wanted) - len(got))
    if flipped and not exact:
        print(f"distances: {count} of the {len(wanted)} nearest items and distances differ, for bits do")
    else:
        verdict.line("distances", not count, f"{count} of the {len(wanted)} nearest items and distances of "
                                             f"{stored['query']['image']} differ, exact")


def difference(found, wanted):
    """What differs between two values, or two dicts (keys that both have), as text; empty where nothing does."""
    if found is None or wanted is None or found == wanted:
        return ""
    if not isinstance(found, dict):
        return f"other than stored (SHA-256 {str(found)[:12]}, stored {str(wanted)[:12]})"
    return ", ".join(f"{key} {str(found[key])[:24]}, stored {str(wanted[key])[:24]}"
                     for key in sorted(set(found) & set(wanted)) if found[key] != wanted[key])


def compare_losses(verdict, found, wanted, tolerance):
    """Loss terms per epoch."""
    if found is None or wanted is None:
        print("loss: not compared, no --train_log")
        return
    if len(found) != len(wanted):
        verdict.line("loss", False, f"{len(found)} epochs, stored {len(wanted)}")
        return
    pairs = [(epoch, name, new.get(name, math.nan), old.get(name, math.nan))
             for epoch, (new, old) in enumerate(zip(found, wanted), 1) for name in sorted({*new, *old})]
    faults = [pair for pair in pairs if not abs(pair[2] - pair[3]) <= ROUNDED + tolerance * abs(pair[3])]  # NaN is one
    text = f"{len(faults)} of {len(pairs)} terms of {len(found)} epochs differ, tolerance {tolerance:g} of the value"
    if faults:
        text += " (first {1} of epoch {0}: {2:.5f}, stored {3:.5f})".format(*faults[0])
    verdict.line("loss", not faults, text)


def compare_codes(verdict, results, run, stored, exact):
    """Codes bit for bit; returns how many bits differ."""
    if results["codes"] is None:
        print("codes: not compared, no --codes")
        return 0
    pairs = {name: (results["codes"].get(name, []), wanted) for name, wanted in stored["codes"].items()}
    if results["query"] and stored["query"]:
        pairs["query"] = [results["query"]["code"]], [stored["query"]["code"]]
    flipped = 0
    for name, (found, wanted) in pairs.items():
        if [len(code) for code in found] != [len(code) for code in wanted]:
            verdict.line(f"codes {name}", False, f"{len(found)} codes of {4 * len(found[0])} bits, stored "
                         f"{len(wanted)} of {4 * len(wanted[0])}" if found else "missing")
            continue
        masks = {} if exact else stored["near_zero"].get(name, {})
        away, near, where = differing_bits(found, wanted, masks)
        flipped += away + near
        weak = sum(map(ones, masks.values()))
        limit = int(NEAR_SHARE * weak) + NEAR_EXTRA if weak else 0
        text = f"{away:,} of {stored['bits'] * len(wanted) - weak:,} bits differ, exact"
        if where is not None:
            item = f"{run['codefiles'][name].ids[where]} " if name in run["codefiles"] else ""
            text += f" (first {item}{found[where]}, stored {wanted[where]})"
        if weak:
            text += f"; near zero {near:,} of {weak:,}, limit {limit:,}"
        verdict.line(f"codes {name}", not away and near <= limit, text)
    return flipped


def choose_rule(results, stored, across_versions, path):
    """(exact?, text of the rule); Unusable for the stored results of another Paddle line that nobody asked for."""
    own, other = results["paddle"], stored.get("paddle")
    if line_of(own) != line_of(other):
        if not across_versions:
            raise Unusable(f"{path} holds results of Paddle {other}, and this run is of Paddle {own}; write {{paddle}} "
                           "in --gt_file, or give --across_versions")
        return False, f"across versions (Paddle {other} stored, {own} here): near"
    if own != other:
        return False, f"Paddle {other} stored, {own} here: near"
    if not results["device_class"] or results["device_class"] != stored.get("device_class"):
        return False, (f"another device class ({stored.get('device_class') or 'unknown'} stored, "
                       f"{results['device_class'] or 'not a known CPU'} here): near")
    return True, f"same Paddle {own} and device class ({results['device_class']}): exact"


def arguments(argv=None):
    """The command's flags, read."""
    parser = argparse.ArgumentParser(description="A TIPC run against itself and against stored results")
    parser.add_argument("--eval_file", help="result.json of the evaluation; without it, see --gt_file")
    parser.add_argument("--log_file", required=True, help="what infer.py --evaluate True printed")
    parser.add_argument("--codes", help="folder of infer.py's code files, or one of them")
    parser.add_argument("--train_log", help="what training printed")
    parser.add_argument("--gt_file", help="stored results; {paddle} stands for the run's Paddle line; without "
                        "--eval_file: pattern of .txt files of PaddleClas's form")
    parser.add_argument("--across_versions", action="store_true", help="stored results of another Paddle line will do")
    parser.add_argument("--atol", type=float, default=1e-3, help="mAP of Paddle Inference against the evaluation's")
    parser.add_argument("--rtol", type=float, default=1e-3, help="without --eval_file: relative tolerance")
    parser.add_argument("--precision", help="accepted; the names of the files say it")
    return parser.parse_args(argv)


def compare(options):
    """Run all comparisons; returns the exit status."""
    results, run = collect(options)
    verdict, stored, ending = Verdict(), None, ""
    compare_with_itself(verdict, results, run, options.atol)
    path = (options.gt_file or "").replace("{paddle}", line_of(results["paddle"]))
    if path and os.path.exists(path):
        stored = read_stored(path)
        exact, text = choose_rule(results, stored, options.across_versions, path)
        print(f"rule: {text}")
        compare_with_stored(verdict, results, run, stored, exact)
        ending = " as stored, " + ("exact" if exact else "near")
    if verdict.faults:
        print(f"error: they differ: {', '.join(verdict.faults)}", file=sys.stderr)
        return 1
    if path and stored is None:
        print(f"skipped: no stored results {path}")
        return SKIPPED
    print(f"verdict: same{ending}")
    return 0


def compare_official(options):
    """The comparison of other projects: logs against .txt files; returns the exit status."""
    if not options.gt_file:
        raise Unusable("give --eval_file, or --gt_file with .txt files")
    found = official_results.compare(options.gt_file, options.log_file, options.atol, options.rtol)
    for log, path, faults in found:
        print(f"{log} and {path}: {', '.join(faults) + ' DIFFERS' if faults else 'consistent'}")
    if any(faults for _, _, faults in found):
        print("error: they differ", file=sys.stderr)
        return 1
    print("verdict: same as stored")
    return 0


def main(argv=None):
    """Compare, and exit with the status of ``compare``; 2 where the files cannot be compared."""
    options = arguments(argv)
    try:
        sys.exit(compare(options) if options.eval_file else compare_official(options))
    except (Unusable, official_results.Damaged) as error:
        print(f"error: cannot compare: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
