"""The mains, run as a user runs them: train, resume, evaluate, two ranks, and mistakes."""
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import SHAPES_SIZES
from utils.training.checkpoint import load_checkpoint

# no batch norm, no dropout: the network for which ranks and batches must agree to float tolerance
TINY = ["--method", "hashnet", "--bit", 12, "--backbone", "SqueezeNet1_1", "--no-pretrained", "--resize-size", 36,
        "--crop-size", 32, "--batch-size", 16, "--eval-epoch", 2, "--lr-schedule", "step", "--optimizer", "momentum",
        "--device", "cpu", "--no-visualdl"]
SIZES = [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]


@pytest.fixture(scope="module")
def train(run, shapes):
    def call(*more, script="main_single_gpu.py", **kwargs):
        return run(script, *TINY, *SIZES, "--data-path", shapes, *more, **kwargs)
    return call


@pytest.fixture(scope="module")
def four(train, tmp_path_factory):
    """A finished run of four epochs."""
    folder = tmp_path_factory.mktemp("four")
    done = train("--epoch", 4, "--output-dir", folder, "--curves")
    return folder, done


def weights(path):
    return {key: value for key, value in load_checkpoint(path)[0].items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_a_run_leaves_its_files_and_says_what_readers_look_for(four):
    folder, done = four
    for name in ("recipe.yaml", "train.log", "latest.safetensors", "best.safetensors", "result.json",
                 "database_hashnet_12.npz", "pr_curve.csv", "pr_curve.png", "training_curve.csv",
                 "training_curve.png"):
        assert (folder / name).exists(), name
    for word in ("loss:", "avg_reader_cost:", "avg_batch_cost:", "avg_samples:", "avg_ips:", "images/sec", " ips: ",
                 "bit balance"):
        assert word in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert result["protocol"]["counts"] == {"train": 64, "query": 16, "database": 160}
    assert 0 < result["metrics"]["I->I"]["mAP"] <= 1 and result["metrics"]["I->I"]["definition"]["K"] >= 0
    assert result["training"]["selected_by"] == "query" and result["recipe"]["bit"] == 12


def test_same_seed_same_bits_and_resume_is_exact(train, four, tmp_path):
    train("--epoch", 2, "--output-dir", tmp_path)
    train("--resume", tmp_path / "latest.safetensors", "--epoch", 4, "--output-dir", tmp_path)
    assert same(weights(four[0] / "latest.safetensors"), weights(tmp_path / "latest.safetensors"))
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (four[0], tmp_path))
    assert first["metrics"] == second["metrics"] and first["training"]["history"] == second["training"]["history"]


def test_resumed_run_brings_its_best_checkpoint_and_its_folder_is_the_default(train, run, tmp_path):
    first = tmp_path / "first"
    train("--epoch", 1, "--eval-epoch", 1, "--output-dir", first)
    # elsewhere, never better than before: the earlier best checkpoint is the result
    train("--resume", first / "latest.safetensors", "--epoch", 3, "--output-dir", tmp_path / "second")
    assert (tmp_path / "second" / "best.safetensors").exists()
    run("main_single_gpu.py", "--resume", first / "latest.safetensors", "--epoch", 2, "--eval-epoch", 1)
    assert load_checkpoint(first / "latest.safetensors")[1]["epoch"] == 2
    # killed between the last checkpoint and the result
    result = (first / "result.json").read_text()
    (first / "result.json").unlink()
    run("main_single_gpu.py", "--resume", first / "latest.safetensors")
    again = json.loads((first / "result.json").read_text())
    assert again["metrics"] == json.loads(result)["metrics"] and again["training"]["images_per_second"] > 0
    (first / "best.safetensors").unlink()
    one_line(run("main_single_gpu.py", "--resume", first / "latest.safetensors", "--epoch", 3, ok=False),
             "best.safetensors")


def test_starting_anew_leaves_nothing_of_the_old_run(train, tmp_path):
    for name in ("latest.safetensors", "best.safetensors", "result.json"):
        (tmp_path / name).write_text("old")
    train("--epoch", 2, "--overwrite", "--alpha", 1e38, "--output-dir", tmp_path, ok=False)
    assert not any((tmp_path / name).exists() for name in ("best.safetensors", "result.json"))


def test_ranks_encode_with_the_network_that_is_saved(train, run, shapes, tmp_path):
    """Batch norm's running statistics differ by rank unless somebody sees to it."""
    train("--epoch", 3, "--backbone", "ConvNet:width=8", "--learning-rate", 0.01, "--output-dir", tmp_path,
          script="main_multi_gpu.py")
    run("main_single_gpu.py", "--eval", "--pretrained", tmp_path / "best.safetensors")
    ranks, alone = (json.loads((tmp_path / name).read_text()) for name in ("result.json", "eval/result.json"))
    assert ranks["metrics"] == alone["metrics"] and ranks["code_health"] == alone["code_health"]


def test_training_from_a_checkpoint_keeps_its_network(train, tmp_path):
    """The weights of SqueezeNet1_1:torchvision fit SqueezeNet1_1, which is another network."""
    train("--backbone", "SqueezeNet1_1:torchvision", "--epoch", 1, "--output-dir", tmp_path / "a")
    train("--pretrained", tmp_path / "a" / "best.safetensors", "--epoch", 1, "--output-dir", tmp_path / "b")
    result = json.loads((tmp_path / "b" / "result.json").read_text())
    assert result["recipe"]["backbone"] == "SqueezeNet1_1:torchvision"
    assert result["training"]["started_from"] == str(tmp_path / "a" / "best.safetensors")


