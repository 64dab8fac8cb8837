"""Data sets: from a name or a path to the three splits, and what is wrong with them on this disk.

What may enter: readers of data and the rules that draw splits. ``protocols`` are the named sets, ``own`` a user's
pictures, ``matrices`` files of features. ``python -m utils.datasets list | make | check`` shows, prepares, examines.
"""
from utils.datasets.base import ArrayImages, DataSet, FileImages, Protocol, Split
from utils.datasets.names import PROTOCOLS, absolute_name, find_data_set, load_protocol, recognise

__all__ = ["ArrayImages", "DataSet", "FileImages", "PROTOCOLS", "Protocol", "Split", "absolute_name", "find_data_set",
           "load_protocol", "recognise"]
