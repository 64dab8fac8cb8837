"""What happens behind the back of an open index: it is built anew, or a writer was killed."""
import dataclasses

import pytest

from deploy.index import milvus_client, open_index
from tests.indexes import FINGERPRINT, Place, Reference, agree, make, stop_servers
from utils.errors import InputError

SERVER = pytest.param("server", marks=pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def servers():
    yield
    stop_servers()


@pytest.fixture
def place(request, tmp_path):
    return Place(request.param, tmp_path)


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
