"""``python -m models``: the methods, their kinds, code lengths and recipes."""
import os

from models import METHODS
from utils.config import recipe_files
from utils.errors import run_main

CONFIGS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs")


def main(argv):
    print(f"{'method':<12}{'kind':<14}{'modalities':<13}{'bits':<20}recipes (configs/<method>/)")
    for name, method in METHODS.items():
        print(f"{name:<12}{method.kind:<14}{'+'.join(method.modalities):<13}"
              f"{' '.join(map(str, method.bit_lengths)):<20}{' '.join(sorted(recipe_files(os.path.join(CONFIGS, name))))}")


if __name__ == "__main__":
    run_main(main)
