"""What happens behind the back of an open index (it is built anew, a writer was killed); bounds of an engine."""
import dataclasses

import pytest

from deploy.index import milvus_client, milvus_index, open_index
from deploy.index.base import Unavailable
from deploy.index.question import Question, ask
from tests.indexes import FINGERPRINT, Reference, agree, make
from utils.errors import InputError

SERVER = pytest.param("server", marks=pytest.mark.slow)


@pytest.mark.parametrize("place", ["exact", "faiss", SERVER], indirect=True)
def test_built_anew_while_it_is_open(place):
    """A file of milvus-lite has one owner: there is nobody who could."""
    old, new = make(6), make(9, seed=1, prefix="new/")
    reader = place.build(old)
    place.build(new, reader.uri, overwrite=True).close()
    with open_index(reader.uri, FINGERPRINT) as strict:
        assert reader.refresh() and not strict.refresh() and len(reader) == 9
        agree(reader, Reference(new), new.codes[:2])
        place.build(dataclasses.replace(new, fingerprint="feed"), reader.uri, overwrite=True).close()
        assert reader.refresh() and reader.info.fingerprint == "feed"
        for _ in range(2):  # who asks with a model must not be answered with another one's codes
            with pytest.raises(InputError, match="another model.*feed.*0123456789abcdef"):
                strict.refresh()
    reader.close()


@pytest.mark.parametrize("place", ["lite", SERVER], indirect=True)
def test_an_item_that_stands_twice(place):
    """Milvus knows no transactions: a writer that is killed while it replaces leaves both. The next one clears up."""
    codes, again = make(6), dataclasses.replace(make(2, seed=5), ids=["images/1.jpg", "images/2.jpg"])
    index, reference = place.build(codes), Reference(codes)
    milvus_client.insert(index._client, index._name, milvus_client.Clock().positions(2), again)
    assert len(index) == 8
    with pytest.raises(InputError, match="'images/1.jpg', 'images/2.jpg' are more than once.*--replace"):
        index.check()
    assert index.get(again.ids).codes.tolist() == again.codes.tolist()  # the newest
    assert index.remove(["images/1.jpg"]) == ["images/1.jpg"] and not index.has(["images/1.jpg"]).any()
    newest = make(1, seed=6, prefix="images/2.jpg")
    newest.ids = ["images/2.jpg"]
    assert index.add(newest, replace=True).replaced == 1
    reference.remove(["images/1.jpg"])
    reference.add(newest)
    agree(index, reference, newest.codes)
    index.check()
    index.close()


@pytest.mark.parametrize("place", ["lite", SERVER], indirect=True)
def test_more_items_than_milvus_gives_at_once(place, monkeypatch):
    monkeypatch.setattr(milvus_index, "MOST", 50)
    codes = make(300, distinct=12)
    index, reference = place.build(codes), Reference(codes)
    for k in (49, 50, 51, 120, 299, 300, 1000):
        agree(index, reference, codes.codes[:1], k=k, radius=9)
    agree(index, reference, codes.codes[:1], k=60, label=1)
    index.close()


@pytest.mark.parametrize("place", ["lite", SERVER], indirect=True)
def test_items_that_go_while_they_are_asked_for(place, monkeypatch):
    """Between the search and the look at its codes: asked again, and no error of whoever asked."""
    codes = make(60, relaxed=True)
    index, reference = place.build(codes), Reference(codes)
    ask_for = type(index).take
    gone = iter(codes.ids[:3])

    def take(self, positions):
        name = next(gone, None)
        if name is not None:
            self.remove([name])
            reference.remove([name])
        return ask_for(self, positions)
    monkeypatch.setattr(type(index), "take", take)
    found, = ask(index, codes.codes[:1], Question(100, collapse=0), leave_out=[None])
    assert len(reference.items) == 57 and sorted(match.id for match in found) == sorted(
        item[0] for item in reference.items)
    gone = iter(codes.ids[10:40])  # without end: it is said
    with pytest.raises(Unavailable, match="removed while they were asked for"):
        ask(index, codes.codes[:1], Question(100, collapse=0), leave_out=[None])
    index.close()
