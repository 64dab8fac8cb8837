"""The routes: from a request to what the Service does, and back."""
from typing import List, Optional
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from deploy.index.base import Where
from deploy.index.question import Question
from deploy.ranking import FIRST, RANKS
from deploy.service import schemas
from deploy.service.guard import Refused, to_json
from deploy.service.searcher import Item, Unknown
from deploy.service.searcher import Query as Asked
from deploy.service.service import check_id
from utils.errors import InputError

VERSION = "1"
JSON_BYTES = 1 << 16  # of a body in JSON
FAULTS = {"4XX": {"model": schemas.Fault, "description": "What is wrong and what to do"},
          "5XX": {"model": schemas.Fault, "description": "Not now"}}
router = APIRouter(responses=FAULTS)
api = APIRouter(prefix="/v1", responses=FAULTS)


class Json(Response):
    """JSON of any ids, whatever bytes their file names hold."""

    media_type = "application/json"

    def render(self, content):
        """The body."""
        return to_json(content)


def _service(request: Request):
    return request.app.state.service


def _body(model=None):
    """What the OpenAPI document says of a body that a route reads itself."""
    content = {"application/json": {"schema": model.model_json_schema()}} if model else \
        {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    about = "" if model else "the file of a picture: JPEG, PNG, WebP, GIF, BMP or TIFF"
    return {"requestBody": {"required": True, "content": content, **({"description": about} if about else {})}}


async def _picture_body(request, service):
    """Context manager of the bytes of a picture. Raises Refused for a form."""
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/"):
        raise Refused(415, "send the picture itself as the body, not a form: curl --data-binary @cat.jpg")
    return service.uploads.read(request)


async def _json_body(request, service, model):
    async with service.uploads.read(request, JSON_BYTES) as body:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise Refused(422, describe(error.errors()[0])) from None


def describe(fault):
    """One line of a fault that pydantic has found."""
    place = ".".join(str(part) for part in fault["loc"] if part not in ("query", "body", "path"))
    return f"{place}: {fault['msg']}" if place else fault["msg"]


# questions ----------------------------------------------------------------------------------
class Terms:
    """What a request wants to know: a Question, and the largest distance of an answer or None."""

    def __init__(self, service: object = Depends(_service),
                 k: int = Query(10, ge=1, le=schemas.MOST_K, description="places of the answer"),
                 radius: Optional[int] = Query(None, ge=0, le=1024, description="leave out what is farther away"),
                 label: Optional[str] = Query(None, max_length=1000, description="items with this label, by name or "
                                              "number"),
                 prefix: Optional[str] = Query(None, max_length=1024, description="items whose id begins so"),
                 rank: Optional[str] = Query(None, pattern=f"^({'|'.join(RANKS)})$", description="order of the first "
                                             "ones; the service's own by default"),
                 first: Optional[int] = Query(None, ge=1, le=schemas.MOST_FIRST, description="how many are ranked "
                                              "again; as the service by default"),
                 collapse: Optional[int] = Query(None, ge=0, le=1024, description="items within this distance of one "
                                                 "before them share its place; at most an eighth of the bits")):
        index = service.searcher.reader
        if collapse is not None and collapse > index.info.bits // 8:
            raise InputError(f"collapse = {collapse}: at most {index.info.bits // 8} of {index.info.bits} bits")
        column = None if label is None else index.label(label)
        self.radius = radius
        options = service.options
        self.question = Question(k, None, Where(column, prefix), rank or options.rank,
                                 first or options.first or FIRST, collapse)


def _thumbnail(service, name):
    """Address of an item's thumbnail, or None where it has no picture."""
    try:
        return "v1/thumbnail?id=" + quote(name, safe="/") if service.pictures.find(name) else None
    except UnicodeEncodeError:  # a file name that is no Unicode cannot stand in an address
        return None


def _answer(service, terms, found):
    index, matches = service.searcher.reader, []  # its attributes only: a question to it may take its time
    for match, code, labels in found.matches:
        if terms.radius is not None and match.distance > terms.radius:
            continue
        row = {"rank": len(matches) + 1, "id": match.id, "distance": match.distance, "code": code, "labels": labels,
               "thumbnail": _thumbnail(service, match.id)}
        row.update({} if match.score is None else {"score": round(match.score, 4)})
        row.update({} if match.count is None else {"count": match.count, "others": match.others})
        matches.append(row)
    return Json({"code": found.code, "bits": index.info.bits, "engine": index.engine, "exact": index.exact,
                 "items": found.items, "rank": terms.question.rank, "matches": matches})


@api.post("/search/picture", response_model=schemas.Answer, openapi_extra=_body(), summary="Items nearest to a picture")
async def picture(request: Request, terms: Terms = Depends(), service: object = Depends(_service)):
    """The body is the file of a picture."""
    async with await _picture_body(request, service) as data:
        service.metrics.add("deephash_upload_bytes_total", len(data))
        relaxed = await service.encode_picture(data)
    return _answer(service, terms, await service.ask(terms.question, Asked(relaxed)))


@api.post("/search/text", response_model=schemas.Answer, openapi_extra=_body(schemas.Words),
          summary="Items nearest to words (cross-modal models)")
async def text(request: Request, terms: Terms = Depends(), service: object = Depends(_service)):
    """Words in any language that the model has learned."""
    words = await _json_body(request, service, schemas.Words)
    relaxed = await service.encode_words(words.text)
    return _answer(service, terms, await service.ask(terms.question, Asked(relaxed)))


@api.post("/search/item", response_model=schemas.Answer, openapi_extra=_body(schemas.ItemId),
          summary="Items nearest to one of the index")
async def item(request: Request, terms: Terms = Depends(), service: object = Depends(_service)):
    """The item itself is left out."""
    wanted = await _json_body(request, service, schemas.ItemId)
    return _answer(service, terms, await service.ask(terms.question, Asked(None, wanted.id)))


# items --------------------------------------------------------------------------------------
@api.get("/items", response_model=schemas.Page, summary="Items in their order, by pages")
async def items(service: object = Depends(_service), label: Optional[str] = Query(None, max_length=1000),
                prefix: Optional[str] = Query(None, max_length=1024, description="items whose id begins so"),
                count: int = Query(20, ge=1, le=schemas.MOST_PAGE),
                after: int = Query(-1, ge=-1, lt=1 << 63, description="as the page before says")):
    """Filtered by label and the beginning of the id."""
    where = Where(None if label is None else service.searcher.reader.label(label), prefix)

    def page(index, _):
        positions, found = index.page(count, after, where)
        following = str(positions[-1]) if len(positions) == count else None
        rows = [(name, code.tobytes().hex(), index.label_names(None if found.labels is None else found.labels[i]))
                for i, (name, code) in enumerate(zip(found.ids, found.codes))]
        return len(index), rows, following
    total, rows, following = await service.look(page)
    return Json({"items": total, "after": following, "page": [
        {"id": name, "code": code, "labels": labels, "thumbnail": _thumbnail(service, name)}
        for name, code, labels in rows]})


@api.post("/items", response_model=schemas.Added, openapi_extra=_body(), summary="Add a picture", status_code=201)
async def add(request: Request, service: object = Depends(_service),
              id: str = Query(min_length=1, max_length=1024, description="a relative path, such as trip/1.jpg"),
              label: List[str] = Query([], max_length=1000, description="its labels"),
              replace: bool = Query(False, description="in the place of the item with this id, if there is one")):
    """When the answer comes, the item is on the disk, and found by the next question."""
    if service.searcher.changing is None:
        raise Refused(403, "this service is read-only")
    check_id(id)
    index = service.searcher.reader
    columns = [index.label(name) for name in label]
    async with await _picture_body(request, service) as data:
        service.metrics.add("deephash_upload_bytes_total", len(data))
        relaxed = await service.encode_picture(data)
        replaced = await service.change("replace" if replace else "add", Item(id, relaxed, columns, data))
    service.metrics.add("deephash_items_added_total")
    return Json({"id": id, "replaced": replaced}, status_code=201)


@api.delete("/items", response_model=schemas.Removed, summary="Remove items")
async def remove(service: object = Depends(_service),
                 id: List[str] = Query(min_length=1, max_length=schemas.MOST_REMOVED)):
    """When the answer comes, item and uploaded picture are gone. Pictures of the user's own folder stay."""
    await service.change("remove", id)
    service.metrics.add("deephash_items_removed_total", len(id))
    return Json({"removed": id})


@api.get("/thumbnail", summary="A small picture of an item", response_class=Response,
         responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "as the client has it"}})
