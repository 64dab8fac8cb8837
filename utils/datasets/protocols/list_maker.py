"""Lists that a maker draws from official files: how they are written, read back and compared with what was asked for.

A folder of such lists holds train.txt, query.txt, database.txt, classes.txt, perhaps more, and lists.json: protocol,
seed, counts and the SHA-256 of every file. Lists of other people, without lists.json, are read as they are.
"""
import json
import os
import tempfile

from utils.datasets import lists
from utils.datasets.base import need_folder
from utils.errors import InputError, printable
from utils.files import sha256_file, write_json

RECORD = "lists.json"


def list_texts(paths, labels, rows, classes):
    """dict file name -> text of the three lists and classes.txt.

    Args:
        paths: list of str; labels: uint8 [N, C]; rows: dict split -> positions; classes: names of the C columns.
    """
    texts = {f"{split}.txt": lists.write_lines([paths[i] for i in some], labels[some]) for split, some in rows.items()}
    texts["classes.txt"] = "".join(f"{name}\n" for name in classes)
    return texts


def write(folder, protocol, seed, texts, **more):
    """Write all files, or none (they are written beside, then renamed; lists.json is the last).

    Args:
        texts: dict file name -> text. more: what else lists.json should say.

    Returns:
        the record that lists.json holds.

    Raises:
        InputError: the folder cannot be written.
    """
    counts = {split: texts[f"{split}.txt"].count("\n") for split in ("query", "train", "database")}
    record = {"protocol": protocol, "seed": seed, **more, "counts": counts}
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as temporary:
            for name, text in texts.items():
                with open(os.path.join(temporary, name), "w", encoding="utf-8", newline="\n") as file:
                    file.write(text)
            record["sha256"] = {name: sha256_file(os.path.join(temporary, name)) for name in texts}
            for name in texts:
                os.replace(os.path.join(temporary, name), os.path.join(folder, name))
    except OSError as error:
        raise InputError(f"cannot write the lists to {folder}: {error.strerror or error}") from error
    write_json(os.path.join(folder, RECORD), record)
    return record


def show(folder, record):
    """Print what was made: folder, notes, and the counts and SHA-256 of the files."""
    print(printable(f"{record['protocol']}: lists in {folder}, seed {record['seed']}"))
    for key, value in record.items():
        if key not in ("protocol", "seed", "counts", "sha256"):
            value = ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else value
            print(printable(f"  {key.replace('_', ' ')}: {value}"))
    for name, digest in record["sha256"].items():
        print(f"  {name:<13}{record['counts'].get(name[:-len('.txt')], ''):>7}  sha256 {digest}")


def recorded(list_dir, protocol):
    """lists.json of a folder as a dict; empty where there is none, as beside lists of other people.

    Raises:
        InputError: it is broken, or belongs to the lists of another protocol.
    """
    path = os.path.join(list_dir, RECORD)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        record["seed"] = int(record["seed"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is broken; make the lists again") from error
    if record.get("protocol") != protocol:
        raise InputError(f"the lists in {list_dir} are those of {record.get('protocol')}, not of {protocol}; "
                         "choose another --list-dir")
    return record


def load(protocol, root, list_dir, seed, sizes, topk, on_fault):
    """Protocol from the lists in ``list_dir``; ``seed`` counts where no lists.json tells what they were drawn from.

    Args:
        root: folder that the paths start from; sizes: what the lists must hold (num_query, num_train), if given.

    Raises:
        InputError: no lists, lists of another protocol or size, and as ``lists.load_lists``.
    """
    list_dir = os.fspath(list_dir)
    if len(lists.find_lists(list_dir)) < len(lists.LIST_NAMES):
        raise InputError(f"no {protocol} lists in {list_dir}; make them: python -m utils.datasets make {protocol} "
                         f"--root DIR, or name the folder of yours with --list-dir")
    seed = recorded(list_dir, protocol).get("seed", seed)
    loaded = lists.load_lists(protocol, root, list_dir, seed, topk, on_fault)
    for split, size in ((loaded.query, sizes.get("num_query")), (loaded.train, sizes.get("num_train"))):
        if size is not None and len(split) != size:
            raise InputError(f"{split.list_file} holds {len(split)} items, not {size}; the sizes are set when the "
                             f"lists are made (python -m utils.datasets make {protocol})")
    return loaded


def find_folder(root, places, mark, what):
    """The first of ``places`` (sub-folders of ``root``; "" = itself) that holds ``mark``, a file or folder.

    Raises:
        InputError: there is no root, or none of them does; ``what`` says what is expected, and from where.
    """
    root = need_folder(root, what)
    for place in places:
        if os.path.exists(os.path.join(root, place, mark)):
            return os.path.normpath(os.path.join(root, place))
    raise InputError(f"{os.path.join(root, places[0], mark)} is missing; {root} should hold {what}")


def listing(folder, what):
    """Sorted names in a folder, read once. Raises InputError where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}; it should hold {what}") from None
