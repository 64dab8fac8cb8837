"""A small baseline JPEG encoder whose bytes depend on nothing but the pixels and the quality.

Library encoders may change their output with a version or a CPU; the ``shapes`` set must not. Sequential DCT, 8 bit,
4:2:0, the example tables of ITU T.81 annex K, a JFIF header. All arithmetic is on integers. (The DCT is one matrix
product of integers stored in float64: every product and every partial sum stays below 2**53, so it is exact in any
order of summation.) Whole batches are encoded at once.
"""
import numpy as np

# ITU T.81 table K.1 and K.2, row by row
_LUMA = np.array([16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
                  14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
                  49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99])
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# Tables K.3 to K.6 as (number of codes of length 1 to 16, symbols in code order)
_DC_LUMA = (bytes.fromhex("00010501010101010100000000000000"), bytes(range(12)))
_DC_CHROMA = (bytes.fromhex("00030101010101010101010000000000"), bytes(range(12)))
_AC_LUMA = (bytes.fromhex("0002010303020403050504040000017d"), bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738"
    "393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5"
    "a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"))
_AC_CHROMA = (bytes.fromhex("00020102040403040705040400010277"), bytes.fromhex(
    "0001020311040521310612415107617113223281081442 91a1b1c109233352f0156272d10a162434e125f11718191a262728292a353637"
    "38393a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3"
    "a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"))
# cos(k pi / 16) * 2**20 for k = 0..8, rounded
_COS = (1048576, 1028428, 968758, 871859, 741455, 582558, 401273, 204567, 0)
_SHIFT = 13  # the DCT matrix holds integers, scaled by 2**13


