"""A live method as an Encoder (utils/retrieval/encoder.py): for evaluations, and for predict.py --pretrained."""
import functools

import numpy as np
import paddle

from models.build import load_method
from models.export import manifest
from utils.cpu import threads as usable_threads
from utils.errors import InputError
from utils.text import Vectorizer
from utils.training.static_function import DYNAMIC, StaticFunction, flipped_codes
from utils.transforms import recipe_spec


class LiveEncoder:
    """A method with the weights that it has now; after training has gone on, make another one.

    Example:
        encoder = checkpoint_encoder("output/run/best.safetensors")
        relaxed = encoder.encode(images)               # float32 [N, 3, H, W] -> float32 [N, bits]
    """

    engine, precision = DYNAMIC, "fp32"

    def __init__(self, method, meta, say=print):
        """
        Args:
            method: HashMethod.
            meta: meta of its checkpoint (utils/training/checkpoint.py): ``recipe``, ``data``, ``classes`` and
                ``vectorizer`` are looked at.
            say: callable of a line, which names the engine where many pictures are encoded.
        """
        self.method, self.meta = method, meta
        self.bits = method.bits
        self.spec = recipe_spec(meta["recipe"])
        self._say, self._static = say, None
        self._ready_made = meta["recipe"]["backbone"].startswith("precomputed")

    @functools.cached_property
    def fingerprint(self):
        """Of recipe and weights."""
        return self.method.fingerprint(self.spec)

    @functools.cached_property
    def manifest(self):
        """As that of a model folder, without files."""
        return manifest(self.method, self.meta, self.fingerprint)

    @functools.cached_property
    def vectorizer(self):
        """The model's text vectoriser (utils.text.Vectorizer), or None where it has none."""
        known = self.meta.get("vectorizer") if "text" in self.method.modalities else None
        return Vectorizer.from_dict(known) if known else None

    def prepare(self, sample):
        """Before many pictures are encoded: from here on by the static graph, where a sample of them allows it.

        All ranks of a job call it, and choose alike.

        Args:
            sample: callable that gives them, float32 [N, 3, H, W], array or tensor; or None.
        """
        images = sample() if self._static is None else None
        if images is not None and images.ndim == 4:
            self.method.eval()
            self._static = StaticFunction(self.method, self.method.encode, "codes", flipped_codes, say=self._say)
            self._static.prepare(_array(images))
            self.engine = self._static.engine

    def _run(self, function, x):
        if self.method.training:
            self.method.eval()
        with paddle.no_grad():
            return function(x if isinstance(x, paddle.Tensor) else paddle.to_tensor(np.asarray(x, "float32"))).numpy()

    def encode(self, images):
        """Images float32 [N, 3, H, W], or rows of raw backbone features [N, ...] -> relaxed codes float32 [N, bits].

        Arrays or tensors.
        """
        if self._static is not None and images.ndim == 4:
            return self._static(_array(images))
        features = images.ndim != 4 and not self._ready_made
        return self._run(self.method.encode_features if features else self.method.encode, images)

    def encode_text(self, rows):
        """Text features float32 [N, T] -> relaxed codes float32 [N, bits].

        Raises:
            InputError: the method reads images only.
        """
        if "text" not in self.method.modalities:
            raise InputError(f"method {self.method.name} reads images only; a text query needs a cross-modal model")
        return self._run(self.method.encode_text, rows)


def _array(images):
    return images.numpy() if isinstance(images, paddle.Tensor) else np.asarray(images, "float32")


def checkpoint_encoder(path, use_gpu=False, threads=None):
    """The encoder of a checkpoint.

    Args:
        path: .safetensors file of a training run.
        use_gpu: run there.
        threads: math threads on a CPU; None = the CPUs of this process, at most OMP_NUM_THREADS.

    Raises:
        InputError: no such checkpoint, or no GPU.
    """
    if use_gpu and not paddle.is_compiled_with_cuda():
        raise InputError("no GPU: this Paddle is built without CUDA; use --use-gpu False")
    paddle.set_device("gpu" if use_gpu else "cpu")
    paddle.base.core.set_num_threads(threads or usable_threads())  # Paddle starts with one
    return LiveEncoder(*load_method(path), say=lambda text: print(f"----- {text}"))
