"""The commands of scenarios.py: ``words(work, material)``, what stands there before, readers of what they leave."""
import json
import os
import shutil

from tests.campaign import formats, material, served_writes
from tests.campaign.data_formats import picture
from tests.campaign.formats import index_read, model_read
from utils.errors import InputError


def nothing(work, material_folder):
    """Nothing stands there before."""


# training -----------------------------------------------------------------------------------------
EPOCHS = ["--epoch", 3, "--eval-epoch", 1, "--num-workers", 1]


def train(work, source):
    return material.training(source, work / "run", *EPOCHS, batch=32)


def resume(work, _):
    return ["main_single_gpu.py", "--resume", work / "run", "--device", "cpu", "--num-workers", 1]


def train_again(work, source):
    """As the message of an interrupted run says."""
    started = (work / "run" / "latest.safetensors").exists()
    return resume(work, source) if started else [*train(work, source), "--overwrite"]


def half_a_run(work, source):
    material.run(*train(work, source), "--stop-epoch", 1)


def ranks(words):
    """The same on two processes."""
    def on_two(work, source):
        return ["main_multi_gpu.py", *words(work, source)[1:], "--nprocs", 2]
    return on_two


def run_read(work):
    """Checkpoints, codes and result of a run folder, without times; and what the feature store knows."""
    from tests.campaign.formats import codes_read_file
    from utils.training.checkpoint import load_checkpoint
    found, folder = {}, work / "run"
    for name in ("best.safetensors", "latest.safetensors"):
        if (folder / name).exists():
            arrays, meta = load_checkpoint(str(folder / name))
            state = {key: value for key, value in meta["state"].items() if key not in ("seconds", "images", "history")}
            found[name] = [arrays, {**meta, "state": state}]
    for name in os.listdir(folder) if folder.is_dir() else ():
        if name.endswith(".npz") and not name.startswith("."):
            found[name] = codes_read_file(folder / name)
    if (folder / "result.json").exists():
        found["result.json"] = json.loads((folder / "result.json").read_text())["score"]
    found["features"] = [sorted(formats.store_rows(work / "feature_store" / space).items())
                         for space in os.listdir(work / "feature_store")] if (work / "feature_store").is_dir() else []
    return found


# models -------------------------------------------------------------------------------------------
def export(work, source):
    return ["export_model.py", "--pretrained", source / "run", "--save-inference-dir", work / "model"]


def old_model(work, source):
    """The model of a run that was trained shorter."""
    material.run(*material.training(source, work.parent / "old_run", "--epoch", 1, "--seed", 5))
    material.run("export_model.py", "--pretrained", work.parent / "old_run", "--save-inference-dir", work / "model")
    shutil.rmtree(work.parent / "old_run")


def model_beside_files(work, source):
    """An export into a folder that holds other files, such as that of a run."""
    old_model(work, source)
    (work / "model" / "notes.txt").write_text("mine")


def read_model(name):
    """Reader of a model folder in ``work``."""
    def read(work):
        return model_read(str(work / name)) if (work / name / "inference.yml").exists() else None
    return read


def convert(work, source):
    return ["deploy/onnx/convert.py", "--model-dir", source / "model", "--save-dir", work / "onnx"]


def quantize(work, source):
    return ["deploy/slim/quantize.py", "--model-dir", source / "pdmodel", "--save-dir", work / "int8", "--images", 4,
            "--max-flips", 1]


# codes --------------------------------------------------------------------------------------------
def infer(work, source):
    return ["deploy/inference_python/infer.py", "--model-dir", source / "model", "--save-path", work / "out"]


def read_codes(*name):
    """Reader of a code file in ``work``."""
    def read(work):
        from tests.campaign.formats import codes_read_file
        path = work.joinpath(*name)
        return codes_read_file(path) if path.exists() else None
    return read


def predict(work, source):
    return ["predict.py", "--model-dir", source / "model", "--gallery", work / "pictures", "--code-file",
            work / "gallery.npz"]


def some_pictures(work, _=None, numbers=range(12)):
    (work / "pictures").mkdir(exist_ok=True)
    for i in numbers:
        (work / "pictures" / f"{i}.png").write_bytes(picture(i))


def change_pictures(work):
    """Four more pictures, and one gone."""
    some_pictures(work, numbers=range(12, 16))
    (work / "pictures" / "3.png").unlink()


def changed_gallery(work, source):
    """A gallery whose codes are those of an earlier state of its pictures."""
    some_pictures(work)
    material.run(*predict(work, source))
    change_pictures(work)


def bulk(work, source):
    return ["deploy/inference_python/encode.py", "--model-dir", source / "model", "--gallery", work / "pictures",
            "--save-dir", work / "index", "--shard-size", 4, "--workers", 1, "--threads", 1]


def last_part(work, source):
    return [*bulk(work, source), "--part", "2/2"]


def first_part(work, source):
    """Pictures, and what another process has encoded of them."""
    some_pictures(work)
    material.run(*bulk(work, source), "--part", "1/2")


