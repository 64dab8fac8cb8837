"""Stored results in the form that the comparison scripts of PaddleClas and PaddleOCR read, and our reading of it.

A file ``python_<model>_results_<precision>.txt`` has a line ``NAME<tab>JSON`` for each value. A log has them where the
first line with NAME says ``NAME JSON``; infer.py --evaluate True prints them. The values are numbers and lists of them:

    bits:       the query's code, 0 and 1
    Hamm_min:   distance of the nearest item
    mAP:        of image queries on image codes
"""
import glob
import json
import math
import os

from utils.plain_json import parse_json

PRECISIONS = ("fp32", "fp16", "int8")


class Damaged(Exception):
    """A file that cannot be compared; one line."""


def text_of(stored):
    """Lines of a .txt file from stored results (compare_results.py); '' where infer.py asked no picture."""
    if not stored["query"]:
        return ""
    code = stored["query"]["code"]
    values = {"bits:": [int(bit) for bit in f"{int(code, 16):0{4 * len(code)}b}"[:stored["bits"]]],
              "Hamm_min:": int(stored["query"]["nearest"][0].split()[-1]), "mAP:": round(stored["mAP"]["I->I"], 6)}
    return "".join(f"{name}\t{json.dumps(value)}\n" for name, value in values.items())


def path_of(folder, config):
    """Where the .txt of a config lies."""
    return os.path.join(folder, f"python_{config}_results_fp32.txt")


def numbers(text, where):
    """A JSON number or list of numbers as a list of floats; raises Damaged."""
    try:
        value = parse_json(text)
        return [float(number) for number in (value if isinstance(value, list) else [value])]
    except (ValueError, TypeError, OverflowError):
        raise Damaged(f"{where}: {text.strip()[:60]!r} is no number and no list of numbers") from None


def read_lines(path):
    """Lines of a text file; raises Damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"cannot read {path}: {error}") from None


def read_stored(path):
    """dict name -> list of floats of a .txt file; raises Damaged."""
    found = {}
    for number, line in enumerate(read_lines(path), 1):
        name, tab, value = line.partition("\t")
        if not tab:
            raise Damaged(f"{path}:{number}: expected NAME, a tab, and a number or list")
        found[os.path.basename(name)] = numbers(value, f"{path}:{number}")
    if not found:
        raise Damaged(f"{path} is empty")
    return found


def read_log(path, names):
    """dict name -> list of floats of a log; raises Damaged."""
    lines, found = read_lines(path), {}
    for name in names:
        line = next((line for line in lines if name in line), None)
        if line is None:
            raise Damaged(f"{path} has no line with {name!r}; run infer.py with --evaluate True")
        found[name] = numbers(line.split(name)[-1], f"{path}: {name}")
    return found


def close(found, wanted, atol, rtol):
    """Whether two lists of floats agree as numpy's allclose says; NaN agrees with nothing."""
    return len(found) == len(wanted) and all(
        math.isfinite(a) and abs(a - b) <= atol + rtol * abs(b) for a, b in zip(found, wanted))


def precision_of(path):
    """fp32, fp16 or int8 as a file name says it, or None."""
    return next((name for name in PRECISIONS if name in os.path.basename(path)), None)


def compare(gt_files, log_files, atol, rtol):
    """Compare logs with the stored files of their precision.

    Args:
        gt_files, log_files: patterns of file names; a log whose name says no precision is fp32.
        atol, rtol: as numpy's allclose.

    Returns:
        list of (log, stored file, names of the values that differ).

    Raises:
        Damaged: nothing matches a pattern, or a file cannot be read.
    """
    stored = {precision_of(path): path for path in sorted(glob.glob(gt_files))}
    logs = sorted(glob.glob(log_files))
    for pattern, files in ((gt_files, [path for key, path in stored.items() if key]), (log_files, logs)):
        if not files:
            raise Damaged(f"no file is called {pattern}")
    found = []
    for log in logs:
        path = stored.get(precision_of(log) or "fp32")
        if path is None:
            raise Damaged(f"there are no stored results of the precision of {log}")
        wanted = read_stored(path)
        values = read_log(log, wanted)
        found.append((log, path, [name for name in wanted if not close(values[name], wanted[name], atol, rtol)]))
    return found
