"""A model folder that export_model.py or deploy/slim/quantize.py wrote, run by Paddle Inference."""
from deploy.folder_encoder import FolderEncoder
from deploy.model_folder import graph_files
from utils.errors import InputError, first_line
from utils.paddle_inference import Graph, make_config


class Predictor(FolderEncoder):
    """An exported model: images or texts in, relaxed or packed codes out.

    Example:
        predictor = Predictor("output/run/inference")
        spec = predictor.manifest["preprocess"]
        image = preprocess(decode("cat.jpg", spec=spec), spec)
        code = predictor.codes(image[None])            # uint8 [1, ceil(bits / 8)]
    """

    engine, graphs = "Paddle Inference", "paddle"

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
        super().__init__(model_dir)
        int8 = (self.manifest.get("int8") or {}).get("kernels")
        if int8 and device == "gpu":
            raise InputError(f"{model_dir} is an int8 model for oneDNN, which runs on CPUs; use --use-gpu False")
        if int8 and bf16:
            raise InputError(f"{model_dir} is an int8 model: its kernels are not bf16; leave --bf16 or --precision out")
        if mkldnn or bf16 or int8:
            self.engine = "Paddle Inference, oneDNN"
        self.precision = "int8" if int8 else "bf16" if bf16 else "fp32"
        self._options = {"device": device, "threads": threads, "mkldnn": mkldnn, "bf16": bf16, "int8": int8}
        self._image = self._load(self.manifest["image"]["prefix"])

    def _load(self, prefix):
        graph, weights = graph_files(self.model_dir, self.manifest, prefix)
        _check_version(graph)
        config = make_config(graph, weights, **self._options)
        try:
            return Graph(config)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(f"Paddle Inference cannot load {graph}: {first_line(error)}") from error

    def _how(self):
        return f" with {self._options}"

    def runtime(self):
        """Engine settings as the benchmark section shows them."""
        config, bf16 = self._image.config, self._options["bf16"]
        return {"ir_optim": config.ir_optim(), "enable_memory_optim": True, "enable_tensorrt": False,
                "enable_mkldnn": bool(config.mkldnn_enabled()), "enable_mkldnn_bfloat16": bf16,
                "cpu_math_library_num_threads": config.cpu_math_library_num_threads()}


def _check_version(graph):
    """Raise InputError where this Paddle cannot read a graph."""
    import paddle  # after the checks of the folder: its import takes a second
    if paddle.__version__.startswith("2.") and graph.endswith(".json"):
        raise InputError(f"{graph} was written by Paddle 3 and Paddle {paddle.__version__} cannot read it; "
                         "export with --format pdmodel or install Paddle 3")
