"""Compare what Paddle Inference answered with what the evaluation of the same checkpoint found.

    python test_tipc/compare_results.py --eval_file .../eval/result.json --log_file .../python_infer_cpu_batchsize_1.log

Ends with a non-zero status where the mAP of the image codes differs by more than --atol, or where either has none.
Needs nothing but Python.
"""
import argparse
import json
import re
import sys


def evaluated(path):
    """mAP of image queries on image codes in the result.json of an evaluation."""
    with open(path, encoding="utf-8") as file:
        return float(json.load(file)["metrics"]["I->I"]["mAP"])


def inferred(path):
    """mAP that infer.py --evaluate printed."""
    with open(path, encoding="utf-8") as file:
        found = re.findall(r"^----- mAP@\w+: ([0-9.]+)", file.read(), re.MULTILINE)
    if not found:
        raise ValueError(f"{path} holds no `----- mAP@...:` line")
    return float(found[-1])


def main():
    parser = argparse.ArgumentParser(description="Paddle Inference against the evaluation")
    parser.add_argument("--eval_file", required=True)
    parser.add_argument("--log_file", required=True)
    parser.add_argument("--atol", type=float, default=1e-3)
    options = parser.parse_args()
    try:
        wanted, got = evaluated(options.eval_file), inferred(options.log_file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: cannot compare: {error!r}")
    print(f"mAP of the evaluation {wanted:.6f}, of Paddle Inference {got:.6f}, tolerance {options.atol:g}")
    if not abs(wanted - got) <= options.atol:  # NaN fails
        sys.exit("error: they differ")


if __name__ == "__main__":
    main()
