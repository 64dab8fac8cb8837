"""The reader of strangers' pickles: what Python writes comes back, what it must not do it refuses."""
import collections
import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils.safe_pickle import Array, PickleError, load

PROTOCOLS = st.integers(2, 5)
KEYS = st.one_of(st.text(max_size=8), st.integers(-2**31, 2**31 - 1))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2**200, 2**200), st.floats(allow_nan=False), st.text(max_size=20),
              st.binary(max_size=300)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(KEYS, inner, max_size=5),
                            st.lists(inner, max_size=5).map(tuple)), max_leaves=20)
KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u4", "b1")
NUMBERS = [np.dtype(order + kind) for order in "<>" for kind in KINDS]
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


def plain(value):
    """Arrays in place of their stand-ins."""
    if isinstance(value, Array):
        return value.array
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, (list, tuple)) else value


@settings(max_examples=200, deadline=None)
@given(value=VALUES, protocol=PROTOCOLS)
def test_plain_values_come_back(value, protocol):
    data = pickle.dumps(value, protocol)
    assert load(b"before" + data + b"behind", 6) == (value, 6 + len(data))


@settings(max_examples=200, deadline=None)
@given(array=st.sampled_from(NUMBERS).flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0))),
       protocol=PROTOCOLS, fortran=st.booleans())
def test_arrays_come_back(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    read, _ = load(pickle.dumps(collections.OrderedDict(w=(("name", array), [array])), protocol))
    (_, first), (second,) = plain(read)["w"]
    for one in (first, second):
        assert one.dtype == array.dtype and one.shape == array.shape and one.tobytes() == array.tobytes()
        assert not one.flags.writeable


@settings(max_examples=400, deadline=None)
@given(value=VALUES, protocol=PROTOCOLS, edits=EDITS)
def test_changed_bytes_are_read_or_refused(value, protocol, edits):
    data = bytearray(pickle.dumps({"w": np.arange(5.0), "x": value}, protocol))
    for where, byte in edits:
        data[int(where * len(data))] = byte
    try:
        load(bytes(data))
    except PickleError:
        pass


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise_is_refused(data):
    with pytest.raises(PickleError):
        load(b"\x80\x02" + data.replace(b".", b"") + b"\xff")


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("evil", [
    Call(os.system, "true"), Call(eval, "1"), Call(getattr, "x", "upper"), Call(print, "x"), Call(bytes, 10),
    Call(list, "x"), Call(dict, {}), np.dtype("O"), np.array([None]), np.dtype([("a", "f4")]), np.array(["text"]),
    {1, 2}, frozenset([1]), 1j, {(1, 2): 3}, {None: 1}, {1 << 40: 1}, {1.5: 1}, range(3), Ellipsis])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_everything_else_is_refused_by_name(evil, protocol):
    with pytest.raises(PickleError) as caught:
        load(pickle.dumps({"w": evil}, protocol))
    assert str(caught.value)


def test_a_name_of_the_caller_and_a_persistent_id():
    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", 7) if value == "stored" else None

    out = io.BytesIO()
    Pickler(out, 2).dump(["stored", "plain"])
    assert load(out.getvalue(), persistent=lambda pid: pid[1])[0] == [7, "plain"]
    with pytest.raises(PickleError, match="storage"):
        load(out.getvalue())
