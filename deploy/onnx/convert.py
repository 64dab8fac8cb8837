"""An exported model as ONNX, checked with onnxruntime.

    python deploy/onnx/convert.py --model-dir output/model --save-dir output/onnx

The folder gets the manifest of the model (same fingerprint: the codes are the same) and is written only if onnxruntime
gives the bits of Paddle Inference wherever a code is not next to zero. paddle2onnx does the conversion, in a process of
its own: it may crash, and may live in another environment (--converter).
"""
import importlib.metadata
import importlib.util
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

from deploy.differences import accepted  # noqa: E402
from deploy.model_folder import (  # noqa: E402
    TRAINED_ON,
    VECTORIZER,
    copy_files,
    float_export,
    graph_files,
    new_folder,
    write_manifest,
)
from deploy.onnx.predictor import ONNXRUNTIME  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.flags import quiet, read_options  # noqa: E402
from utils.settings import Setting  # noqa: E402  (needs the path above)

# The converter that reads a graph format. 2.1.0 reads .pdmodel too, but crashes on vision transformers in it.
CONVERTERS = {".json": "2.1.0", ".pdmodel": "1.3.1"}
OPSET = 13
MISSING = 3  # exit status of the child without a converter

# Runs under the converter's interpreter, which need not have anything of this project. Optimisation is off: it would
# need more packages and fetches them by itself; onnxruntime optimises when it loads the graph.
CHILD = """
import inspect, sys
graph, weights, target, opset = sys.argv[1:]
try:
    import paddle2onnx
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(3)
import importlib.metadata
version = "paddle2onnx " + importlib.metadata.version("paddle2onnx")
print(version)
if graph == "-":
    sys.exit()
settings = {"opset_version": int(opset), "verbose": False}
if "optimize_tool" in inspect.signature(paddle2onnx.export).parameters:
    settings["optimize_tool"] = "None"
model = paddle2onnx.export(graph, weights, None, **settings)
with open(target, "wb") as file:
    file.write(model)
"""


FLAGS = {
    "model_dir": Setting(None, "folder that export_model.py wrote", shown="DIR"),
    "save_dir": Setting(None, "where to write; default: the model folder's name with -onnx", shown="DIR"),
    "opset": Setting(OPSET, "ONNX operator set", low=7),
    "converter": Setting(sys.executable, "interpreter with paddle2onnx and Paddle"),
    "check": Setting(False, "only say whether the packages are there: `ready: ...` or `missing: ...`"),
}


def parse(argv):
    """The command line as attributes, see FLAGS."""
    return read_options(argv, "convert.py", "Exported model to ONNX.", FLAGS)


def packages(converter):
    """``ready: versions``, or ``missing: what and how to install it``, for what this interpreter's Paddle exports."""
    import paddle  # only its version; slow to import
    ending = ".pdmodel" if paddle.__version__.startswith("2.") else ".json"
    try:
        need_onnxruntime()
        done = start_child(converter, ["-", "-", "-", "0"], ROOT)
        if done.returncode == MISSING:
            raise InputError(not_there(converter, done.stdout, ending))
    except InputError as error:
        return f"missing: {error}"
    version = next((line for line in done.stdout.splitlines() if line.startswith("paddle2onnx ")), "paddle2onnx")
    return f"ready: {version}, onnxruntime {importlib.metadata.version('onnxruntime')}"


def convert(model_dir, save_dir, opset=OPSET, converter=sys.executable):
    """Convert a model folder; an earlier conversion in ``save_dir`` is replaced only by a checked one.

    Returns:
        The lines that the comparison with Paddle Inference printed.

    Raises:
        InputError: no such model, one that is no export of float graphs, a missing package, an operator that has no
            ONNX form, other bits, or a folder that cannot be written; then nothing is left behind.
    """
    manifest = float_export(model_dir)
    need_onnxruntime()
    with new_folder(save_dir, model_dir) as temporary:
        version = None
        for part in ("image", "text"):
            if manifest.get(part):
                files = graph_files(model_dir, manifest, manifest[part]["prefix"])
                version = convert_graph(*files, temporary, opset, converter)
        copy_files(model_dir, temporary, {VECTORIZER, TRAINED_ON} & set(manifest["files"]))
        write_manifest(temporary, {**manifest, "engine": "onnx", "onnx": {"opset": opset, "converter": version}})
        return check(model_dir, temporary)


def need_onnxruntime():
    """Raise InputError where the check could not run."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise InputError("onnxruntime is not installed, and every conversion is checked with it; sh scripts/setup.sh "
                         f"--deploy, or pip install onnxruntime=={ONNXRUNTIME}")


def convert_graph(graph, weights, folder, opset, converter):
    """Write a graph as ``.onnx`` of the same name into ``folder``; returns the converter's name and version."""
    graph, weights, folder = map(os.path.abspath, (graph, weights, folder))
    stem, ending = os.path.splitext(graph)
    target = os.path.join(folder, os.path.basename(stem) + ".onnx")
    done = start_child(converter, [graph, weights, target, str(opset)], folder)
    if done.returncode == MISSING:
        raise InputError(not_there(converter, done.stdout, ending))
    if done.returncode or not os.path.isfile(target):
        how = f"crashed (signal {-done.returncode})" if done.returncode < 0 else "failed"
        raise InputError(f"paddle2onnx {how} on {graph}: {last_line(done.stdout)}; the version for it is "
                         f"{version_for(ending)}, --converter PYTHON takes it from another environment")
    return next(line for line in done.stdout.splitlines() if line.startswith("paddle2onnx "))


def start_child(converter, arguments, folder):
    """CHILD under the converter's interpreter; its CompletedProcess."""
    try:
        return subprocess.run([converter, "-c", CHILD, *arguments], cwd=folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    except OSError as error:
        raise InputError(f"--converter {converter} does not start: {error.strerror}") from error


def not_there(converter, said, ending):
    """What to tell where the converter cannot be imported."""
    return (f"paddle2onnx cannot be imported by {converter} ({last_line(said)}); sh scripts/setup.sh --deploy, or pip "
            f"install --no-deps {version_for(ending)}")


def version_for(ending):
    """The paddle2onnx that converts graphs with this ending, as words for a message."""
    return f"paddle2onnx=={CONVERTERS[ending]} (for {ending} graphs)"


def last_line(text):
    """The telling line of a converter's output."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "ERROR" in line or "Error" in line or "not support" in line.lower()]
    return (telling or lines or ["no output"])[-1][:300]


def check(model_dir, folder):
    """The converted graph against the exported one, bit for bit away from zero; lines to print."""
    def crash(status, said):
        return f"onnxruntime crashed (signal {-status}) on the converted graph" if status < 0 else last_line(said)
    return accepted(model_dir, folder, ["--exact", "--images", "16", "--repeat", "0"], "converted", crash)


def main(argv):
    """Convert a model folder to ONNX; with --check only say which packages do it.

    Raises:
        InputError: no folder is given, packages are missing, or the converted graph is refused.
    """
    options = parse(argv)
    if options.check:
        quiet()
        print(packages(options.converter))
        return
    if not options.model_dir:
        raise InputError("--model-dir DIR is missing (the folder that export_model.py wrote)")
    quiet()
    save_dir = options.save_dir or options.model_dir.rstrip("/") + "-onnx"
    for line in convert(options.model_dir, save_dir, options.opset, options.converter):
        print(line)
    print(f"----- ONNX model is saved in {save_dir}")


if __name__ == "__main__":
    run_main(main)
