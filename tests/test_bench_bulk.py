"""The benchmark of the bulk encoder runs; killed runs end with the same bytes, or it fails."""
import re

import pytest


@pytest.mark.slow
def test_it_runs(run):
    done = run("benchmarks/bench_bulk.py", "--files", 40, "--rounds", 1, "--memory", 50, "--kills", 1, "--threads", 1,
               "--precision", "fp32", timeout=900)
    rows = dict(re.findall(r"^\| ([\w' .]+) \| (\d+) \|", done.stdout, re.M))
    assert {"the seed's way", "predictor alone", "decoding alone", "bound", "encode.py"} <= set(rows)
    assert int(rows["50"]) > 100 and re.search(r"Killed \d times .* the same bytes", done.stdout)
