# shellcheck shell=bash
# Says why a namespace must be left alone. Reads only. To be sourced, after lib.sh.
#
# $root is where /sys, /proc, /dev are looked for: empty, or a made-up tree in tests.

root=${FOREBAY_HOST_ROOT:-}

# The first two copies of Forebay's superblock stand here (docs/format.md).
superblock_addresses_bytes=(65536 131072)
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

# use_of NAME: who uses the device or a partition of it; nothing when nobody does.
use_of() {
    local name number found
    for name in "$1" $(partitions_of "$1"); do
        number=$(cat "$(sysfs_of "$name")/dev")
        # Btrfs mounts have a number of their own, but name their source.
        found=$(awk -v number="$number" -v source="/dev/$name" '
            { at = 0; for (i = 7; i <= NF; i++) if ($i == "-") at = i }
            $3 == number || $(at + 2) == source { print $5; exit }' "$root/proc/self/mountinfo")
        if [ -n "$found" ]; then printf '/dev/%s is mounted on %s' "$name" "$found" && return; fi
        if awk -v source="/dev/$name" '$1 == source { found = 1 } END { exit !found }' "$root/proc/swaps"; then
            printf '/dev/%s is swap space' "$name" && return
        fi
        for found in "$(sysfs_of "$name")"/holders/*; do
            if [ -e "$found" ]; then printf '/dev/%s is held by %s' "$name" "$(basename "$found")" && return; fi
        done
        found=$(find "$root"/proc/[0-9]*/fd \( -lname "/dev/$name" -o -lname "/dev/ng${name#nvme}" \) -print -quit \
            2>/dev/null) || true
        if [ -n "$found" ]; then
            found=${found#"$root"/proc/}
            printf '/dev/%s is open in process %s (%s)' "$name" "${found%%/*}" "$(cat "$root/proc/${found%%/*}/comm")"
            return
        fi
    done
}

# forebay_uuid NAME: the UUID of the Forebay namespace on it; nothing when there is none.
forebay_uuid() {
    local at hex
    for at in "${superblock_addresses_bytes[@]}"; do
        hex=$(od -An -v -tx1 -j "$at" -N 32 "$root/dev/$1" | tr -d ' \n')
        if [ "${hex:0:16}" = 4642535550455231 ]; then # FBSUPER1
            hex=${hex:32}
            printf '%s-%s-%s-%s-%s' "${hex:0:8}" "${hex:8:4}" "${hex:12:4}" "${hex:16:4}" "${hex:20}"
            return
        fi
    done
}

# contents_of NAME: what stands on the device; nothing when nothing does.
contents_of() {
    local device=$root/dev/$1 found
    found=$(forebay_uuid "$1")
    if [ -n "$found" ]; then printf 'a Forebay namespace, %s' "$found" && return; fi
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
