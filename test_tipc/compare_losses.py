"""Compare the training losses of two runs: several ranks against one rank with the batches of all.

    python test_tipc/compare_losses.py --run FOLDER --reference FOLDER [--rtol 1e-6]

The last line is ``verdict: same`` (status 0), or ``error: ...`` (status 1 they differ, 2 nothing to compare). Needs
nothing but Python.
"""
import argparse
import json
import math
import os
import sys


def losses(folder):
    """dict epoch -> mean loss, of a run folder's result.json."""
    with open(os.path.join(folder, "result.json"), encoding="utf-8") as file:
        return {entry["epoch"]: float(entry["loss"]) for entry in json.load(file)["training"]["history"]}


def main():
    """Compare the losses of two runs; exit status 1 where they differ, 2 where they cannot be compared."""
    parser = argparse.ArgumentParser(description="losses of two runs")
    parser.add_argument("--run", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--rtol", type=float, default=1e-6)
    options = parser.parse_args()
    try:
        got, wanted = losses(options.run), losses(options.reference)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        print(f"error: cannot compare: {error!r}")
        sys.exit(2)
    if not wanted or set(got) != set(wanted):
        print(f"error: cannot compare: epochs {sorted(got)} and {sorted(wanted)}")
        sys.exit(2)
    worst = 0.0
    for epoch in sorted(wanted):
        difference = abs(got[epoch] - wanted[epoch]) / max(1.0, abs(wanted[epoch]))
        print(f"epoch {epoch}: loss {got[epoch]:.9f}, reference {wanted[epoch]:.9f}, difference {difference:.2g}, "
              f"tolerance {options.rtol:g}")
        worst = max(worst, difference if math.isfinite(difference) else math.inf)
    if not worst <= options.rtol:
        print(f"error: the losses differ by {worst:.2g}")
        sys.exit(1)
    print("verdict: same")


if __name__ == "__main__":
    main()
