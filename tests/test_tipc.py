"""TIPC: committed configs, faults that must be seen, and (slow) a real run. Most runs use a stand-in for Python."""
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = "test_tipc/configs/hashnet_16/train_infer_python.txt"
LITE = "lite_train_lite_infer"

# What the steps leave behind, without their work. FAULT names a step that fails, EMPTY one that ends well but leaves
# nothing, MAP the figure of Paddle Inference.
STAND_IN = """
import os, sys
arguments = sys.argv[1:]
def value(flag):
    return arguments[arguments.index(flag) + 1]
def leave(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write(text)
if arguments[0] == "-c":
    print("paddle 9.8.7")
    sys.exit("paddlepaddle-gpu" in arguments[1])
if arguments[0].endswith(("compare_results.py", "run.py")):
    os.execv(sys.executable, [sys.executable, *arguments])
step = {"-m": "prepare", "main_single_gpu.py": "train", "export_model.py": "export"}.get(arguments[0], "infer")
step = "eval" if "--eval" in arguments else step
if step in os.environ.get("FAULT", "").split():
    sys.exit(f"error: {step} broke")
if step == os.environ.get("EMPTY"):
    sys.exit()
if step == "prepare":
    leave("data/shapes/v1/train.txt", "a.jpg 1")
    print("shapes: data/shapes/v1")
elif step == "train":
    leave(value("--output-dir") + "/best.safetensors", "weights")
    print("avg_ips: 9.0 images/sec", *arguments)
elif step == "eval":
    leave(value("--output-dir") + "/result.json", '{"metrics": {"I->I": {"mAP": 0.5}}}')
elif step == "export":
    leave(value("--save-inference-dir") + "/inference.yml", value("--pretrained"))
else:
    print("----- Predicted Hamm_min: 0\\n----- mAP@all: " + os.environ.get("MAP", "0.500000"), *arguments)
"""


