"""What every encoder of a model folder shares: the checks of the folder, of what goes in and of what comes out.

The engines are siblings on top of it: deploy/inference_python/predictor.py and deploy/onnx/predictor.py.
"""
import functools

import numpy as np

from deploy.model_folder import check_files, engine_of, open_vectorizer, read_manifest, read_trained_on
from utils.errors import InputError, first_line
from utils.retrieval.hamming import pack


class FolderEncoder:
    """An Encoder (utils/retrieval/encoder.py) of a model folder.

    An engine says its ``engine`` (for people), its ``graphs`` (what the manifest calls the engine that runs the
    folder), and loads a graph: ``_load(prefix)`` -> callable float32 [N, ...] -> float32 [N, bits] that raises
    RuntimeError or ValueError. Its constructor loads ``_image``.
    """

    engine = graphs = None
    precision = "fp32"

    def __init__(self, model_dir):
        """
        Raises:
            InputError: missing, damaged or unfitting model folder.
        """
        self.model_dir = model_dir
        self.manifest = read_manifest(model_dir)
        self.bits, self.fingerprint = self.manifest["bits"], self.manifest["fingerprint"]
        if engine_of(self.manifest) != self.graphs:
            raise InputError(f"{model_dir} is not for {self.engine} but for {engine_of(self.manifest)}; "
                             "deploy.engines.open_model chooses by the folder")
        check_files(model_dir, self.manifest)
        self._image = None

    def _load(self, prefix):
        raise NotImplementedError

    @functools.cached_property
    def _text(self):
        """Loaded when first wanted: an image query does not wait for it."""
        return self._load(self.manifest["text"]["prefix"])

    @functools.cached_property
    def vectorizer(self):
        """The model's text vectoriser (utils.text.Vectorizer), or None where it has none."""
        return open_vectorizer(self.model_dir, self.manifest)

    @functools.cached_property
    def trained_on(self):
        """(record of the splits of the training run or None, hashes of its items uint64 [n] or None)."""
        return read_trained_on(self.model_dir, self.manifest)

    def _run(self, graph, x, shape, what):
        if list(x.shape[1:]) != list(shape):
            raise InputError(f"{what} input has shape {list(x.shape)}, {self.model_dir} needs {['N', *shape]}")
        if len(x) == 0:
            return np.zeros([0, self.bits], "float32")
        try:
            code = graph(x)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self.engine} failed on {self.model_dir}{self._how()}: {first_line(error)}") from error
        if not np.isfinite(code).all():
            raise InputError(f"{self.model_dir} gives codes that are not finite; check its weights")
        return code

    def _how(self):
        """How it runs, for messages."""
        return ""

    def prepare(self, sample):
        """Nothing to do: the graph of a folder is static."""

    def encode(self, images):
        """Preprocessed images float32 [N, 3, H, W] (or feature vectors [N, D]) -> relaxed codes float32 [N, bits]."""
        return self._run(self._image, images, self.manifest["image"]["input"], "image")

    def encode_text(self, rows):
        """Text features float32 [N, T] -> relaxed codes float32 [N, bits].

        Raises:
            InputError: the model has no text side, or T is not its text dimension.
        """
        if not self.manifest.get("text"):
            raise InputError(f"method {self.manifest['method']} ({self.model_dir}) reads images only; "
                             "a text query needs a cross-modal model")
        return self._run(self._text, rows, [self.manifest["text"]["dim"]], "text")

    def codes(self, images):
        """Images -> packed codes uint8 [N, ceil(bits / 8)]."""
        return pack(self.encode(images))

    def text_codes(self, rows):
        """Text features -> packed codes uint8 [N, ceil(bits / 8)]."""
        return pack(self.encode_text(rows))
