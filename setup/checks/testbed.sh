# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# The test bed without a guest: what it would start, and the log that it replays.

expect 2 'no command' "run without a command" "$run"
expect 2 "plain, vwc, log or none" "run with an unknown drive" "$run" --nvme ssd true
expect 2 'kvm or tcg' "run with an unknown accelerator" "$run" --accel xen true
expect 2 'whole number' "run with a time-out that is no number" "$run" --timeout soon true
expect 2 'needs a value' "run with an option at the end" "$run" --work
expect 0 'serial=FOREBAY-TESTBED' "dry run: the serial" "$run" --dry-run true
expect 0 'nsid=1.*logical_block_size=512' "dry run: blocks of 512 B" "$run" --dry-run true
expect 0 'nsid=2.*logical_block_size=4096' "dry run: blocks of 4 KiB" "$run" --dry-run true
expect 0 'in the guest: cat a\\ b' "dry run: the command, word for word" "$run" --dry-run cat 'a b'
expect 0 'nvme.poll_queues=3' "dry run: polled queues" "$run" --dry-run --poll-queues 3 true
expect 0 'intel-iommu.*aw-bits=48' "dry run: an IOMMU" "$run" --dry-run --iommu true
expect 0 '^nbdkit .*--filter=cache' "dry run: a cache that can be lost" "$run" --dry-run --nvme vwc true
expect 0 'blklogwrites' "dry run: a log of writes" "$run" --dry-run --nvme log true
same "dry run: no drive" '' "$("$run" --dry-run --nvme none true | grep nvme-ns)"

# A log of two writes, a flush, a discard, which carries no data, and two writes; the last entry is cut short.
log=$scratch/log base=$scratch/base image=$scratch/image
replay() { env PYTHONDONTWRITEBYTECODE=1 "$setup/testbed/replay.py" "$@"; }
python3 - "$log" <<'END'
import struct, sys
entries = [(0, b"A", 0), (1, b"B", 0), (0, b"", 1), (1, None, 4), (2, b"C", 0), (3, b"D", 0)]
with open(sys.argv[1], "wb") as log:
    log.write(struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), 512).ljust(512, b"\0"))
    for sector, data, flags in entries:
        count = 0 if data == b"" else 1
        log.write(struct.pack("<QQQQ", sector, count, flags, 0).ljust(512, b"\0"))
        if data:
            log.write(data * 512)
    log.truncate(log.tell() - 100)
END
head -c 2048 /dev/zero | tr '\0' - >"$base"
held() { tr '\0' 0 <"$image" | fold -b -w 512 | cut -b 1 | paste -sd ' '; }
expect 0 '^3 512 512 discard$' "replay: list" replay "$log" list
same "replay: an entry that was cut short does not count" 5 "$(replay "$log" list | wc -l)"
expect 0 '3 of 5 entries' "replay: up to the last flush" replay "$log" image "$base" "$image" --last-flush
same "replay: held at the last flush" "A B - -" "$(held)"
expect 0 '4 of 5 entries' "replay: four entries" replay "$log" image "$base" "$image" --entries 4
same "replay: held after a discard" "A 0 - -" "$(held)"
expect 0 '0 of 5 entries' "replay: nothing" replay "$log" image "$base" "$image" --entries 0
same "replay: held before" "- - - -" "$(held)"
expect 0 '5 of 5 entries' "replay: all" replay "$log" image "$base" "$image" --entries 5
same "replay: held after all" "A 0 C -" "$(held)"
expect 1 'it has 5' "replay: more than there is" replay "$log" image "$base" "$image" --entries 6
expect 1 'no log of writes' "replay: not a log" replay "$setup/test" list
expect 1 'qmp.py: .*No such file' "qmp: no machine" env PYTHONDONTWRITEBYTECODE=1 "$setup/testbed/qmp.py" "$scratch/none" remove
expect 2 'needs an argument' "qmp: a command without its name" env PYTHONDONTWRITEBYTECODE=1 "$setup/testbed/qmp.py" "$scratch/none" execute
