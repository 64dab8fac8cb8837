"""TIPC: committed configs, faults that must be seen, and (slow) real runs. Most runs use a stand-in for Python."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

from test_tipc import run as runner

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = "test_tipc/configs/hashnet_16/train_infer_python.txt"
FLEET = "test_tipc/configs/hashnet_16/train_linux_gpu_fleet_normal_infer_python.txt"
AMP = "test_tipc/configs/hashnet_16/train_amp_infer_python.txt"
LITE = "lite_train_lite_infer"

# What the steps leave behind, without their work. Each of these variables names steps: FAULT those that fail, EMPTY
# that end well but leave nothing, NAN that print one, SKIP that say they cannot, SLEEP that hang. ONLY: words that the
# command must have for any of it. SINGLE_LOSS: the loss of one rank. CANNOT: why there is no amp. VERSION: of Paddle.
STAND_IN = """
import json, os, sys, time
arguments = sys.argv[1:]
def value(flag):
    return arguments[len(arguments) - 1 - arguments[::-1].index(flag) + 1]
def leave(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write(text)
if arguments[0] == "-c":
    if "amp.check" in arguments[1]:
        sys.exit(print(os.environ.get("CANNOT", "")))
    print("paddle", os.environ.get("VERSION", "9.8.7"))
    sys.exit("paddlepaddle-gpu" in arguments[1])
if arguments[0].endswith(("run.py", "compare_losses.py", "analysis.py")):
    os.execv(sys.executable, [sys.executable, *arguments])
ranks = "--nprocs" in arguments
if arguments[0].endswith("run_nodes.py"):
    ranks, arguments = True, arguments[arguments.index("--") + 1:]
step = {"main_single_gpu.py": "train", "main_multi_gpu.py": "train", "export_model.py": "export",
        "test_tipc/compare_results.py": "compare"}.get(arguments[0], "infer")
step = arguments[2] if arguments[0] == "-m" else "eval" if "--eval" in arguments else step
def told(name):
    return step in os.environ.get(name, "").split() and os.environ.get("ONLY", "") in " ".join(arguments)
if told("FAULT"):
    sys.exit(f"error: {step} broke")
if told("EMPTY"):
    sys.exit()
if told("SKIP"):
    print("skipped: no stored things")
    sys.exit(77)
if told("SLEEP"):
    open("sleeping", "w").write(str(os.getpid()))
    time.sleep(60)
if step == "make":
    leave("data/shapes/v1/train.txt", "a.jpg 1")
    print("shapes: data/shapes/v1")
elif step == "train":
    leave(value("--output-dir") + "/best.safetensors", "weights")
    loss = 0.5 if ranks else float(os.environ.get("SINGLE_LOSS", 0.5))
    leave(value("--output-dir") + "/result.json", json.dumps({"training": {"history": [{"epoch": 2, "loss": loss}]}}))
    for cost in (4.0, 2.0, 0.5, 0.5):
        print(f"epoch: [1/2], loss: {'nan' if told('NAN') else 0.5}, image: 0.1, avg_reader_cost: 0.1 sec,"
              f" avg_batch_cost: {cost} sec, avg_samples: 16, avg_ips: 9.0 images/sec, ips: 9.0")
    print(*arguments)
elif step == "eval":
    leave(value("--output-dir") + "/result.json", "{}")
    print("query: I->I mAP@all nan" if told("NAN") else "query: I->I mAP@all 0.5")
elif step == "export":
    leave(value("--save-inference-dir") + "/inference.yml", value("--pretrained"))
elif step == "infer":
    print("----- Predicted Hamm_min: 0\\n----- mAP@all: 0.500000", *arguments)
elif step == "compare":
    print(*arguments)
    print("verdict: same")
"""


@pytest.fixture
def repo(tmp_path):
    """See ``copy_repo``."""
    return copy_repo(tmp_path / "repo")


def copy_repo(folder):
    """A copy of the scripts and of HashNet's configs with a stand-in for Python; returns its folder."""
    for name in ("scripts", "test_tipc"):
        shutil.copytree(ROOT / name, folder / name, ignore=lambda parent, names: [
            name for name in names if name in ("output", "results", "__pycache__")
            or os.path.basename(parent) == "configs" and not name.startswith("hashnet_")])
    (folder / "stand_in.py").write_text(STAND_IN, encoding="utf-8")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/stand_in.py" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    # a machine with a GPU would run the GPU steps
    (folder / "bin").mkdir()
    (folder / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    return folder


def variables(repo, **env):
    """The environment of a command in the copy."""
    path = f"{repo}/bin:{os.environ['PATH']}"
    return {**os.environ, "VENV": "/nowhere", "PYTHON": str(repo / "python"), "PATH": path,
            **{key: str(value) for key, value in env.items()}}


def call(repo, *command, ok=True, timeout=120, **env):
    """Run a command in the copy; the exit status must be as told."""
    done = subprocess.run([str(word) for word in command], cwd=repo, text=True, timeout=timeout, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=variables(repo, **env))
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def chain(repo, mode=LITE, config=CONFIG, **options):
    """The test script; the fault line is looked for by the caller."""
    return call(repo, "bash", "test_tipc/test_train_inference_python.sh", config, mode, **options)


def steps(repo, *inside):
    """dict step -> status of the last run of hashnet_16."""
    rows = repo.joinpath("test_tipc", "output", "hashnet_16", *(inside or [LITE]), "steps.tsv").read_text().splitlines()
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


# line number (from 1) -> key, as the three scripts read them
OFFICIAL = {2: "model_name", 3: "python", 4: "gpu_list", 5: "--use-gpu", 7: "--epoch", 9: "--batch-size",
            10: "--pretrained", 11: "train_model_name", 15: "trainer", 16: "norm_train", 24: "eval",
            28: "--save-inference-dir", 29: "--pretrained", 30: "norm_export", 37: "infer_model", 38: "infer_export",
            39: "infer_quant", 40: "inference", 41: "--use-gpu", 42: "--use-mkldnn", 43: "--cpu-threads",
            44: "--batch-size", 45: "--use-trt", 46: "--precision", 47: "--model-dir", 48: "--img-path",
            50: "--benchmark", 51: "--save-path"}
ORDERS = {"train_infer_python": {**OFFICIAL, 8: "--output-dir", 12: "train_infer_img_dir"},
          "train_infer_python_paddleclas": {**OFFICIAL, 13: "--output-dir", 34: "kl_quant"},
          "train_infer_python_paddle_hashnet": {
              2: "model_name", 3: "python", 4: "gpu_list", 6: "--epoch", 7: "--output-dir", 8: "--batch-size",
              9: "--pretrained", 10: "train_model_name", 13: "trainer", 14: "norm_train", 17: "eval",
              20: "--save-inference-dir", 21: "--pretrained", 22: "norm_export", 25: "infer_export", 27: "inference",
              28: "--use-gpu", 29: "--batch-size", 30: "--model-dir", 31: "--img-path", 32: "--benchmark"}}


@pytest.mark.parametrize("chain", ORDERS)
def test_configs_have_the_order_of_the_scripts_that_read_them(chain):
    configs = sorted(ROOT.glob(f"test_tipc/configs/*/{chain}.txt"))
    assert configs
    for path in configs:
        lines = path.read_text(encoding="utf-8").splitlines()
        keys = {number: lines[number - 1].partition(":")[0] for number in ORDERS[chain]}
        assert keys == ORDERS[chain], path
        assert lines[1] == f"model_name:{path.parent.name}"
        # their readers lose empty lines, and what stands after a second colon
        assert all(line and line.count(":") <= 1 for line in lines[:51])


@pytest.mark.parametrize("script", ["prepare.sh", "test_train_inference_python.sh"])
@pytest.mark.parametrize("arguments, words", [
    ((), "usage"), ((CONFIG,), "usage"), (("no/such.txt", LITE), "no/such.txt"),
    ((CONFIG, "lite"), "unknown mode lite"), (("scripts/common.sh", LITE), "no TIPC config")])
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
    assert steps(repo) == {"train": "passed", "eval": "passed", "export": "passed",
                           "infer_gpu": "skipped: no GPU", "infer_cpu": "passed", "compare_cpu": "passed"}
    output = repo / "test_tipc" / "output" / "hashnet_16" / LITE
    log = (output / "results_python.log").read_text()
    assert log.count("Run successfully with command - ") == 5 and "Run failed" not in log
    assert log.count("Skipped (no GPU) command - ") == 1 and "Skipped (no GPU)" in done.stdout
    # the config's values of this mode reach the commands
    train = (output / "train.log").read_text()
    for words in ("--epoch 2", "--batch-size 16", "--data-path data/shapes/tipc/lite", "--use-gpu auto"):
        assert words in train
    infer = (output / "python_infer_cpu_batchsize_1.log").read_text()
    assert "--img-path data/shapes/tipc/lite/images/q000000.jpg" in infer and "--benchmark True" in infer


@pytest.mark.parametrize("broken, after", [("train", {"export": "not run: no checkpoint"}),
                                           ("eval", {"export": "passed", "infer_cpu": "passed"}),
                                           ("export", {"infer": "not run: no inference model"}),
                                           ("infer", {"export": "passed"}), ("compare", {"infer_cpu": "passed"})])
@pytest.mark.parametrize("how", ["FAULT", "EMPTY"])
def test_a_broken_step_fails_the_run(repo, broken, after, how):
    done = chain(repo, ok=False, **{how: broken})
    found = steps(repo)
    name = {"infer": "infer_cpu", "compare": "compare_cpu"}.get(broken, broken)
    assert found[name] == "failed" and "Run failed with command - " in done.stdout
    assert {**found, **after} == found
    assert ("broke" if how == "FAULT" else "is missing") in done.stdout


@pytest.mark.parametrize("step", ["train", "eval"])
def test_nan_fails_a_step_that_ended_well(repo, step):
    done = chain(repo, ok=False, NAN=step)
    assert steps(repo)[step] == "failed" and "nan, although the command ended with status 0" in done.stdout


def test_a_step_that_hangs_fails(repo):
    done = chain(repo, ok=False, SLEEP="export", TIPC_TIMEOUT=1)
    assert steps(repo)["export"] == "failed" and "TIPC_TIMEOUT=1" in done.stdout


def test_without_stored_results_the_comparison_is_skipped(repo):
    done = call(repo, "sh", "scripts/tipc.sh", "hashnet_16", SKIP="compare")
    assert steps(repo)["compare_cpu"] == "skipped: no stored things"
    assert done.stdout.splitlines()[-1] == "1 passed (1 of them without stored results)"


def test_stored_results_are_for_the_lite_run_of_the_base_chain(repo):
    chain(repo)
    log = (repo / "test_tipc/output/hashnet_16" / LITE / "compare_cpu.log").read_text()
    assert "--gt_file test_tipc/results/{paddle}/hashnet_16_lite_train_lite_infer.json" in log
    chain(repo, "whole_train_whole_infer")
    log = (repo / "test_tipc/output/hashnet_16/whole_train_whole_infer/compare_cpu.log").read_text()
    assert "--gt_file" not in log and "--codes test_tipc/output/hashnet_16/whole_train_whole_infer/codes_cpu" in log


# the chain fleet ---------------------------------------------------------------------------------
def test_fleet_trains_with_ranks_and_nodes_and_compares_with_one_rank(repo):
    chain(repo, config=FLEET)
    found = steps(repo, "fleet", LITE)
    for tag in ("_2ranks", "_2nodes"):
        assert all(found[step + tag] == "passed" for step in ("train", "eval", "compare_train", "export", "infer_cpu",
                                                              "compare_cpu"))
    assert found["train_1rank"] == "passed"
    folder = repo / "test_tipc" / "output" / "hashnet_16" / "fleet" / LITE
    assert "--batch-size 32" in (folder / "train_1rank.log").read_text()
    assert "main_multi_gpu.py" in (folder / "train_2ranks.log").read_text()
    exported = (folder / "inference_2nodes" / "inference.yml").read_text()
    assert exported.endswith("norm_train_cpu_2nodes/best.safetensors")


def test_fleet_with_another_loss_than_one_rank_fails(repo):
    done = chain(repo, config=FLEET, SINGLE_LOSS=0.500002, ok=False)
    assert "the losses differ" in done.stdout and steps(repo, "fleet", LITE)["compare_train_2nodes"] == "failed"


@pytest.mark.parametrize("loss, status", [(0.5000004, 0), (0.500002, 1), (float("nan"), 1), (None, 2)])
def test_losses_are_compared_to_a_millionth(tmp_path, loss, status):
    for name, value in (("run", 0.5), ("one", loss)):
        (tmp_path / name).mkdir()
        history = [{"epoch": 2, "loss": value}] if value is not None else []
        (tmp_path / name / "result.json").write_text(json.dumps({"training": {"history": history}}))
    for run, reference in (("run", "one"), ("one", "run")):
        done = subprocess.run([sys.executable, ROOT / "test_tipc" / "compare_losses.py", "--run", tmp_path / run,
                               "--reference", tmp_path / reference], stdout=subprocess.PIPE)
        assert done.returncode == status


def test_fleet_does_not_pretend_to_reach_other_machines(repo):
    path = repo / FLEET
    path.write_text(path.read_text().replace("127.0.0.1,127.0.0.1;0", "127.0.0.1,10.0.0.2;0"))
    chain(repo, config=FLEET)
    found = steps(repo, "fleet", LITE)
    assert found["train_2nodes"].startswith("skipped: these are other machines") and found["train_2ranks"] == "passed"


LAUNCHER = """
import os, sys, time
rank, folder = sys.argv[sys.argv.index("--rank") + 1], sys.argv[sys.argv.index("--log_dir") + 1]
os.makedirs(folder)
open(folder + "/workerlog.0", "w").write(f"hello from {rank} of {' '.join(sys.argv[-2:])}\\n")
open(folder + f"/backup_env.{rank}.json", "w").write("secret")
open(os.environ["PIDS"] + rank, "w").write(str(os.getpid()))
if rank == os.environ.get("BAD"):
    sys.exit(3)
if os.environ.get("HANG"):
    time.sleep(60)
"""


@pytest.mark.parametrize("env, words", [({}, None), ({"BAD": "1", "HANG": "1"}, "node 1 ended with status 3"),
                                        ({"HANG": "1"}, "did not end within 3 seconds")])
def test_nodes_end_together(tmp_path, env, words):
    module = tmp_path / "paddle" / "distributed" / "launch.py"
    module.parent.mkdir(parents=True)
    for folder in (module.parent, module.parent.parent):
        (folder / "__init__.py").touch()
    module.write_text(LAUNCHER)
    done = subprocess.run([sys.executable, ROOT / "test_tipc" / "run_nodes.py", "--nodes", "2", "--timeout", "3",
                           "--log-dir", tmp_path / "logs", "--", "main.py", "--x"], text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(tmp_path), "PIDS": f"{tmp_path}/pid", **env})
    assert (done.returncode == 0) == (words is None) and (words or "") in done.stderr
    assert done.stdout.startswith("hello from 0 of main.py --x")
    assert not list(tmp_path.glob("logs/*/backup_env*"))  # the launcher's copy of the environment
    for node in "01":
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"pid{node}").read_text()), 0)


