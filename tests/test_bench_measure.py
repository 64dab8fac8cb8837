"""What the benchmarks share: turns, ratios, and sections of the results page."""
import numpy as np

from benchmarks import measure


def test_jobs_take_turns_and_ratios_have_a_spread():
    calls = []
    times = measure.in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3 and all(values.shape == (2, 2) for values in times.values())
    fast, slow = np.array([[1, 2], [1, 4], [2, 4.0]]), np.array([[3, 2], [4, 4], [4, 8.0]])
    ratio = measure.ratios({"a": fast, "b": slow}, "a", "b")
    assert ratio == {"wall": (3, 2, 4), "cpu": (1, 1, 2)}
    assert measure.ratio_text(ratio["wall"]) == "3.00 (2.00 to 4.00)"


def test_a_section_replaces_only_itself(tmp_path):
    path = tmp_path / "RESULTS.md"
    measure.write_section("one", ["## One", "old \\1"], path)
    measure.write_section("two", ["## Two"], path)
    measure.write_section("one", ["## One", "new \\1"], path)
    text = path.read_text()
    assert text.count("## One") == 1 and "old" not in text and text.index("new \\1") < text.index("## Two")


def test_the_training_benchmark_runs(run):
    done = run("benchmarks/bench_train.py", "--images", 4, "--batch-size", 2, "--rounds", 1, "--items", 200,
               "--queries", 3)
    assert "forward and loss" in done.stdout and "mAP@1000" in done.stdout
