# shellcheck shell=bash
# Says why a namespace must be left alone. Reads only. To be sourced, after lib.sh.
#
# $root is where /sys, /proc, /dev are looked for: empty, or a made-up tree in tests.

root=${FOREBAY_HOST_ROOT:-}

# The copies of Forebay's superblock stand here, and so far before the end (docs/format.md).
superblock_addresses_bytes=(65536 131072)
superblock_back_bytes=(131072 196608)
head_bytes=1048576

# sysfs_of NAME: the directory of a block device, "nvme0n1".
sysfs_of() { printf '%s/sys/class/block/%s' "$root" "$1"; }

# partitions_of NAME: the kernel's names of its partitions.
partitions_of() {
    local part
    for part in "$(sysfs_of "$1")"/*/partition; do
        if [ -e "$part" ]; then basename "$(dirname "$part")"; fi
    done
}

# size_of NAME: its bytes, in whole blocks of 4 KiB; 0 when the kernel cannot read it.
size_of() { echo $(($(cat "$(sysfs_of "$1")/size") * 512 & ~4095)); }

# use_of NAME: who uses the device or a partition of it; nothing when nobody does.
use_of() {
    local name number found
    for name in "$1" $(partitions_of "$1"); do
        number=$(cat "$(sysfs_of "$name")/dev")
        # A container's mounts stand with its processes. Btrfs mounts have a number of their own, but name their source.
        found=$(cat "$root"/proc/self/mountinfo "$root"/proc/[0-9]*/mountinfo 2>/dev/null |
            awk -v number="$number" -v source="/dev/$name" '
            { at = 0; for (i = 7; i <= NF; i++) if ($i == "-") at = i }
            !found && ($3 == number || $(at + 2) == source) { print $5; found = 1 }') || true
        if [ -n "$found" ]; then printf '/dev/%s is mounted on %s' "$name" "$found" && return; fi
        if awk -v source="/dev/$name" '$1 == source { found = 1 } END { exit !found }' "$root/proc/swaps"; then
            printf '/dev/%s is swap space' "$name" && return
        fi
        for found in "$(sysfs_of "$name")"/holders/*; do
            if [ -e "$found" ]; then printf '/dev/%s is held by %s' "$name" "$(basename "$found")" && return; fi
        done
        # Only one device of a Btrfs stands in the list of mounts.
        for found in "$root"/sys/fs/btrfs/*/devices/"$name"; do
            if [ -e "$found" ]; then printf '/dev/%s is part of a mounted Btrfs' "$name" && return; fi
        done
        for found in "$root"/sys/class/block/loop*/loop/backing_file; do
            if [ -e "$found" ] && [ "$(cat "$found")" = "/dev/$name" ]; then
                found=${found%/loop/*} && printf '/dev/%s is behind %s' "$name" "${found##*/}" && return
            fi
        done
        found=$(find "$root"/proc/[0-9]*/fd \( -lname "/dev/$name" -o -lname "/dev/ng${name#nvme}" \) -print -quit \
            2>/dev/null) || true
        if [ -n "$found" ]; then
            found=${found#"$root"/proc/}
            printf '/dev/%s is open in process %s (%s)' "$name" "${found%%/*}" "$(cat "$root/proc/${found%%/*}/comm")"
            return
        fi
    done
    # Whoever has no name here, ZFS for one, has taken it exclusively, and the kernel gives it to nobody else.
    found=$(perl -MFcntl -e 'sysopen(F, $ARGV[0], O_RDONLY | O_EXCL) or print $!' "$root/dev/$1")
    if [ -n "$found" ]; then printf '/dev/%s is held by something that has no name here (%s)' "$1" "$found"; fi
}

# forebay_uuids NAME: the UUID of the Forebay namespace on it, or of the several that its superblock copies name; nothing
# when there is none.
forebay_uuids() {
    local at hex size back addresses=("${superblock_addresses_bytes[@]}")
    size=$(size_of "$1")
    for back in "${superblock_back_bytes[@]}"; do
        if [ "$size" -gt "$back" ]; then addresses+=($((size - back))); fi
    done
    for at in "${addresses[@]}"; do
        hex=$(od -An -v -tx1 -j "$at" -N 32 "$root/dev/$1" 2>/dev/null | tr -d ' \n') || true
        if [ "${hex:0:16}" = 4642535550455231 ]; then # FBSUPER1
            hex=${hex:32}
            printf '%s-%s-%s-%s-%s\n' "${hex:0:8}" "${hex:8:4}" "${hex:12:4}" "${hex:16:4}" "${hex:20}"
        fi
    done | sort -u | tr '\n' ' '
}

# contents_of NAME: what stands on the device; nothing when nothing does.
contents_of() {
    local device=$root/dev/$1 found
    if [ "$(size_of "$1")" = 0 ]; then printf 'what the kernel cannot read (its size is 0)' && return; fi
    found=$(forebay_uuids "$1")
    if [ -n "$found" ]; then printf 'a Forebay namespace, %s' "${found% }" && return; fi
    found=$(partitions_of "$1" | tr '\n' ' ')
    if [ -n "$found" ]; then printf 'partitions: %s' "${found% }" && return; fi
    found=$(wipefs --no-act --parsable "$device" | awk -F, '!/^#/ { print $NF }' | sort -u | tr '\n' ' ')
    if [ -n "$found" ]; then printf 'a known signature: %s' "${found% }" && return; fi
    found=$(blkid -p -o value -s TYPE -s PTTYPE "$device" | tr '\n' ' ') || true
    if [ -n "$found" ]; then printf 'a known signature: %s' "${found% }" && return; fi
    # Nobody's signature may still be somebody's log.
    if ! cmp -s -n "$head_bytes" "$device" /dev/zero; then printf 'unknown data in its first 1 MiB'; fi
}

# guard NAME FORCE [UUID...]: stops unless the device is free to take: unused, and empty or forced or one of these
# Forebay namespaces (a script that takes their names sets expects_uuids=1). What is in use stays refused even when forced.
guard() {
    local name=$1 force=$2 found uuid
    shift 2
    need perl=perl-base
    [ -r "$root/dev/$name" ] || die "/dev/$name cannot be read, so it is not known what it holds; run as root"
    found=$(use_of "$name")
    if [ -n "$found" ]; then die "$found; release it first (lsblk shows all of it). Nothing was changed"; fi
    if [ "$force" = 1 ]; then return; fi
    found=$(contents_of "$name")
    if [ -z "$found" ]; then return; fi
    for uuid in "$@"; do
        if [ "$found" = "a Forebay namespace, $uuid" ]; then return; fi
    done
    found="/dev/$name holds $found; --force if it may be taken all the same"
    if [[ ${expects_uuids:-0}$found == 1*'a Forebay'* ]]; then found+=", or --namespace UUID if that is the one"; fi
    die "$found. Nothing was changed"
}