# configs of paddle_hashnet -----------------------------------------------------------------------
PEER = "test_tipc/configs/hashnet_16/train_infer_python_paddle_hashnet.txt"


@pytest.fixture
def peer(repo):
    """A config in paddle_hashnet's layout as that project writes it, with quotes and its own names."""
    lines = (repo / PEER).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 32
    changes = {4: "use-gpu:False", 9: "train_model_name:model_best_16",
               13: "norm_train:main_single_gpu.py --bit=16 --dataset='coco_lite' --data-path='./datasets/coco_lite/'",
               20: "--pretrained:", 23: "null:.null", 29: "--model-dir:./output/hashnet_infer/",
               26: "inference:deploy/inference_python/infer.py --bit=16 --dataset='coco_lite' --save-path='./out/'"}
    path = repo / "train_infer_python.txt"
    path.write_text("\n".join(changes.get(number, line) for number, line in enumerate(lines)), encoding="utf-8")
    return path


def test_a_config_of_paddle_hashnet_runs_here(repo, peer):
    chain(repo, config=peer)
    assert steps(repo, "paddle_hashnet", LITE) == {
        "train": "passed", "eval": "passed", "export": "passed", "infer_gpu": "skipped: no GPU", "infer_cpu": "passed"}
    folder = repo / "test_tipc" / "output" / "hashnet_16" / "paddle_hashnet"
    train = (folder / LITE / "train.log").read_text()
    for words in ("--epoch 2", "--batch-size 16", "--dataset='coco_lite'", "--use-gpu False"):
        assert words in train
    chain(repo, config=PEER)  # ours in that layout evaluates, and stored results are of the base chain's training
    assert steps(repo, "paddle_hashnet", LITE)["compare_cpu"] == "passed"
    assert "--gt_file" not in (folder / LITE / "compare_cpu.log").read_text()
    chain(repo, "whole_infer", config=peer)
    exported = (folder / "whole_infer" / "inference" / "inference.yml").read_text()
    assert exported.endswith(f"paddle_hashnet/{LITE}/norm_train_cpu/best.safetensors")


