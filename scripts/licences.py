"""What is installed here, with versions and licences: ``python scripts/licences.py``."""
import importlib.metadata


def licence(metadata):
    """The licence that a distribution names, in one line: an expression, else classifiers, else its text's start."""
    expression = metadata.get("License-Expression")
    classes = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", ())
               if line.startswith("License :: ") and line.count(" :: ") > 1]
    text = (metadata.get("License") or "").strip().splitlines()
    return expression or ", ".join(classes) or (text[0][:60] if text else "") or "not stated"


def main():
    """Print a line a package, sorted by name."""
    rows = {}
    for found in importlib.metadata.distributions():
        name = found.metadata["Name"]
        rows.setdefault(name.lower(), (name, found.version, licence(found.metadata)))  # the first on the path counts
    for name, version, words in (rows[key] for key in sorted(rows)):
        print(f"{name:32} {version:16} {words}")


if __name__ == "__main__":
    main()
