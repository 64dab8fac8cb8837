"""What goes in and out as JSON: the OpenAPI document is made of it."""
from typing import List, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field

MOST_K, MOST_FIRST, MOST_PAGE, MOST_REMOVED = 1000, 10_000, 1000, 1000


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid")


class Words(Strict):
    """A query in words."""

    text: str = Field(min_length=1, max_length=2000, description="words, in any language that the model has learned")


class ItemId(Strict):
    """An item of the index as a query."""

    id: str = Field(min_length=1, max_length=4096)


class Match(BaseModel):
    """One place of an answer."""

    rank: int
    id: str
    distance: int = Field(description="bits that differ from the query")
    code: str = Field(description="the item's code, hex digits in the order of numpy.packbits")
    labels: Optional[List[str]] = Field(description="null where the index has no labels")
    thumbnail: Optional[str] = Field(description="address of a small picture, relative to the service; null without")
    score: Optional[float] = Field(None, description="of a finer ranking")
    count: Optional[int] = Field(None, description="with collapse: items that share the place")
    others: Optional[List[str]] = Field(None, description="with collapse: ids of the first of these")


class Answer(BaseModel):
    """Nearest items, best first."""

    code: str = Field(description="the query's code")
    bits: int
    engine: str
    exact: bool
    items: int = Field(description="of the index")
    rank: str
    matches: List[Match]


class Row(BaseModel):
    """An item of a page."""

    id: str
    code: str
    labels: Optional[List[str]]
    thumbnail: Optional[str]


class Page(BaseModel):
    """Items in their order."""

    items: int = Field(description="of the index, not of the page")
    page: List[Row]
    after: Optional[str] = Field(description="where the next page begins; null at the end. Text: Milvus counts beyond "
                                 "the numbers that JavaScript can hold")


class Added(BaseModel):
    """An item that is kept from now on."""

    id: str
    replaced: bool


class Removed(BaseModel):
    """Items that are gone."""

    removed: List[str]


class Info(BaseModel):
    """What the service is."""

    version: str
    method: str
    bits: int
    fingerprint: str
    precision: str
    runs: str = Field(description="what runs the model")
    engine: str = Field(description="of the index")
    exact: bool
    items: int
    classes: List[str]
    labels: Optional[int] = Field(description="number of label columns, null without labels")
    relaxed: bool = Field(description="whether the index keeps relaxed codes")
    pictures: bool = Field(description="whether it takes pictures as queries")
    words: bool = Field(description="whether it takes words as queries")
    writable: bool
    upload_bytes: int = Field(description="most bytes of a picture")


class Health(BaseModel):
    """State of the process."""

    status: Literal["ok", "not ready"]


class Fault(BaseModel):
    """What is wrong and what to do, in one line."""

    error: str
