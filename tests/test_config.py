"""Recipes: precedence, aliases, and one clear line for each mistake."""
import glob
import os

import pytest
import yaml

from models import METHODS, find_method
from utils.config import GROUPS, RECIPE, RUN, parse, recipe_files, write_recipe
from utils.datasets import PROTOCOLS
from utils.errors import InputError


def resolve(*argv, **more):
    return parse(list(argv), METHODS, find_method, **more)


def test_defaults_yaml_flags_in_that_order(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("method: hashnet\nlearning_rate: 1e-5\nbatch_size: 7\nalpha: 0.3\n")
    recipe, run, source = resolve("--config", str(path), "--batch-size", "9")
    assert (recipe["learning_rate"], recipe["batch_size"], recipe["alpha"]) == (1e-5, 9, 0.3)
    assert recipe["momentum"] == RECIPE["momentum"].default and source == str(path)
    assert run["output_dir"] == os.path.join("output", "hashnet_shapes_64")


def test_none_is_a_value_where_it_is_a_choice_and_nothing_elsewhere(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("method: hashnet\naugment: none\nfeature_norm: none\ndata_path: null\n")
    recipe, run, _ = resolve("--config", str(path), "--pretrained", "null", "--backbone-weights", "None")
    assert (recipe["augment"], recipe["data_path"], recipe["backbone_weights"]) == ("none", None, None)
    assert run["pretrained"] is None


def test_seed_settings_by_code_length(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("method: hashnet\nby_bit:\n  16: {seed: 5}\n  32: {seed: 6}\n")
    assert resolve("--config", str(path), "--bit", "32")[0]["seed"] == 6
    assert resolve("--config", str(path), "--bit", "48")[0]["seed"] == 0
    path.write_text("method: hashnet\nby_bit:\n  64: {seed: 7}\n")
    assert resolve("--config", str(path))[0]["seed"] == 7  # 64 bits by default


@pytest.mark.parametrize("spelling", ["--eval-epoch", "--eval_epoch"])
def test_dashes_and_underscores_are_the_same(spelling):
    assert resolve(spelling, "3")[0]["eval_epoch"] == 3


def test_flags_of_the_seeds_are_accepted():
    recipe, run, _ = resolve("--method", "dhn", "--dataset", "cifar10-1", "--root", "x", "--code-length", "12",
                             "--arch", "vgg16", "--batch-size", "8", "--lr", "1e-4", "--max-iter", "5",
                             "--num-workers", "0", "--topk", "50", "--gpu", "False", "--lamda", "0.5",
                             "--seed", "3367", "--evaluate-interval", "10")
    assert [recipe[key] for key in ("bit", "data_path", "backbone", "learning_rate", "epoch", "topK",
                                    "eval_epoch")] == [12, "x", "vgg16", 1e-4, 5, 50, 10]
    assert recipe["lamda"] == 0.5 and run["device"] == "cpu"


@pytest.mark.parametrize("argv, words", [
    (["--bitt", "16"], ["--bitt", "--bit"]),
    (["--bit", "0"], ["bit", "1 to 1024"]),
    (["--bit", "1025"], ["bit", "1 to 1024"]),
    (["--bit", "many"], ["bit", "whole number"]),
    (["--method", "hashnt"], ["hashnt", "hashnet"]),
    (["--optimizer", "adm"], ["optimizer", "adam"]),
    (["--learning-rate", "-1"], ["learning_rate", "at least 0"]),
    (["--method", "hashnet", "--lamda", "1"], ["lamda", "dhn"]),
    (["-o", "alpa=1"], ["alpa", "alpha"]),
    (["-o", "alpha"], ["KEY=VALUE"]),
    (["--config", "none.yaml"], ["none.yaml"]),
    (["--eval"], ["--pretrained"]),
    (["--crop-size", "300"], ["crop_size", "resize_size"]),
    (["--device", "gpu:x"], ["device", "gpu:N"]),
    (["--learning-rate", "inf"], ["learning_rate", "finite"]),
    (["--epoch", "0"], ["epoch", "at least 1"]),
    (["--resume", "a", "--pretrained", "b"], ["--resume", "--pretrained"]),
])
def test_one_line_for_a_mistake(argv, words):
    with pytest.raises(InputError) as caught:
        resolve(*argv)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words)


@pytest.mark.parametrize("text, word", [("metod: hashnet\n", "method"), ("bit: [1\n", "YAML"), ("- 1\n", "key: value"),
                                        ("bit: x\n", "whole number"), ("by_bit: 5\n", "by_bit"),
                                        ("by_bit: {64: 5}\n", "by_bit"), ("bit: \xe9\n", "YAML")])
def test_broken_recipe_files(tmp_path, text, word):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=word):
        resolve("--config", str(path))


def test_written_recipe_reads_back(tmp_path):
    recipe = resolve("--method", "hashnet", "--bit", "12")[0]
    write_recipe(str(tmp_path / "recipe.yaml"), recipe)
    assert resolve("--config", str(tmp_path / "recipe.yaml"))[0] == recipe


def test_checkpoint_decides_what_it_was_made_with():
    made = resolve("--method", "hashnet", "--bit", "16")[0]
    assert resolve("--eval", "--pretrained", "x", base=lambda path: made)[0]["bit"] == 16
    with pytest.raises(InputError, match="bit = 16, not 32"):
        resolve("--eval", "--pretrained", "x", "--bit", "32", base=lambda path: made)
    with pytest.raises(InputError, match="learning_rate"):
        resolve("--resume", "x", "--lr", "0.5", base=lambda path: made)


def test_evaluation_on_other_data_forgets_what_belonged_to_the_training_data():
    made = {**resolve("--method", "hashnet", "--num-train", "64", "--dataset", "shapes", "--data-path", "here")[0],
            "topK": 7}

    def evaluate(*more):
        return resolve("--eval", "--pretrained", "runs/a/best.safetensors", *more, base=lambda path: made)

    recipe, run, _ = evaluate()
    assert (recipe["num_train"], recipe["data_path"], recipe["topK"]) == (64, "here", 7)
    assert run["output_dir"] == os.path.join("runs", "a", "eval")
    recipe, run, _ = evaluate("--dataset", "coco", "--data-path", "there")
    assert (recipe["num_train"], recipe["data_path"], recipe["topK"]) == (None, "there", None)
    assert run["output_dir"] == os.path.join("runs", "a", "eval_coco")


def test_a_resumed_run_stays_in_its_folder():
    made = resolve("--method", "hashnet")[0]
    assert resolve("--resume", "runs/a/latest.safetensors", base=lambda path: made)[1]["output_dir"] == "runs/a"


def test_every_key_is_a_name_once():
    assert len(RECIPE) + len(RUN) == len({*RECIPE, *RUN}) == sum(len(group) for group in GROUPS.values())


@pytest.mark.parametrize("path", sorted(glob.glob("configs/*/*.yaml")))
def test_every_recipe_loads(path):
    with open(path) as file:
        settings = yaml.safe_load(file)
    served = settings.pop("datasets", [])
    for dataset in [*served, *([] if served and "dataset" not in settings else [None])]:
        recipe, _, _ = resolve("--config", path, *(["--dataset", dataset] if dataset else []))
        assert recipe["method"] == path.split(os.sep)[1] == settings["method"]
        wanted = {**settings, "dataset": dataset} if dataset else settings
        for key, value in wanted.items():
            assert key == "by_bit" or recipe[key] == (float(value) if isinstance(recipe[key], float) else value)
        protocol = PROTOCOLS.get(recipe["dataset"])
        assert "topK" not in settings or protocol is None or settings["topK"] != protocol.topk, \
            "the protocol's topK need not be said"


@pytest.mark.parametrize("method", METHODS)
def test_recipes_of_a_folder_name_protocols_and_every_set_finds_its_own(method):
    folder = os.path.join("configs", method)
    for name, path in recipe_files(folder).items():
        if name in PROTOCOLS:
            recipe, _, source = resolve("--method", method, "--dataset", name)
            assert (recipe["dataset"], source) == (name, path)
        with open(path) as file:
            settings = yaml.safe_load(file)
        assert set(settings.get("datasets", [settings.get("dataset", "shapes")])) <= set(PROTOCOLS)


def test_one_recipe_for_several_sets(tmp_path):
    folder = tmp_path / "dhn"
    folder.mkdir()
    (folder / "own.yaml").write_text("datasets: [coco, voc2012]\nmethod: dhn\nepoch: 7\n")
    (folder / "wiki.yaml").write_text("method: dhn\ndataset: wiki\ndatasets: [wiki, mirflickr]\nepoch: 8\n")

    def epochs(dataset, *more):
        recipe, _, _ = parse(["--method", "dhn", "--dataset", dataset, *more], METHODS, find_method, str(tmp_path))
        assert recipe["dataset"] == dataset
        return recipe["epoch"]

    assert [epochs("coco"), epochs("voc2012"), epochs("wiki"), epochs("imagenet")] == [7, 7, 8, RECIPE["epoch"].default]
    assert epochs("mirflickr") == 8
    assert parse(["--config", str(folder / "wiki.yaml")], METHODS, find_method, str(tmp_path))[0]["dataset"] == "wiki"
    assert epochs("wiki", "--config", str(folder / "own.yaml")) == 7
    with pytest.raises(InputError, match="--dataset one of coco, voc2012"):
        parse(["--config", str(folder / "own.yaml")], METHODS, find_method, str(tmp_path))
    for served in ("[coco]", "[wiki]"):
        (folder / "two.yaml").write_text(f"datasets: {served}\n")
        with pytest.raises(InputError, match=f"(own|wiki).yaml and .*two.yaml are both for dataset {served[1:-1]}"):
            parse(["--method", "dhn", "--dataset", "voc2012"], METHODS, find_method, str(tmp_path))
    for wrong in ("datasets: coco\n", "datasets: []\n", "datasets: [1]\n"):
        (folder / "two.yaml").write_text(wrong)
        with pytest.raises(InputError, match="two.yaml: datasets"):
            parse(["--method", "dhn", "--dataset", "voc2012"], METHODS, find_method, str(tmp_path))
