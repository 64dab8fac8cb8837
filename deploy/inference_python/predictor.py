"""A model folder that export_model.py wrote, run by Paddle Inference; ``open_predictor`` knows other engines."""
import os

import numpy as np
import yaml

from utils.errors import InputError
from utils.files import sha256_file
from utils.paddle_inference import Graph, first_line, make_config
from utils.retrieval.hamming import pack

FORMAT = 1
MANIFEST = "inference.yml"
GRAPHS = (".json", ".pdmodel")
REQUIRED = ("method", "bits", "fingerprint", "image", "preprocess", "files")


def read_manifest(model_dir):
    """The manifest of an exported model, as a dict.

    Raises:
        InputError: no such folder, no manifest, a damaged one, or one of another format version.
    """
    path = os.path.join(model_dir, MANIFEST)
    if not os.path.isdir(model_dir):
        raise InputError(f"no model folder at {model_dir}; make one with export_model.py --pretrained CHECKPOINT "
                         f"--save-inference-dir {model_dir}")
    if not os.path.isfile(path):
        raise InputError(f"{model_dir} holds no {MANIFEST}: not an exported model; run export_model.py "
                         f"--pretrained CHECKPOINT --save-inference-dir {model_dir}")
    try:
        with open(path, encoding="utf-8") as file:
            manifest = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path} ({' '.join(str(error).split())}); export the model again") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise InputError(f"{path} has format {version!r}, this version reads format {FORMAT}; export the model again "
                         "with this version's export_model.py")
    missing = [key for key in REQUIRED if key not in manifest]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; export the model again")
    return manifest


def check_bits(manifest, bit, where):
    """Raise InputError unless ``bit`` (None = not given) is the model's code length."""
    if bit is not None and bit != manifest["bits"]:
        raise InputError(f"--bit {bit}, but {where} makes {manifest['bits']}-bit codes; leave --bit out or "
                         f"give a {bit}-bit model")


def _graph_files(model_dir, prefix):
    """Paths of a graph and its weights; the graph's ending depends on the Paddle that wrote it."""
    import paddle
    graphs = [os.path.join(model_dir, prefix + ending) for ending in GRAPHS]
    found = [path for path in graphs if os.path.isfile(path)]
    weights = os.path.join(model_dir, prefix + ".pdiparams")
    if not found or not os.path.isfile(weights):
        raise InputError(f"{model_dir} holds no {prefix}.json or {prefix}.pdmodel with {prefix}.pdiparams; "
                         "export the model again")
    if paddle.__version__.startswith("2.") and found[0].endswith(".json"):
        raise InputError(f"{found[0]} was written by Paddle 3 and Paddle {paddle.__version__} cannot read it; "
                         "export with --format pdmodel or install Paddle 3")
    return found[0], weights


def check_files(model_dir, manifest):
    """Every file is the one that the manifest was written with (not of another export, not cut short)."""
    for name, digest in manifest["files"].items():
        path = os.path.join(model_dir, name)
        if not os.path.isfile(path):
            raise InputError(f"{path} is missing; export the model again")
        if sha256_file(path) != digest:
            raise InputError(f"{path} is not the file that {MANIFEST} describes (another export or a damaged copy); "
                             "export or copy the model again")


