"""infer.py end to end: query, code file, evaluation, benchmark section, and every mistake as one line."""
import paddle
import pytest
import yaml

from deploy.autolog import AutoLogger, Times, since_process_start
from deploy.inference_python import infer
from deploy.inference_python.predictor import Predictor
from models import METHODS
from tests.exported import BITS, SIZES, checkpoint, exported, one_error_line, pictures
from utils import images as images_module
from utils.datasets import load_protocol
from utils.errors import InputError
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack, topk, unpack
from utils.retrieval.metrics import evaluate

INFER = "deploy/inference_python/infer.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory, shapes):
    return exported(tmp_path_factory, shapes)


@pytest.fixture(scope="module")
def built(tmp_path_factory, model):
    """Folder with a code file of the model."""
    folder = tmp_path_factory.mktemp("codes")
    infer.main(["--model-dir", str(model), "--save-path", str(folder), "--batch-size", "16"])
    return folder


def picture(shapes, split="query", i=0):
    return str(getattr(load_protocol("shapes", root=str(shapes), **SIZES), split).images.path(i))


# the query --------------------------------------------------------------------------------
def test_command_builds_loads_and_measures(run, model, shapes, tmp_path, tmp_path_factory):
    """The seed's flags as TIPC writes them; the second run loads the codes and finds the same."""
    arguments = [INFER, "--model-dir", model, f"--save_path={tmp_path}", "--use-gpu=False", "--batch-size=8",
                 "--img-path", picture(shapes, "database", 5), "--bit", BITS, "--threads", 1]
    first = run(*arguments, "--evaluate", "--benchmark=True", "--repeat", 2, "--batch-size", 8)
    assert (tmp_path / f"database_hashnet_{BITS}.npz").is_file() and "Encoded 160 database images" in first.stdout
    assert "Predicted Hamm_min: 0\n" in first.stdout  # the query is in the database
    for title in ("Env", "Paddle", "Conf", "Model", "Data", "Perf"):
        assert f"{title} info" in first.stdout
    assert "preprocess_time(ms): " in first.stdout and "start_up_time(s): " in first.stdout

    _, method = checkpoint(tmp_path_factory, shapes)
    query, images = pictures(shapes)
    database, items = pictures(shapes, SIZES["num_database"], "database")
    with paddle.no_grad():
        codes = [pack(method.encode(paddle.to_tensor(x)).numpy()) for x in (images, items)]
    value = evaluate(*codes, query.labels, database.labels, BITS)["mAP"]
    assert f"mAP@all: {value:.6f}" in first.stdout
    assert f"Query code: {codes[1][5].tobytes().hex()}" in first.stdout

    second = run(*arguments)
    assert "Load code of database" in second.stdout and "Encoded" not in second.stdout
    kept = [line for line in first.stdout.splitlines() if line.startswith(("----- Query", "----- Pred", "----- Found"))]
    assert kept and all(line in second.stdout for line in kept)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_encoded_and_evaluated(name, shapes, tmp_path, capsys, tmp_path_factory):
    folder = exported(tmp_path_factory, shapes, name)
    infer.main(["--model-dir", str(folder), "--save-path", str(tmp_path), "--evaluate", "--batch-size", "16",
                "--threads", "1"])
    out = capsys.readouterr().out
    _, method = checkpoint(tmp_path_factory, shapes, name)
    query, images = pictures(shapes)
    database, items = pictures(shapes, SIZES["num_database"], "database")
    with paddle.no_grad():
        codes = [pack(method.encode(paddle.to_tensor(x)).numpy()) for x in (images, items)]
    kept = CodeFile.load(str(tmp_path / f"database_{name}_{BITS}.npz"))
    differ = (unpack(kept.codes, BITS) != unpack(codes[1], BITS)).mean()
    assert differ < 0.002  # bits next to zero
    value = evaluate(*codes, query.labels, database.labels, BITS)["mAP"]
    printed = float(out.split("----- mAP@all: ")[1].split()[0].rstrip(","))
    assert abs(printed - value) < (1e-6 if not differ else 0.01)


def test_first_query_of_the_split_by_default(model, built, shapes, capsys):
    infer.main(["--model-dir", str(model), "--save-path", str(built), "--topk", "3", "--threads", "1"])
    out = capsys.readouterr().out
    query, images = pictures(shapes, 1)
    code = Predictor(str(model), threads=1).codes(images)
    distance, position = topk(code, CodeFile.load(str(built / f"database_hashnet_{BITS}.npz")).codes, 3)
    assert f"Query: {query.ids[0]}\n" in out and f"Predicted Hamm_min: {distance[0, 0]}\n" in out
    database = load_protocol("shapes", root=str(shapes), **SIZES).database
    table = [line.split() for line in out.splitlines() if line[:4].strip().isdigit()]
    assert table == [[str(rank), str(d), database.images.path(i)]
                     for rank, (d, i) in enumerate(zip(distance[0], position[0]), 1)]