def test_training_that_wants_a_gpu_is_skipped_where_there_is_none(repo, peer):
    peer.write_text(peer.read_text(encoding="utf-8").replace("use-gpu:False", "use-gpu:True|True"), encoding="utf-8")
    done = subprocess.run(["bash", "test_tipc/test_train_inference_python.sh", peer, LITE], cwd=repo, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables(repo))
    assert done.returncode == 3 and "Skipped (no GPU) command - " in done.stdout
    assert steps(repo, "paddle_hashnet", LITE) == {"train_gpu": "skipped: no GPU"}


def test_a_short_config_is_one_line(repo, peer):
    peer.write_text("\n".join(peer.read_text(encoding="utf-8").splitlines()[:30]), encoding="utf-8")
    done = chain(repo, config=peer, ok=False)
    assert "32 lines are expected" in done.stderr and len(done.stderr.strip().splitlines()) == 1


# the chain amp -----------------------------------------------------------------------------------
def test_amp_trains_in_both_formats_where_they_work(repo):
    chain(repo, config=AMP)
    found = steps(repo, "amp", LITE)
    assert found["train_bf16"] == found["compare_cpu_fp16"] == "passed"
    assert "--amp fp16" in (repo / "test_tipc/output/hashnet_16/amp" / LITE / "train_fp16.log").read_text()


