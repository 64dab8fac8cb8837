"""The benchmarks of search and metrics in a small size: they compare, they notice a difference, they write."""
import json

import numpy as np
import pytest

from benchmarks import bench_metrics, bench_search
from utils.errors import InputError
from utils.retrieval.hamming import pack


def test_search_against_faiss(run, tmp_path):
    pytest.importorskip("faiss")
    path = tmp_path / "figures.json"
    done = run("benchmarks/bench_search.py", "--items", "3000", "--bits", "16", "64", "--rounds", "1",
               "--json", str(path))
    figures = json.loads(path.read_text())
    assert len(figures) == 1 + 2 * 2 * 2 * 2 and "faiss-cpu" in figures["machine"]
    assert all(value["faiss_ms"] > 0 for name, value in figures.items() if name != "machine")
    assert done.stdout.count("| learned | 3,000 | 64 |") == 4


def test_search_notices_a_difference():
    one, other = (np.zeros((2, 3)), np.zeros((2, 3))), (np.zeros((2, 3)), np.arange(6).reshape(2, 3))
    bench_search.compare([one], [one])
    with pytest.raises(InputError, match="different items"):
        bench_search.compare([one], [other])


def test_simulated_codes_have_neighbours():
    codes, query = bench_search.simulate("learned", 2000, 64, 10)
    assert codes.shape == (2000, 8) and query.shape == (10, 8)
    distance = np.unpackbits(codes[None] ^ query[:, None], axis=2).sum(2)
    assert np.median(distance.min(1)) < 16 and (np.median(distance, axis=1) > 25).all()


def test_metrics_beside_the_loop_and_at_scale(run, tmp_path):
    path = tmp_path / "figures.json"
    size = ("--queries", "6", "--items", "500", "--topk", "50", "--json", str(path))
    run("benchmarks/bench_metrics.py", "--sample", "3", "--rounds", "1", *size)
    figures = json.loads(path.read_text())
    assert figures["difference"] < 1e-9 and figures["int64"]["cpu_s"] > 0 and figures["peak_mib"] > 0
    done = run("benchmarks/bench_metrics.py", "--scale", *size)
    figures = json.loads(path.read_text())
    assert len(figures["Hamming"]["mAP"]) == len(figures["and asymmetric"]["mAP"]) == 4
    assert figures["and asymmetric"]["mAP"] != figures["Hamming"]["mAP"] and "MiB" in done.stdout


def test_metrics_notice_a_difference(monkeypatch):
    monkeypatch.setattr(bench_metrics, "evaluate", lambda *data: {"mAP": 0.0})
    with pytest.raises(InputError, match="one of them is wrong"):
        bench_metrics.main(["--queries", "4", "--items", "100", "--sample", "2", "--rounds", "1", "--topk", "9"])


def test_simulated_labels_lie_behind_the_codes():
    query, database, query_labels, database_labels = bench_metrics.simulate(50, 3000, 32, 10, 0)
    assert query.shape == (50, 32) and database_labels.shape == (3000, 10) and database_labels.any(1).all()
    signs = [np.where(values >= 0, 1.0, -1.0) for values in (query, database)]
    relevant = bench_metrics.loop_map(*signs, query_labels, database_labels, 100)
    assert relevant > (query_labels.astype(int) @ database_labels.T > 0).mean() + 0.1
    np.testing.assert_array_equal(pack(query), np.packbits(signs[0] > 0, axis=1))
