"""Methods from outside: found first, settings of their own, recipes beside the file, never run by a stranger's word."""
import hashlib
import json
import textwrap

import pytest

import models
from models import METHODS, find_method
from models._new import write_skeleton
from models.method import HashMethod
from tests.conftest import SHAPES_SIZES
from tests.test_train import one_line
from utils.config import parse, write_recipe
from utils.errors import InputError
from utils.settings import Setting

SMALL = ["--no-visualdl", "--device", "cpu", "--epoch", 2, "--freeze-backbone", "--feature-norm", "standardize",
         "--backbone", "ConvNet:width=4", "--resize-size", 36, "--crop-size", 32, "--batch-size", 16,
         *[f"--{key}={value}" for key, value in SHAPES_SIZES.items()]]


@pytest.fixture
def registry(monkeypatch):
    """What a test adds to the registry is gone after it."""
    monkeypatch.setattr(models, "METHODS", METHODS)
    before = dict(METHODS)
    yield METHODS
    for name in set(METHODS) - set(before):
        del METHODS[name]


def resolve(*argv, **more):
    return parse(list(map(str, argv)), METHODS, find_method, **more)


def write(path, name, settings="{}", more=""):
    path.write_text(textwrap.dedent(f"""\
        import paddle
        from models.method import HashMethod
        from utils.settings import Setting
        {more}
        class Own(HashMethod):
            name = {name!r}
            settings = {settings}
        """))
    return path


def test_two_methods_use_one_name_for_different_things(registry, tmp_path):
    one = write(tmp_path / "one.py", "one", '{"pairs": Setting(3, "how many", low=1), "tau": Setting("x", "text")}')
    two = write(tmp_path / "two.py", "two", '{"pairs": Setting(False, "or not")}')
    assert resolve("--method", one, "--pairs", 7, "--tau", "y")[0]["pairs"] == 7
    assert resolve("--method", two, "--pairs")[0]["pairs"] is True
    assert resolve("--method", "hashnet", "--pairs", "batch")[0]["pairs"] == "batch"
    with pytest.raises(InputError, match="--pairs: pairs = 'batch', expected a whole number"):
        resolve("--method", one, "--pairs", "batch")
    with pytest.raises(InputError, match="--tau belongs to nsh, one, not to two"):
        resolve("--method", two, "--tau", 1)
    assert "pairs" not in resolve("--method", "nsh")[0]


