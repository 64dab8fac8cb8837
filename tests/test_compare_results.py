"""TIPC's comparison with stored results: faults are named, other device classes are told apart, real runs are exact."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_tipc import compare_results, make_results, official_results
from tests.manifests import edited
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack

ROOT = pathlib.Path(__file__).resolve().parent.parent
LITE = "lite_train_lite_infer"
BITS, ITEMS = 48, 40
FINGERPRINT = "0123456789abcdef"
RESULT = {"metrics": {"I->I": {"mAP": 0.25}, "I->T": {"mAP": 0.5}}, "fingerprint": FINGERPRINT,
          "protocol": {"sha256": {"train": "aa", "query": "bb", "database": "cc"}},
          "recipe": {"method": "djsrh", "epoch": 2, "data_path": "here", "backbone_weights": None},
          "environment": {"paddle": "3.3.1", "device": "cpu"}}
INFER = """----- Load model from x: djsrh, 48 bits, fp32, fingerprint {fingerprint} (0.70 s)
----- Query: data/q000000.jpg
----- Query code: {code}
----- Predicted Hamm_min: {distance}
----- Found matched picture: data/{match}
----- mAP@all: 0.250000 (tie-aware expectation 0.232829), fp32 codes of Paddle Inference
----- I->T mAP@all: 0.500000 (tie-aware expectation 0.207877), fp32 codes of Paddle Inference
[2026/11/21 04:45:49] root INFO:  runtime_device: cpu
[2026/11/21 04:45:49] root INFO:  cpu_math_library_num_threads: {threads}
"""
TRAIN = """recipe: a.yaml; method djsrh
epoch: [1/2], step: [2/4], lr: 0.001, loss: 0.90000, image: 0.7, avg_reader_cost: 0.002 sec, avg_batch_cost: 0.1 sec
epoch: [1/2], step: [4/4], lr: 0.001, loss: 0.83327, image: 0.80318, avg_reader_cost: 0.002 sec, avg_batch_cost: 0.1 sec
epoch: [2/2], step: [4/4], lr: 0.001, loss: 0.72534, image: 0.92923, avg_reader_cost: 0.002 sec, avg_batch_cost: 0.1 sec
epoch: [2/2], query: I->I mAP@all 0.2310
"""


class Left:
    """What a run leaves, with stored results that fit; tests change parts of it and compare."""

    def __init__(self, folder):
        self.folder, self.line = folder, "paddle3.3"
        rng = np.random.default_rng(0)
        self.relaxed = {"database_djsrh_48": rng.standard_normal([ITEMS, BITS]),
                        "database_text_djsrh_48": rng.standard_normal([ITEMS, BITS])}
        self.query = rng.standard_normal([1, BITS])
        self.infer = {"fingerprint": FINGERPRINT, "threads": 1}
        (folder / "eval").mkdir()
        (folder / "codes").mkdir()
        (folder / "pictures").mkdir()
        for i in range(ITEMS):
            (folder / "pictures" / f"d{i}.jpg").write_text(f"picture {i}")
        self.write()
        results, run = self.collect()
        results["bits"] = BITS
        results["codes"] = {name: [" ".join(codes)] for name, codes in results["codes"].items()}
        results["near_zero"] = {name: make_results.masks(relaxed, 0.01 * np.median(np.abs(relaxed)))
                                for name, relaxed in {**self.relaxed, "query": self.query}.items()}
        self.stored = results
        self.store()

    def store(self):
        path = self.folder / "results" / self.line / "djsrh_48.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.stored))

    def codefile(self, name, relaxed):
        """Code file of relaxed codes."""
        meta = {"split": "database", "modality": "text" if "text" in name else "image",
                "root": str(self.folder / "pictures")}
        return CodeFile(pack(relaxed), BITS, [f"d{i}.jpg" for i in range(ITEMS)], None, FINGERPRINT, meta)

    def write(self, evaluated=None):
        """Write the files of a run; ``evaluated``: relaxed codes of the evaluation, where they are others."""
        for name, relaxed in self.relaxed.items():
            self.codefile(name, relaxed).save(self.folder / "codes" / f"{name}.npz")
            self.codefile(name, (evaluated or self.relaxed)[name]).save(self.folder / "eval" / f"{name}.npz")
        code = pack(self.query)[0].tobytes().hex()
        match, distance = compare_results.nearest(
            self.codefile("database_djsrh_48", self.relaxed["database_djsrh_48"]), code)[0].split()
        (self.folder / "eval" / "result.json").write_text(json.dumps(RESULT))
        (self.folder / "infer.log").write_text(INFER.format(code=code, match=match, distance=distance, **self.infer))
        (self.folder / "train.log").write_text(TRAIN)

    def edit(self, name, old, new):
        """Replace text that must be there."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def options(self, *more, gt_file="results/{paddle}/djsrh_48.json"):
        return ["--eval_file", str(self.folder / "eval" / "result.json"), "--log_file", str(self.folder / "infer.log"),
                "--codes", str(self.folder / "codes"), "--train_log", str(self.folder / "train.log"),
                *(["--gt_file", str(self.folder / gt_file)] if gt_file else []), *more]

    def collect(self):
        return compare_results.collect(compare_results.arguments(self.options()))

    def compare(self, status, *more, **named):
        """Run the command in this process; returns (stdout lines, stderr)."""
        with pytest.raises(SystemExit) as ending:
            compare_results.main(self.options(*more, **named))
        out, error = self.capture.readouterr()
        assert ending.value.code == status, out + error
        assert len(error.splitlines()) == (status in (1, 2))
        return out.splitlines(), error

    def fault(self, *names, **named):
        """The comparison fails in exactly these things."""
        lines, error = self.compare(1, **named)
        assert error.strip() == f"error: they differ: {', '.join(names)}"
        assert [line.split(": ")[0] for line in lines if line.endswith(", DIFFERS")] == list(names)
        return "\n".join(lines)


