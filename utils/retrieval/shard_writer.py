"""Writing a new collection of code shards, by any number of processes."""
import dataclasses
import os

from utils.errors import InputError
from utils.files import remove_left
from utils.retrieval.code_shards import Shard, repeated_id, write_shard
from utils.retrieval.shard_set import CodesInfo, ShardSet, shard_name, write_manifest


class ShardWriter:
    """Writes the shards of a new collection, in any order and by any number of processes, then its manifest.

    Example:
        writer = ShardWriter("codes", CodesInfo(64, fingerprint, "fp32"))
        for number in my_part:
            if writer.find(number) is None:
                writer.write(number, codefile, meta={"unreadable": [...]})
        writer.publish(count)            # whoever is last; again by others does no harm
    """

    def __init__(self, folder, info):
        """
        Args:
            folder: made when missing. info: CodesInfo of all shards.
        """
        self.folder, self.info = os.fspath(folder), info

    def path(self, number):
        """File of shard ``number``, counted from 0."""
        return os.path.join(self.folder, shard_name(number))

    def find(self, number):
        """The Shard where it is there, whole, and of this collection; its ``meta`` says of which inputs. Else None.

        Raises:
            InputError: the folder holds a damaged shard there, or one of another model or code length.
        """
        try:
            shard = Shard(self.path(number))
        except FileNotFoundError:
            return None
        self._check(shard)
        return shard

    def write(self, number, codefile, meta=None):
        """Write a shard atomically.

        Args:
            number: its place in the collection. codefile: CodeFile of its rows. meta: plain values for later runs.

        Raises:
            InputError: the codes are not of this collection, or the file cannot be written.
        """
        self.info.refuse(CodesInfo.of(codefile), "the codes of a shard")
        if not self.info.relaxed:
            codefile = dataclasses.replace(codefile, relaxed=None)
        write_shard(self.path(number), codefile, self.info, meta)

    def publish(self, count):
        """Write the manifest over shards 0 .. count - 1, and return the collection as a ShardSet.

        What killed writers have left of these shards goes.

        Raises:
            InputError: a shard is missing or of another collection.
        """
        entries, shards = [], []
        for number in range(count):
            shard = self.find(number)
            if shard is None:
                raise InputError(f"{self.path(number)} is missing: run the part that writes it")
            entries.append({"name": shard_name(number), "rows": shard.rows, "digest": shard.digest, "removed": None})
            shards.append((shard, None))
        twice = repeated_id(shards)
        if twice is not None:
            raise InputError(f"the id {twice!r} stands in two places of {self.folder}: every item needs its own")
        os.makedirs(self.folder, exist_ok=True)
        write_manifest(self.folder, self.info, entries)
        remove_left(self.folder)
        return ShardSet(self.folder)

    def _check(self, shard):
        info = self.info
        if (shard.bits, shard.fingerprint, shard.labels, shard.precision, shard.relaxed is not None) != \
                (info.bits, info.fingerprint, info.labels, info.precision, info.relaxed):
            raise InputError(f"{shard.path} is a shard of another collection ({shard.bits} bits, model "
                             f"{shard.fingerprint or 'unknown'}, {shard.precision}): choose another folder, or delete "
                             "this one")