def search(work, source):
    return ["search.py", work / "pictures", "--model-dir", source / "model", "--index", work / "index"]


def changed_photos(work, source):
    """A folder that has changed since search.py looked at it."""
    some_pictures(work)
    material.run(*search(work, source))
    change_pictures(work)


def shard(work, _):
    return ["-m", "utils.datasets", "shard", work / "pictures", "--out", work / "shards", "--per-shard", 5]


def shard_again(work, source):
    """Shards that are there are all there: the command never writes into a folder that holds some."""
    return ["-m", "utils.datasets", "check", work / "shards"] if (work / "shards").exists() else shard(work, source)


def read_shards(work):
    """Names and bytes of a folder of shards; what is there must be a data set."""
    folder = work / "shards"
    if not folder.exists():
        return None
    from utils.datasets import load_protocol
    load_protocol(str(folder))
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


# indexes ------------------------------------------------------------------------------------------
def code_files(work, _):
    formats.codefile(60).save(work / "codes.npz")
    from tests.indexes import make
    make(30, seed=1, prefix="more/", relaxed=True).save(work / "more.npz")


def address(engine, work):
    """URI of the scenario's index."""
    return f"{engine}:{work / 'index'}{'.db' if engine == 'milvus' else ''}"


def an_index(engine):
    """``before`` of the scenarios that change an index."""
    def before(work, source):
        if engine == "exact":
            code_files(work, source)
            more = []
        else:
            from tests.indexes import make
            make(100, relaxed=True).save(work / "codes.npz")
            make(30, seed=1, prefix="more/", relaxed=True).save(work / "more.npz")
            more = ["--lists", 2, "--probes", 2] if engine == "faiss" else []
        material.run("-m", "deploy.index", "build", address(engine, work), work / "codes.npz", *more)
    return before


def holey_index(work, source):
    """An index with removed rows."""
    an_index("exact")(work, source)
    gone = [f"images/{i}.jpg" for i in range(0, 60, 3)]
    material.run("-m", "deploy.index", "remove", f"exact:{work / 'index'}", *gone)


def change(what, *more, engine="exact"):
    """``words`` of a command of python -m deploy.index."""
    def words(work, _):
        return ["-m", "deploy.index", what, address(engine, work),
                *(work / one if str(one).endswith(".npz") else one for one in more)]
    return words


def read_index(engine="exact"):
    """Reader of an index: its items by their ids, whatever their order."""
    def read(work):
        place = address(engine, work).partition(":")[2]
        if not os.path.exists(place if engine == "milvus" else os.path.join(place, "manifest.json")):
            return None
        rows = index_read(place, engine)[0]
        return {name: [column if column is None else column[i] for column in batch[2:5]]
                for batch in rows for i, name in enumerate(batch[1])}
    return read


# the service ----------------------------------------------------------------------------------------
def served(work, source):
    return ["-m", "tests.campaign.served_writes", work, "--model-dir", source / "model", "--index",
            address("exact", work), "--port", 0, "--threads", 1]


def index_to_serve(work, source):
    some_pictures(work)
    material.run(*bulk(work, source))


def read_served(work):
    """The index; InputError where it is not what the service has answered for."""
    found, said = read_index()(work), served_writes.acknowledged(work)
    asked = list(said)[-1:]   # its removal may be done and not yet answered
    lost = [name for name, there in said.items() if there != (name in found) and not (there and [name] == asked)]
    if lost:
        raise InputError(f"lost: it has answered for {lost}")
    return found


def served_names(work):
    """Those of the index, and what the service keeps beside it for the items that were added."""
    kept = {os.path.relpath(path, work) for path in (work / "index.service").rglob("*")
            if not path.name.endswith((".new", ".part"))}
    return index_names(work) | kept | {served_writes.LOG}


def index_names(work):
    """Files that the manifest names, and those beside the index."""
    from deploy.index.store import _files
    from utils.retrieval.shard_set import read_manifest
    shards = _files(read_manifest(work / "index"))
    others = {name for name in os.listdir(work / "index")
              if not name.startswith((".", "shard-", "faiss-")) or name.endswith(".lock")}
    return {f"index/{name}" for name in shards | others} | \
        {os.path.relpath(path, work) for path in work.glob("*.npz")} | \
        {os.path.relpath(path, work) for path in work.glob("pictures/*")}


# many trainings by one command -----------------------------------------------------------------------
def scripts(work, _):
    from tests.test_tipc import copy_repo
    copy_repo(work / "repo")


def matrix(work, _):
    return ["-m", "tests.campaign.matrix", work / "repo", "hashnet_16", "hashnet_32"]


def read_matrix(work):
    """How the last matrix ended, without times."""
    from test_tipc.run import load_summary
    path = work / "repo" / "test_tipc" / "output" / "summary.json"
    return [[task["config"], task["verdict"], [[step[0], step[1], step[3]] for step in task["steps"]]]
            for task in load_summary(path)] if path.exists() else None
