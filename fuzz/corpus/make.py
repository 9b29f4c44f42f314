#!/usr/bin/env python3
"""Writes the seeds of corpus/wire: recorded valid messages, and some that are broken in one place each.

The first byte of a seed says how it is played: see `vfio_user::fuzzing::wire`.
"""
import pathlib
import struct

OUT = pathlib.Path(__file__).parent / "wire"
OUT.mkdir(exist_ok=True)
VERSION_FIRST, SIZES_PUT_RIGHT = 1, 2


def message(command, body=b"", flags=0, size=None, ident=7):
    return struct.pack("<HHIII", ident, command, 16 + len(body) if size is None else size, flags, 0) + body


def seed(name, *messages, how=VERSION_FIRST | 0xFC):
    (OUT / name).write_bytes(bytes([how]) + b"".join(messages))


QEMU = (b'{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, '
        b'"max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, '
        b'"write_multiple": true}}\0')
version = message(1, struct.pack("<HH", 0, 0) + QEMU)
dma_map = message(2, struct.pack("<IIQQQ", 32, 3, 0x1000, 0x100000, 0x2000))
dma_unmap = message(3, struct.pack("<IIQQ", 24, 0, 0x100000, 0x2000))
unmap_all = message(3, struct.pack("<IIQQ", 24, 2, 0, 0))
info = message(4, struct.pack("<IIII", 16, 0, 0, 0))
region = lambda index, argsz=32: message(5, struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0))
irq = lambda index: message(7, struct.pack("<IIII", 16, 0, index, 0))
irqs = lambda flags, index, start, count, data=b"": message(
    8, struct.pack("<IIIII", 20 + len(data), flags, index, start, count) + data)
read = lambda at, count, index=0: message(9, struct.pack("<QII", at, index, count))
write = lambda at, data, flags=0x10, index=0: message(10, struct.pack("<QII", at, index, len(data)) + data, flags)
record = lambda at, data, count=None: struct.pack(
    "<QII", at, 0, len(data) if count is None else count) + data.ljust(8, b"\0")
multi = lambda *records, count=None: message(
    15, struct.pack("<Q", len(records) if count is None else count) + b"".join(records), 0x10)

seed("realize", version, dma_map, info, *[region(n) for n in (0, 1, 2, 3, 4, 5, 7)], irq(3), read(0, 4096, 7),
     write(0x30, b"\x00\xf8\xff\xff", 0, 7), irq(2), irqs(0x24, 3, 0, 1), message(13), dma_unmap, how=0xFC)
seed("dma", dma_map, dma_unmap, unmap_all)
seed("region-two-pass", region(2), region(2, 80), region(4), region(8), region(9))
seed("irqs", irqs(0x24, 2, 0, 1), irqs(0x21, 2, 0, 0), irqs(0x11, 0, 0, 1), irqs(0x22, 2, 4, 3, b"\1\0\1"))
seed("posted", *[write(4 * n, bytes([n] * 4)) for n in range(40)])
seed("posted-byte-by-byte", *[write(4 * n, bytes([n] * 4)) for n in range(8)], how=VERSION_FIRST)
seed("multi", multi(record(0, b"abcd"), record(8, b"12345678"), record(3, b"")))
seed("reads", read(0, 4), read(0x1FFFFC, 4), read(0, 0), read(0, 8, 7))
seed("reset", message(13))
# Broken in one place.
seed("bad-version-json", message(1, b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":-1}}\0"), version, how=0xFC)
seed("bad-version-no-nul", message(1, b"\0\0\0\0{}"), how=0xFC)
seed("bad-version-deep", message(1, b"\0\0\0\0" + b"[" * 500 + b"\0"), how=0xFC)
seed("bad-order", info, version, version, info, how=0xFC)
seed("bad-size-small", info, message(4, b"", size=15))
seed("bad-size-large", info, message(9, b"", size=0x100041))
seed("bad-size-huge", message(10, b"x" * 40, size=0xFFFFFFFF))
seed("bad-write-count", message(10, struct.pack("<QII", 0, 0, 0xFFFFFFFF) + b"abcd"), write(0, b"good", 0))
seed("bad-read-wraps", read(0xFFFFFFFFFFFFFFFE, 4), read(0x1FFFFE, 4), read(0, 0xFFFFFFFF))
seed("bad-multi-count", multi(record(0, b"abcd"), count=2**63), multi(record(0, b"", 9)), multi(count=2**61))
seed("bad-map-wraps", message(2, struct.pack("<IIQQQ", 32, 3, 0, 2**64 - 1, 2)),
     message(2, struct.pack("<IIQQQ", 32, 3, 2**63, 0, 4096)), message(2, struct.pack("<IIQQQ", 8, 7, 0, 0, 0)))
seed("bad-irqs", irqs(0x3F, 2, 0, 1), irqs(0x24, 2, 30, 0xFFFFFFFF), irqs(0x22, 2, 0, 3, b"\1"), irqs(0, 9, 0, 0))
seed("bad-flags", message(4, struct.pack("<IIII", 16, 0, 0, 0), 1), message(13, b"", 0x21), message(13, b"", 0x80000010))
seed("bad-commands", *[message(n, b"\xa5" * 20) for n in (0, 6, 11, 12, 14, 16, 17, 18, 19, 0xFFFF)])
seed("framed", b"\x07\0\x04\0\x20" + b"\0" * 27 + b"\x07\0\x09\0\x20" + b"\xff" * 27 + b"\x01" * 40,
     how=VERSION_FIRST | SIZES_PUT_RIGHT | 0x20)
seed("framed-late-version", info, write(0, b"abcd"), read(0, 4), how=SIZES_PUT_RIGHT | 0xFC)
seed("truncated", info, write(0, b"abcdefgh")[:30])
