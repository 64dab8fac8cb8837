"""The command line: help, spellings, quotes, and every flag of other projects as docs/flags.md has it."""
import contextlib
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
import export_model
import predict
from deploy.inference_python import infer
from models import METHODS
from tests.conftest import ROOT, SHAPES_SIZES
from tests.exported import exported
from tests.test_train import one_line
from utils.config import GROUPS
from utils.errors import InputError
from utils.flags import command_line, flag_name, read_options, unquoted
from utils.peer_flags import DATA_SETS, EXPORT, INFER, NO_EFFECT, PEER_FLAGS, PREDICT, TRAIN, WORKS
from utils.settings import Setting

PARSERS = {EXPORT: export_model.parse, PREDICT: predict.parse, INFER: infer.parse}
TABLES = {EXPORT: export_model.FLAGS, PREDICT: predict.FLAGS, INFER: infer.FLAGS}
CASES = [(row, name, command) for row in PEER_FLAGS for name in row.names for command in row.commands]
IDS = [f"{command}-{name}-{row.answer}" for row, name, command in CASES]


def resolve(command, argv, method="hashnet"):
    """(dict of all values, lines on stderr) of a command line, through the function that the command calls."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        if command in TRAIN:
            recipe, run, _ = engine.resolve([*argv, "--method", method] if method else argv, command)
            values = {**recipe, **{key: value for key, value in run.items() if key not in ("typed", "output_dir")}}
            values["output_dir"] = run["output_dir"] if "output_dir" in run["typed"] else None
        else:
            values = vars(PARSERS[command](argv))
    return values, said.getvalue().splitlines()


def settings_of(command, method):
    if command not in TRAIN:
        return TABLES[command]
    return {**{key: setting for table in GROUPS.values() for key, setting in table.items()}, **METHODS[method].settings}


def sample(key, setting):
    """A text that is another value than the default."""
    if key in ("method", "device", "crop_size"):
        return {"method": "dhn", "device": "gpu:1", "crop_size": "40"}[key]
    if setting.type is bool:
        return str(not setting.default).lower()
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    if setting.type in (int, float):
        return str(setting.type((setting.default or 1) + 1))
    return "x"


@pytest.mark.parametrize("row, name, command", CASES, ids=IDS)
def test_a_flag_does_what_the_table_says(row, name, command):
    method = None if row.here == "method" else row.methods[0] if row.methods else "hashnet"
    plain, _ = resolve(command, [], method)
    if row.answer == WORKS:
        setting = settings_of(command, method or "hashnet")[row.here]
        text = sample(row.here, setting)
        # an evaluation needs its checkpoint, which is not there
        expected = {**plain, row.here: setting.convert(text)}
        if row.here in ("eval", "resume", "pretrained") and command in TRAIN:
            with pytest.raises(InputError, match="--pretrained" if row.here == "eval" else "x"):
                resolve(command, [name, text] + (["--eval"] if row.here == "pretrained" else []), method)
            return
        known = ["--dataset", "shapes"] if row.here == "data_path" and command in TRAIN else []
        values, lines = resolve(command, [*known, name, text], method)
        if row.here in ("method", "dataset") and command in TRAIN:  # they choose another recipe file
            assert values[row.here] == text
        else:
            assert values == expected
        assert not lines
        assert resolve(command, [*known, f"{name}={text}"], method)[0] == values
    elif row.answer == NO_EFFECT:
        values, lines = resolve(command, [name, "7"], method)
        assert values == plain and lines == [f"note: {name} has no effect here: {row.why}"]
    else:
        for argv in ([name], [name, "other"]):
            with pytest.raises(InputError, match=re.escape(row.why)) as caught:
                resolve(command, argv, method)
            assert str(caught.value).startswith(name)
    for text, stands_for in row.values.items():
        values, lines = resolve(command, [name, text.capitalize()], method)
        known = settings_of(command, method)
        expected = {key: known[key].convert(value) for key, value in stands_for.items()}
        assert not lines and values == {**plain, **expected}


def test_the_docs_are_the_table(run):
    run("scripts/make_flag_table.py", "--check")
    for name in ("flags.md", "flags_cn.md"):
        rows = re.findall(r"^\| `-.*\|$", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.M)
        assert len(rows) == len(PEER_FLAGS)
        for row, line in zip(PEER_FLAGS, rows):
            assert all(f"`{flag}`" in line for flag in row.names)


def test_no_row_hides_another():
    for command in {command for row in PEER_FLAGS for command in row.commands}:
        for method in METHODS:
            names = [flag_name(name[2:]) if name.startswith("--") else name for row in PEER_FLAGS
                     if command in row.commands and (not row.methods or method in row.methods) for name in row.names]
            assert len(names) == len(set(names)), command


# commands as they are typed there -----------------------------------------------------------------------------------
SMALL = ["--backbone", "ConvNet:width=4", "--no-pretrained", "--no-visualdl",
         *[f"--{key}={value}" for key, value in SHAPES_SIZES.items()]]


def test_all_flags_of_paddle_hashnet_train(run, shapes, tmp_path):
    out = tmp_path / "checkpoints"
    done = run("main_single_gpu.py", "--model", "HashNet", "--bit", "'16'", "--seed", 2000, "--debug_steps", 50,
               "--dataset=\"shapes\"", "--data-path", shapes, "--num_class", 12, "--topK", 100, "--crop_size", 32,
               "--resize_size", 36, "-bs", 16, "--last_epoch", 0, "-ee", 1, "--alpha", 0.1, "--step_continuation", 20,
               "-lr", 0.001, "--de_step", 50, "-e", 1, "-op", "SGD", "-wd", 5e-4, "--momentum", 0.9, "--log_path",
               "logs/", "--output-dir", out, *SMALL)
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert sorted(note.split()[1] for note in notes) == ["--last_epoch", "--log_path", "--num_class", "-op"]
    assert (out / "best.safetensors").exists() and "mAP@100" in done.stdout


def test_all_flags_of_dhn_pytorch_train(run, shapes, tmp_path):
    done = run("main_single_gpu.py", "--method", "dhn", "--dataset", "shapes", "--root", shapes, "--code-length", 16,
               "--arch", "alexnet", "--batch-size", 64, "--lr", 1e-5, "--max-iter", 1, "--num-workers", 1, "--topk", -1,
               "--gpu", "False", "--lamda", 1, "--seed", 3367, "--evaluate-interval", 10, "--output-dir", tmp_path,
               "--no-pretrained", "--resize-size", 72, "--crop-size", 64,
               *[f"--{key}={value}" for key, value in SHAPES_SIZES.items()])
    assert "mAP@all" in done.stdout


def test_paddles_deployment_flags(run, tmp_path_factory, shapes, tmp_path):
    folder = exported(tmp_path_factory, shapes)
    picture = next(next(path for path in shapes.iterdir() if path.is_dir()).glob("images/q*.jpg"))
    usual = ["--use_gpu=False", "--use_mkldnn=False", "--cpu_threads=1", "--use_tensorrt=False", "--precision=fp32",
             f"--model_dir={folder}", "--batch_size=2", f"--image_dir={picture}", "--benchmark=True", "--repeat=1",
             f"--save_path={tmp_path}"]
    done = run("deploy/inference_python/infer.py", *usual, "--save_log_path=null", "--ir_optim=True", "--gpu_mem=8000",
               "--run_mode=paddle", "--use_fp16=False", "--use_trt=False", "--device=CPU", "--max-batch-size", 16,
               "--crop-size", 224)
    assert len([line for line in done.stderr.splitlines() if "has no effect here" in line]) == 5
    assert "Found matched picture" in done.stdout
    for more, words in ((["--use_trt", "True"], "TensorRT"), (["--precision", "fp16"], "fp16"),
                        (["--run_mode=trt_int8"], "TensorRT"), (["--use_fp16=True"], "--bf16")):
        one_line(run("deploy/inference_python/infer.py", *usual, *more, ok=False), more[0].split("=")[0], words)


@pytest.mark.parametrize("flag", ["--use-gpu", "--use_gpu", "--gpu"])
def test_the_answer_names_the_flag_that_was_typed(run, flag):
    for command in TRAIN:
        done = run(command, flag, "True", ok=False, env={"CUDA_VISIBLE_DEVICES": ""})
        one_line(done, f"{flag} True: this machine or this Paddle has no GPU")


# --data-path without --dataset ----------------------------------------------------------------------------------------
def test_a_folder_says_what_it_holds_or_a_data_set_is_asked_for(run, shapes, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.docx").write_bytes(b"x")
    for folder, words in ((tmp_path / "letters", "no data set is recognised there"), (tmp_path / "gone", "not exist")):
        for command in TRAIN:
            one_line(run(command, "--data-path", folder, "--output-dir", tmp_path / "out", ok=False),
                     f"--data-path {folder}", words, "--dataset")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.docx", "letters"]
    values, lines = resolve(TRAIN[0], ["--root", str(shapes)])
    assert values["dataset"] == "shapes" and not lines  # it is the default
    (tmp_path / "coco" / "train2014").mkdir(parents=True)
    values, lines = resolve(TRAIN[0], ["--bit", "48", "--data-path", str(tmp_path / "coco")])
    assert lines == [f"note: --data-path {tmp_path / 'coco'} holds dataset coco; --dataset names another"]
    assert values["dataset"] == "coco" and values["seed"] == 200  # the recipe of that set, with its seed for the length


def test_the_data_set_of_a_recipe_or_checkpoint_is_not_guessed(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("method: dhn\ndataset: coco\n")
    values, lines = resolve(TRAIN[0], ["--data-path", str(tmp_path), "--config", str(recipe)], method=None)
    assert values["dataset"] == "coco" and not lines


def test_paths_are_stored_absolute(tmp_path, monkeypatch):
    (tmp_path / "pics").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe, run, _ = engine.resolve(["--dataset", "pics"])
    assert recipe["dataset"] == str(tmp_path / "pics") and run["output_dir"] == "output/hashnet_pics_64"


# spellings ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("argv", [["--TOPK", "7"], ["--topk=7"], ["-o", "topK=7"], ["--topk", "'7'"], ['--topK="7"'],
                                  ["--topk", "9", "--topK", "7"]])
def test_one_flag_in_many_spellings(argv):
    assert resolve(TRAIN[0], argv)[0]["topK"] == 7


def test_values_in_other_spellings(tmp_path, monkeypatch):
    def value(key, *argv):
        return resolve(TRAIN[0], argv)[0][key]
    assert [value("optimizer", "-op", typed) for typed in ("SGD", "sgd", "RMSProp", "AdamW", "Momentum")] == \
        ["momentum", "sgd", "rmsprop", "adamw", "momentum"]
    assert [value("device", "--gpu", typed) for typed in ("0", "True", "False")] == ["gpu:0", "gpu", "cpu"]
    assert [value("topK", "--topk", typed) for typed in ("-1", "all", "0")] == [0, 0, 0]
    assert {typed: value("dataset", "--dataset", typed) for typed in DATA_SETS} == DATA_SETS
    assert resolve(TRAIN[0], ["--dataset", "NUS-WIDE"])[1] == ["note: --dataset NUS-WIDE is dataset = nuswide_21 here"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "NUS-WIDE").mkdir()  # a folder of one's own
    assert value("dataset", "--dataset", "NUS-WIDE").endswith("NUS-WIDE")
    assert value("learning_rate", "-lr", "1e-3") == 1e-3
    with pytest.raises(InputError, match="-lr: learning_rate = '-1e-3', expected"):
        resolve(TRAIN[0], ["-lr", "-1e-3"])


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8).filter(lambda text: "'" not in text))
def test_quotes_are_taken_off_where_a_shell_would(text):
    assert unquoted(f"'{text}'") == text
    assert unquoted(f"'{text}") == f"'{text}" and unquoted(f"{text}'") == f"{text}'"


def test_quotes_that_mean_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "'cat'").mkdir()
    assert resolve(TRAIN[0], ["--list-dir", "'cat'"])[0]["list_dir"] == "'cat'"
    assert resolve(PREDICT, ["--text", "'red' circle", "--code-file", "'a' 'b'"])[0]["code_file"] == "'a' 'b'"
    assert resolve(PREDICT, ["--text", "'red'"])[0]["text"] == "'red'"
    assert resolve(PREDICT, ["--text", "none"])[0]["text"] == "none"


@pytest.mark.parametrize("argv, words", [
    (["--positive_num", "2"], ["--positive_num belongs to nsh, not to hashnet"]),
    (["--lamda", "1", "--method", "csq", "--tau", "2"], ["--tau belongs to nsh", "not to csq"]),
    (["--logs_pth", "x"], ["unknown argument --logs_pth (did you mean --logs-path?)"]),
    (["word"], ["unknown argument word;"]),
    (["-o", "bit"], ["-o bit: expected KEY=VALUE"]),
    (["-o"], ["expected KEY=VALUE"]),
    (["--bit"], ["--bit", "argument"]),
    (["--curves", "perhaps"], ["--curves: curves = 'perhaps', expected true or false"]),
    (["--bit_list", "[16,", "32]"], ["--bit_list: a run makes codes of one length"])])
def test_mistakes(argv, words):
    with pytest.raises(InputError) as caught:
        resolve(TRAIN[0], argv, method=None)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_command_of_its_own():
    table = {"images": Setting(64, "pictures", low=1), "save_dir": Setting(None, "where", shown="DIR", also=("out",)),
             "check": Setting(False, "only look")}
    options = read_options(["--out", "x", "--CHECK"], "some.py", "Some command.", table)
    assert vars(options) == {"images": 64, "save_dir": "x", "check": True}
    assert command_line(["--Save_Dir=a=b"]).words == ["--save-dir=a=b"]
    with pytest.raises(InputError, match="did you mean --save-dir"):
        read_options(["--savedir", "x"], "some.py", "Some command.", table)
    words = {"what": Setting(None, "the job", choices=("list", "clear"))}
    assert vars(read_options(["clear", "--images=3"], "some.py", "", table, words))["what"] == "clear"
    for argv, said in (([], "what is missing"), (["--images", "3", "list"], "what is missing"),
                       (["cler"], "did you mean clear"), (["list", "more"], "unknown argument more")):
        with pytest.raises(InputError, match=said):
            read_options(argv, "some.py", "", table, words)


# help ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_help_shows_every_flag_with_default_and_choices_in_a_screen_and_a_half(method):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        engine.resolve(["--help", "--method", method])
    lines = said.getvalue().splitlines()
    assert ended.value.code == 0 and len(lines) <= 75 and max(map(len, lines)) <= 110
    places = [lines.index(title) for title in [*GROUPS, f"settings of {method}"]]
    assert places == sorted(places)
    text = " ".join(said.getvalue().split())
    for key, setting in settings_of(TRAIN[0], method).items():
        default = str(setting.default).lower() if setting.type is bool else str(setting.default)
        after = re.search(rf"{flag_name(key)}(,| )({re.escape(default) if setting.default is not None else ''})", text)
        assert after, key
        if setting.choices:
            assert ", ".join(setting.choices) in text or "|".join(setting.choices) in text, key
    others = {key for name in METHODS for key in METHODS[name].settings} - {*settings_of(TRAIN[0], method)}
    assert not [key for key in others if re.search(rf"(^|\s){flag_name(key)} ", said.getvalue())]


@pytest.mark.parametrize("command", [*TRAIN, EXPORT, PREDICT, "deploy/inference_python/infer.py", "deploy/compare.py",
                                     "deploy/onnx/convert.py", "deploy/slim/quantize.py",
                                     "-m models new", "-m utils.training.feature_store"])
def test_help_of_every_command(run, command):
    done = run(*command.split(), "--help")
    assert done.stdout.startswith("usage: python ") and re.search(r"^  --[a-z-]+ ", done.stdout, re.M)
    assert "error" not in done.stderr
