"""Start-up: from the command to the first answer of infer.py and predict.py, in parts.

    python benchmarks/bench_startup.py            AlexNet of random weights, 256 codes that are there already
    python benchmarks/bench_startup.py --write    and the section `start-up` of RESULTS.md

Every run is a process of its own, in turns. Parts are seconds of wall time, each without the others: ``interpreter``
until the first line of the command, ``imports`` all modules but those with a column, ``model`` opening it, ``query``
the picture's code, ``codes`` the database's, ``answer`` the ranking, ``rest`` printing, and predict.py's picture grid.
``answer, fresh`` is the ranking of a fresh install, whose kernels are compiled then and kept.
"""
import argparse
import builtins
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
STARTED, RESULT = "BENCH_STARTED", "BENCH_RESULT"  # environment of a measured process: wall clock, file to write
LIBRARIES = {"paddle": "paddle", "onnxruntime": "onnxruntime", "numba": "numba", "cv2": "OpenCV"}
PARTS = ("interpreter", "imports", *LIBRARIES.values(), "model", "query", "codes", "answer", "rest")
COMMANDS = {"infer.py": ("deploy.inference_python.infer", "--img-path"), "predict.py": ("predict", "--img")}


# in the measured process --------------------------------------------------------------------------------------------
class Stopwatch:
    """Seconds of nested parts, each without those inside it."""

    def __init__(self, start):
        self.seconds, self.stack, self.last = dict.fromkeys(PARTS, 0.0), ["interpreter"], start

    def _count(self):
        now = time.time()
        self.seconds[self.stack[-1]] += now - self.last
        self.last = now

    def within(self, part, function):
        """``function``, whose time goes to ``part``."""
        def call(*arguments, **named):
            self._count()
            self.stack.append(part)
            try:
                return function(*arguments, **named)
            finally:
                self._count()
                self.stack.pop()
        return call

    def end(self):
        """dict part -> seconds."""
        self._count()
        return self.seconds


def measured(name, argv):
    """Run a command with a stopwatch at its functions; write what it says."""
    watch = Stopwatch(float(os.environ[STARTED]))
    watch._count()
    watch.stack[0] = "rest"
    plain = builtins.__import__

    def importing(module, *arguments, **named):
        part = LIBRARIES.get(module.partition(".")[0])
        new = part is not None and module.partition(".")[0] not in sys.modules
        return (watch.within(part, plain) if new else plain)(module, *arguments, **named)

    builtins.__import__ = importing
    command = watch.within("imports", _patched)(watch, name)
    command.main(argv)
    with open(os.environ[RESULT], "w", encoding="utf-8") as file:
        json.dump({"parts": watch.end(), "paddle": "paddle" in sys.modules}, file)


def _patched(watch, name):
    """The command's module, with the stopwatch in what it calls."""
    import importlib

    from deploy import engines, ranking
    from deploy.folder_encoder import FolderEncoder
    from utils.retrieval.code_store import CodeStore
    engines.open_with = watch.within("model", engines.open_with)
    ranking.rank = watch.within("answer", ranking.rank)
    FolderEncoder.encode = watch.within("query", FolderEncoder.encode)
    CodeStore.open = watch.within("codes", CodeStore.open)
    return importlib.import_module(COMMANDS[name][0])


# the whole ----------------------------------------------------------------------------------------------------------
def command(*arguments, env=None):
    """Run a command of the repository; raise RuntimeError with what it said where it fails."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "GLOG_v": "0", **(env or {})})
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-2000:]}")


def make_models(folder, backbone, onnx):
    """Train, export and convert by the public commands; dict engine -> model folder."""
    run = os.path.join(folder, "run")
    command("main_single_gpu.py", "--method", "hashnet", "--dataset", "shapes", "--backbone", backbone,
            "--data-path", os.path.join(folder, "data"), "--no-pretrained", "--freeze-backbone", "--feature-norm",
            "standardize", "--augment", "none", "--epoch", 1, "--bit", 64, "--num-train", 64, "--num-query", 16,
            "--num-database", 256, "--resize-size", 256, "--crop-size", 224, "--device", "cpu",
            "--feature-cache", "none", "--output-dir", run)
    models = {"Paddle Inference": os.path.join(folder, "model")}
    command("export_model.py", "--pretrained", run, "--save-inference-dir", models["Paddle Inference"])
    if onnx:
        models["onnxruntime"] = os.path.join(folder, "onnx")
        command("deploy/onnx/convert.py", "--model-dir", models["Paddle Inference"], "--save-dir",
                models["onnxruntime"])
    return models


def one_run(folder, name, model, picture, kernels):
    """Parts of one process; its kernels are kept in the folder ``kernels``."""
    result = os.path.join(folder, "result.json")
    command(os.path.abspath(__file__), "--measured", name, "--model-dir", model, COMMANDS[name][1], picture,
            "--save-path", os.path.join(folder, "codes"), "--topk", 5,
            env={STARTED: repr(time.time()), RESULT: result, "NUMBA_CACHE_DIR": kernels})
    with open(result, encoding="utf-8") as file:
        return json.load(file)


def measure(folder, options):
    """dict (command, engine) -> (dict part -> median seconds, seconds of the first answer of a fresh install).

    Raises:
        RuntimeError: a command failed; the ONNX engine imported Paddle.
    """
    import importlib.util
    onnx = importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("paddle2onnx")
    models = make_models(folder, options.backbone, onnx)
    picture = next(os.path.join(where, names[0]) for where, _, names in os.walk(os.path.join(folder, "data"))
                   for names in [sorted(name for name in names if name.endswith(".jpg"))] if names)
    sides = [(name, engine) for name in COMMANDS for engine in models]
    runs, fresh = {side: [] for side in sides}, {}
    kernels = os.path.join(folder, "kernels")
    one_run(folder, sides[0][0], models[sides[0][1]], picture, kernels)
    for side in sides:  # the codes are there now
        with tempfile.TemporaryDirectory() as empty:
            fresh[side] = one_run(folder, side[0], models[side[1]], picture, empty)["parts"]["answer"]
    for _ in range(options.rounds + 1):
        for side in sides:
            runs[side].append(one_run(folder, side[0], models[side[1]], picture, kernels))
    for (name, engine), found in runs.items():
        if engine == "onnxruntime" and any(run["paddle"] for run in found):
            raise RuntimeError(f"{name} has imported Paddle for an ONNX folder")
    return {side: ({part: statistics.median(run["parts"][part] for run in found[1:]) for part in PARTS}, fresh[side])
            for side, found in runs.items()}


def main(argv):
    """Measure, print, and write the section ``start-up`` of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="AlexNet", help="network (default AlexNet)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default 5)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    options = parser.parse_args(argv)
    from benchmarks.measure import machine, write_section  # a measured process needs none of it
    from utils.cpu import threads
    given = f"--backbone {options.backbone} --rounds {options.rounds}"
    lines = [f"## Start-up: `python benchmarks/bench_startup.py {given}`\n\n{machine(threads())}; "
             f"seconds of wall time, medians of {options.rounds} rounds.\n",
             f"| command | engine | {' | '.join(PARTS)} | all | answer, fresh |", "|--" * (len(PARTS) + 4) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        for (name, engine), (parts, fresh) in measure(folder, options).items():
            cells = " | ".join(f"{parts[part]:.2f}" for part in PARTS)
            lines.append(f"| {name} | {engine} | {cells} | {sum(parts.values()):.2f} | {fresh:.2f} |")
    print("\n".join(lines))
    if options.write:
        write_section("start-up", lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        measured(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])