def test_the_recipe_says_where_the_method_was_and_what_it_held(registry, tmp_path):
    path = write(tmp_path / "one.py", "one")
    recipe, _, _ = resolve("--method", path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (recipe["method"], recipe["method_file"], recipe["method_sha256"]) == ("one", str(path), digest)
    write_recipe(str(tmp_path / "recipe.yaml"), recipe)
    assert resolve("--config", tmp_path / "recipe.yaml", "--method", path)[0] == recipe
    assert not {"method_file", "method_sha256"} & set(resolve()[0])


def test_recipes_beside_the_file_come_first(registry, tmp_path):
    path = write(tmp_path / "one.py", "one")
    beside, repository = tmp_path / "configs" / "one", tmp_path / "repository" / "one"
    for folder in (beside, repository):
        folder.mkdir(parents=True)

    def source(dataset):
        return resolve("--method", path, "--dataset", dataset, recipe_dir=str(repository.parent))[2]

    assert source("coco") is None
    (repository / "coco.yaml").write_text("method: one\n")
    assert source("coco") == str(repository / "coco.yaml")
    (beside / "coco.yaml").write_text("method: one\nepoch: 3\n")
    assert source("coco") == str(beside / "coco.yaml")


def test_only_the_user_names_a_file_to_run(registry, tmp_path):
    path = write(tmp_path / "one.py", "one", more="(__import__('pathlib').Path(__file__).parent / 'ran').touch()")
    made = {**resolve("--method", "hashnet")[0], "method": "one", "method_file": str(path), "method_sha256": "0" * 64}
    config = tmp_path / "recipe.yaml"
    for method in ("one", str(path)):
        made["method"] = method
        for argv in (["--eval", "--pretrained", "x"], ["--resume", "x"]):
            with pytest.raises(InputError, match="x is of method .*one.*name that file with --method"):
                resolve(*argv, base=lambda path: made)
        write_recipe(str(config), {"method": method, "method_file": str(path)})
        with pytest.raises(InputError, match="recipe.yaml is of method .*one.*name that file with --method"):
            resolve("--config", config)
    assert not (tmp_path / "ran").exists() and "one" not in METHODS


def test_a_changed_file_is_said(registry, tmp_path, capsys):
    path = write(tmp_path / "one.py", "one")
    made = resolve("--method", path)[0]
    for digest, said in ((made["method_sha256"], False), ("0" * 64, True)):
        recipe, _, _ = resolve("--resume", "x", "--method", path, base=lambda path: {**made, "method_sha256": digest})
        assert recipe == made
        assert ("is another file than the one that x was made with" in capsys.readouterr().err) == said


@pytest.mark.parametrize("text, words", [
    ("", "defines 0 methods"), ("import nothing_such\n", "ModuleNotFoundError.*nothing_such"),
    ("x = (\n", "SyntaxError"),
    ("raise SystemExit(3)\n", "SystemExit"),
    ("from models.method import HashMethod\nclass A(HashMethod):\n    name = 'hashnet'\n",
     "'hashnet', and that name is taken"),
    ("from models.method import HashMethod\nclass A(HashMethod):\n    name = 'a'\nclass B(A):\n    name = 'b'\n",
     "defines 2 methods")])
def test_files_that_are_no_method(registry, tmp_path, text, words):
    path = tmp_path / "one.py"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        find_method(str(path))
    assert set(METHODS) == set(registry) and not [name for name in METHODS if name in "ab"]


def test_names_of_methods(registry, tmp_path):
    path = write(tmp_path / "one.py", "one")
    method = find_method(str(path))
    link = tmp_path / "link.py"
    link.symlink_to(path)
    assert find_method(str(link)) is method is find_method("one") is find_method("ONE")
    assert find_method(models.__path__[0] + "/hashnet.py") is METHODS["hashnet"] and not METHODS["hashnet"].defined_in
    for name, words in (("hashnt", "did you mean hashnet"), (str(tmp_path / "gone.py"), "no method file at .*gone.py")):
        with pytest.raises(InputError, match=words):
            find_method(name)


@pytest.mark.parametrize("name", ["bit", "seed", "Bit", "device", "topk", "lr", "arch", "no_pretrained", "by_bit",
                                  "method_file", "code", "loss", "settings", "backbone", "bits", "training", "lite"])
def test_a_setting_whose_name_is_taken_is_refused_when_the_class_is_made(name):
    with pytest.raises(InputError, match=f"class Own: the setting {name} .*choose another name"):
        type("Own", (HashMethod,), {"settings": {name: Setting(1, "number")}})


@pytest.mark.parametrize("body, words", [
    ({"settings": {"share": 1}}, "must be a name and a utils.settings.Setting"),
    ({"settings": {"a b": Setting(1, "number")}}, "must be a name"),
    ({"settings": {"share": Setting(1, "number"), "Share": Setting(2, "number")}}, "are one flag"),
    ({"settings": {"share": Setting(1, "number")}, "share": 3}, "would hide the attribute share"),
    ({"name": "My Hash"}, "expected lower-case letters")])
def test_classes_that_break_the_contract(body, words):
    with pytest.raises(InputError, match=words):
        type("Own", (HashMethod,), body)


# python -m models new, and from there to an answer --------------------------------------------------------------------
def test_new_refuses_what_is_there(run, tmp_path):
    for name, words in (("hashnet", "there is a method hashnet"), ("losses", "models/losses.py exists"),
                        ("My-Hash", "no name for a method"), ("class", "no name for a method"),
                        ("--dir", "is missing")):
        one_line(run("-m", "models", "new", name, ok=False), words)
    run("-m", "models", "new", "six", "--dir", tmp_path)
    before = (tmp_path / "six.py").read_bytes()
    one_line(run("-m", "models", "new", "six", "--dir", tmp_path, ok=False), "six.py exists")
    assert (tmp_path / "six.py").read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["shapes.yaml", "six.py"]


def test_every_name_makes_a_class(registry, tmp_path):
    for name in ("a", "my_hash2", "x_"):
        file, _ = write_skeleton(name, str(tmp_path))
        method = find_method(file)
        assert method.name == name and method.__name__ == "".join(word.capitalize() for word in name.split("_"))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["main_single_gpu.py", "main_multi_gpu.py"])
def test_a_method_file_trains_resumes_exports_and_answers(run, shapes, tmp_path, script):
    run("-m", "models", "new", "six", "--dir", tmp_path)
    file, out = tmp_path / "six.py", tmp_path / "run"
    done = run(script, "--method", file, "--data-path", shapes, "--bit", 12, "--stop-epoch", 1, "--output-dir", out,
               *SMALL, *(["--nprocs", 2] if "multi" in script else []))
    assert f"recipe: {tmp_path}/configs/six/shapes.yaml; method six, 12 bits" in done.stdout
    again = [script, "--resume", out / "latest.safetensors", "--device", "cpu",
             *(["--nprocs", 2] if "multi" in script else [])]
    one_line(run(*again, ok=False), "is of method 'six'", str(file), "--method FILE")
    run(*again, "--method", file)
    best, model = out / "best.safetensors", tmp_path / "model"
    one_line(run("export_model.py", "--pretrained", best, "--save-inference-dir", model, ok=False), "--method FILE")
    one_line(run("export_model.py", "--pretrained", best, "--save-inference-dir", model, "--method", "dhn", ok=False),
             "six")
    assert not model.exists()
    if "multi" in script:
        return
    run("export_model.py", "--pretrained", best, "--save-inference-dir", model, "--method", file)
    run("main_single_gpu.py", "--eval", "--pretrained", best, "--method", file, "--device", "cpu")
    answered = run("deploy/inference_python/infer.py", "--model-dir", model, "--save-path", tmp_path / "codes",
                   "--evaluate")
    result = json.loads((out / "eval" / "result.json").read_text())
    assert f"mAP@all: {result['metrics']['I->I']['mAP']:.6f}" in answered.stdout
    for source in (["--pretrained", best, "--method", file], ["--model-dir", model]):
        assert "Found matched picture" in run("predict.py", *source, "--save-path", tmp_path / "found").stdout
    one_line(run("predict.py", "--pretrained", best, ok=False), "--method FILE")