def test_amp_that_cannot_is_skipped_and_no_pass(repo):
    done = call(repo, "sh", "scripts/tipc.sh", "hashnet_16", "--chain", "amp,base", CANNOT="amp bf16 needs a GPU")
    assert steps(repo, "amp", LITE)["train_bf16"] == "skipped: amp bf16 needs a GPU"
    assert done.stdout.splitlines()[-1] == "1 passed, 1 skipped"
    assert "amp lite_train_lite_infer: skipped: amp bf16 needs a GPU" in done.stdout


def test_amp_that_breaks_is_no_skip(repo):
    chain(repo, config=AMP, FAULT="train", ONLY="--amp fp16", ok=False)
    found = steps(repo, "amp", LITE)
    assert found["train_bf16"] == "passed" and found["train_fp16"] == "failed"


# benchmark ---------------------------------------------------------------------------------------
def test_benchmark_log_has_the_conventional_names(repo):
    call(repo, "sh", "scripts/tipc.sh", "hashnet_16", "--chain", "benchmark")
    folder = repo / "test_tipc" / "output" / "hashnet_16" / "benchmark_train"
    assert (folder / "train_log" / "repo_hashnet_16_bs16_fp32_SingleP_DP_N1C1_log").is_file()
    line = json.loads((folder / "index" / "repo_hashnet_16_bs16_fp32_SingleP_DP_N1C1_speed").read_text())
    wanted = {"model_name": "hashnet_16_bs16_fp32_SingleP_DP", "batch_size": 16, "fp_item": "fp32", "run_mode": "DP",
              "ips": 32.0, "avg_batch_cost": 0.5, "steps": 2, "device_num": "N1C1", "speed_unit": "images/s",
              "convergence_key": "loss:", "convergence_value": 0.5, "frame_version": line["frame_version"]}
    assert {**line, **wanted} == line


