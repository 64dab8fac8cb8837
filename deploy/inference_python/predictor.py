"""A model folder that export_model.py wrote, run by Paddle Inference; ``open_predictor`` knows other engines."""
import os

import numpy as np
import yaml

from utils.cpu import threads as usable_threads
from utils.errors import InputError
from utils.files import sha256_file
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


def _call(config, name, *arguments):
    """Call a method of a Config where this Paddle version has it."""
    if hasattr(config, name):
        getattr(config, name)(*arguments)


def make_config(graph, weights, device="cpu", threads=None, mkldnn=False, bf16=False, int8=None):
    """A paddle.inference.Config with the same meaning on Paddle 2.6 and 3.

    Args:
        int8: the graph is one of deploy/slim/quantize.py: names of the oneDNN kernels to run in 8 bits, None = none.

    Raises:
        InputError: a GPU is asked for and this Paddle or machine has none, or bf16 and the CPU cannot.
    """
    import paddle
    from paddle import inference
    config = inference.Config(graph, weights)
    config.disable_glog_info()
    if device == "gpu":
        if not paddle.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
            raise InputError("no GPU: this Paddle is built without CUDA or sees no device; use --use-gpu False")
        if mkldnn or bf16:
            raise InputError("oneDNN and its bf16 run on CPUs only; drop --mkldnn and --bf16, or use --use-gpu False")
        config.enable_use_gpu(256, 0)
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads or usable_threads())
        _set_onednn(config, mkldnn or bool(int8), bf16)
    if int8:
        # the passes that make 8-bit kernels of a quantised graph know the old program form only
        config.enable_mkldnn_int8(set(int8))
        _call(config, "enable_new_ir", False)
        _call(config, "enable_new_executor", False)
        return config
    # the memory pass of Paddle 3 exists only on the new executor
    _call(config, "enable_new_ir", True)
    _call(config, "enable_new_executor", True)
    config.enable_memory_optim()
    return config


def _set_onednn(config, mkldnn, bf16):
    """oneDNN only when asked: Paddle 3.3 switches it on by itself, with open faults and other roundings."""
    if not (mkldnn or bf16):
        for name in ("disable_mkldnn", "disable_onednn"):
            _call(config, name)
        return
    import paddle
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(10)
    if bf16:
        core = getattr(getattr(paddle, "base", None), "core", None)
        if core is not None and hasattr(core, "supports_bfloat16") and not core.supports_bfloat16():
            raise InputError("this CPU has no AVX-512, which oneDNN's bf16 needs; drop --bf16")
        config.enable_mkldnn_bfloat16()


class _Graph:
    """One static graph with one input and one output."""

    def __init__(self, config):
        from paddle import inference
        self.config = config
        self._predictor = inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def __call__(self, x):
        self._input.copy_from_cpu(np.ascontiguousarray(x, dtype="float32"))
        self._predictor.run()
        return self._output.copy_to_cpu()


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
            return _Graph(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(f"Paddle Inference cannot load {graph}: {_first_line(error)}") from error

    def _run(self, graph, x, shape, what):
        if list(x.shape[1:]) != list(shape):
            raise InputError(f"{what} input has shape {list(x.shape)}, {self.model_dir} needs {['N', *shape]}")
        if len(x) == 0:
            return np.zeros([0, self.bits], "float32")
        try:
            code = graph(x)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self.engine} failed on {self.model_dir} with {self._options}: "
                             f"{_first_line(error)}") from error
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


def _first_line(error):
    """The telling line of a Paddle error (its messages carry a C++ stack)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line and "Traceback" not in line]
    return (telling or lines or [type(error).__name__])[-1][:300]
