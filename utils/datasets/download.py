"""python -m utils.datasets download NAME --root DIR: the official archive of a data set, if asked for.

Only what has a stable official address and may be fetched by anyone: CIFAR-10 and the annotations of COCO 2014.

A download goes to ``FILE.part`` and is renamed when its size and checksum are right. What was interrupted goes on where
it stopped (HTTP Range); a server that sends the whole file again is read from the start; other bytes are removed.
``pooch`` would check and rename as well, but it deletes an interrupted download, and brings requests and platformdirs;
urllib also honours http_proxy, https_proxy and no_proxy.
"""
import dataclasses
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
import zipfile

from utils.datasets.protocols import cifar10, coco
from utils.errors import InputError
from utils.files import atomic_path

TIMEOUT = 30   # seconds without a byte
PATIENCE = 3   # tries in a row that bring nothing
WAIT = 1.0     # seconds before the second try; doubles
_BLOCK = 1 << 18


@dataclasses.dataclass(frozen=True)
class Source:
    """A file with a stable official address.

    file: name below the root. size: bytes. checksum: (name in hashlib, hex digits). root: default folder, or None.
    unpack: members of the .zip that are unpacked below the root. after: what to do next; ``{root}`` is filled in.
    """

    url: str
    file: str
    size: int
    checksum: tuple
    root: str = ""
    unpack: tuple = ()
    after: str = ""


