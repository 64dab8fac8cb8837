"""Rows of a manifest, CSV, TSV or JSONL, and what its columns are."""
import collections
import csv
import io

from utils.datasets.own.item_table import complain, first_of
from utils.datasets.text_files import read_lines
from utils.errors import InputError
from utils.plain_json import parse_json

COLUMNS = {"path": ("path", "image", "file", "filename"), "label": ("labels", "label", "classes", "class"),
           "text": ("text", "caption"), "split": ("split",)}
# taken for the labels where none of the names above is there
LABELS_TOO = ("target", "targets", "category", "categories", "class_id", "label_id", "class_name", "label_name")


def csv_rows(path, on_fault):
    """([(row number, dict field -> cell)], names of 0/1 columns, notes) of a CSV or TSV file with a header line.

    Without a labels column, columns of 0 and 1 are classes: what a column is, all rows decide.

    Raises:
        InputError: broken CSV, a header without a path, an empty file; without ``on_fault`` the first bad row.
    """
    text = "\n".join(read_lines(path))
    first = text.split("\n", 1)[0]
    delimiter = "\t" if path.lower().endswith(".tsv") else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, header, start = [], None, 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}:{start}: broken CSV ({error}); is a quote missing?") from error
        line, start = start, reader.line_num + 1
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            try:
                found = _columns(header)
            except ValueError as error:
                complain(f"{path}:{line}: {error}", None)
            continue
        if len(cells) != len(header):
            complain(f"{path}:{line}: {len(cells)} columns where {len(header)} are expected", on_fault)
            continue
        rows.append((line, cells))
    if header is None:
        raise InputError(f"{path} is empty; its first line must name the columns: path, and labels, text, split")
    return _sorted_out(path, header, found, rows, on_fault)


def _sorted_out(path, header, found, rows, on_fault):
    """As ``csv_rows``, of all cells."""
    place_of = {name: i for i, name in reversed(list(enumerate(header)))}
    places = {field: place_of[name] for field, name in found.items()}
    others = sorted(set(range(len(header))) - set(places.values()))
    classes = [] if "label" in places or not rows else \
        [i for i in others if _are_labels(header[i], [cells[i] for _, cells in rows])]
    out = []
    for line, cells in rows:
        row = {field: cells[i] for field, i in places.items()}
        if classes:
            bad = next((i for i in classes if cells[i].strip() not in ("0", "1")), None)
            if bad is not None:
                complain(f"{path}:{line}: column {header[bad]} is '{cells[bad][:20]}', it must be 0 or 1 as in most "
                         "rows (or name the classes in a column labels)", on_fault)
                continue
            row["label"] = [int(cells[i]) for i in classes]
        out.append((line, row))
    ignored = [header[i] or f"column {i + 1}" for i in sorted(set(others) - set(classes))]
    notes = [f"columns that are not used: {first_of(ignored, 8)}"] if ignored else []
    return out, [header[i] for i in classes], _about_labels(found.get("label")) + notes


def _about_labels(name):
    """List with a note where a column of an unusual name is taken for the labels."""
    return [f"column {name} is taken for the labels"] if name and name.lower() in LABELS_TOO else []


def _are_labels(name, cells):
    """Whether a column is a class: 0 or 1 in most rows. The index that pandas writes, without a name, is none."""
    if not name or name.lower().startswith("unnamed:"):
        return False
    values = collections.Counter(cell.strip() for cell in cells)
    if set(values) <= {"0", "1"}:
        return True
    running = len(values) == len(cells) > 2 and all(value.isdigit() for value in values)
    return not running and 2 * (values["0"] + values["1"]) >= len(cells)


def _columns(names):
    """dict field -> name of its column. Raises ValueError."""
    names_of = collections.defaultdict(list)
    for name in names:
        names_of[name.lower()].append(name)
    twice = next((name for name, some in names_of.items() if name and len(some) > 1), None)
    if twice:
        raise ValueError(f"two columns are named {twice}")
    found = {}
    for field, known in COLUMNS.items():
        here = [name for word in known for name in names_of.get(word, ())]
        if field == "label" and not here:
            here = [name for word in LABELS_TOO for name in names_of.get(word, ())]
        if len(here) > 1:
            raise ValueError(f"{' and '.join(here)} both name the {field}; keep one of them")
        if here:
            found[field] = here[0]
    if "path" not in found:
        raise ValueError(f"no column path (or image, file, filename); there are "
                         f"{first_of([' '.join(name.split()) for name in names], 8)}")
    return found


def json_rows(path, on_fault):
    """As ``csv_rows``, of a file with a JSON object a line."""
    rows, found = [], {}
    for line, text in enumerate(read_lines(path), 1):
        if not text.strip():
            continue
        try:
            value = parse_json(text)
        except ValueError as error:
            complain(f"{path}:{line}: broken JSON ({error})", on_fault)
            continue
        if not isinstance(value, dict):
            complain(f"{path}:{line}: not a JSON object like {{\"path\": ..., \"labels\": [...]}}", on_fault)
            continue
        keys = tuple(value)
        try:
            found[keys] = found.get(keys) or _columns(keys)
        except ValueError as error:
            complain(f"{path}:{line}: {error}", on_fault)
            continue
        rows.append((line, {field: value[name] for field, name in found[keys].items()}))
    used = {name for names in found.values() for name in names.values()}
    ignored = sorted({key for keys in found for key in keys} - used)
    labels = sorted({names["label"] for names in found.values() if "label" in names})
    notes = [note for name in labels for note in _about_labels(name)]
    return rows, [], notes + ([f"keys that are not used: {first_of(ignored, 8)}"] if ignored else [])
