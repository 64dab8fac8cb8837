"""benchmarks/bench_service.py runs, on a small model and index."""
import json

import pytest

from tests.exported import exported


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, tmp_path_factory, shapes, run):
    pytest.importorskip("uvicorn", reason="requirements-service.txt")
    run("benchmarks/bench_service.py", "--model-dir", exported(tmp_path_factory, shapes), "--clients", 4, "--rounds", 1,
        "--items", 500, "--requests", 40, "--seconds", 0.5, "--json", tmp_path / "figures.json", timeout=900)
    found = json.loads((tmp_path / "figures.json").read_text())
    assert len(found["memory_mb"]) == 11 and found["p99_ms"] >= found["median_ms"] > 0
    assert found["ratio_wall"] > 0 and found["ratio_cpu"] > 0