@pytest.fixture
def left(tmp_path, capsys):
    made = Left(tmp_path)
    made.capture = capsys
    return made


def flip(left, count, name="database_djsrh_48", away=True):
    """Flip ``count`` bits of infer.py's codes: those farthest from zero, or those stored as near zero."""
    relaxed = left.relaxed[name].copy()
    order = np.argsort(np.abs(relaxed), axis=None)
    chosen = np.unravel_index(order[-count:] if away else order[:count], relaxed.shape)
    relaxed[chosen] *= -1
    left.relaxed[name] = relaxed


def test_an_equal_run_is_exact(left):
    lines, _ = left.compare(0)
    assert lines[-1] == "verdict: same as stored, exact" and not any("DIFFERS" in line for line in lines)
    text = "\n".join(lines)
    for words in ("model: ", "codes database_djsrh_48: 0 of 1,920 bits differ, exact", "codes query: 0 of 48",
                  "codes database_text_djsrh_48: 0 of 1,920", "distances: 0 of the 10",
                  "loss: 0 of 4 terms of 2 epochs", "stored mAP I->I", "stored mAP I->T", "nearest item",
                  "same fingerprint", "rule: same Paddle 3.3.1"):
        assert words in text


def test_missing_stored_results_are_skipped_and_no_pass(left):
    lines, _ = left.compare(77, gt_file="results/{paddle}/other.json")
    assert lines[-1].startswith("skipped: no stored results ") and lines[-1].endswith("paddle3.3/other.json")
    assert not any(line.startswith("verdict: same") for line in lines)
    left.edit("eval/result.json", "3.3.1", "2.6.2")
    assert "paddle2.6" in left.compare(77)[0][-1]
    left.edit("infer.log", "mAP@all: 0.250000", "mAP@all: 0.300000")
    left.fault("mAP")  # a fault is no skip
    assert left.compare(1, gt_file=None)


def test_without_stored_results_a_run_agrees_with_itself(left):
    assert left.compare(0, gt_file=None)[0][-1] == "verdict: same"


@pytest.mark.parametrize("name", ["database_djsrh_48", "database_text_djsrh_48"])
def test_one_flipped_bit_is_a_fault_on_the_same_device_class(left, name):
    flip(left, 1, name)
    left.write()
    assert f"codes {name}: 1 of 1,920 bits differ, exact (first d" in left.fault(f"codes {name}")