SOURCES = {
    "cifar10": Source(cifar10.URL, cifar10.ARCHIVE, 170_498_071,
                      ("sha256", "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
                      cifar10.DEFAULT_ROOT, after="look at it: python -m utils.datasets check cifar10 --root {root}"),
    "coco": Source("http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
                   "annotations_trainval2014.zip", 252_872_794, ("md5", "0a379cfc70b0e71301e0f377548639bd"),
                   unpack=tuple(f"annotations/{name}" for name in coco.FILES),
                   after="write the lists: python -m utils.datasets make coco --root {root} (the images themselves, "
                         "train2014.zip and val2014.zip, are at https://cocodataset.org/#download)"),
}
SOURCES.update({name: SOURCES["cifar10"] for name in ("cifar10-1", "cifar10-2")})


class _Again(Exception):
    """A try that failed and may go better next time."""


def download(source, root, url=None, say=print):
    """Fetch and check a source; what is already there is only checked.

    Args:
        source: Source.
        root: folder, made if need be.
        url: a mirror of the same file.
        say: gets lines about what was done.

    Returns:
        path of the file.

    Raises:
        InputError: no connection, an HTTP error, other bytes, an unwritable folder, a full disk.
    """
    url = url or source.url
    target = os.path.join(root, source.file)
    part = target + ".part"
    if not re.match("https?://[^/]", url):
        raise InputError(f"--url {url}: an http or https address is expected; a local file you can put at {target} "
                         "yourself")
    try:
        os.makedirs(root, exist_ok=True)
        if os.path.exists(target):
            if not _is_right(source, target):
                raise InputError(f"{target} is not the official file ({_differs(source, target)}); remove it and "
                                 "download again")
            say(f"{target} is there already, its {source.checksum[0]} is right")
        else:
            with open(part, "ab") as file:
                _lock(file, part)
                _fetch(source, url, file, target)
                file.flush()
                os.fsync(file.fileno())
                if not _is_right(source, part):
                    why = _differs(source, part)
                    os.remove(part)
                    raise InputError(f"{url} gave other bytes than the official file ({why}); they were removed: try "
                                     "again, or name a mirror with --url")
                os.replace(part, target)
            say(f"{target}: {source.size:,} bytes, {source.checksum[0]} {source.checksum[1]}")
        for member in source.unpack:
            _unpack(target, member, root, say)
    except OSError as error:
        raise InputError(f"cannot write {part}: {error.strerror or error}; free some space or choose another "
                         "folder") from error
    finally:
        if os.path.exists(part) and not os.path.getsize(part):
            os.remove(part)
    if source.after:
        say(source.after.format(root=root))
    return target


def _fetch(source, url, file, target):
    """Append to ``file`` until it has the size of the source, over as many connections as need be."""
    from tqdm import tqdm
    with tqdm(total=source.size, unit="B", unit_scale=True, desc=source.file, disable=None) as bar:
        failures, wait = 0, WAIT
        while file.tell() < source.size:
            before = file.tell()
            try:
                _connect(source, url, file, bar)
            except _Again as error:
                reason = error
            else:
                reason = "the connection was cut"
            if file.tell() >= source.size:
                return
            failures = 0 if file.tell() > before else failures + 1
            if failures >= PATIENCE:
                got = f"after {file.tell():,} of {source.size:,} bytes; the same command goes on from there" \
                    if file.tell() else "and nothing was received"
                raise InputError(f"cannot download {url} ({reason}) {got}. {_by_hand(source, url, target)}")
            if failures:
                time.sleep(wait)
                wait *= 2


def _connect(source, url, file, bar):
    """One connection: what it brings is appended (or, where the server knows no ranges, replaces all).

    Raises:
        _Again: it is worth another try. InputError: it is not.
    """
    have = file.tell()
    headers = {"User-Agent": "PaddleDeepHash", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            have = _start(source, url, answer, have)
            file.truncate(have)
            file.seek(have)
            bar.n = have
            while file.tell() < source.size:
                block = answer.read(min(_BLOCK, source.size - file.tell()))
                if not block:
                    return
                _write(file, block)
                bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there is not the beginning of the server's file
            file.truncate(0)
            file.seek(0)
            raise _Again("the server cannot go on") from error
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Again(f"HTTP {error.code} {error.reason}") from error
        raise InputError(f"cannot download {url}: HTTP {error.code} {error.reason}. "
                         f"{_by_hand(source, url, file.name[:-len('.part')])}") from error
    except urllib.error.URLError as error:
        raise _Again(f"{getattr(error.reason, 'strerror', None) or error.reason}") from error
    except (http.client.HTTPException, OSError, ValueError) as error:  # not of the disk: see _write
        raise _Again(str(error) or type(error).__name__) from error


def _start(source, url, answer, have):
    """Where the bytes of an answer begin; raises InputError where the server's file has another size."""
    total = answer.headers.get("Content-Length")
    if answer.status == 206:
        first, _, total = answer.headers.get("Content-Range", "").partition("/")
        if first.split("-")[0].split() != ["bytes", str(have)]:
            raise InputError(f"{url}: the server answers with other bytes than were asked for; name a mirror with "
                             "--url")
    else:
        have = 0
    if total is not None and total.isdigit() and int(total) != source.size:
        raise InputError(f"{url} has {int(total):,} bytes where the official file has {source.size:,} (a page that "
                         "asks for a login?); name a mirror with --url")
    return have


def _write(file, block):
    try:
        file.write(block)
    except OSError as error:  # apart from those of the connection
        raise InputError(f"cannot write {file.name}: {error.strerror or error}; free some space, then the same command "
                         "goes on from there") from error


def _lock(file, part):
    """Two downloads of one file would mix their bytes. Where locks are unknown the checksum still tells."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another download is writing {part}; wait for it, or stop it") from error
    except OSError:  # file systems without locks
        pass


def _by_hand(source, url, target):
    megabytes = source.size / 1e6
    return (f"Without a connection: fetch {url} ({megabytes:.0f} MB, {source.checksum[0]} {source.checksum[1]}) "
            f"elsewhere and put it at {target}; or name a mirror with --url")


def _digest(source, path):
    digest = hashlib.new(source.checksum[0])
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _is_right(source, path):
    return os.path.getsize(path) == source.size and _digest(source, path) == source.checksum[1]


def _differs(source, path):
    """How a file differs from the source, for messages."""
    size = os.path.getsize(path)
    if size != source.size:
        return f"{size:,} bytes, not {source.size:,}"
    return f"{source.checksum[0]} {_digest(source, path)}, not {source.checksum[1]}"


def _unpack(archive, member, root, say):
    """One member of a .zip to the same name below the root, atomically."""
    path = os.path.join(root, *member.split("/"))
    if os.path.exists(path):
        return
    try:
        with zipfile.ZipFile(archive) as file, file.open(member) as packed, atomic_path(path) as temporary:
            with open(temporary, "wb") as out:
                for block in iter(lambda: packed.read(1 << 20), b""):
                    out.write(block)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{archive} has no readable {member} ({error})") from error
    say(f"{path}: unpacked")


# the command -------------------------------------------------------------------------------------
def add_command(commands):
    """Add ``download`` to the sub-parsers of ``python -m utils.datasets``."""
    parser = commands.add_parser("download", help="fetch an official archive: cifar10, or the annotations of coco")
    parser.add_argument("name", help=", ".join(SOURCES))
    parser.add_argument("--root", "--data-path", help="folder to put it in (cifar10: data/cifar10 by default)")
    parser.add_argument("--url", help="a mirror of the same file")


def command(options, protocols):
    """Run ``download``; ``protocols``: dict name -> DataSet, for the message about the others."""
    source = SOURCES.get(options.name)
    if source is None:
        known = protocols.get(options.name)
        raise InputError(f"{options.name} is not downloaded here" + (f"; obtain it yourself: {known.source}" if known
                         else f"; choose one of: {', '.join(SOURCES)}"))
    root = options.root or source.root
    if not root:
        raise InputError(f"say where to put {source.file} with --root DIR")
    download(source, root, options.url)