def test_cross_modal_evaluation(shapes, tmp_path, capsys, tmp_path_factory):
    """All four directions; image queries on text codes by hand."""
    from utils.text import Vectorizer
    folder = exported(tmp_path_factory, shapes, "djsrh")
    infer.main(["--model-dir", str(folder), "--save-path", str(tmp_path), "--evaluate", "--batch-size", "16"])
    out = capsys.readouterr().out
    engine = Predictor(str(folder), threads=1)
    query, images = pictures(shapes)
    database = load_protocol("shapes", root=str(shapes), **SIZES).database
    texts = engine.text_codes(Vectorizer.load(str(folder / "vectorizer.json")).transform(database.texts))
    value = evaluate(engine.codes(images), texts, query.labels, database.labels, BITS)["mAP"]
    assert f"----- I->T mAP@all: {value:.6f}" in out
    assert all(f"----- {name}mAP@all: " in out for name in ("", "T->I ", "T->T "))


@pytest.mark.parametrize("kind", ["mkldnn", "bf16"])
def test_onednn(kind, model, shapes, tmp_path, capsys):
    """Other kernels flip few bits; their codes go to a file of their own where the precision differs."""
    _, images = pictures(shapes)
    reference = Predictor(str(model), threads=1)
    assert reference.runtime()["enable_mkldnn"] is False
    try:
        other = Predictor(str(model), threads=1, **{kind: True})
        codes = other.codes(images)
    except InputError as error:
        if "AVX-512" not in str(error) and not paddle.__version__.startswith("2."):
            raise
        pytest.skip(f"not on this machine or Paddle: {error}")  # 2.6 has no bf16 concat
    assert other.runtime()["enable_mkldnn"] is True
    flipped = (unpack(codes, BITS) != unpack(reference.codes(images), BITS)).mean()
    assert flipped <= (0.03 if kind == "bf16" else 0)
    infer.main(["--model-dir", str(model), "--save-path", str(tmp_path), f"--{kind}", "--batch-size", "16"])
    suffix = "_bf16" if kind == "bf16" else ""
    assert [path.name for path in tmp_path.iterdir()] == [f"database_hashnet_{BITS}{suffix}.npz"]


