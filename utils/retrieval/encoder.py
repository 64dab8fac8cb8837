"""What makes codes, whatever runs it: a live method, Paddle Inference, onnxruntime. Stated here once."""
from typing import Any, Callable, Optional, Protocol

import numpy as np


class Encoder(Protocol):
    """A model that encodes. Implementations: models/encoder.py, deploy/inference_python/predictor.py,
    deploy/onnx/predictor.py.

    Attributes:
        bits: code length.
        fingerprint: 16 hex digits of recipe and weights; code files carry it.
        precision: ``fp32``, ``bf16`` or ``int8``: codes of other precisions differ in some bits.
        engine: what runs it, for people; results and code files name it.
        manifest: plain values that say how to feed it (deploy/model_folder.py).
        vectorizer: object with ``transform(texts)`` -> float32 [N, T] for texts, and ``digest``; or None. The
            fingerprint does not cover it; code files of texts carry its digest beside.
    """

    bits: int
    fingerprint: str
    precision: str
    engine: str
    manifest: dict
    vectorizer: Optional[Any]

    def prepare(self, sample: Callable[[], Optional[np.ndarray]]) -> None:
        """Called before many pictures are encoded: time to choose what runs fast.

        Args:
            sample: gives some of them, as for ``encode``; None where they cannot be read. Reading them takes time.
        """

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images float32 [N, 3, H, W], or feature rows [N, ...] -> relaxed codes float32 [N, bits].

        Raises:
            InputError: another shape than the model's.
        """

    def encode_text(self, rows: np.ndarray) -> np.ndarray:
        """Text features float32 [N, T] -> relaxed codes float32 [N, bits].

        Raises:
            InputError: the model reads no texts, or T is not its text dimension.
        """


def modalities(encoder):
    """``["image"]``, or ``["image", "text"]`` for a cross-modal model."""
    return ["image", "text"] if encoder.manifest.get("text") else ["image"]
