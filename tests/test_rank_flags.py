"""--rank asymmetric and mAP_asymmetric through the commands."""
import json

import numpy as np
import pytest

import predict
from deploy import ranking
from deploy.engines import open_model
from deploy.index.__main__ import COMMANDS
from deploy.inference_python import infer
from models import METHODS
from tests.exported import BITS, SIZES, exported, one_error_line, pictures
from utils.datasets import load_protocol
from utils.errors import InputError
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack, unpack
from utils.retrieval.metrics import evaluate

CROSS_MODAL = next(name for name in METHODS if "text" in METHODS[name].modalities)


@pytest.fixture(scope="module")
def model(tmp_path_factory, shapes):
    return exported(tmp_path_factory, shapes)


@pytest.fixture(scope="module")
def codes(tmp_path_factory, model):
    """Path of the model's code file, with the relaxed codes."""
    path = tmp_path_factory.mktemp("codes") / "database.npz"
    infer.main(["--model-dir", str(model), "--code-file", str(path), "--batch-size", "16", "--keep-relaxed"])
    return path


def picture(shapes, i=0):
    return load_protocol("shapes", root=str(shapes), **SIZES).query.images.path(i)


def relaxed_queries(model, shapes):
    encoder = open_model(str(model))
    split, images = pictures(shapes)
    return split, np.concatenate([encoder.encode(image[None]) for image in images])


def expected(relaxed, database, first, rank="asymmetric"):
    """Positions of a Hamming ranking whose first places are sorted again by the score, by hand."""
    bits = (database.relaxed if rank == "relaxed" else unpack(database.codes, BITS)).astype(np.float64)
    distance = (unpack(pack(relaxed), BITS)[0] != unpack(database.codes, BITS)).sum(1)
    order = np.argsort(distance, kind="stable")[:first]
    score = bits @ relaxed[0].astype(np.float64)
    return sorted(order.tolist(), key=lambda i: (-score[i], i)), score, distance


@pytest.mark.parametrize("rank, first", [("asymmetric", None), ("asymmetric", 12), ("relaxed", 12)])
def test_predict_orders_the_first_places_again(run, model, codes, shapes, tmp_path, rank, first):
    arguments = ["predict.py", "--model-dir", model, "--code-file", codes, "--img", picture(shapes), "--save-path",
                 tmp_path, "--json", "--topk", 5, "--rank"]
    plain = json.loads(run(*arguments, "hamming").stdout)
    finer = json.loads(run(*arguments, rank, *(["--first", first] if first else [])).stdout)
    _, relaxed = relaxed_queries(model, shapes)
    order, score, distance = expected(relaxed[:1], CodeFile.load(codes), first or 1000, rank)
    matches = finer["queries"][0]["matches"]
    assert [match["position"] for match in matches] == order[:5]
    assert [match["distance"] for match in matches] == distance[order[:5]].tolist()
    assert [match["score"] for match in matches] == pytest.approx(score[order[:5]].tolist())
    assert (plain["rank"], finer["rank"]) == ("hamming", rank)
    assert [match["distance"] for match in plain["queries"][0]["matches"]] == np.sort(distance)[:5].tolist()
    assert "score" not in plain["queries"][0]["matches"][0]


def test_infer_ranks_as_predict_and_reports_both_figures(model, codes, shapes, capsys):
    infer.main(["--model-dir", str(model), "--code-file", str(codes), "--img-path", picture(shapes), "--topk", "3",
                "--rank", "asymmetric", "--evaluate"])
    printed = capsys.readouterr().out
    split, relaxed = relaxed_queries(model, shapes)
    database = CodeFile.load(codes)
    order, score, distance = expected(relaxed[:1], database, 1000)
    rows = [line.split() for line in printed.splitlines() if line.split()[:1] in (["1"], ["2"], ["3"])]
    assert [(int(row[1]), float(row[2])) for row in rows] == \
        [(distance[i], pytest.approx(score[i], abs=1e-4)) for i in order[:3]]
    assert f"Predicted Hamm_min: {distance.min()}\n" in printed
    report = evaluate(pack(relaxed), database.codes, split.labels, database.labels, BITS, relaxed=relaxed)
    assert f"mAP@all: {report['mAP']:.6f}" in printed
    assert f"mAP@all asymmetric: {report['mAP_asymmetric']:.6f} (score <relaxed query" in printed
    assert report["mAP"] != report["mAP_asymmetric"]


def test_table_shows_the_score(model, codes, shapes, tmp_path, capsys):
    predict.main(["--model-dir", str(model), "--code-file", str(codes), "--img", picture(shapes), "--save-path",
                  str(tmp_path), "--rank", "asymmetric"])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["rank"])
    assert lines[start].split()[:3] == ["rank", "distance", "score"] and float(lines[start + 1].split()[2]) > 0


def test_cross_modal_training_and_evaluation_report_both(run, shapes, tmp_path):
    """result.json of a cross-modal run has the figure in every direction; selection looks at the symmetric one."""
    run("main_single_gpu.py", "--method", CROSS_MODAL, "--dataset", "shapes", "--data-path", shapes, "--num-train", 40,
        "--num-database", 80, "--num-query", 12, "--backbone", "ViT:patch=16,dim=32,depth=1,heads=4,mlp=2", "--bit", 12,
        "--no-pretrained-backbone", "--resize-size", 56, "--crop-size", 48, "--epoch", 1, "--output-dir", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    crossing = [result["metrics"][name] for name in ("I->T", "T->I")]
    assert result["score"] == pytest.approx(np.mean([report["mAP"] for report in crossing]))
    log = (tmp_path / "train.log").read_text()
    for report in result["metrics"].values():
        assert 0 < report["mAP_asymmetric"] <= 1 and "relaxed query" in report["definition"]["asymmetric"]
        assert f"asymmetric {report['mAP_asymmetric']:.4f}" in log


@pytest.mark.parametrize("command, query", [("predict.py", "--img"),
                                            ("deploy/inference_python/infer.py", "--img-path")])
@pytest.mark.parametrize("flags, words", [
    (["--first", 50], "--first belongs to --rank asymmetric"),
    (["--rank", "asymmetric", "--first", 2, "--topk", 3], "--first 2 is less than --topk 3"),
    (["--rank", "asymetric"], "did you mean asymmetric?")])
def test_mistakes(run, model, codes, shapes, command, query, flags, words):
    done = run(command, "--model-dir", model, "--code-file", codes, query, picture(shapes), *flags, ok=False)
    one_error_line(done, words)


def test_relaxed_codes_that_are_not_there(run, model, codes, shapes, tmp_path):
    database = CodeFile.load(codes)
    database.relaxed = None
    database.save(tmp_path / "plain.npz")
    words = ["--model-dir", model, "--code-file", tmp_path / "plain.npz"]
    one_error_line(run("predict.py", *words, "--img", picture(shapes), "--rank", "relaxed", ok=False), "--keep-relaxed")
    one_error_line(run("deploy/inference_python/infer.py", *words, "--keep-relaxed", ok=False), "--rebuild")


def test_one_vocabulary():
    """predict.py, infer.py and the index rank by the same flags."""
    flags = [COMMANDS["search"][3], predict.FLAGS, infer.FLAGS]
    assert all(table[name] is ranking.FLAGS[name] for table in flags for name in ranking.FLAGS)


def test_sign_of_other_codes_is_refused(model, shapes):
    split, relaxed = relaxed_queries(model, shapes)
    with pytest.raises(InputError, match="signs"):
        evaluate(pack(relaxed), pack(relaxed), split.labels, split.labels, BITS, relaxed=-relaxed)