def test_benchmark_takes_one_measurement(repo):
    command = ("bash", "test_tipc/benchmark_train.sh", CONFIG, "benchmark_train")
    call(repo, *command, "dynamic_bs8_null_DP_N1C2")
    folder = repo / "test_tipc" / "output" / "hashnet_16" / "benchmark_train"
    (name,) = [path.name for path in (folder / "index").iterdir()]
    assert name == "repo_hashnet_16_bs8_fp32_MultiP_DP_N1C2_speed"
    assert json.loads((folder / "index" / name).read_text())["ips"] == 32.0
    log = (folder / "train_log" / name.replace("_speed", "_log")).read_text()
    assert "main_multi_gpu.py" in log and "--nprocs 2" in log and "--batch-size 8" in log
    assert "no measurement" in call(repo, *command, "bs8", ok=False).stderr
    call(repo, *command, ok=False, EMPTY="train")
    assert steps(repo, "benchmark_train") == {"train_bs16_fp32_N1C1": "failed"}


# modes and data ----------------------------------------------------------------------------------
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
        links = repo / "data" / "shapes" / "tipc"
        assert {path.name for path in links.iterdir()} == names
        assert all((path / "train.txt").is_file() for path in links.iterdir())
        chain(repo, mode, **({"TIPC_CHECKPOINT": CONFIG} if mode == "whole_infer" else {}))
    call(repo, *config, mode)  # the data that are there stay
    assert "could not be made" in call(repo, *config, LITE, ok=False, FAULT="make").stderr
    assert "is damaged" in call(repo, *config, LITE, ok=False, FAULT="check").stderr


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
    assert "skipped: no GPU (hashnet_16/base infer_gpu and 1 more)" in table
    rows = [line.split() for line in table.splitlines()[1:]]
    assert [row[1] for row in rows if row[4] == "all" and row[-1] == "passed"] == ["hashnet_16", "hashnet_64"]
    assert ["9.8.7", "hashnet_16", "base", LITE, "infer_cpu", "passed"] in [row[:6] for row in rows]
    assert next(row for row in rows if row[4] == "infer_cpu")[-1] == "0.500000"


