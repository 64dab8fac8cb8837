"""Opening tars of strangers: a header that asks for more memory than any has is an error, not an allocation."""
import bz2
import contextlib
import gzip
import lzma
import tarfile

LARGEST_HEADER = 1 << 20  # bytes of a long name or of extended headers
UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class _Capped:
    """A binary file for tarfile, which reads headers as long as they say they are."""

    def __init__(self, file, most):
        self.file, self.most = file, most
        self.seek, self.tell = file.seek, file.tell

    def read(self, size):
        """At most ``most`` bytes at once. Raises tarfile.ReadError for more."""
        if size > self.most:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


@contextlib.contextmanager
def open_tar(path, packed=False, most=LARGEST_HEADER):
    """Yield the tarfile.TarFile of a tar.

    Args:
        packed: it may be compressed by gzip, bzip2 or xz.
        most: bytes of the largest member that ``extractfile`` will read, where that is more than a header.

    Raises:
        OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError: it cannot be read, or is no tar.
    """
    unpack = open
    if packed:
        with open(path, "rb") as file:
            start = file.read(8)
        unpack = next((opener for magic, opener in UNPACKERS.items() if start.startswith(magic)), open)
    with unpack(path, "rb") as file, tarfile.open(fileobj=_Capped(file, most), mode="r:") as tar:
        yield tar