def test_flipped_bits_in_the_code_file_differ_from_the_evaluation(left):
    right = dict(left.relaxed)
    flip(left, 4)
    left.write(evaluated=right)
    text = left.fault("engine codes database_djsrh_48", gt_file=None)
    assert "4 of 1,920 bits differ from the evaluation's, limit 1" in text


def test_a_damaged_code_file_is_no_comparison(left):
    path = left.folder / "codes" / "database_djsrh_48.npz"
    data = bytearray(path.read_bytes())
    data[-400] ^= 1
    path.write_bytes(data)
    assert "damaged" in left.compare(2)[1]
    path.unlink()
    left.fault("codes database_djsrh_48")
    shutil.rmtree(left.folder / "codes")
    (left.folder / "codes").mkdir()
    assert "no code file" in left.compare(2)[1]


def test_another_checkpoint_is_a_fault(left):
    left.infer["fingerprint"] = "f" * 16
    left.write()
    assert "infer.py ffffffffffffffff" in left.fault("model")


def test_another_query_code_or_distance_is_a_fault(left):
    left.edit("infer.log", "Hamm_min: ", "Hamm_min: 1")
    left.fault("nearest item")
    left.write()
    left.query = -left.query
    left.write()
    assert "codes query: 48 of 48 bits differ" in left.fault("codes query", "distances")


@pytest.mark.parametrize("old, new, names", [
    ("loss: 0.72534", "loss: 0.72540", ["loss"]), ("image: 0.92923", "image: 0.92913", ["loss"]),
    ("loss: 0.72534", "loss: nan", ["loss"]), ("image: 0.92923", "picture: 0.92923", ["loss"]),
    ("[2/2], step", "[1/2], step", ["loss"]), ("loss: 0.72534", "loss: 0.72535", None),
    ("loss: 0.90000", "loss: 0.10000", None)])  # only the last step of an epoch is looked at
def test_losses(left, old, new, names):
    left.edit("train.log", old, new)
    if names:
        left.fault(*names)
    else:
        left.compare(0)


@pytest.mark.parametrize("value, status", [(0.2500004, 0), (0.250002, 1), (float("nan"), 1)])
def test_map_of_the_evaluation(left, value, status):
    left.edit("eval/result.json", '{"mAP": 0.25}', json.dumps({"mAP": value}))
    lines, _ = left.compare(status)
    assert any(line.startswith("stored mAP I->I") and line.endswith("DIFFERS") for line in lines) == bool(status)


def test_map_of_the_engine(left):
    left.edit("infer.log", "I->T mAP@all: 0.500000", "I->T mAP@all: 0.500002")
    left.fault("stored mAP I->T")
    left.edit("infer.log", "I->T mAP@all: 0.500002", "I->T mAP@all: nan")
    left.fault("mAP I->T", "stored mAP I->T")


@pytest.mark.parametrize("old, new, words", [
    ('"epoch": 2', '"epoch": 3', "recipe: epoch 3, stored 2"), ('"cc"', '"dd"', "data: database dd, stored cc")])
def test_other_settings_and_data_are_one_line(left, old, new, words):
    flip(left, 9)
    left.write()
    left.edit("eval/result.json", old, new)
    text = left.fault(words.split(":")[0])
    assert words in text and "make_results.py" in text and "\ncodes database_djsrh_48: " not in text


def test_settings_that_say_where_do_not_count(left):
    left.edit("eval/result.json", '"here"', '"there"')
    left.edit("eval/result.json", '"epoch": 2', '"epoch": 2, "a_later_setting": 1')
    left.compare(0)


def test_other_pictures_are_one_line(left):
    (left.folder / "pictures" / "d7.jpg").write_text("another")
    left.fault("pictures")
    shutil.rmtree(left.folder / "pictures")  # not at hand: the codes tell
    left.compare(0)


# other device classes ----------------------------------------------------------------------------
@pytest.fixture
def elsewhere(left):
    """The run of another device class: two math threads."""
    left.infer["threads"] = 2
    left.write()
    return left


