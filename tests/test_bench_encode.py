"""The encoding benchmark runs, and its sides agree."""
import re


def test_it_runs(run):
    done = run("benchmarks/bench_encode.py", "--rounds", 1, "--threads", 2, "--files", 3)
    rows = dict(re.findall(r"^\| (plain predictor|oneDNN fp32|onnxruntime) \|.*\| ([\d.]+) % \|$", done.stdout, re.M))
    assert float(rows["plain predictor"]) == 0 and float(rows["oneDNN fp32"]) < 0.1
    assert "the seed's way" in done.stdout and "reduced decoding" in done.stdout
