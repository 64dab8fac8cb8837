"""``python -m models``: the methods, their kinds, code lengths and recipes.

    python -m models                  show them
    python -m models table            write the tables of methods in README.md and README_cn.md
    python -m models table --check    fail where a table differs
    python -m models new NAME         write models/NAME.py, a method that works, and configs/NAME/shapes.yaml
    python -m models new NAME --dir DIR      the same outside of this project; see CONTRIBUTING.md

A table stands between two marks, which are comments in Markdown.
"""
import os
import re

from models import METHODS
from models._new import write_skeleton
from utils.config import recipe_files
from utils.errors import InputError, run_main
from utils.files import write_text
from utils.flags import read_options
from utils.settings import Setting

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = re.compile(r"(?<=<!-- python -m models table -->\n).*?(?=\n<!-- end of table -->)", re.S)
# file -> heading of its table, and what a method learns from
TABLES = {"README.md": (("method", "paper", "learns from", "bits"),
                        {"labels": "labels", "image": "images", "text": "texts", "and": " and "}),
          "README_cn.md": (("方法", "论文", "学习依据", "比特数"),
                           {"labels": "标签", "image": "图像", "text": "文本", "and": "与"})}


def learns_from(method, words):
    """What a method's loss looks at beside the pictures that it codes, in the given words."""
    needed = ["labels"] if method.kind == "supervised" else method.modalities
    return words["and"].join(words[name] for name in needed)


def table(heading, words):
    """The registry as a Markdown table."""
    rows = [heading, ["--"] * len(heading)]
    rows += [(f"`{name}`", method.paper, learns_from(method, words), " ".join(map(str, method.bit_lengths)))
             for name, method in METHODS.items()]
    return "\n".join(f"| {' | '.join(row)} |" if row[0] != "--" else f"|{'|'.join(row)}|" for row in rows)


def write_tables(check):
    """Write the tables into their files; with ``check`` only compare.

    Raises:
        InputError: a file without the marks of a table, or (``check``) with another one.
    """
    for name, (heading, words) in TABLES.items():
        path = os.path.join(ROOT, name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if not TABLE.search(text):
            raise InputError(f"{name}: no lines <!-- python -m models table --> and <!-- end of table -->")
        new = TABLE.sub(lambda _: table(heading, words), text, count=1)
        if check and new != text:
            raise InputError(f"the table of methods in {name} is not current; run python -m models table")
        write_text(path, new)


def show():
    """Print the registry."""
    print(f"{'method':<12}{'kind':<14}{'modalities':<13}{'bits':<20}recipes (configs/<method>/)")
    for name, method in METHODS.items():
        recipes = sorted(recipe_files(os.path.join(ROOT, "configs", name)))
        print(f"{name:<12}{method.kind:<14}{'+'.join(method.modalities):<13}"
              f"{' '.join(map(str, method.bit_lengths)):<20}{' '.join(recipes)}")


def new(argv):
    """NAME [--dir DIR]: write the skeleton, say how to go on."""
    options = read_options(argv, "-m models new", "A method that works, to start from.",
                           {"dir": Setting(None, "folder for it; default this project", shown="DIR")},
                           {"name": Setting(None, "of the method, such as my_hash")})
    file, recipe = write_skeleton(options.name, options.dir)
    method = file if options.dir else options.name
    print(f"wrote {file} and {recipe}; try it:\npython main_single_gpu.py --method {method} --dataset shapes --bit 16")


def main(argv):
    """Run a command line."""
    command, rest = (argv[0], argv[1:]) if argv else ("show", [])
    if command == "show" and not argv:
        show()
    elif command == "table" and rest in ([], ["--check"]):
        write_tables("--check" in rest)
    elif command == "new":
        new(rest)
    elif command in ("-h", "--help"):
        print(__doc__)
    else:
        raise InputError(f"unknown argument {' '.join(argv)}; python -m models --help")


if __name__ == "__main__":
    run_main(main)