def test_without_a_pattern_all_configs_run(repo):
    done = call(repo, "sh", "scripts/tipc.sh", "--mode", "whole_infer", ok=False)
    assert done.stdout.count("whole_infer: FAILED") == 4


@pytest.mark.parametrize("broken", ["make", "train", "export"])
def test_table_shows_the_failure(repo, broken):
    done = call(repo, "sh", "scripts/tipc.sh", "hashnet_16", "hashnet_32", ok=False, FAULT=broken)
    assert "0 passed, failed: hashnet_16/base hashnet_32/base (" in done.stdout and "FAILED" in done.stdout


def test_jobs_do_not_change_the_order_of_the_table(repo):
    done = call(repo, "sh", "scripts/tipc.sh", "hashnet_*", "--jobs", 4)
    assert "4 to run, 4 at a time" in done.stdout
    rows = [line.split() for line in (repo / "test_tipc/output/summary.txt").read_text().splitlines()[1:-1]]
    names = ["hashnet_16", "hashnet_32", "hashnet_48", "hashnet_64"]
    assert [row[1] for row in rows if row[4] == "all"] == names
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)


def test_junit_tells_failures_and_skips(repo):
    call(repo, "sh", "scripts/tipc.sh", "hashnet_16", "hashnet_32", ok=False, FAULT="train", ONLY="--bit 16")
    top = ElementTree.parse(repo / "test_tipc" / "output" / "summary.xml").getroot()
    cases = {(case.get("classname"), case.get("name")): case for case in top.iter("testcase")}
    assert cases["paddle9.8.7.base.hashnet_16", "train"].find("failure").text.count("train broke") == 1
    assert cases["paddle9.8.7.base.hashnet_16", "export"].find("skipped").get("message") == "not run: no checkpoint"
    assert cases["paddle9.8.7.base.hashnet_32", "infer_gpu"].find("skipped").get("message") == "skipped: no GPU"
    assert len(cases["paddle9.8.7.base.hashnet_32", "export"]) == 0
    suite = top.find("testsuite")
    assert suite.get("name") == "paddle 9.8.7 base lite_train_lite_infer"
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(cases)), "1", "2")


def test_junit_is_well_formed_whatever_was_said():
    task = {"paddle": "3.3.1", "config": "a", "chain": "base", "mode": LITE, "said": "\x1b[0m <&> \x00 \ud800 ü",
            "seconds": 1, "verdict": "FAILED", "steps": [["train", "failed: \x07 <x>", 1, "-"]]}
    case = next(ElementTree.fromstring(runner.junit([task])).iter("testcase"))
    assert "<&>" in case.find("failure").text and "<x>" in case.find("failure").get("message")