def weak(left, name="database_djsrh_48"):
    relaxed = np.abs(left.relaxed[name])
    return int((relaxed < 0.01 * np.median(relaxed)).sum())


def test_another_device_class_is_told_apart(elsewhere):
    lines, _ = elsewhere.compare(0)
    assert lines[-1] == "verdict: same as stored, near" and "threads=1 stored" in "\n".join(lines)


def test_bits_near_zero_may_differ_elsewhere_only(left):
    count = weak(left)
    assert 4 < count < 60
    flip(left, 3, away=False)
    left.write()
    assert "codes database_djsrh_48: 3 of 1,920 bits differ, exact (first " in "\n".join(left.compare(1)[0])
    left.infer["threads"] = 2
    left.write()
    text = "\n".join(left.compare(0)[0])
    assert f"codes database_djsrh_48: 0 of {1920 - count:,} bits differ, exact; near zero 3 of {count}, limit " in text


def test_too_many_bits_near_zero_are_a_fault(elsewhere):
    count = weak(elsewhere)
    flip(elsewhere, count, away=False)
    elsewhere.write()
    elsewhere.fault("codes database_djsrh_48")


def test_a_bit_away_from_zero_is_a_fault_elsewhere(elsewhere):
    flip(elsewhere, 1)
    elsewhere.write()
    elsewhere.fault("codes database_djsrh_48")


@pytest.mark.parametrize("name, old, new, fault", [
    ("train.log", "loss: 0.72534", "loss: 0.72590", None), ("train.log", "loss: 0.72534", "loss: 0.72634", "loss"),
    ("infer.log", "mAP@all: 0.250000", "mAP@all: 0.250900", None),
    ("eval/result.json", '"mAP": 0.25', '"mAP": 0.2509', None),
    ("eval/result.json", '"mAP": 0.25', '"mAP": 0.2611', "stored mAP I->I")])
def test_floats_elsewhere(elsewhere, name, old, new, fault):
    elsewhere.edit(name, old, new)
    lines, _ = elsewhere.compare(int(fault is not None), "--atol", "0.1")
    assert [line.split(": ")[0] for line in lines if line.endswith("DIFFERS")] == [fault] * (fault is not None)


def test_a_gpu_is_another_device_class(left):
    left.edit("eval/result.json", '"device": "cpu"', '"device": "gpu:0"')
    assert left.compare(0)[0][-1].endswith("near")


def test_patch_versions_are_near_and_lines_are_never_mixed_silently(left):
    left.edit("eval/result.json", "3.3.1", "3.3.2")
    assert left.compare(0)[0][-1].endswith("near")
    left.edit("eval/result.json", "3.3.2", "2.6.2")
    assert "--across_versions" in left.compare(2, gt_file="results/paddle3.3/djsrh_48.json")[1]
    lines, _ = left.compare(0, "--across_versions", gt_file="results/paddle3.3/djsrh_48.json")
    assert "across versions" in "\n".join(lines) and lines[-1].endswith("near")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}', '{"format": 1, "codes": 3}',
                                  '{"format": 1, "codes": {}, "near_zero": {"a": ["x"]}}',
                                  '{"format": 1, "codes": {}, "near_zero": {}}', '{"format": 1, "codes": {}, '
                                  '"near_zero": {}, "paddle": "3.3.1", "device_class": "", "bits": 1, "data": {}, '
                                  '"recipe": {}, "mAP": {}, "loss": null, "query": {}}'])
def test_damaged_stored_results(left, text):
    (left.folder / "results" / "paddle3.3" / "djsrh_48.json").write_text(text)
    assert "djsrh_48.json" in left.compare(2)[1]