def encode_batch(images, quality=85):
    """JPEG files of equally large images.

    Args:
        images: uint8 [N, H, W, 3] RGB, H and W multiples of 16.
        quality: 1 to 100 with the usual scaling of the tables.

    Returns:
        list of N bytes objects.
    """
    count, height, width, _ = images.shape
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = [np.clip((table.reshape(64) * scale + 50) // 100, 1, 255) for table in (_LUMA, _CHROMA)]
    luma, blue, red = _to_ycc(images.astype(np.int32))
    # the scan goes by units of 16 x 16 pixels: four luma blocks, one of each chroma
    y = luma.reshape(count, height // 16, 2, 8, width // 16, 2, 8).transpose(0, 1, 4, 2, 5, 3, 6)
    units = (height // 16) * (width // 16)
    y = _quantise(y.reshape(-1, 64), tables[0]).reshape(count, units, 4, 64)
    chroma = [_quantise(c.reshape(count, height // 16, 8, width // 16, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 64),
                        tables[1]).reshape(count, units, 1, 64) for c in (blue, red)]
    blocks = np.concatenate([y] + chroma, axis=2)
    values, lengths, image = _tokens(blocks)
    header = _header(height, width, tables)
    return [header + scan + b"\xff\xd9" for scan in _pack(values, lengths, image, count)]


def _to_ycc(rgb):
    """int32 [N, H, W, 3] -> Y [N, H, W], Cb and Cr [N, H/2, W/2], all minus 128 (JFIF matrix, 16-bit fixed point)."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luma = ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16) - 128
    r, g, b = (c[:, 0::2, 0::2] + c[:, 0::2, 1::2] + c[:, 1::2, 0::2] + c[:, 1::2, 1::2] for c in (r, g, b))
    blue = (-11059 * r - 21709 * g + 32768 * b + 131072) >> 18
    red = (32768 * r - 27439 * g - 5329 * b + 131072) >> 18
    return luma, np.minimum(blue, 127), np.minimum(red, 127)


def _zigzag():
    """int [64]: row-major position of the k-th coefficient."""
    order = sorted(range(64), key=lambda p: (p // 8 + p % 8, p // 8 if (p // 8 + p % 8) % 2 else p % 8))
    return np.array(order)


def _dct_matrix():
    """float64 [64 pixels, 64 coefficients in zigzag order] of integers: the 2-D DCT scaled by 2**_SHIFT."""
    one = np.empty((8, 8), np.int64)  # [frequency, pixel], sqrt(8) / 2 times the orthonormal basis * 2**20
    for u in range(8):
        for x in range(8):
            k = (2 * x + 1) * u % 32
            k = 32 - k if k > 16 else k
            one[u, x] = _COS[k] if k <= 8 else -_COS[16 - k]
    one[0] = 741455  # 1 / sqrt(2)
    # product of two: scale 2**40; the DCT of T.81 A.3.3 has 1/4 in front
    full = np.einsum("ux,vy->xyuv", one, one).reshape(64, 64)
    drop = 42 - _SHIFT
    return ((full + (1 << (drop - 1))) >> drop)[:, _ZIGZAG].astype(np.float64)


_ZIGZAG = _zigzag()
_DCT = _dct_matrix()


def _quantise(pixels, table):
    """int [B, 64] pixels -> int32 [B, 64] quantised coefficients in zigzag order, rounded half away from zero."""
    coefficients = (pixels.astype(np.float64) @ _DCT).astype(np.int32)
    step = (table[_ZIGZAG] << _SHIFT).astype(np.int32)
    size = (np.abs(coefficients) + (step >> 1)) // step
    return np.where(coefficients < 0, -size, size)


def _codes(table):
    """Huffman table -> (code uint64 [256], length int64 [256]) by symbol (T.81 annex C)."""
    code, at = 0, 0
    values, lengths = np.zeros(256, np.uint64), np.zeros(256, np.int64)
    for bits, number in enumerate(table[0], 1):
        for symbol in table[1][at:at + number]:
            values[symbol], lengths[symbol] = code, bits
            code += 1
        at += number
        code <<= 1
    return values, lengths


_DC_CODES = [np.stack(c) for c in zip(_codes(_DC_LUMA), _codes(_DC_CHROMA))]
_AC_CODES = [np.stack(c) for c in zip(_codes(_AC_LUMA), _codes(_AC_CHROMA))]


def _magnitude(values):
    """Category (number of bits) of each value, and its extra bits (T.81 F.1.2.1)."""
    size = _BITS[np.abs(values)]
    return size, np.where(values < 0, values + (1 << size) - 1, values).astype(np.uint64)


_BITS = np.array([int(i).bit_length() for i in range(4096)])


def _tokens(blocks):
    """int32 [N, units, 6, 64] -> code words in scan order: value uint64, length int64 (at most 60), image int64."""
    count, units = blocks.shape[:2]
    dc = blocks[..., 0]
    # each DC is coded as the difference to the one before it in its component
    previous = np.zeros_like(dc)
    luma = dc[:, :, :4].reshape(count, -1)
    previous[:, :, :4].reshape(count, units, 4)[...] = np.pad(luma, ((0, 0), (1, 0)))[:, :-1].reshape(count, units, 4)
    previous[:, 1:, 4:] = dc[:, :-1, 4:]
    difference = (dc - previous).reshape(-1)
    blocks = blocks.reshape(-1, 64)
    kind = np.tile([0, 0, 0, 0, 1, 1], count * units)

    # slot 0: DC, 1..63: AC, 64: end of block; empty slots have length 0 and drop out
    block, slot = np.nonzero(blocks[:, 1:])
    slot = slot + 1
    same = np.zeros(len(slot), bool)
    same[1:] = block[1:] == block[:-1]
    before = np.where(same, np.concatenate([[0], slot[:-1]]), 0)
    run = slot - before - 1
    size, extra = _magnitude(blocks[block, slot])
    which = kind[block]
    symbol = (run % 16) * 16 + size
    value = (_AC_CODES[0][which, symbol] << size.astype(np.uint64)) | extra
    length = _AC_CODES[1][which, symbol].astype(np.int64) + size
    # runs of 16 zeros go in front, in the same word: at most 3 x 11 + 16 + 10 bits
    for wanted in (1, 2, 3):
        rows = np.nonzero(run >= 16 * wanted)[0]
        zrl, bits = _AC_CODES[0][which[rows], 0xF0], _AC_CODES[1][which[rows], 0xF0].astype(np.int64)
        value[rows] |= zrl << length[rows].astype(np.uint64)
        length[rows] += bits

    size, extra = _magnitude(difference)
    dc_value = (_DC_CODES[0][kind, size] << size.astype(np.uint64)) | extra
    dc_length = _DC_CODES[1][kind, size].astype(np.int64) + size
    ends = np.nonzero(blocks[:, 63] == 0)[0]
    place = np.concatenate([np.arange(len(blocks)) * 65, block * 65 + slot, ends * 65 + 64])
    value = np.concatenate([dc_value, value, _AC_CODES[0][kind[ends], 0]])
    length = np.concatenate([dc_length, length, _AC_CODES[1][kind[ends], 0].astype(np.int64)])
    order = np.argsort(place, kind="stable")
    return value[order], length[order], place[order] // (65 * 6 * units)


def _pack(values, lengths, image, count):
    """Code words -> list of ``count`` scans: bits in order, filled with ones, 0xFF followed by 0x00."""
    bits = np.bincount(image, weights=lengths, minlength=count).astype(np.int64)
    words = (bits + 63) // 64
    first_word = np.concatenate([[0], np.cumsum(words)])
    # where each code word starts, every image from a new 64-bit word
    start = np.cumsum(lengths) - lengths
    first_bit = np.concatenate([[0], np.cumsum(bits)[:-1]])
    start += (first_word[:-1] * 64 - first_bit)[image]
    word, offset = start >> 6, start & 63
    room = 64 - offset - lengths  # below zero: the code word goes on in the next 64 bits
    fits = room >= 0
    here = np.where(fits, values << np.maximum(room, 0).astype(np.uint64),
                    values >> np.maximum(-room, 0).astype(np.uint64))
    packed = np.zeros(first_word[-1], np.uint64)
    heads = np.nonzero(np.diff(word, prepend=-1))[0]
    packed[word[heads]] |= np.bitwise_or.reduceat(here, heads)
    over = np.nonzero(~fits)[0]  # at most one a word
    packed[word[over] + 1] |= values[over] << (64 + room[over]).astype(np.uint64)
    free = (-bits) % 64
    last = np.nonzero(words)[0]
    packed[first_word[1:][last] - 1] |= (np.uint64(1) << free[last].astype(np.uint64)) - np.uint64(1)
    data = packed.astype(">u8").tobytes()
    return [data[8 * a:8 * a + (n + 7) // 8].replace(b"\xff", b"\xff\x00") for a, n in zip(first_word, bits)]


def _header(height, width, tables):
    """SOI to SOS."""
    def segment(marker, body):
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    parts = [b"\xff\xd8", segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")]
    for number, table in enumerate(tables):
        parts.append(segment(0xDB, bytes([number]) + table[_ZIGZAG].astype(np.uint8).tobytes()))
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    parts.append(segment(0xC0, b"\x08" + size + bytes([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])))
    for place, (numbers, symbols) in ((0x00, _DC_LUMA), (0x10, _AC_LUMA), (0x01, _DC_CHROMA), (0x11, _AC_CHROMA)):
        parts.append(segment(0xC4, bytes([place]) + numbers + symbols))
    parts.append(segment(0xDA, bytes([3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0])))
    return b"".join(parts)