def test_broken_database_pictures_are_skipped_and_counted(model, shapes, tmp_path, capsys):
    database = load_protocol("shapes", root=str(shapes), **SIZES).database
    for name in ("query", "train", "database"):
        lines = []
        for i in range(6):
            data = open(database.images.path(i), "rb").read()
            (tmp_path / f"{i}.jpg").write_bytes(data[:len(data) // 2] if i == 2 else data)
            lines.append(f"{i}.jpg " + " ".join(map(str, database.labels[i])))
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    infer.main(["--model-dir", str(model), "--dataset", str(tmp_path), "--save-path", str(tmp_path / "out"),
                "--img-path", str(tmp_path / "3.jpg"), "--batch-size", "4"])
    out = capsys.readouterr().out
    assert "Skipped 1 broken pictures" in out and "2.jpg" in out and "Predicted Hamm_min: 0\n" in out
    codes = CodeFile.load(str(tmp_path / "out" / f"database_hashnet_{BITS}.npz"))
    assert codes.ids == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert (codes.labels == database.labels[[0, 1, 3, 4, 5]]).all() and codes.meta["skipped"] == 1


# mistakes ---------------------------------------------------------------------------------
def test_mistakes_through_the_command(run, model, built, shapes, tmp_path, tmp_path_factory):
    """Each is one line and a non-zero status."""
    def fails(*arguments, words):
        one_error_line(run(INFER, *arguments, ok=None), *words)

    fails("--model-dir", tmp_path / "none", words=("no model folder", "export_model.py"))
    fails("--model-dir", tmp_path, words=("holds no inference.yml",))
    fails("--model-dir", model, "--bit", 16, words=("--bit 16", f"{BITS}-bit"))
    fails("--modeldir", model, words=("--model-dir",))
    (tmp_path / "future").mkdir()
    manifest = yaml.safe_load((model / "inference.yml").read_text())
    (tmp_path / "future" / "inference.yml").write_text(yaml.safe_dump({**manifest, "format": 9}))
    fails("--model-dir", tmp_path / "future", words=("format 9", "reads formats 1 and 2"))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    fails("--model-dir", model, "--img-path", tmp_path / "broken.jpg", words=("broken.jpg",))
    fails("--model-dir", model, "--dataset", "cifar10", "--data-path", tmp_path / "none", words=("none",))
    other = exported(tmp_path_factory, shapes, seed=4)
    fails("--model-dir", other, "--code-file", built / f"database_hashnet_{BITS}.npz", words=("another model",))


@pytest.mark.parametrize("arguments, words", [
    ((), "--model-dir DIR is missing"),
    (("--batch-size", "0"), "at least 1"),
    (("--use-gpu", "maybe"), "true or false"),
    (("--img-path", "nowhere.jpg"), "nowhere.jpg"),
    (("--split-seed", "5"), "give another --code-file or --rebuild"),
    (("--dataset", "shape"), "did you mean 'shapes'")])
def test_mistakes(arguments, words, model, built):
    arguments = [] if not arguments else ["--model-dir", str(model), "--save-path", str(built), *arguments]
    if "--split-seed" in arguments:  # the picture need not exist in the other split
        arguments += ["--img-path", picture(yaml.safe_load((model / "inference.yml").read_text())["dataset"]["root"])]
    with pytest.raises(InputError, match=words):
        infer.main(arguments)


def test_rebuild_replaces_codes_of_other_weights(shapes, tmp_path, tmp_path_factory, model):
    for folder in (model, exported(tmp_path_factory, shapes, seed=4)):
        infer.main(["--model-dir", str(folder), "--save-path", str(tmp_path), "--rebuild", "--batch-size", "16"])
        codes = CodeFile.load(str(tmp_path / f"database_hashnet_{BITS}.npz"))
        assert codes.fingerprint == Predictor(str(folder), threads=1).fingerprint


# benchmark section --------------------------------------------------------------------------
def test_the_benchmark_measures_batches_of_the_size_asked_for(shapes, tmp_path, model, monkeypatch, capsys):
    """Each timed call reads, encodes and ranks 8 queries, not one."""
    arguments = ["--model-dir", str(model), "--save-path", str(tmp_path), "--img-path", picture(shapes)]
    infer.main([*arguments, "--batch-size", "16"])  # the database's codes
    seen = {"decoded": [], "encoded": [], "ranked": []}

    def watch(owner, name, key, size):
        """Note the size of every call of ``owner.name``, which works as before."""
        known = getattr(owner, name)

        def noting(*values, **more):
            seen[key].append(size(values))
            return known(*values, **more)
        monkeypatch.setattr(owner, name, noting)
    watch(images_module, "decode", "decoded", lambda values: 1)
    watch(Predictor, "encode", "encoded", lambda values: len(values[1]))
    watch(infer.ranking, "rank", "ranked", lambda values: len(values[1]))
    infer.main([*arguments, "--batch-size", "8", "--benchmark", "True", "--warmup", "1", "--repeat", "3"])
    assert seen["encoded"] == seen["ranked"] == [1, *[8] * 4] and len(seen["decoded"]) == 1 + 8 * 4
    out = capsys.readouterr().out
    assert "batch_size: 8\n" in out and "data_num: 3\n" in out


def test_times_are_means_over_calls(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 13.0, 14.0, 14.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    times = Times()
    for _ in range(2):
        times.start()
        times.stamp()
        times.stamp()
        times.end(stamp=True)
    assert times.means() == [2000.0, 1500.0, 1750.0] and times.total() == 10.5


def test_report_returns_and_is_complete(capsys):
    log = AutoLogger("hashnet_16", batch_size=4, precision="bf16", runtime={"enable_mkldnn": True}, extra={"items": 3})
    log.times.start()
    log.times.end(stamp=True)
    log.report()
    out = capsys.readouterr().out
    for text in ("model_name: hashnet_16", "precision: bf16", "batch_size: 4", "enable_mkldnn: True", "items: 3",
                 f"paddle_version: {paddle.__version__}", "cpu_rss(MB): ", "inference_time(ms): 0.0", "CUDNN_version: ",
                 "drivier_version: ", "log_api_version: 1.0"):
        assert text in out
    titles = [line.split("INFO: ")[1] for line in out.splitlines() if "-----" in line]
    assert [(title.split()[1], len(title.split()[0]), len(title.split()[-1])) for title in titles] == [
        ("Env", 22, 22), ("Paddle", 22, 22), ("Conf", 23, 23), ("Model", 23, 22), ("Data", 23, 23), ("Perf", 23, 23)]
    assert all(line.startswith("[2") and "root INFO: " in line for line in out.splitlines())
    assert since_process_start() is None or since_process_start() > 0