@pytest.mark.parametrize("status, states, wanted", [
    (0, ["passed", "skipped: no GPU"], "passed"), (0, [], "FAILED"), (0, ["skipped: x"], "FAILED"),
    (0, ["failed"], "FAILED"), (1, ["passed"], "FAILED"), (2, [], "FAILED"), (143, ["passed"], "FAILED"),
    (3, ["passed", "skipped: x"], "skipped"), (3, ["failed"], "FAILED")])
def test_verdict(status, states, wanted):
    assert runner.verdict(status, states) == wanted


def test_only_the_failed_run_again(repo):
    command = ("sh", "scripts/tipc.sh")
    assert "no test_tipc/output/summary.json" in call(repo, *command, "--rerun-failed", ok=False).stderr
    # base passes; in the chain amp both fail, then one of them
    call(repo, *command, "hashnet_16", "hashnet_32", "--chain", "base,amp", ok=False, FAULT="train", ONLY="--amp")
    shutil.rmtree(repo / "test_tipc" / "output" / "hashnet_16" / LITE)
    done = call(repo, *command, "--rerun-failed", ok=False, FAULT="train", ONLY="--bit 32")
    assert "2 to run" in done.stdout and done.stdout.splitlines()[-1].startswith("3 passed, failed: hashnet_32/amp (")
    assert call(repo, *command, "--rerun-failed").stdout.splitlines()[-1] == "4 passed"
    assert "0 to run" in call(repo, *command, "--rerun-failed").stdout
    assert not (repo / "test_tipc" / "output" / "hashnet_16" / LITE).exists()
    assert "only --jobs" in call(repo, *command, "--rerun-failed", "hashnet_16", ok=False).stderr


def test_two_environments_in_one_table(repo):
    for version in ("2.6.2", "3.3.1"):
        python = repo / f"venv-{version}" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nVERSION={version} exec "{repo}/python" "$@"\n')
        python.chmod(0o755)
    call(repo, "sh", "scripts/tipc.sh", "hashnet_16", "--venv", "venv-2.6.2", "--venv", "venv-3.3.1")
    rows = [line.split() for line in (repo / "test_tipc/output/summary.txt").read_text().splitlines()[1:-1]]
    assert [row[0] for row in rows if row[4] == "all"] == ["2.6.2", "3.3.1"]
    for version in ("2.6.2", "3.3.1"):
        log = (repo / f"test_tipc/output/paddle{version}/hashnet_16" / LITE / "results_python.log").read_text()
        assert f"venv-{version}/bin/python main_single_gpu.py" in log
    assert "setup.sh" in call(repo, "sh", "scripts/tipc.sh", "--venv", "venv-1", ok=False).stderr


def test_nothing_outlives_an_interrupted_runner(repo):
    process = subprocess.Popen(["sh", "scripts/tipc.sh", "hashnet_*", "--jobs", "1"], cwd=repo, stdout=subprocess.PIPE,
                               env=variables(repo, SLEEP="train"))
    deadline = time.monotonic() + 60
    while not (repo / "sleeping").exists() or not (repo / "sleeping").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    child = int((repo / "sleeping").read_text())
    while os.path.exists(f"/proc/{child}/status") and "zombie" not in pathlib.Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nobody_else_writes_while_the_chain_of_a_killed_runner_goes_on(repo):
    command = ("sh", "scripts/tipc.sh", "hashnet_16")
    process = subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, env=variables(repo, SLEEP="train"))
    deadline = time.monotonic() + 60
    while not (repo / "sleeping").exists() or not (repo / "sleeping").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    refused = call(repo, *command, ok=False)
    assert "test_tipc/output is being written by" in refused.stderr and "TIPC_OUTPUT" in refused.stderr
    call(repo, *command, TIPC_OUTPUT=repo / "elsewhere")
    os.kill(int((repo / "sleeping").read_text()), signal.SIGKILL)  # its chain ends with the steps that follow
    while "being written" in subprocess.run(command, cwd=repo, env=variables(repo), stdout=subprocess.PIPE, text=True,
                                            stderr=subprocess.PIPE).stderr:
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)
    assert call(repo, *command).stdout.splitlines()[-1] == "1 passed"


