"""Raw texts -> feature vectors, by a small vectoriser whose JSON travels with the model.

Written here instead of taken from scikit-learn: the query path (deploy/) would need that package and scipy, over
100 MB, for a dictionary look-up and a division, and scikit-learn keeps a fitted vectoriser only as a pickle. Sixty
lines and a JSON file serve every engine, and the counting is the same on every machine.
"""
import functools
import hashlib
import json
import math
import re
import unicodedata
from collections import Counter

import numpy as np

from utils import schema
from utils.errors import InputError
from utils.files import write_json
from utils.plain_json import read_json

KINDS = ("tfidf", "bow")
FORMAT = 1
MOST_WORDS = 500_000
_FILE = schema.table({"format": schema.whole(), "kind": schema.one_of(*KINDS),
                      "vocabulary": schema.each(schema.text(), 1, MOST_WORDS),
                      "idf": schema.each(schema.number(0, 1e6), 1, MOST_WORDS)})
# scripts written without spaces: Han (with extensions), kana
_HAN = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PIECES = re.compile(f"[{_HAN}]+|[^\\W_{_HAN}]+(?:'[^\\W_{_HAN}]+)*")


def tokenize(text):
    """Tokens of a text: words in lower case, and overlapping pairs of characters of Chinese runs.

    Full-width and other compatibility forms are unified (NFKC). A Chinese run of one character is a token itself.

    Args:
        text: any string, languages mixed.

    Returns:
        list of str, in order of appearance.
    """
    tokens = []
    for piece in _PIECES.findall(unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")):
        if re.match(f"[{_HAN}]", piece) and len(piece) > 1:
            tokens.extend(piece[i:i + 2] for i in range(len(piece) - 1))
        else:
            tokens.append(piece)
    return tokens


class Vectorizer:
    """Bag of words (1 where a token occurs, as in published tag vectors) or TF-IDF rows of unit length.

    TF-IDF: count * (ln((1 + n) / (1 + df)) + 1), then divided by the row's L2 norm.

    Attributes:
        kind: ``tfidf`` or ``bow``.
        vocabulary: list of tokens; column i counts token i. Most frequent first, equals by code points.
        idf: float32 [T].
    """

    def __init__(self, kind="tfidf", vocabulary=(), idf=None):
        if kind not in KINDS:
            raise InputError(f"text vectoriser kind is {kind!r}; choose one of {', '.join(KINDS)}")
        self.kind = kind
        self.vocabulary = list(vocabulary)
        self.idf = np.asarray(np.ones(len(self.vocabulary)) if idf is None else idf, dtype="float32")
        self._column = {token: i for i, token in enumerate(self.vocabulary)}

    def __len__(self):
        """Columns of ``transform``, the model's ``text_dim``."""
        return len(self.vocabulary)

    @classmethod
    def fit(cls, texts, kind="tfidf", limit=2000, min_documents=1):
        """Choose the vocabulary from the training texts.

        Args:
            texts: iterable of str.
            kind: see the class.
            limit: largest vocabulary; tokens of most documents stay.
            min_documents: tokens of fewer documents are left out.

        Raises:
            InputError: unknown kind, or no token in any text.
        """
        frequency, documents = Counter(), 0
        for text in texts:
            frequency.update(set(tokenize(text)))
            documents += 1
        kept = sorted((token for token, count in frequency.items() if count >= min_documents),
                      key=lambda token: (-frequency[token], token))[:limit]
        if not kept:
            raise InputError(f"no word in the {documents} training texts (of those in at least {min_documents} "
                             "texts): look at the text column, or lower min_documents")
        idf = [math.log((1 + documents) / (1 + frequency[token])) + 1 for token in kept] if kind == "tfidf" else None
        return cls(kind, kept, idf)

    def transform(self, texts):
        """Texts -> float32 [N, T]. A text without any known token gives a row of zeros; see ``empty_rows``."""
        rows = np.zeros((len(texts), len(self)), dtype="float32")
        for row, text in zip(rows, texts):
            for token, count in Counter(tokenize(text)).items():
                column = self._column.get(token)
                if column is not None:
                    row[column] = count * self.idf[column] if self.kind == "tfidf" else 1
        if self.kind == "tfidf":
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows

    @functools.cached_property
    def digest(self):
        """16 hex digits that change whenever the rows of a text could change."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode("ascii")).hexdigest()[:16]

    # the file ---------------------------------------------------------------------------------------------------
    def to_dict(self):
        """Plain values that ``from_dict`` reads back; equal vectorisers give equal dicts."""
        return {"format": FORMAT, "kind": self.kind, "vocabulary": self.vocabulary,
                "idf": [float(value) for value in self.idf]}

    @classmethod
    def from_dict(cls, values, where="text vectoriser"):
        """The inverse of ``to_dict``. Raises InputError for anything else; ``where`` names it."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"{where} is no text vectoriser of format {FORMAT}")
        schema.check(values, _FILE, where, "export the model again")
        vocabulary, idf = values["vocabulary"], values["idf"]
        if len(vocabulary) != len(idf) or len(set(vocabulary)) != len(vocabulary):
            raise InputError(f"{where} is damaged: vocabulary and weights do not fit; export the model again")
        return cls(values["kind"], vocabulary, idf)

    def save(self, path):
        """Write the JSON file, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path):
        """Read a JSON file of ``save``. Raises InputError: missing, truncated, or something else."""
        try:
            values = read_json(path)
        except OSError as error:
            raise InputError(f"cannot read the text vectoriser {path}: {error.strerror}") from None
        except ValueError as error:
            raise InputError(f"{path} is no text vectoriser: not valid JSON ({error})") from None
        return cls.from_dict(values, str(path))


def empty_rows(features):
    """How many rows of [N, T] text features are all zero (no text, or no known word): to be reported."""
    return int((~np.asarray(features).any(axis=1)).sum())
