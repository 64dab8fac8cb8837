"""A process of the service: the Searcher and all that stands around it, made of the options of the command."""
import asyncio
import concurrent.futures
import contextlib
import os

from deploy.engines import open_with
from deploy.index import open_index
from deploy.queries import check_pictures, words_row
from deploy.service.guard import Refused, Uploads
from deploy.service.metrics import Metrics
from deploy.service.pictures import Pictures, find_root
from deploy.service.searcher import PATIENCE, Searcher, own_folder
from utils import limits
from utils.cpu import threads
from utils.errors import InputError
from utils.files import owned
from utils.images import decode
from utils.transforms import preprocess

PIXELS = 50_000_000  # of a picture by default; a thread that decodes one takes up to 600 MB


class Service:
    """What the routes work with.

    Attributes:
        options: as of the command. searcher, pictures, uploads, metrics: see their modules. ending: whether the process
            is about to end.
    """

    def __init__(self, options):
        """
        Args:
            options: attributes as ``deploy.service.__main__.FLAGS``.

        Raises:
            InputError: model or index cannot be opened or do not fit.
        """
        self.options, self.ending, self._coming = options, False, 0
        self.metrics = Metrics(options.metrics_dir)
        self.uploads = Uploads(options.max_upload, options.body_seconds)
        encoder = open_with(options)
        reader = open_index(options.index, encoder.fingerprint)
        own = None if options.read_only else own_folder(options.index, options.data_dir)
        lock = None if own is None else os.path.join(own, ".lock")
        self.pictures = Pictures(own and os.path.join(own, "pictures"),
                                 find_root(options.data_path, reader.info.meta.get("root")))
        if lock is not None:
            with owned(lock, PATIENCE):
                self.pictures.clean()
        self.searcher = Searcher(encoder, reader, self.pictures, lock, self._report, batch=options.batch_size,
                                 wait=options.wait_ms / 1000, coming=lambda: self._coming)
        self._decoding = concurrent.futures.ThreadPoolExecutor(options.workers or threads(), "decode")

    def _report(self, work, size, seconds):
        self.metrics.observe("deephash_batch_size", size, work)
        self.metrics.observe("deephash_batch_seconds", seconds, work)

    @property
    def ready(self):
        """Whether questions are answered now."""
        return not self.ending and self.searcher.alive

    def close(self):
        """Finish what is under way."""
        self.ending = True
        self._decoding.shutdown(wait=True)
        self.searcher.close()

    # what the routes wait for ----------------------------------------------------------------
    async def wait(self, future):
        """The result of a future of a thread.

        Raises:
            Refused: it takes too long.
        """
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.options.answer_seconds)
        except asyncio.TimeoutError:
            raise Refused(503, f"no answer within {self.options.answer_seconds:g} seconds: the service has too much "
                               "to do; try again") from None

    async def draw(self, function, *arguments):
        """``function(*arguments)`` in a thread of those that decode."""
        return await self.wait(self._decoding.submit(function, *arguments))

    async def encode_picture(self, data):
        """Bytes of a picture's file -> its relaxed code float32 [bits].

        Raises:
            InputError: no picture, or one beyond the limits; a model that reads no pictures.
        """
        manifest = self.searcher.encoder.manifest
        check_pictures(self.searcher.encoder)

        def read():
            return preprocess(decode(data, "the picture", manifest["preprocess"]), manifest["preprocess"])
        with self._comes():
            pixels = await self.draw(read)
        return await self.wait(self.searcher.encoding.submit("image", pixels))

    async def encode_words(self, text):
        """Words -> their relaxed code float32 [bits]. Raises InputError where the model knows none of them."""
        row = words_row(self.searcher.encoder, text)
        return await self.wait(self.searcher.encoding.submit("text", row))

    @contextlib.contextmanager
    def _comes(self):
        """While the block runs, a value for the encoding thread is on its way."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def ask(self, question, query):
        """Found for a Query."""
        return await self.wait(self.searcher.searching.submit(question, query))

    async def look(self, function, value=None):
        """``function(index, value)`` where the index is searched."""
        return await self.wait(self.searcher.searching.submit(function, value))

    async def change(self, how, value):
        """The result of a change.

        Raises:
            Refused: nothing may be changed.
        """
        if self.searcher.changing is None:
            raise Refused(403, "this service is read-only")
        return await self.wait(self.searcher.changing.submit(how, value))


def set_limits(options):
    """The limits of decoding for this process and those that it starts (utils/limits.py).

    Raises:
        InputError: the environment sets one that is no number.
    """
    if options.max_pixels is not None:
        os.environ[limits.PIXELS] = str(options.max_pixels)
    os.environ.setdefault(limits.PIXELS, str(PIXELS))
    # a JPEG of several scans takes 12 bytes a pixel, the most of all formats but rare ones
    os.environ.setdefault(limits.IMAGE_BYTES, str(12 * limits.limit(limits.PIXELS)))
    for name in limits.DEFAULTS:
        limits.limit(name)


def check_id(name):
    """Raise InputError for an id that a new item may not have: it must be a plain relative path."""
    if len(name.encode("utf-8", "surrogatepass")) > 1024:
        raise InputError("the id has more than 1024 bytes")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable():
        raise InputError(f"the id {name!r} cannot be taken: write a relative path such as trip/1.jpg, without '..', "
                         "backslashes and control characters")
