"""An ONNX model folder that deploy/onnx/convert.py wrote, run by onnxruntime. Needs no Paddle."""
import numpy as np

from deploy.folder_encoder import FolderEncoder
from deploy.model_folder import graph_files
from utils.cpu import threads as usable_threads
from utils.errors import InputError

ONNXRUNTIME = "1.19.2"  # the newest with wheels for Python 3.9 to 3.12


class _Session:
    """One ONNX graph with one input and one output."""

    def __init__(self, path, threads):
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"onnxruntime cannot be imported ({error}); sh scripts/setup.sh --deploy, or pip install "
                             f"onnxruntime=={ONNXRUNTIME}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            raise InputError(f"onnxruntime {onnxruntime.__version__} cannot load {path}: "
                             f"{' '.join(str(error).split())[:300]}") from error
        self.name = self.session.get_inputs()[0].name

    def __call__(self, x):
        try:
            return self.session.run(None, {self.name: np.ascontiguousarray(x, dtype="float32")})[0]
        except Exception as error:
            raise RuntimeError(" ".join(str(error).split())[:300]) from error


class OnnxPredictor(FolderEncoder):
    """An ONNX model: images or texts in, relaxed or packed codes out.

    Example:
        predictor = OnnxPredictor("output/onnx")
        code = predictor.codes(images)            # float32 [N, 3, H, W] -> uint8 [N, ceil(bits / 8)]
    """

    engine, graphs = "onnxruntime", "onnx"

    def __init__(self, model_dir, threads=None):
        """
        Args:
            model_dir: folder that deploy/onnx/convert.py wrote.
            threads: math threads; None = the CPUs of this process, at most OMP_NUM_THREADS.

        Raises:
            InputError: missing, damaged or unfitting model folder; onnxruntime is not installed.
        """
        super().__init__(model_dir)
        self._threads = threads or usable_threads()
        self._image = self._load(self.manifest["image"]["prefix"])

    def _load(self, prefix):
        path, = graph_files(self.model_dir, self.manifest, prefix)
        return _Session(path, self._threads)

    def runtime(self):
        """Engine settings as the benchmark section shows them."""
        return {"ir_optim": True, "enable_memory_optim": True, "enable_tensorrt": False, "enable_mkldnn": False,
                "cpu_math_library_num_threads": self._threads}