@pytest.fixture
def repo(tmp_path):
    """A copy of the scripts and configs with a stand-in for Python."""
    folder = tmp_path / "repo"
    for name in ("scripts", "test_tipc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("output", "__pycache__"))
    (folder / "stand_in.py").write_text(STAND_IN, encoding="utf-8")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/stand_in.py" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    # a machine with a GPU would run the GPU steps
    (folder / "bin").mkdir()
    (folder / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    return folder


def call(repo, *command, ok=True, **env):
    """Run a command in the copy; the exit status must be as told."""
    done = subprocess.run([str(word) for word in command], cwd=repo, text=True, timeout=120, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE,
                          env={**os.environ, "VENV": "/nowhere", "PYTHON": str(repo / "python"),
                               "PATH": f"{repo}/bin:{os.environ['PATH']}", **env})
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def chain(repo, mode=LITE, config=CONFIG, **options):
    """The test script; the fault line is looked for by the caller."""
    return call(repo, "bash", "test_tipc/test_train_inference_python.sh", config, mode, **options)


def steps(repo, mode=LITE, model="hashnet_16"):
    """dict step -> status of the last run."""
    rows = (repo / "test_tipc" / "output" / model / mode / "steps.tsv").read_text().splitlines()
    return {row.split("\t")[0]: row.split("\t")[1] for row in rows}


def test_configs_are_current(run):
    run("scripts/make_tipc_configs.py", "--check")


def test_a_changed_config_is_noticed(tmp_path, run):
    # the script looks beside itself, so a copy judges its own files
    for name in ("scripts", "test_tipc", "models", "utils"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("output", "__pycache__"))
    path = tmp_path / CONFIG
    path.write_text(path.read_text(encoding="utf-8").replace("--bit 16", "--bit 17"), encoding="utf-8")
    done = run(tmp_path / "scripts" / "make_tipc_configs.py", "--check", ok=False)
    assert "hashnet_16" in done.stderr and "make_tipc_configs.py" in done.stderr


def test_configs_have_the_conventional_order():
    configs = sorted(ROOT.glob("test_tipc/configs/*/train_infer_python.txt"))
    assert configs
    for path in configs:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) >= 32
        assert [line.partition(":")[0] for line in lines[:14]] == [
            "===========================train_params===========================", "model_name", "python", "gpu_list",
            "--use-gpu", "--epoch", "--output-dir", "--batch-size", "--pretrained", "train_model_name", "--data-path",
            "--config", "trainer", "norm_train"]
        assert [line.partition(":")[0] for line in lines[19:23]] == ["--save-inference-dir", "--pretrained",
                                                                    "norm_export", "infer_export"]
        assert [line.partition(":")[0] for line in lines[25:32]] == ["inference", "--use-gpu", "--batch-size", "--model-dir",
                                                                  "--img-path", "--save-path", "--benchmark"]
        assert lines[1] == f"model_name:{path.parent.name}"


@pytest.mark.parametrize("script", ["prepare.sh", "test_train_inference_python.sh"])
@pytest.mark.parametrize("arguments, words", [
    ((), "usage"), ((CONFIG,), "usage"), (("no/such.txt", LITE), "no/such.txt"), ((CONFIG, "lite"), "unknown mode lite"),
    (("scripts/common.sh", LITE), "no TIPC config")])
def test_wrong_arguments_are_one_line(repo, script, arguments, words):
    done = call(repo, "bash", f"test_tipc/{script}", *arguments, ok=False)
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_parser_functions(repo):
    text = """. test_tipc/common_func.sh
for mode in a b c; do func_parser_params '--epoch:a=2|b=x=y' $mode; echo; done
func_parser_params '--img-path:some/file.jpg' a; echo
func_parser_key 'inference:infer.py --flag a:b'; echo; func_parser_value 'inference:infer.py --flag a:b'; echo
func_parser_value '##'; echo; func_set_params --epoch null; func_set_params null 3; func_set_params --epoch 3"""
    assert call(repo, "bash", "-c", text).stdout.split("\n") == [
        "2", "x=y", "", "some/file.jpg", "inference", "infer.py --flag a:b", "", "--epoch 3"]


def test_all_steps_pass_and_gpu_steps_are_skipped_aloud(repo):
    done = chain(repo)
    assert steps(repo) == {"train_gpu": "skipped: no GPU", "train": "passed", "eval": "passed", "export": "passed",
                           "infer_gpu": "skipped: no GPU", "infer_cpu": "passed", "compare_cpu": "passed"}
    output = repo / "test_tipc" / "output" / "hashnet_16" / LITE
    log = (output / "results_python.log").read_text()
    assert log.count("Run successfully with command - ") == 5 and "Run failed" not in log
    assert log.count("Skipped (no GPU) command - ") == 2 and "Skipped (no GPU)" in done.stdout
    # the config's values of this mode reach the commands
    train = (output / "train.log").read_text()
    for words in ("--epoch 2", "--batch-size 16", "--data-path data/shapes/tipc/lite", "--use-gpu False"):
        assert words in train
    infer = (output / "python_infer_cpu_batchsize_1.log").read_text()
    assert "--img-path data/shapes/tipc/lite/images/q000000.jpg" in infer and "--benchmark True" in infer


@pytest.mark.parametrize("broken, after", [("train", {"export": "not run: no checkpoint"}),
                                           ("eval", {"export": "passed", "infer_cpu": "passed"}),
                                           ("export", {"infer": "not run: no inference model"}),
                                           ("infer", {"export": "passed"})])
@pytest.mark.parametrize("how", ["FAULT", "EMPTY"])
def test_a_broken_step_fails_the_run(repo, broken, after, how):
    done = chain(repo, ok=False, **{how: broken})
    found = steps(repo)
    name = "infer_cpu" if broken == "infer" else broken
    assert found[name] == "failed" and "Run failed with command - " in done.stdout
    assert {**found, **after} == found
    assert ("broke" if how == "FAULT" else "is missing") in done.stdout


def test_another_map_from_inference_fails_the_run(repo):
    assert "they differ" in chain(repo, ok=False, MAP="0.502000").stdout
    assert steps(repo)["compare_cpu"] == "failed"
    chain(repo, MAP="0.500900")


def test_a_failed_run_leaves_no_older_results(repo):
    chain(repo)
    chain(repo, ok=False, FAULT="train")
    assert "infer_cpu" not in steps(repo)
    assert not (repo / "test_tipc" / "output" / "hashnet_16" / LITE / "inference").exists()


def test_whole_infer_exports_a_given_checkpoint(repo):
    assert "TIPC_CHECKPOINT" in chain(repo, "whole_infer", ok=False).stderr
    assert "nowhere" in chain(repo, "whole_infer", ok=False, TIPC_CHECKPOINT="nowhere").stderr
    (repo / "mine.safetensors").write_text("weights")
    chain(repo, "whole_infer", TIPC_CHECKPOINT="mine.safetensors")
    output = repo / "test_tipc" / "output" / "hashnet_16" / "whole_infer"
    assert (output / "inference" / "inference.yml").read_text() == "mine.safetensors"
    chain(repo)
    chain(repo, "whole_infer")
    assert LITE in (output / "inference" / "inference.yml").read_text()


def test_modes_choose_their_data(repo):
    config = ("bash", "test_tipc/prepare.sh", CONFIG)
    for mode, names in ((LITE, {"lite"}), ("lite_train_whole_infer", {"lite", "whole"}),
                        ("whole_train_whole_infer", {"whole"}), ("whole_infer", {"whole"})):
        shutil.rmtree(repo / "data", ignore_errors=True)
        call(repo, *config, mode)
        call(repo, *config, mode)
        links = repo / "data" / "shapes" / "tipc"
        assert {path.name for path in links.iterdir()} == names
        assert all((path / "train.txt").is_file() for path in links.iterdir())
        chain(repo, mode, **({"TIPC_CHECKPOINT": CONFIG} if mode == "whole_infer" else {}))
    assert "could not be made" in call(repo, *config, LITE, ok=False, FAULT="prepare").stderr


def test_whole_training_takes_more_flags(repo):
    chain(repo, "whole_train_whole_infer", TIPC_TRAIN_ARGS="--dataset cifar10-1")
    log = (repo / "test_tipc/output/hashnet_16/whole_train_whole_infer/train.log").read_text()
    assert log.rstrip().split("--output-dir")[0].endswith("--dataset cifar10-1 ") and "--epoch" not in log


# scripts/tipc.sh ---------------------------------------------------------------------------------
def test_table_of_passes(repo):
    done = call(repo, "sh", "scripts/tipc.sh", "hashnet_1*", "hashnet_64")
    assert done.stdout.splitlines()[-1] == "2 passed"
    table = (repo / "test_tipc" / "output" / "summary.txt").read_text()
    assert table in done.stdout and "hashnet_32" not in table
    rows = [line.split() for line in table.splitlines()[1:]]
    assert [row[1] for row in rows if row[4] == "all" and row[-1] == "passed"] == ["hashnet_16", "hashnet_64"]
    assert ["9.8.7", "hashnet_16", "base", LITE, "infer_cpu", "passed"] in [row[:6] for row in rows]
    assert next(row for row in rows if row[4] == "infer_cpu")[-1] == "0.500000"


def test_without_a_pattern_all_configs_run(repo):
    done = call(repo, "sh", "scripts/tipc.sh", "--mode", "whole_infer", ok=False)
    count = len(list(ROOT.glob("test_tipc/configs/*/train_infer_python.txt")))
    assert done.stdout.count("whole_infer: FAILED") == count


@pytest.mark.parametrize("broken", ["prepare", "train", "export"])
def test_table_shows_the_failure(repo, broken):
    done = call(repo, "sh", "scripts/tipc.sh", "hashnet_16", "hashnet_32", ok=False, FAULT=broken)
    assert "0 passed, failed: hashnet_16/base hashnet_32/base (" in done.stdout and "FAILED" in done.stdout


@pytest.mark.parametrize("arguments, words", [
    (("hashnet_17",), "hashnet_16"), (("hashnet_16", "nix_*"), "nix_*"), (("--mode", "lite"), "invalid choice"),
    (("--mode",), "expected one argument"), (("--fast",), "--fast"), (("../x",), "../x")])
def test_tipc_refuses_wrong_arguments(repo, arguments, words):
    done = call(repo, "sh", "scripts/tipc.sh", *arguments, ok=False)
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (repo / "test_tipc" / "output").exists()


@pytest.mark.slow
def test_real_run(tmp_path):
    """The smallest config with the real commands, in a copy of the repository."""
    folder = tmp_path / "repo"
    for name in ("configs", "deploy", "models", "scripts", "test_tipc", "utils"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("output", "__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    done = call(folder, "sh", "scripts/tipc.sh", "hashnet_16", PYTHON=sys.executable)
    assert done.stdout.splitlines()[-1] == "1 passed" and "compare_cpu" in done.stdout