def test_a_stop_and_a_resume_change_nothing(run, train, tmp_path):
    """Also with a schedule that ends at the last epoch, and an evaluation that the stop does not fall on."""
    more = ["--epoch", 4, "--eval-epoch", 3, "--lr-schedule", "cosine", "--augment", "simclr"]
    train(*more, "--output-dir", tmp_path / "whole")
    done = train(*more, "--stop-epoch", 2, "--output-dir", tmp_path / "parts")
    assert "--resume" in done.stdout and not (tmp_path / "parts" / "result.json").exists()
    run("main_single_gpu.py", "--resume", tmp_path / "parts" / "latest.safetensors", "--device", "cpu", "--no-visualdl")
    for name in ("latest", "best"):
        assert same(*(weights(tmp_path / part / f"{name}.safetensors") for part in ("whole", "parts")))


def test_killed_at_any_moment_leaves_a_checkpoint_that_continues_exactly(run, train, shapes, tmp_path):
    """With a schedule that looks at the last epoch, so that only the same run, continued, gives the same weights."""
    more = ["--epoch", "10", "--eval-epoch", "4", "--lr-schedule", "cosine", "--augment", "simclr"]
    killed = tmp_path / "killed"
    command = [sys.executable, "main_single_gpu.py", *TINY, *SIZES, "--data-path", shapes, *more, "--output-dir",
               killed]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        latest, stop = killed / "latest.safetensors", time.time() + 120
        while time.time() < stop and not (latest.exists() and load_checkpoint(latest)[1]["epoch"] >= 2):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 2 <= load_checkpoint(latest)[1]["epoch"] < 10
    run("main_single_gpu.py", "--resume", latest, "--device", "cpu", "--no-visualdl", "--output-dir", killed)
    train(*more, "--output-dir", tmp_path / "whole")
    assert same(weights(latest), weights(tmp_path / "whole" / "latest.safetensors"))


def test_evaluation_alone_gives_the_same_figures(run, four, shapes, tmp_path):
    folder, _ = four
    run("main_single_gpu.py", "--eval", "--pretrained", folder / "best.safetensors", "--data-path", shapes,
        "--device", "cpu", "--output-dir", tmp_path)
    trained, alone = (json.loads(path.read_text()) for path in (folder / "result.json", tmp_path / "result.json"))
    assert trained["metrics"] == alone["metrics"] and trained["fingerprint"] == alone["fingerprint"]


def test_two_ranks_equal_one_with_twice_the_batch(train, tmp_path):
    more = ["--epoch", 2, "--augment", "none", "--learning-rate", 0.01]
    train(*more, "--batch-size", 32, "--output-dir", tmp_path / "one")
    train(*more, "--batch-size", 16, "--nprocs", 2, "--output-dir", tmp_path / "two", script="main_multi_gpu.py")
    one, two = (weights(tmp_path / name / "latest.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(two[key], one[key], rtol=1e-4, atol=2e-5, err_msg=key)
    assert any("bank" in key for key in one)
    first, second = (json.loads((tmp_path / name / "result.json").read_text())["score"] for name in ("one", "two"))
    assert abs(first - second) < 0.02


def test_frozen_features_computed_once_give_the_same_weights(train, tmp_path):
    more = ["--epoch", 2, "--freeze-backbone", "--augment", "none", "--feature-norm", "log1p_standardize"]
    train(*more, "--output-dir", tmp_path / "once")
    train(*more, "--output-dir", tmp_path / "each", "--cache-features", "false")
    a, b = (weights(tmp_path / name / "latest.safetensors") for name in ("once", "each"))
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_validation_split_selects(train, tmp_path):
    done = train("--epoch", 2, "--select", "val", "--val-size", 20, "--output-dir", tmp_path)
    assert "validation query" in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["training"]["selected_by"] == "val"


def one_line(done, *words):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    for word in words:
        assert str(word) in lines[0], lines[0]


def test_mistakes_are_one_line(run, train, four, shapes, tmp_path):
    best = four[0] / "best.safetensors"
    one_line(train("--bitt", 3, ok=False), "--bit")
    one_line(train("--backbone", "AlexNat", "--output-dir", tmp_path / "x", ok=False), "AlexNat", "AlexNet")
    one_line(run("main_single_gpu.py", "--data-path", tmp_path / "nowhere", "--dataset", "cifar10", ok=False),
             "nowhere")
    one_line(train("--output-dir", four[0], ok=False), "--overwrite", "--resume")
    one_line(run("main_single_gpu.py", "--eval", "--pretrained", best, "--bit", 16, ok=False), "bit = 12, not 16")
    one_line(train("--device", "gpu", "--output-dir", tmp_path / "x", ok=False), "no GPU")
    one_line(train("--select", "val", "--val-size", 500, "--epoch", 1, "--output-dir", tmp_path / "x", ok=False),
             "--val-size")
    one_line(run("main_single_gpu.py", "--resume", best, "--data-path", shapes, "--epoch", 9, "--output-dir",
                 tmp_path / "x", ok=False), "latest.safetensors")
    assert not (tmp_path / "x").exists()


def test_divergence_is_named(train, tmp_path):
    done = train("--epoch", 3, "--alpha", 1e38, "--output-dir", tmp_path, ok=False)
    one_line(done, "loss term", "step", ".jpg")


def test_rank_failure_and_taken_port_end_the_job(train, shapes, tmp_path):
    done = train("--epoch", 3, "--alpha", 1e38, "--output-dir", tmp_path, "--nprocs", 2,
                 script="main_multi_gpu.py", ok=False)
    one_line(done, "loss term")
    import socket
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        one_line(train("--port", port, "--output-dir", tmp_path / "p", script="main_multi_gpu.py", ok=False), port,
                 "in use")
