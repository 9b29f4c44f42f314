#!/usr/bin/env python3
"""Writes seeds: what is valid, and what is broken in one place each.

corpus/wire: recorded messages of vfio-user; the first byte of a seed says how it is played: see `vfio_user::fuzzing::wire`.
corpus/vi_files, vi_stream, vi_clock, vi_filters: see the modules of `vi::fuzzing`.
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


def corpus(folder):
    out = pathlib.Path(__file__).parent / folder
    out.mkdir(exist_ok=True)
    return lambda name, data: (out / name).write_bytes(data)


# Capture files. The first byte says how many come at once.
put = corpus("vi_files")
FRAMES = [b"the first frame of all", b"\2" * 60, bytes(range(256)) * 4]
SECONDS, NANOSECONDS = 1_700_000_000, 123_456_000


def block(order, kind, body, length=None):
    body += b"\0" * (-len(body) % 4)
    length = 12 + len(body) if length is None else length
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


section = lambda order: block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
option = lambda order, code, value: struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4)
interface = lambda order, link=1, options=None: block(order, 1, struct.pack(order + "HHI", link, 0, 0)
                                                      + (option(order, 9, b"\x09") if options is None else options))


def enhanced(order, n, number=0, kind=6, ticks=None, caplen=None, original=None):
    ticks = SECONDS * 10**9 + NANOSECONDS + n * 1000 if ticks is None else ticks
    data = FRAMES[n]
    return block(order, kind, struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF,
                                          len(data) if caplen is None else caplen,
                                          len(data) if original is None else original) + data)


def pcap(order, magic, tick_ns, frames=FRAMES):
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, 1)
    return head + b"".join(struct.pack(order + "IIII", SECONDS, NANOSECONDS // tick_ns, len(data), len(data)) + data
                           for data in frames)


three = lambda order: b"".join(enhanced(order, n) for n in range(3))
good = section("<") + interface("<") + three("<")
old = pcap("<", 0xA1B2C3D4, 1000)
for name, data in {
    "good-little": good,
    "good-big": section(">") + interface(">") + three(">"),
    "good-pcap": old,
    "good-pcap-big-ns": pcap(">", 0xA1B23C4D, 1),
    "two-sections": section("<") + interface("<") + enhanced("<", 0) + section(">") + interface(">")
                    + enhanced(">", 1) + enhanced(">", 2),
    "simple-packets": section("<") + interface("<") + block("<", 3, struct.pack("<I", 22) + FRAMES[0]) * 2,
    "unknown-blocks": section("<") + block("<", 0x0BAD, b"anything at all") + interface("<") + enhanced("<", 1)
                      + block("<", 5, b"\0" * 12) + block("<", 10, b"keys"),
    "empty": b"",
    "text": b"#!/bin/sh\necho no capture\n",
    "gzip": b"\x1f\x8b\x08\0" + b"\0" * 20,
    "cut": good[:-1],
    "cut-pcap": old[:-1],
    "wireless": section("<") + interface("<", 105) + enhanced("<", 0),
    "no-byte-order": section("<").replace(struct.pack("<I", 0x1A2B3C4D), b"none"),
    "length-of-11": section("<") + block("<", 1, b"\1\0\0\0\0\0\0\0", 11),
    "length-of-4-gib": section("<") + block("<", 1, b"\1\0\0\0\0\0\0\0", 0xFFFFFFFC),
    "no-interface": section("<") + enhanced("<", 0),
    "another-interface": section("<") + interface("<") + enhanced("<", 0, number=1),
    "packet-past-its-block": section("<") + interface("<") + enhanced("<", 0, caplen=4000),
    "original-shorter": section("<") + interface("<") + enhanced("<", 2, original=4),
    "obsolete": section("<") + interface("<") + enhanced("<", 0, kind=2),
    "pcap-frame-of-1-gib": old[:24] + struct.pack("<IIII", 1, 2, 1 << 30, 1 << 30) + b"x" * 40,
    "time-before-1970": section("<") + interface("<", options=option("<", 14, struct.pack("<q", -2**40)))
                        + enhanced("<", 0),
    "time-of-2-to-the-30": section("<") + interface("<", options=option("<", 9, b"\x9e")) + enhanced("<", 0),
    "time-of-10-to-the-127": section("<") + interface("<", options=option("<", 9, b"\x7f")) + enhanced("<", 0),
}.items():
    put(name, b"\x06" + data)

# Packed streams: what is done, one record after the other.
put = corpus("vi_stream")
append = lambda length, snap=0xFFFF, ns=7: struct.pack("<BHHI", 0, length, snap, ns)
PUBLISH = b"\2"
walk = lambda count: bytes([3, count])
written = lambda count: struct.pack("<BQ", 4, count)
has_read = lambda count: struct.pack("<BQ", 5, count)
ring = lambda at, word: struct.pack("<BHQ", 6, at, word)
put("queue", append(60, 100) + append(0, 9) + append(1500, 96) + PUBLISH + walk(5))
put("round-the-end", (append(900) + append(300, 200) + PUBLISH + walk(9)) * 8)
put("full", append(1000) * 8 + PUBLISH + walk(1) + append(1000) + PUBLISH + walk(9))
put("written-back", append(60) + PUBLISH + walk(0) + written(8) + walk(1))
put("written-far", written(2**64 - 1) + walk(1) + walk(1))
put("record-of-nothing", written(64) + walk(1))
put("record-of-33", ring(0, 33) + written(64) + walk(1))
put("record-past-what-is-written", ring(0, 4096) + written(64) + walk(1))
put("captured-past-its-record", ring(0, 64) + ring(1, 60000) + written(64) + walk(1))
put("padding-alone", b"".join(ring(n, 8 | 1 << 32) for n in range(8)) + written(64) + walk(9))
put("read-ahead", has_read(99999) + append(2000) * 3)
put("read-back", append(900) * 4 + PUBLISH + walk(4) + append(900) * 3 + has_read(0) + append(900) * 4)
put("everything", (append(300) + PUBLISH + walk(1)) * 3 + ring(5, 2**64 - 1) + struct.pack("<BHHH", 7, 9, 48, 0) + walk(9))

# The peer's clock: how far it is ahead, then what is done.
put = corpus("vi_clock")
NOW, ASK = 1 << 60, b"\0"
ahead = lambda count: struct.pack("<i", count)
honest = lambda which, there, kept: struct.pack("<BBII", 2, which, there, kept)
later = lambda ns: struct.pack("<BI", 4, ns)
answer = lambda *words: struct.pack("<B6Q", 5, *words)
lie = lambda received, sent, bound=0, flags=1: struct.pack("<BQQQB", 6, received, sent, bound, flags)
reading = lambda before, ns, after: struct.pack("<BQQQBQ", 7, before, ns, after, 3, 12345)
put("honest", ahead(5) + (ASK + later(10000) + honest(0, 3000, 1000)) * 4)
put("honest-behind", ahead(-5) + (ASK + later(1000) + honest(0, 999, 1)) * 4)
put("out-of-order", ahead(1) + (ASK + later(500)) * 3 + honest(1, 100, 100) + later(90) + honest(1, 1, 0) + honest(0, 5, 5))
put("given-up", ahead(0) + (ASK + later(500)) * 6 + honest(0, 100, 100) * 6)
put("not-asked", ahead(0) + answer(9, NOW, NOW, NOW, 0, 3))
put("another-time", ahead(0) + ASK + later(1000) + answer(0, NOW - 1, NOW, NOW, 0, 3))
put("before-asked", ahead(0) + ASK + later(1000) + lie(NOW + 100, NOW + 50))
put("kept-too-long", ahead(0) + ASK + later(1000) + lie(NOW, NOW + 10**9))
put("jump", ahead(0) + ASK + later(100) + lie(NOW + 50, NOW + 50) + ASK + later(100) + lie(NOW + 10**12, NOW + 10**12))
put("the-ends-of-time", ahead(0) + ASK + later(9) + lie(0, 0) + ASK + later(9) + lie(2**64 - 1, 2**64 - 1, 2**64 - 1, 255))
put("readings", ahead(0) + b"".join(reading(n * 10**8, NOW + n * 10**8, n * 10**8 + 90) for n in range(5))
    + reading(5, 4, 3) + reading(2**64 - 5, 0, 7) + reading(10**9, NOW + 9 * 10**9, 10**9 + 4))

# Filters, one a line; behind a 0 a frame.
put = corpus("vi_filters")
MACS = bytes([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1])
UDP = struct.pack(">HHHH", 7, 80, 12, 0) + b"data"


def ip4(flags=0):
    return struct.pack(">BBHHHBBH4s4s", 0x45, 0, 32, 1, flags, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])) + UDP


def ip6():
    return struct.pack(">IHBB", 6 << 28, 12, 17, 64) + bytes.fromhex("fd00" + "00" * 13 + "01fd00" + "00" * 13 + "02") + UDP


def filters(name, lines, frame):
    put(name, "\n".join(lines).encode() + b"\0" + frame)


udp4 = MACS + b"\x08\0" + ip4()
KINDS = ["udp:10.0.0.2:80,10.0.0.1:7", "udp:10.0.0.2:80-90", "tcp:10.0.0.2:80", "udp:vid=5,10.0.0.2:80", "udp:[fd00::2]:80-90",
         "eth:2:0:0:0:0:2", "eth:vid=5,02:00:00:00:00:02", "ethertype:0x800", "ip-protocol:17", "unicast-all", "multicast-all",
         "unicast-mis", "multicast-mis", "sniff"]
filters("every-kind-udp4", KINDS, udp4)
filters("every-kind-group", KINDS, b"\x01\0\x5e\1\2\3" + udp4[6:])
filters("nobody", ["udp:10.0.0.9:1", "tcp:10.0.0.2:80"], udp4)
filters("vlan", ["udp:vid=6,10.0.0.2:80", "udp:vid=5,10.0.0.2:80"], MACS + b"\x81\0\xa0\5\x08\0" + ip4())
filters("two-tags", ["udp:10.0.0.2:80", "ethertype:0x8100"], MACS + b"\x88\xa8\0\1\x81\0\0\5\x08\0" + ip4())
filters("ip6", ["udp:[fd00::2]:80-90", "unicast-mis"], MACS + b"\x86\xdd" + ip6())
filters("fragment", ["udp:10.0.0.2:80", "ip-protocol:17"], MACS + b"\x08\0" + ip4(0x2000))
filters("set", ["udp:10.0.0.9:1", "udp:10.0.0.9:2", "ip-protocol:17"], udp4)
filters("equal", ["ip-protocol:17"] * 5, udp4)
filters("many", [f"udp:10.0.0.2:{n}" for n in range(600)], udp4)
filters("arp", ["ethertype:0x806", "sniff"], MACS + b"\x08\6" + b"\0" * 28)
filters("no-frame", KINDS, udp4[:13])
filters("header-cut", KINDS, udp4[:40])
filters("header-of-4-words", KINDS, udp4[:14] + b"\x44" + udp4[15:])
filters("no-filters", ["", "udp", "udp:", "udp:10.0.0.2", "udp:10.0.0.2:", "udp:10.0.0.2:65536", "udp:10.0.0.2:9-8", "udp:10.0.0.2:-1",
                       "udp:10.0.0.256:1", "udp:fd00::1:80", "udp:[fd00::1:80", "udp:10.0.0.2:80,[fd00::1]:80", "udp:10.0.0.2:80,",
                       "udp:vid=4096,10.0.0.2:80", "udp:vid=5", "udp:vid=,10.0.0.2:80", "eth:2:0:0:0:0", "eth:2:0:0:0:0:2:2",
                       "eth:2:0:0:0:0:100", "eth:2:0:0:0:0:g", "ethertype:65536", "ethertype:0x", "ip-protocol:256", "ip-protocol:-1",
                       "unicast", "sniff ", "SNIFF", "icmp:10.0.0.2:80"], udp4)
put("not-utf-8", b"udp:\xff\xfe:80\nsniff\0" + udp4)
