#!/usr/bin/env python
"""Lists of the COCO protocol from the official annotation files.

python data/coco/make_lists.py --root COCO2014 [--seed 0]  =  python -m utils.datasets make coco --root COCO2014
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

from utils.datasets.__main__ import main  # noqa: E402
from utils.errors import run_main  # noqa: E402

if __name__ == "__main__":
    run_main(lambda argv: main(["make", "coco", *argv]))