class Predictor:
    """An exported model: images or texts in, relaxed or packed codes out.

    Example:
        predictor = Predictor("output/run/inference")
        spec = predictor.manifest["preprocess"]
        image = preprocess(decode("cat.jpg", spec=spec), spec)
        code = predictor.codes(image[None])            # uint8 [1, ceil(bits / 8)]
    """

    engine = "Paddle Inference"

    def __init__(self, model_dir, device="cpu", threads=None, mkldnn=False, bf16=False):
        """
        Args:
            model_dir: folder that export_model.py wrote.
            device: ``cpu`` or ``gpu``.
            threads: math threads on a CPU; None = the CPUs of this process, at most OMP_NUM_THREADS.
            mkldnn: oneDNN kernels in float32 (faster; last digits differ).
            bf16: oneDNN kernels in bfloat16 (fastest; some bits near zero flip).

        Raises:
            InputError: missing, damaged or unfitting model folder; a device or precision that is not there.
        """
        self.model_dir = model_dir
        self.manifest = read_manifest(model_dir)
        self.bits = self.manifest["bits"]
        self.fingerprint = self.manifest["fingerprint"]
        int8 = (self.manifest.get("int8") or {}).get("kernels")
        if int8 and (device == "gpu" or bf16):
            raise InputError(f"{model_dir} is an int8 model for oneDNN: it runs on CPUs and needs no --bf16")
        self.precision = "int8" if int8 else "bf16" if bf16 else "fp32"
        self._options = {"device": device, "threads": threads, "mkldnn": mkldnn, "bf16": bf16, "int8": int8}
        check_files(model_dir, self.manifest)
        self._image = self._load(self.manifest["image"]["prefix"])
        self._text = None

    def _load(self, prefix):
        if self.manifest.get("engine", "paddle") != "paddle":
            raise InputError(f"{self.model_dir} is an ONNX model; deploy/inference_python/infer.py runs it "
                             "(open_predictor)")
        graph, weights = _graph_files(self.model_dir, prefix)
        config = make_config(graph, weights, **self._options)
        try:
            return Graph(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(f"Paddle Inference cannot load {graph}: {first_line(error)}") from error

    def _run(self, graph, x, shape, what):
        if list(x.shape[1:]) != list(shape):
            raise InputError(f"{what} input has shape {list(x.shape)}, {self.model_dir} needs {['N', *shape]}")
        if len(x) == 0:
            return np.zeros([0, self.bits], "float32")
        try:
            code = graph(x)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self.engine} failed on {self.model_dir} with {self._options}: "
                             f"{first_line(error)}") from error
        if not np.isfinite(code).all():
            raise InputError(f"{self.model_dir} gives codes that are not finite; check its weights")
        return code

    def encode(self, images):
        """Preprocessed images float32 [N, 3, H, W] (or feature vectors [N, D]) -> relaxed codes float32 [N, bits]."""
        return self._run(self._image, images, self.manifest["image"]["input"], "image")

    def encode_text(self, x):
        """Text features float32 [N, T] -> relaxed codes float32 [N, bits].

        Raises:
            InputError: the model has no text side, or T is not its text dimension.
        """
        if not self.manifest.get("text"):
            raise InputError(f"method {self.manifest['method']} ({self.model_dir}) reads images only; "
                             "a text query needs a cross-modal model")
        if self._text is None:  # loaded when first wanted: an image query does not wait for it
            self._text = self._load(self.manifest["text"]["prefix"])
        return self._run(self._text, x, [self.manifest["text"]["dim"]], "text")

    def codes(self, images):
        """Images -> packed codes uint8 [N, ceil(bits / 8)]."""
        return pack(self.encode(images))

    def text_codes(self, x):
        """Text features -> packed codes uint8 [N, ceil(bits / 8)]."""
        return pack(self.encode_text(x))

    def runtime(self):
        """Engine settings as the benchmark section shows them."""
        config, bf16 = self._image.config, self._options["bf16"]
        return {"ir_optim": config.ir_optim(), "enable_memory_optim": True, "enable_tensorrt": False,
                "enable_mkldnn": bool(config.mkldnn_enabled()), "enable_mkldnn_bfloat16": bf16,
                "cpu_math_library_num_threads": config.cpu_math_library_num_threads()}


def open_predictor(model_dir, device="cpu", threads=None, mkldnn=False, bf16=False):
    """The engine that a model folder is for: Paddle Inference, or onnxruntime for a folder of deploy/onnx/convert.py.

    Arguments and errors are those of ``Predictor``.
    """
    if read_manifest(model_dir).get("engine", "paddle") == "paddle":
        return Predictor(model_dir, device, threads, mkldnn, bf16)
    if device != "cpu" or mkldnn or bf16:
        raise InputError(f"{model_dir} is an ONNX model, run by onnxruntime on the CPU in float32; leave --use-gpu, "
                         "--mkldnn and --bf16 out")
    from deploy.onnx.predictor import OnnxPredictor
    return OnnxPredictor(model_dir, threads)