@pytest.mark.parametrize("arguments, words", [
    (("hashnet_17",), "hashnet_16"), (("hashnet_16", "nix_*"), "nix_*"), (("--mode", "lite"), "invalid choice"),
    (("--mode",), "expected one argument"), (("--fast",), "--fast"), (("../x",), "../x"),
    (("--chain", "onnx"), "paddle2onnx"), (("--chain", "amp", "--mode", "whole_infer"), "none of the chains"),
    (("--jobs", "0"), "--jobs 0")])
def test_tipc_refuses_wrong_arguments(repo, arguments, words):
    done = call(repo, "sh", "scripts/tipc.sh", *arguments, ok=False)
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (repo / "test_tipc" / "output").exists()


# with the real commands --------------------------------------------------------------------------
@pytest.fixture
def real(tmp_path):
    """A copy of the repository."""
    folder = tmp_path / "repo"
    for name in ("configs", "deploy", "models", "scripts", "test_tipc", "utils"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("output", "__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("chain, step", [("base", "compare_cpu"), ("fleet", "compare_train_2nodes")])
def test_real_run(real, chain, step):
    done = call(real, "sh", "scripts/tipc.sh", "hashnet_16", "--chain", chain, PYTHON=sys.executable, timeout=900)
    assert done.stdout.splitlines()[-1].startswith("1 passed")
    assert step in steps(real, *([chain] * (chain != "base")), LITE)


# fault: (file, what stands there, what stands there then), the step that fails, what it says
FAULTS = {
    "failing train": (("utils/training/trainer.py", "optimizer.clear_grad()", "raise RuntimeError('broken')"), "train",
                      "broken"),
    "missing checkpoint": (("utils/training/trainer.py", "save(best, method", "print(method"), "train",
                           "best.safetensors"),
    "NaN loss": (("models/hashnet.py", "self.alpha, self.class_num)}", "self.alpha, self.class_num) * float('nan')}"),
                 "train", "loss term 'total' is nan"),
    "wrong config path": (("test_tipc/run.py", 'f"test_tipc/configs/{task', 'f"test_tipc/confgis/{task'), "prepare",
                          "no config file"),
    "missing image": (("test_tipc/prepare.sh", "faults=$(", 'rm -f "$folder/images/q000003.jpg"; faults=$('), "prepare",
                      "q000003.jpg"),
    "export of a different checkpoint": (
        ("test_tipc/common_func.sh", '"$checkpoint_key" "$checkpoint" "$save_model_key"',
         '"$checkpoint_key" other/best.safetensors "$save_model_key"'), "compare_cpu", "differ"),
    "changed preprocessing": (("models/export.py", "recipe_spec(recipe)",
                               'recipe_spec({**recipe, "resize_size": recipe["resize_size"] + 8})'), "compare_cpu",
                              "differ"),
    "flipped bits": (("utils/retrieval/code_store.py",
                      "encoded = need_codes(self._encode(split, role, modality), split)",
                      "encoded = self._encode(split, role, modality); "
                      "encoded = encoded._replace(codes=encoded.codes ^ 1)"), "compare_cpu", "differ"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_injected_faults_are_caught(real, fault):
    (name, old, new), step, words = FAULTS[fault]
    if fault == "export of a different checkpoint":
        call(real, "bash", "test_tipc/prepare.sh", CONFIG, LITE, PYTHON=sys.executable)
        call(real, sys.executable, "main_single_gpu.py", "--config", "test_tipc/configs/lite/hashnet.yaml", "--bit", 16,
             "--data-path", "data/shapes/tipc/lite", "--epoch", 2, "--batch-size", 16, "--seed", 1,
             "--output-dir", "other")
    text = (real / name).read_text(encoding="utf-8")
    assert old in text
    (real / name).write_text(text.replace(old, new), encoding="utf-8")
    done = call(real, "sh", "scripts/tipc.sh", "hashnet_16", ok=False, PYTHON=sys.executable, timeout=900)
    assert words in done.stdout and done.stdout.splitlines()[-1].startswith("0 passed, failed: hashnet_16/base (")
    rows = [line.split() for line in (real / "test_tipc/output/summary.txt").read_text().splitlines()]
    assert [row[4] for row in rows if row[:1] != ["paddle"] and row[5:6] == ["failed"]] == [step]
    assert ["all", "FAILED"] in [[row[4], row[-1]] for row in rows if len(row) > 5]
