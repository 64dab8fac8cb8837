"""The data that a deployment command names: by default those of the model's training run."""
import functools
import os

from utils.datasets import Protocol, absolute_name, load_protocol
from utils.datasets.own.shards import gallery as load_gallery
from utils.errors import InputError
from utils.picture_loader import PictureLoader
from utils.retrieval.code_store import CodeStore
from utils.retrieval.encode import encode


class Data:
    """The data set that a command names (by default the one of the model's recipe), loaded when first looked at.

    ``gallery`` names pictures to be searched, all of them, in place of a data set: a folder, manifest or list as in
    utils/datasets/own/splits.py. They are the ``database`` split of the protocol; the other splits are empty.

    Attributes:
        request: plain dict that names it; stored in code files and compared before they are used.
        root: folder of the images, None = the protocol's own.
        classes: class names, without loading anything where the manifest knows them.
        topk, ap: K and definition of mAP in the training run; K is None where that knows of no such data.
    """

    def __init__(self, manifest, name=None, root=None, list_dir=None, split_seed=None, gallery=None):
        known = manifest["dataset"]
        self.gallery, self.ap = gallery, manifest["recipe"]["ap"]
        if gallery is not None:
            self.root, self.list_dir, self.topk, self.classes = root, None, None, []
            self.request = {"gallery": os.path.realpath(gallery)}
            return
        if name is not None and absolute_name(name) != absolute_name(known["name"]):
            known = {"name": absolute_name(name), "sizes": {}, "classes": []}
        self.root = root or known.get("root")
        self.list_dir = list_dir or known.get("list_dir")
        seed = known.get("split_seed") if split_seed is None else split_seed
        self.request = {"dataset": known["name"], "split_seed": seed, "sizes": known["sizes"]}
        self.topk, self.classes = known.get("topk"), known["classes"]

    @property
    def name(self):
        """What people call it: the data set, or the gallery's folder or file."""
        return self.request.get("dataset") or self.request.get("gallery")

    @functools.cached_property
    def protocol(self):
        """utils.datasets.Protocol; raises InputError where the data are not there. Nothing is made or drawn."""
        if self.gallery is not None:
            if not os.path.exists(self.gallery) and "{" not in self.gallery:
                raise InputError(f"the gallery {self.gallery} is not there; where its pictures lie elsewhere now, give "
                                 "their folder with --data-path")
            split, classes, notes = load_gallery(self.gallery, self.root)
            none = [split.select([], name) for name in ("train", "query")]
            return Protocol("gallery", *none, split, classes, notes=notes)
        return load_protocol(self.request["dataset"], root=self.root, seed=self.request["split_seed"],
                             list_dir=self.list_dir, may_draw=False, **self.request["sizes"])

    @functools.cached_property
    def places(self):
        """dict id -> position of the database's items. Raises InputError as ``protocol``."""
        return {name: i for i, name in enumerate(self.protocol.database.ids)}

    def path(self, name, root=None):
        """File of a database item's picture (``root``: the folder a code file names), or its id where there is none."""
        for folder in (self.root, root):
            if folder is not None and os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
        try:
            images = self.protocol.database.images
            return images.path(self.places[name]) if hasattr(images, "path") and name in self.places else name
        except InputError:  # codes can be searched without their data set
            return name

    def gone(self, name, root=None):
        """True where a database item's picture is not there any more; False also where that cannot be told."""
        path = self.path(name, root)
        if os.path.isfile(path):
            return False
        try:
            images = self.protocol.database.images
            return images is not None and (name not in self.places or hasattr(images, "path"))
        except InputError:
            return False


def code_store(encoder, data, batch_size=32, workers=2, say=print):
    """The CodeStore (utils/retrieval/code_store.py) of an encoder and a Data; broken pictures are left out."""
    load = PictureLoader(encoder.manifest["preprocess"], workers)
    return CodeStore(encoder, data, functools.partial(encode, on_broken="skip", load=load, batch_size=batch_size), say)