async def thumbnail(request: Request, service: object = Depends(_service),
                    id: str = Query(min_length=1, max_length=4096),
                    side: int = Query(256, ge=16, le=1024, description="most pixels of the longer side")):
    """Always a JPEG that was drawn here."""
    path = service.pictures.find(id)
    known = path is not None and await service.look(lambda index, name: bool(index.has([name])[0]), id)
    if not known:
        raise Unknown(f"no picture of {id!r}")
    try:
        tag = service.pictures.stamp(path)
        headers = {"etag": tag, "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(await service.draw(service.pictures.thumbnail, path, side), media_type="image/jpeg",
                        headers=headers)
    except OSError:
        raise Unknown(f"the picture of {id!r} is gone") from None


# the service --------------------------------------------------------------------------------
@api.get("/info", response_model=schemas.Info, summary="What the service is")
async def info(service: object = Depends(_service)):
    """Model, index and what may be asked."""
    encoder, index = service.searcher.encoder, service.searcher.reader
    return Json({"version": VERSION, "method": encoder.manifest["method"], "bits": encoder.bits,
                 "fingerprint": encoder.fingerprint, "precision": encoder.precision, "runs": encoder.engine,
                 "engine": index.engine, "exact": index.exact,
                 "items": await service.look(lambda index, _: len(index)), "classes": list(index.info.classes),
                 "labels": index.info.labels, "relaxed": index.info.relaxed,
                 "pictures": len(encoder.manifest["image"]["input"]) > 1,
                 "words": bool(encoder.manifest.get("text")) and encoder.vectorizer is not None,
                 "writable": service.searcher.changing is not None, "upload_bytes": service.uploads.most})


@router.get("/health", response_model=schemas.Health, summary="Whether the process lives")
async def health():
    """For a supervisor: restart where this fails."""
    return Json({"status": "ok"})


@router.get("/ready", response_model=schemas.Health, summary="Whether questions are answered")
async def ready(service: object = Depends(_service)):
    """For a balancer: send nothing here where this fails."""
    if not service.ready:
        raise Refused(503, "not ready")
    await service.look(lambda index, _: len(index))
    return Json({"status": "ok"})


@router.get("/metrics", response_class=Response, summary="Counters for Prometheus",
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(service: object = Depends(_service)):
    """Of all processes of the service."""
    searcher = service.searcher
    gauges = {"deephash_items": ("Items of the index.", await service.look(lambda index, _: len(index))),
              "deephash_waiting": ("Values that wait in the process that answers.",
                                   len(searcher.encoding) + len(searcher.searching))}
    return Response(service.metrics.text(gauges), media_type="text/plain; version=0.0.4; charset=utf-8")
