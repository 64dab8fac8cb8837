"""A function of a layer as a fast one: its static graph through Paddle Inference, with oneDNN on a CPU.

The graph is tried on the first pictures beside the dynamic network. It is used where no bit differs but by rounding
(float32), or at most ``MOST_FLIPS`` of them (bfloat16, when asked for); else the dynamic network runs, and the reason
is said. Bits are those of the codes, or for features those of many random projections.
"""
import os
import tempfile

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec
from paddle.utils import unique_name

from utils.cpu import threads
from utils.errors import InputError, first_line
from utils.paddle_inference import Graph, make_config
from utils.retrieval.flips import difference
from utils.training.distributed import gather_objects, world_size

PROJECTIONS = 512  # random hyperplanes through the sample's mean, whose bits are compared
# Share of projection bits that bfloat16 may change. Random planes are a hard test: the bits of a trained hash layer,
# which has learnt to keep away from zero, flip about a third as often (.23 % against .7 % on CIFAR-10).
MOST_FLIPS = 0.01
MARGIN = 1e-3  # of the standard deviation: a float32 bit nearer to its plane than this may fall either way
DYNAMIC = "dynamic network"



class _Forward(nn.Layer):
    """A function of a layer as its forward function: what paddle.jit.save wants."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, image):
        return self.function(image)


def flipped_bits(one, other):
    """Compare two feature arrays [N, ...] by the bits of random hyperplanes through their mean.

    Returns:
        (share of bits that differ, how many of them are farther than ``MARGIN`` from their plane).
    """
    one, other = one.reshape(len(one), -1).astype("float64"), other.reshape(len(other), -1).astype("float64")
    planes = np.random.default_rng(0).standard_normal((one.shape[1], PROJECTIONS))
    mean, scale = one.mean(0), one.std(0)
    scale = np.where(scale > 0, scale, 1)
    first, second = (one - mean) / scale @ planes, (other - mean) / scale @ planes
    differs = (first >= 0) != (second >= 0)
    return float(differs.mean()), int((differs & (np.abs(first) > MARGIN * first.std())).sum())


def flipped_codes(one, other):
    """As ``flipped_bits``, for relaxed codes [N, bits]: their own bits, and the margin of utils.retrieval.flips."""
    found = difference(one, other)
    return found["flips"] / found["codes"], found["far_flips"]


class StaticFunction:
    """Pictures float32 [N, 3, H, W] -> float32 [N, ...] by a function of a layer whose weights stay as they are.

    Args:
        layer: paddle.nn.Layer; in evaluation mode while this is used.
        function: callable tensor -> tensor, a method of ``layer``.
        what: what it gives, in words: ``features``, ``codes``.
        flips: ``flipped_bits`` or ``flipped_codes``.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the CPU has it and the sample allows it.
        say: callable of a line.

    Attributes:
        engine: what computes, known after ``prepare``: ``oneDNN fp32``, ``oneDNN bf16``, ``static graph`` (a GPU) or
            ``dynamic network``. Results of different engines differ in their last digits.
    """

    def __init__(self, layer, function, what, flips, precision="fp32", say=print):
        self.layer, self.function, self.what, self.flips = layer, function, what, flips
        self.precision, self.say = precision, say
        self.graph, self.engine = None, None

    def prepare(self, sample):
        """Choose the engine by a sample of pictures, float32 [N, 3, H, W]; all ranks choose alike.

        Raises:
            InputError: bf16 was asked for and the CPU has not got it, or too many bits flip.
        """
        if self.engine is not None:
            return
        want = self.dynamic(sample)
        tries = {"fp32": ["fp32"], "bf16": ["bf16"], "auto": ["bf16", "fp32"]}[self.precision]
        on_gpu = paddle.get_device().startswith("gpu")
        with tempfile.TemporaryDirectory(prefix="graph-") as folder:
            try:
                path = self._save(folder, list(sample.shape[1:]))
            except Exception as error:  # Paddle's conversion fails in many ways; the network itself still runs
                return self._settle(None, DYNAMIC, f"no static graph of this network ({first_line(error)})")
            for precision in ["fp32"] if on_gpu else tries:
                name = "static graph" if on_gpu else f"oneDNN {precision}"
                graph, reason = self._try(path, precision, sample, want, on_gpu)
                if all(gather_objects(graph is not None)):
                    return self._settle(graph, name, reason)
                if self.precision == "bf16":
                    raise InputError(f"--precision bf16: {reason}; use auto or fp32")
                self.say(f"note: {self.what} by {name}: {reason}")
        self._settle(None, DYNAMIC, "")

    def __call__(self, images):
        """Of a batch, ndarray float32 [N, 3, H, W] -> [N, ...]."""
        return self.graph(images) if self.graph is not None else self.dynamic(images)

    def dynamic(self, images):
        """As a call, by the dynamic network."""
        with paddle.no_grad():
            return self.function(paddle.to_tensor(images)).numpy()

    def _save(self, folder, shape):
        # names that are generated here must not move those of the optimizer's state
        with unique_name.guard("static_function_"):
            layer = _Forward(self.layer, self.function)
            layer.eval()
            paddle.jit.save(layer, os.path.join(folder, "graph"), input_spec=[InputSpec([None, *shape], "float32")])
        graph = next(name for name in sorted(os.listdir(folder)) if name.endswith((".json", ".pdmodel")))
        return os.path.join(folder, graph)

    def _try(self, path, precision, sample, want, on_gpu):
        """(graph or None, what the comparison gave)."""
        weights = path.rsplit(".", 1)[0] + ".pdiparams"
        try:
            graph = Graph(make_config(path, weights, "gpu" if on_gpu else "cpu", max(1, threads() // world_size()),
                                      mkldnn=not on_gpu, bf16=precision == "bf16"))
            got = graph(sample)
        except InputError as error:
            return None, str(error)
        except (RuntimeError, ValueError, OSError) as error:
            return None, first_line(error)
        if got.shape != want.shape or not np.isfinite(got).all():
            return None, "it gives other shapes or numbers that are not finite"
        share, far = self.flips(want, got)
        good = share <= MOST_FLIPS if precision == "bf16" else far == 0
        return graph if good else None, f"{100 * share:.3f} % of the bits flip on {len(sample)} pictures"

    def _settle(self, graph, engine, reason):
        self.graph, self.engine = graph, engine
        self.say(f"{self.what} by {engine}" + (f": {reason}" if reason else ""))
