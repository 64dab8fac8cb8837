"""``python -m models``: the methods, their kinds, code lengths and recipes."""
import pathlib

from models import METHODS
from utils.errors import run_main


def main(argv):
    recipes = pathlib.Path(__file__).resolve().parent.parent / "configs"
    print(f"{'method':<9}{'kind':<14}{'modalities':<13}{'bits':<20}recipes (configs/<method>/)")
    for name, method in METHODS.items():
        found = sorted(path.stem for path in (recipes / name).glob("*.yaml"))
        print(f"{name:<9}{method.kind:<14}{'+'.join(method.modalities):<13}"
              f"{' '.join(map(str, method.bit_lengths)):<20}{' '.join(found)}")


if __name__ == "__main__":
    run_main(main)