@pytest.mark.parametrize("name", ["eval/result.json", "infer.log", "train.log"])
def test_missing_and_empty_inputs(left, name):
    (left.folder / name).write_text("")
    assert name in left.compare(2)[1]
    (left.folder / name).unlink()
    assert name in left.compare(2)[1]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_differing_bits_counts(data):
    """The counts are those of the bits themselves."""
    size, count = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2 ** 32)))
    first, second, near = (rng.integers(0, 2, [count, 8 * size], dtype="uint8") for _ in range(3))
    words = [[row.tobytes().hex() for row in np.packbits(bits, axis=1)] for bits in (first, second)]
    masks = {int(i): int(mask, 16) for i, mask in (word.split(":") for word in make_results.masks(1 - near, 0.5))}
    away, close, where = compare_results.differing_bits(*words, masks)
    differs = first != second
    assert (away, close) == ((differs & (near == 0)).sum(), (differs & (near == 1)).sum())
    rows = np.flatnonzero((differs & (near == 0)).any(1))
    assert where == (rows[0] if len(rows) else None)


# stored results of the repository ----------------------------------------------------------------
STORED = sorted(ROOT.glob("test_tipc/results/*/*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_stored_results_are_whole(path):
    stored = compare_results.read_stored(str(path))
    assert compare_results.line_of(stored["paddle"]) == path.parent.name
    assert path.stem == f"{stored['recipe']['method']}_{stored['bits']}_{LITE}"
    assert stored["device_class"].endswith("threads=1") and set(stored["near_zero"]) == {*stored["codes"], "query"}
    assert all(len(code) == 2 * -(-stored["bits"] // 8) for codes in stored["codes"].values() for code in codes)
    assert stored["loss"] and stored["commit"] and stored["pictures"]


def test_every_config_has_stored_results_of_both_lines():
    configs = {path.parent.name for path in ROOT.glob("test_tipc/configs/*/train_infer_python.txt")}
    found = {line: {path.stem[:-len(LITE) - 1] for path in STORED if path.parent.name == line}
             for line in {path.parent.name for path in STORED}}
    assert found == {"paddle2.6": configs, "paddle3.3": configs}


# real runs ---------------------------------------------------------------------------------------
class Real:
    """A copy of the repository where hashnet_16 goes through the real base chain."""

    out = f"test_tipc/output/hashnet_16/{LITE}"

    def __init__(self, folder):
        self.folder = folder
        for name in ("configs", "deploy", "models", "scripts", "test_tipc", "utils"):
            shutil.copytree(ROOT / name, folder / name,
                            ignore=shutil.ignore_patterns("output", "results", "__pycache__"))
        for path in ROOT.glob("*.py"):
            shutil.copy(path, folder)
        self.python("test_tipc/make_results.py", "hashnet_16")

    def python(self, *arguments, ok=True):
        done = subprocess.run([sys.executable, *arguments], cwd=self.folder, text=True, timeout=1800,
                              capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1", "GLOG_v": "0"})
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done

    def chain(self):
        subprocess.run(["bash", "test_tipc/test_train_inference_python.sh",
                        "test_tipc/configs/hashnet_16/train_infer_python.txt", LITE], cwd=self.folder, timeout=1800,
                       capture_output=True, check=False,
                       env={**os.environ, "OMP_NUM_THREADS": "1", "VENV": "/nowhere", "PYTHON": sys.executable})

    def infer(self):
        done = self.python("deploy/inference_python/infer.py", "--evaluate", "True", "--model-dir",
                           f"{self.out}/inference", "--img-path", "data/shapes/tipc/lite/images/q000000.jpg",
                           "--benchmark", "True", "--rebuild", "True", "--save-path",
                           f"{self.out}/codes_cpu_batchsize_1")
        (self.folder / self.out / "python_infer_cpu_batchsize_1.log").write_text(done.stdout + done.stderr)

    def compare(self, ok=True, gt=True):
        done = self.python("test_tipc/compare_results.py", "--eval_file", f"{self.out}/norm_train_cpu/eval/result.json",
                           "--log_file", f"{self.out}/python_infer_cpu_batchsize_1.log", "--codes",
                           f"{self.out}/codes_cpu_batchsize_1", "--train_log", f"{self.out}/train.log",
                           *(["--gt_file", f"test_tipc/results/{{paddle}}/hashnet_16_{LITE}.json"] if gt else []),
                           ok=ok)
        return done.stdout + done.stderr

    def change(self, name, old, new):
        """A deliberate change of a source file; the text must be there once."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} has changed: choose another line for this test"
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return Real(tmp_path_factory.mktemp("real") / "repo")


LOSS = ("models/hashnet.py", "+ (1 - s) * weights[1]", "+ 1.01 * (1 - s) * weights[1]")
PREPROCESSING = ("utils/transforms.py", "(image.shape[0] - crop) // 2, (image.shape[1] - crop) // 2",
                 "(image.shape[0] - crop) // 2, (image.shape[1] - crop) // 3")


def test_a_changed_loss_is_seen(real):
    assert "verdict: same as stored, exact" in real.compare()
    real.change(*LOSS)
    real.chain()
    real.change(LOSS[0], LOSS[2], LOSS[1])
    text = real.compare(ok=False)
    assert "loss, " in text.splitlines()[-1] and "stored 1." in text


@pytest.mark.slow
def test_runs_are_exact_again_and_again(real):
    real.chain()
    assert "verdict: same as stored, exact" in real.compare()


@pytest.mark.slow
def test_changed_preprocessing_is_seen(real):
    real.change(*PREPROCESSING)
    real.chain()
    real.change(PREPROCESSING[0], PREPROCESSING[2], PREPROCESSING[1])
    last = real.compare(ok=False).splitlines()[-1]
    assert "codes database_hashnet_16" in last and "codes query" in last


@pytest.mark.slow
def test_changed_manifest_and_another_checkpoint_are_seen(real):
    real.chain()
    edited(real.folder / real.out / "inference",
           lambda manifest: [manifest[part].update(resize_size=80) for part in ("preprocess", "recipe")])
    real.infer()
    assert "engine codes database_hashnet_16" in real.compare(ok=False, gt=False).splitlines()[-1]
    real.python("main_single_gpu.py", "--config", "test_tipc/configs/lite/hashnet.yaml", "--bit", "16", "--seed", "1",
                "--epoch", "2", "--batch-size", "16", "--data-path", "data/shapes/tipc/lite", "--output-dir", "other")
    real.python("export_model.py", "--pretrained", "other/best.safetensors", "--save-inference-dir",
                f"{real.out}/inference")
    real.infer()
    assert "model, " in real.compare(ok=False, gt=False).splitlines()[-1]


# the form of other projects ----------------------------------------------------------------------
def test_text_results_are_those_of_the_json_files():
    texts = sorted((ROOT / "test_tipc" / "results").glob("*/python_*_results_fp32.txt"))
    assert texts
    for path in texts:
        config = path.name[len("python_"):-len("_results_fp32.txt")]
        stored = json.loads((path.parent / f"{config}_lite_train_lite_infer.json").read_text())
        assert path.read_text() == official_results.text_of(stored)


@pytest.mark.parametrize("log, status, words", [
    ("bits: [1, 0]\nHamm_min: 3\nI->I mAP: 0.5004\n", 0, "verdict: same as stored"),
    ("bits: [1, 1]\nHamm_min: 3\nI->I mAP: 0.5\n", 1, "bits: DIFFERS"),
    ("bits: [1]\nHamm_min: 3\nI->I mAP: NaN\n", 1, "bits:, mAP: DIFFERS"), ("Hamm_min: 3\n", 2, "no line with"),
    ("bits: x\nHamm_min: 3\nmAP: 0.5\n", 2, "no number"), (None, 2, "no file is called")])
def test_official_flags(tmp_path, run, log, status, words):
    text = official_results.text_of({"query": {"code": "8", "nearest": ["a.jpg 3"]}, "bits": 2, "mAP": {"I->I": 0.5}})
    (tmp_path / "python_x_results_fp32.txt").write_text(text)
    if log is not None:
        (tmp_path / "python_infer_cpu_precision_fp32.log").write_text(log)
    done = subprocess.run([sys.executable, ROOT / "test_tipc" / "compare_results.py", f"--gt_file={tmp_path}/*.txt",
                           f"--log_file={tmp_path}/*.log", "--atol=1e-3", "--rtol=1e-3"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == status and words in done.stdout + done.stderr
