"""Every command that writes: what stands there before, what is run, and how what it left is read.

An entry is ``Scenario(name, before, words, read, ...)``. ``work`` is the folder that the command writes into (empty at
first), ``material`` that of material.make. ``read(work)`` gives the result's content as plain values and arrays, None
where there is none; it raises InputError where it is damaged. After a kill the content must be that before the command
or that after it, and the next run must bring it to what an undisturbed run gives and leave no other file behind.
"""
import dataclasses
import importlib.util
from typing import Callable, Optional

from tests.campaign.commands import (
    an_index,
    bulk,
    change,
    changed_gallery,
    changed_photos,
    code_files,
    convert,
    export,
    first_part,
    half_a_run,
    holey_index,
    index_names,
    index_to_serve,
    infer,
    last_part,
    matrix,
    model_beside_files,
    nothing,
    old_model,
    predict,
    quantize,
    ranks,
    read_codes,
    read_index,
    read_matrix,
    read_model,
    read_served,
    read_shards,
    resume,
    run_read,
    scripts,
    search,
    served,
    served_names,
    shard,
    shard_again,
    some_pictures,
    train,
    train_again,
)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command to kill; see above.

    Attributes:
        words: callable (work, material) -> the command, behind ``python``.
        again: the next run, by default the same command.
        steps: the content may be any on the way (a training writes a checkpoint an epoch), as long as it is whole.
        said: what the command prints when its result is safe: from there on a kill costs nothing.
        names: callable (work) -> files that belong there; None: those of an undisturbed run.
        needs: packages without which it is left out.
    """

    name: str
    before: Callable
    words: Callable
    read: Callable
    again: Optional[Callable] = None
    steps: bool = False
    said: str = ""
    names: Optional[Callable] = None
    needs: tuple = ()

    def runs_here(self):
        """Whether what it needs is installed."""
        return all(importlib.util.find_spec(name) for name in self.needs)


SCENARIOS = (
    Scenario("train", nothing, train, run_read, train_again, steps=True, said="wrote "),
    Scenario("train --resume", half_a_run, resume, run_read, steps=True, said="wrote "),
    Scenario("train, two ranks", nothing, ranks(train), run_read, ranks(train_again), steps=True, said="wrote "),
    Scenario("export", nothing, export, read_model("model"), said="Inference model is saved"),
    Scenario("export over a model", old_model, export, read_model("model"), said="Inference model is saved"),
    Scenario("export beside other files", model_beside_files, export, read_model("model"),
             said="Inference model is saved"),
    Scenario("onnx convert", nothing, convert, read_model("onnx")),
    Scenario("slim quantize", nothing, quantize, read_model("int8")),
    Scenario("infer", nothing, infer, read_codes("out", "database_djsrh_12.npz"), said="Save code of database"),
    Scenario("predict, new gallery", some_pictures, predict, read_codes("gallery.npz"), said="Save code of database"),
    Scenario("predict, gallery refresh", changed_gallery, predict, read_codes("gallery.npz")),
    Scenario("encode, many pictures", some_pictures, bulk, read_index(), names=index_names),
    Scenario("encode, last part", first_part, last_part, read_index(), names=index_names),
    Scenario("search.py, new folder", some_pictures, search, read_index(), steps=True, names=index_names),
    Scenario("search.py, changed folder", changed_photos, search, read_index(), steps=True,
             names=index_names),
    Scenario("datasets shard", some_pictures, shard, read_shards, shard_again),
    Scenario("index build", code_files, change("build", "codes.npz", "--overwrite"), read_index(), said="Built ",
             names=index_names),
    Scenario("index build in place", an_index("exact"), change("build", "more.npz", "--overwrite"), read_index(),
             said="Built ", names=index_names),
    Scenario("index add", an_index("exact"), change("add", "more.npz", "--replace"), read_index(), said="Added ",
             names=index_names),
    Scenario("index remove", an_index("exact"),
             change("remove", "images/3.jpg", "images/7.jpg", "--missing-ok"), read_index(), said="Removed ",
             names=index_names),
    Scenario("index compact", holey_index, change("compact"), read_index(), said="Compacted ", names=index_names),
    Scenario("Faiss lists, add and save", an_index("faiss"), change("add", "more.npz", "--replace", engine="faiss"),
             read_index("faiss"), said="Added ", names=index_names),
    Scenario("milvus-lite, add", an_index("milvus"), change("add", "more.npz", "--replace", engine="milvus"),
             read_index("milvus"), steps=True, said="Added ", needs=("pymilvus", "milvus_lite")),
    Scenario("milvus-lite, remove", an_index("milvus"),
             change("remove", "images/3.jpg", "images/7.jpg", "--missing-ok", engine="milvus"), read_index("milvus"),
             steps=True, said="Removed ", needs=("pymilvus", "milvus_lite")),
    Scenario("TIPC, a matrix", scripts, matrix, read_matrix),
    Scenario("service under writes", index_to_serve, served, read_served, steps=True, names=served_names,
             needs=("fastapi", "uvicorn")),
)
