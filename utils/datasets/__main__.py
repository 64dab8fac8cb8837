"""python -m utils.datasets list | make NAME | check NAME | download NAME | shard NAME"""
import argparse
import sys

from utils.datasets import download
from utils.datasets.check import check, report
from utils.datasets.labels import FORMS
from utils.datasets.names import PROTOCOLS, find_data_set, load_data_set, make_request
from utils.datasets.own import write_shards
from utils.errors import InputError, run_main


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message}; see python -m utils.datasets --help")


def main(argv):
    """Parse and run one command."""
    options = _parse(argv)
    if options.command == "list":
        print("\n".join(overview()))
        return
    if options.command == "download":
        download.command(options, PROTOCOLS)
        return
    data_set = find_data_set(options.name, options.root)
    request = make_request(data_set, options.root, options.seed, options.list_dir,
                           {**{size: getattr(options, size) for size in _size_names()}, "labels": options.labels})
    if options.command == "make":
        if data_set.make is None:
            raise InputError(f"{data_set.name} needs no lists; look at it with: python -m utils.datasets check "
                             f"{data_set.name}")
        data_set.make(request, options.any_count)
    elif options.command == "shard":
        write_shards.command(options, lambda: load_data_set(data_set, request), options.name in PROTOCOLS)
    else:
        protocol, faults = check(data_set, request, options.fast, options.workers)
        print("\n".join(report(data_set.name, protocol, faults, options.fast)))
        if faults:
            sys.exit(1)


def overview():
    """Lines of ``list``."""
    widest = max(len(known.licence) for known in PROTOCOLS.values()) + 2
    lines = [f"{'name':<22}{'query':>7}{'train':>7}{'database':>9}{'classes':>8}{'mAP@':>6}  "
             f"{'train in database':<19}{'licence':<{widest}}where to obtain"]
    for known in PROTOCOLS.values():
        query, train, database = known.counts
        lines.append(f"{known.name:<22}{query:>7}{train:>7}{database or 'rest':>9}{known.classes:>8}"
                     f"{known.topk or 'all':>6}  {'yes' if known.inside else 'no':<19}"
                     f"{known.licence or 'see there':<{widest}}{known.obtain}")
    lines.append("or your own pictures: a folder (a sub-folder a class, or flat), a manifest (.csv, .tsv, .jsonl) or "
                 "an image list (.txt); see data/README.md")
    lines.append("or a file of image and text features: .npz, .mat (utils/datasets/matrices/feature_files.py says how)")
    return lines


def _size_names():
    return sorted({size for known in PROTOCOLS.values() for size in known.sizes})


def _parse(argv):
    parser = _Parser(prog="python -m utils.datasets", description="Show, prepare and examine data sets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | make | check | download | shard")
    commands.add_parser("list", help="table of the protocols")
    download.add_command(commands)
    make = commands.add_parser("make", help="write what a protocol needs beside the images")
    make.add_argument("--any-count", action="store_true", help="accept other counts than the official files have")
    examine = commands.add_parser("check", help="name every fault; exit status 1 if there is one")
    examine.add_argument("--fast", action="store_true", help="read the headers of the images only")
    examine.add_argument("--workers", type=int, help="threads that read images (default: cores)")
    for command in (make, examine, write_shards.add_command(commands)):
        command.add_argument("name", help=f"{', '.join(PROTOCOLS)}, or a folder, manifest or list of your own "
                             "pictures")
        command.add_argument("--root", "--data-path", help="folder (CIFAR-10: or archive) with the data")
        command.add_argument("--list-dir", help="folder of the list files")
        command.add_argument("--seed", type=int, help="seed of the split")
        command.add_argument("--labels", choices=FORMS, help="of your own lists, manifests and feature files: index = "
                             "class numbers, multihot = 0/1 columns, auto = one column is index, several are multihot")
        for size in _size_names():
            command.add_argument(f"--{size.replace('_', '-')}", type=int, metavar="N", help="another split size")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
