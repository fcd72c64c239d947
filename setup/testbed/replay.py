#!/usr/bin/env python3
"""Rebuilds what a drive held at any moment, from the log of its writes.

  replay.py LOG list                          every entry: number, offset, bytes, what it was
  replay.py LOG image BASE OUT --entries N    the drive after the first N entries, in the new file OUT
  replay.py LOG image BASE OUT --last-flush   the drive after its last flush

LOG is WORK/n2.log of `run --nvme log --work WORK`, BASE is WORK/n2.base: what the drive held before. Every prefix is a state that a crash can leave, when the drive keeps
the order of its writes; `forebay verify OUT` judges it.

The log is of dm-log-writes, as QEMU's blklogwrites writes it: a superblock (magic, version, number of entries, sector
size), then entries (sector, sectors, flags, bytes of data; 64 bits each, little-endian), each in a sector of its own
with its data behind it.
"""

import argparse
import os
import struct
import subprocess
import sys
from dataclasses import dataclass

SUPERBLOCK = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
NAMES = ((FLUSH, "flush"), (FUA, "fua"), (DISCARD, "discard"), (MARK, "mark"))


@dataclass
class Entry:
    """One entry. `data_at` is where its bytes stand in the log."""

    offset: int
    length: int
    flags: int
    data_at: int

    def name(self):
        return " ".join(name for flag, name in NAMES if self.flags & flag) or "write"


def read_entries(log):
    """All entries, in order. Stops where the log was cut."""
    size = os.fstat(log.fileno()).st_size
    head = log.read(SUPERBLOCK.size)
    if len(head) < SUPERBLOCK.size:
        raise ValueError("it is empty: nothing was logged, or it is no log")
    magic, version, count, sector = SUPERBLOCK.unpack(head)
    if magic != MAGIC or version != 1:
        raise ValueError(f"no log of writes: magic {magic:#x}, version {version}")
    entries, at = [], sector
    while len(entries) < count and at + ENTRY.size <= size:
        log.seek(at)
        first, sectors, flags, _ = ENTRY.unpack(log.read(ENTRY.size))
        entry = Entry(first * sector, sectors * sector, flags, at + sector)
        carried = 0 if flags & DISCARD else entry.length
        if entry.data_at + carried > size:
            break
        entries.append(entry)
        at = entry.data_at + carried
    return entries


def build_image(log, entries, base, out):
    """The drive after these entries, in a new file."""
    subprocess.run(["cp", "--sparse=always", "--", base, out], check=True)
    with open(out, "r+b") as image:
        for entry in entries:
            if entry.flags & MARK:
                continue
            image.seek(entry.offset)
            if entry.flags & DISCARD:
                image.write(bytes(entry.length))
            else:
                log.seek(entry.data_at)
                image.write(log.read(entry.length))


def entries_wanted(entries, arguments):
    """How many entries the image is of."""
    if arguments.last_flush:
        return max((number + 1 for number, entry in enumerate(entries) if entry.flags & FLUSH), default=0)
    if not 0 <= arguments.entries <= len(entries):
        raise ValueError(f"--entries {arguments.entries}: it has {len(entries)}")
    return arguments.entries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list")
    image = actions.add_parser("image")
    image.add_argument("base")
    image.add_argument("out")
    which = image.add_mutually_exclusive_group(required=True)
    which.add_argument("--entries", type=int, metavar="N")
    which.add_argument("--last-flush", action="store_true")
    arguments = parser.parse_args()
    try:
        with open(arguments.log, "rb") as log:
            entries = read_entries(log)
            if arguments.action == "list":
                for number, entry in enumerate(entries):
                    print(number, entry.offset, entry.length, entry.name())
                return
            wanted = entries_wanted(entries, arguments)
            build_image(log, entries[:wanted], arguments.base, arguments.out)
            print(f"{arguments.out}: {wanted} of {len(entries)} entries")
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"replay.py: {arguments.log}: {error}")


if __name__ == "__main__":
    main()
