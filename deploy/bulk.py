"""Codes of many pictures as a folder of code shards. A shard is the unit of work: one file, whole or not there at all.

Shard ``n`` holds the items ``n * shard_size`` and following of a split, always in the same batches. So the bytes of a
shard do not depend on who writes it, nor on what has been interrupted before: any number of processes may share the
work, on any number of machines that see the same folders. A shard notes what it was made of (its items, the size and
time of their files) and how; a later run leaves a shard that fits and encodes all others. Whoever ends last writes the
manifest, and the folder is an index (``exact``) from then on.
"""
import dataclasses
import hashlib
import json
import os

import numpy as np

from deploy.data import Data
from deploy.engines import open_with
from utils.cpu import share_cores
from utils.errors import InputError, say
from utils.files import write_text
from utils.picture_loader import PictureLoader
from utils.retrieval.code_store import code_file
from utils.retrieval.codes import stored
from utils.retrieval.encode import encode
from utils.retrieval.encoder import modalities
from utils.retrieval.shard_set import MANIFEST, CodesInfo
from utils.retrieval.shard_writer import ShardWriter

UNREADABLE = "unreadable.jsonl"


class Job:
    """All shards of a split: which are there, and how one is made.

    Attributes:
        encoder; split; count: number of shards.
    """

    def __init__(self, options, say=say):
        """
        Args:
            options: attributes as the flags of deploy/inference_python/encode.py.
            say: callable of a line.

        Raises:
            InputError: what is wrong with model or data.
        """
        share_cores()
        self.options, self.encoder = options, open_with(options, say)
        if options.modality not in modalities(self.encoder):
            raise InputError(f"method {self.encoder.manifest['method']} has no text codes; --modality text needs a "
                             "cross-modal model")
        self._data = Data(self.encoder.manifest, options.dataset, options.data_path, options.list_dir,
                          options.split_seed, options.gallery)
        protocol = self._data.protocol
        self.notes, self.split = protocol.notes, getattr(protocol, options.split)
        if not len(self.split):
            raise InputError(f"the {options.split} split of {self._data.name} is empty")
        self.count = -(-len(self.split) // options.shard_size)
        self._facts = {"data": self._data.request, "split": options.split, "modality": options.modality,
                       "engine": self.encoder.engine, "batch_size": options.batch_size,
                       "shard_size": options.shard_size}
        self._writer = ShardWriter(options.save_dir, self._info(protocol.classes))
        self._load = PictureLoader(self.encoder.manifest["preprocess"], options.workers)
        self._manifest, self._made = os.path.join(options.save_dir, MANIFEST), set()
        self._was_complete = os.path.exists(self._manifest) and not options.overwrite

    def _info(self, classes):
        labels, root = self.split.labels, getattr(self.split.images, "root", self._data.root)
        meta = {**self._facts, "method": self.encoder.manifest["method"], "root": root}
        return CodesInfo(self.encoder.bits, self.encoder.fingerprint, self.encoder.precision,
                         None if labels is None else labels.shape[1], list(classes), self.options.keep_relaxed, meta)

    @property
    def name(self):
        """What is encoded, for people."""
        return f"{len(self.split)} {self.options.modality}s of {self._data.name}"

    def items(self, number):
        """Split of the items of a shard."""
        first = number * self.options.shard_size
        return self.split.select(np.arange(first, min(first + self.options.shard_size, len(self.split))))

    def size(self, number):
        """Number of items of a shard, readable or not."""
        return min(self.options.shard_size, len(self.split) - number * self.options.shard_size)

    def done(self, number):
        """Whether the shard is there, made of the items as they are now.

        Raises:
            InputError: it was made of other data or otherwise, and ``overwrite`` is not given.
        """
        if number in self._made:
            return True
        try:
            shard = self._writer.find(number)
            if shard is not None:
                self._refuse_other(shard)
        except InputError:
            if not self.options.overwrite:
                raise
            return False
        if shard is not None and shard.meta["inputs"] == _state(self.items(number), self.options.modality):
            self._made.add(number)
            return True
        if self._was_complete:
            raise InputError(f"{self.options.save_dir} holds the codes of {self._data.name} as it was: --overwrite "
                             "encodes what has changed; or choose another --save-dir and add it to an index")
        return False

    def _refuse_other(self, shard):
        found = shard.meta.get("job") or {}
        other = [key for key, value in self._facts.items() if found.get(key) != value]
        if other:
            raise InputError(f"{shard.path} was encoded with another {other[0]} ({found.get(other[0])}, now "
                             f"{self._facts[other[0]]}): give the same flags, another --save-dir, or --overwrite")

    def begin(self):
        """Before shards of a finished collection are replaced: it is none until it is complete again."""
        if self.options.overwrite and os.path.exists(self._manifest):
            os.remove(self._manifest)

    def encode(self, number, progress=None):
        """Make a shard.

        Args:
            number: its number. progress: as for utils.retrieval.encode.encode.
        """
        options, part = self.options, self.items(number)
        inputs = _state(part, options.modality)  # before they are read: what changes meanwhile is encoded again
        encoded = encode(self.encoder, part, options.modality, on_broken="skip", load=self._load,
                         batch_size=options.batch_size, relaxed=options.keep_relaxed, progress=progress)
        codefile = code_file(self.encoder, part, encoded, options.split, options.modality, self._data.request,
                             self._writer.info.classes, self._data.root)
        if options.keep_relaxed:
            codefile = dataclasses.replace(codefile, relaxed=stored(codefile.relaxed))
        lost = np.setdiff1d(np.arange(len(part)), encoded.positions)
        self._writer.write(number, codefile, {
            "job": self._facts, "inputs": inputs,
            "unreadable": [[part.ids[i], message] for i, message in zip(lost, encoded.messages)]})
        self._made.add(number)

    def publish(self):
        """Write the manifest where every shard is there, and the list of items that could not be read.

        Returns:
            (numbers of shards that are missing, list of (id, reason) that could not be read).

        Raises:
            InputError: not one item could be read.
        """
        missing = [number for number in range(self.count) if not self.done(number)]
        if missing:
            return missing, []
        lost = [row for number in range(self.count) for row in self._writer.find(number).meta["unreadable"]]
        if len(lost) == len(self.split):
            raise InputError(f"no item of {self._data.name} can be read; the first: {lost[0][1]}")
        path = os.path.join(self.options.save_dir, UNREADABLE)
        if lost:
            write_text(path, "".join(json.dumps({"id": name, "reason": reason}) + "\n" for name, reason in lost))
        elif os.path.exists(path):
            os.remove(path)
        self._writer.info.meta["skipped"] = len(lost)
        if not self._was_complete:
            self._writer.publish(self.count)
        return [], lost


def _state(split, modality):
    """64 hex digits that change with the items: ids, labels, and the size and time of the files, or the contents."""
    digest = hashlib.sha256(split.sha256().encode())
    if modality == "text" and split.text_features is None:
        digest.update("\0".join(split.texts or []).encode("utf-8", "surrogateescape"))
    elif modality == "text" or split.features is not None:
        rows = split.text_features if modality == "text" else split.features
        digest.update(np.ascontiguousarray(rows).tobytes())
    elif hasattr(split.images, "stamp"):
        for i in range(len(split)):
            try:
                digest.update(f"{split.images.stamp(i)}\n".encode())
            except OSError:
                digest.update(b"gone\n")
    return digest.hexdigest()
