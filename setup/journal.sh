# shellcheck shell=bash
# shellcheck disable=SC2154 # what is sourced before sets it
# Changes that can be undone. Each is noted before it is made, so that `reset` undoes exactly what was done, also after
# a kill in between. To be sourced, after lib.sh and guard.sh.
#
# A line: kind, boot, arguments, with tabs between. What a reboot undoes by itself carries that boot's id, else "-".
#   write BOOT PATH OLD NEW [ASKED]   a setting of the kernel; ASKED when the kernel gave something else
#   owner BOOT PATH OLD         of a device node
#   mount BOOT PATH MADE        MADE is 1 when its directory was made, too
#   driver BOOT BDF OLD         of a PCI device; "none" when it had none
#   file - PATH SHA256          a file that was written

journal=$root/var/lib/forebay/host.journal
boot_id=$(cat "$root/proc/sys/kernel/random/boot_id")

note() {
    if [ "$dry_run" = 1 ]; then return; fi
    mkdir -p "$(dirname "$journal")"
    (IFS=$'\t' && printf '%s\n' "$*") >>"$journal"
}

# note_once LINE...: the same, unless it stands there: an earlier run was killed, or could not do it.
note_once() {
    if ! (IFS=$'\t' && grep -qxsF "$*" "$journal"); then note "$@"; fi
}

is_mounted() { awk -v at="$1" '$5 == at { found = 1 } END { exit !found }' "$root/proc/self/mountinfo"; }

# system COMMAND...: prints and runs what changes the machine beyond a file; in a made-up tree only prints.
system() {
    if [ -n "$root" ]; then say "+ $(shown "$@")"; else change "$@"; fi
}

# value_in PATH: a setting as it is now; of a list of choices the chosen one.
value_in() { sed -E 's/.*\[([^]]*)\].*/\1/; q' "$1"; }

# put PATH VALUE: writes to a file of the kernel.
put() {
    say "+ echo ${2:-''} > ${1#"$root"}"
    if [ "$dry_run" = 1 ]; then return; fi
    printf '%s\n' "$2" 2>/dev/null >"$1" || die "the kernel refuses '$2' for ${1#"$root"}; dmesg may say why"
}

# set_value PATH VALUE: changes a setting, unless it is so already. The kernel may give less than was asked.
set_value() {
    local old new
    old=$(value_in "$1")
    if [ "$old" = "$2" ]; then say "  ${1#"$root"} is $2 already" && return; fi
    note write "$boot_id" "$1" "$old" "$2"
    put "$1" "$2"
    if [ "$dry_run" = 1 ]; then return; fi
    new=$(value_in "$1")
    if [ "$new" != "$2" ]; then
        sed -i '$d' "$journal"
        note write "$boot_id" "$1" "$old" "$new" "$2"
    fi
}

set_owner() {
    local old
    old=$(stat -c %u:%g "$1")
    if [ "$old" = "$(id -u "$2"):$(id -g "$2")" ]; then say "  ${1#"$root"} belongs to $2 already" && return; fi
    note owner "$boot_id" "$1" "$old"
    system chown "$2:" "$1"
}

sum_of() { sha256sum | cut -d' ' -f1; }

# is_ours PATH: the file is as this script left it.
is_ours() {
    [ -e "$journal" ] && grep -qxF "file	-	$1	$(sum_of <"$1")" "$journal"
}

# ours PATH: what stands in a file of our own; nothing where there is none, or one that somebody else wrote.
ours() { if [ -e "$1" ] && is_ours "$1"; then cat "$1"; fi; }

# write_file PATH TEXT: a file of our own. One that somebody else wrote is left alone.
write_file() {
    if [ -e "$1" ] && [ "$(cat "$1")" = "$2" ]; then say "  ${1#"$root"} is so already" && return; fi
    if [ -e "$1" ] && ! is_ours "$1"; then
        die "${1#"$root"} is there and not of this script; move it away, or merge by hand: $2"
    fi
    say "+ write ${1#"$root"}: $2"
    note file - "$1" "$(printf '%s\n' "$2" | sum_of)"
    if [ "$dry_run" = 1 ]; then return; fi
    mkdir -p "$(dirname "$1")"
    printf '%s\n' "$2" >"$1"
}

driver_of() {
    local link=$root/sys/bus/pci/devices/$1/driver
    if [ -e "$link" ]; then basename "$(readlink "$link")"; else echo none; fi
}

# rebind BDF OVERRIDE: lets the driver named (empty: the one that fits) have the device.
rebind() {
    local device=$root/sys/bus/pci/devices/$1
    put "$device/driver_override" "$2"
    if [ -e "$device/driver" ]; then put "$device/driver/unbind" "$1"; fi
    put "$root/sys/bus/pci/drivers_probe" "$1"
}

undo_write() {
    local now
    if [ ! -e "$1" ]; then say "  $1 is gone" && return; fi
    now=$(value_in "$1")
    if [ "$now" = "$2" ]; then return; fi
    # Somebody else has set it since.
    if [ "$now" != "$3" ]; then warn "$1 is $now, not the $3 that config left: left alone" && return; fi
    put "$1" "$2"
}

# A file that config wrote several times has several lines; the last one undoes it.
undo_file() {
    local last
    last=$(awk -F'\t' -v path="$1" '$1 == "file" && $3 == path { sum = $4 } END { print sum }' "$journal")
    if [ ! -e "$1" ] || [ "$last" != "$2" ]; then return; fi
    if ! is_ours "$1"; then warn "$1 was edited since: left alone" && return; fi
    change rm "$1"
}

undo_driver() {
    local device=$root/sys/bus/pci/devices/$1
    if [ ! -e "$device" ]; then say "  $1 is gone" && return; fi
    if [ "$(driver_of "$1")" != vfio-pci ]; then warn "$1 has driver $(driver_of "$1"): left alone" && return; fi
    if [ "$2" != none ]; then rebind "$1" '' && return; fi
    put "$device/driver_override" ''
    put "$device/driver/unbind" "$1"
}

undo_owner() {
    if [ -e "$1" ]; then system chown "$2" "$1"; fi
}

undo_mount() {
    if is_mounted "$1"; then system umount "$1"; fi
    if [ "${2:-1}" = 1 ] && [ -d "$root$1" ]; then system rmdir "$1"; fi
}

# undo_all: the last change first. What an earlier boot changed in the kernel, the reboot undid.
undo_all() {
    local kind boot rest lines
    if [ ! -s "$journal" ]; then say "nothing to undo: config changed nothing" && return; fi
    lines=$(tac "$journal")
    while IFS=$'\t' read -r kind boot rest; do
        if [ "$boot" != - ] && [ "$boot" != "$boot_id" ]; then continue; fi
        IFS=$'\t' read -r -a rest <<<"$rest"
        "undo_$kind" "${rest[@]}"
    done <<<"$lines"
    change rm "$journal"
}
