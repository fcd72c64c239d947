#!/usr/bin/env bash
# setup/namespace.sh list | create | attach | format: namespaces of an NVMe drive, with nvme-cli, as Forebay wants them.
#
#   list CONTROLLER                    its namespaces, block formats and spare capacity; CONTROLLER as /dev/nvme0
#   create CONTROLLER --size MIB       makes a namespace of 4 KiB blocks and attaches it to this controller
#   attach CONTROLLER --nsid N         attaches a namespace that is there, and lets the kernel see it
#   format DEVICE --yes                gives a namespace (as /dev/nvme0n2) 4 KiB blocks. Destroys all that is on it
#
#   --block-bytes N    4096 (default) or 512
#   --force            format: even what holds data. A namespace that is mounted, held or open is refused all the same
#   --dry-run          prints the commands that change something instead of running them
#
# create needs a drive with namespace management (`nvme id-ctrl`, oacs bit 3); most consumer drives have none.
# Exit codes: 0 done; 1 refused or failed; 2 the command line was not understood.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=guard.sh
. "$here/guard.sh"

block_bytes='' size_mib='' nsid='' yes=0 force=0 device='' given=''

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --block-bytes) block_bytes=$(number_of "$@"); shift ;;
            --size) size_mib=$(number_of "$@"); shift ;;
            --nsid) nsid=$(number_of "$@"); shift ;;
            --yes) yes=1 ;;
            --force) force=1 ;;
            --dry-run) dry_run=1 ;;
            --help | -h) print_help && exit ;;
            -*) usage_error "unknown option '$1'" ;;
            *)
                if [ -n "$device" ]; then usage_error "one device at a time, not also '$1'"; fi
                device=$1
                ;;
        esac
        shift
    done
    # 0 names no namespace, and the last number of 32 bits all of them.
    if [ -n "$nsid" ] && { [ "$nsid" -lt 1 ] || [ "$nsid" -gt 4294967294 ]; }; then
        usage_error "--nsid is 1 to 4294967294, not $nsid; $0 list shows those that are attached"
    fi
    if [ -n "$size_mib" ] && [ "$size_mib" = 0 ]; then usage_error "--size is 1 MiB or more"; fi
    case $action in
        create) given=$nsid$yes$force ;;
        attach) given=$size_mib$yes$force$block_bytes ;;
        format) given=$size_mib$nsid ;;
        list) given=$size_mib$nsid$yes$force$block_bytes$dry_run ;;
    esac
    if [[ $given =~ [1-9] ]]; then usage_error "$action was given an option of another command"; fi
    block_bytes=${block_bytes:-4096}
    case $block_bytes in 512 | 4096) ;; *) usage_error "--block-bytes is 4096 or 512, not $block_bytes" ;; esac
    [ -n "$device" ] || usage_error "no device is named"
}

check_controller() {
    [[ $(basename "$device") =~ ^nvme[0-9]+$ ]] || usage_error "this takes a controller, as /dev/nvme0, not '$device'"
    [ -e "$root$device" ] || die "there is no $device; nvme list shows what there is"
}

# nvme_read COMMAND...: asks the drive something.
nvme_read() { nvme "$@" || die "nvme $* failed"; }

# field NAME: the value in what nvme-cli prints as "name : value".
field() { awk -F: -v name="$1" '{ key = $1; gsub(/[ \t]/, "", key) } key == name { gsub(/[ \t]/, "", $2); print $2; exit }'; }

# format_index IDENTIFY: which of the drive's block formats has these blocks and no metadata; the fastest of them.
format_index() {
    local shift_bits=9
    if [ "$block_bytes" = 4096 ]; then shift_bits=12; fi
    # "lbaf  4 : ms:0   lbads:12 rp:0 (in use)"; a lower rp is better.
    sed -nE 's/^lbaf +([0-9]+) : ms:0 +lbads:([0-9]+) +rp:(0x)?([0-9a-f]+).*/\4 \2 \1/p' <<<"$1" |
        awk -v bits="$shift_bits" '$2 == bits' | sort -n | awk 'NR == 1 { print $3 }'
}

# nsids: the namespaces of the device, or of its controller.
nsids() {
    local id
    nvme_read list-ns "$device" | sed -nE 's/^\[ *[0-9]+\]:(0x[0-9a-f]+)$/\1/p' | while read -r id; do echo $((id)); done
}

list() {
    check_controller
    local about id
    about=$(nvme_read id-ctrl "$device")
    say "$device: serial $(field sn <<<"$about"), capacity spare $(field unvmcap <<<"$about") B"
    if [ $(($(field oacs <<<"$about") & 8)) = 0 ]; then say "  no namespace management: create and attach will be refused"; fi
    for id in $(nsids); do
        about=$(nvme_read id-ns "$device" --namespace-id="$id")
        say "  namespace $id: $(($(field nsze <<<"$about"))) blocks; $(grep 'in use' <<<"$about")"
    done
}

attach() {
    check_controller
    [ -n "$nsid" ] || usage_error "attach needs --nsid"
    local about
    about=$(nvme_read id-ctrl "$device")
    change nvme attach-ns "$device" --namespace-id="$nsid" --controllers="$(field cntlid <<<"$about")"
    change nvme ns-rescan "$device"
}

create() {
    check_controller
    [ -n "$size_mib" ] || usage_error "create needs --size"
    local about index blocks answer
    about=$(nvme_read id-ctrl "$device")
    if [ $(($(field oacs <<<"$about") & 8)) = 0 ]; then
        die "$device has no namespace management; use the namespaces that it has ($0 list $device)"
    fi
    # What holds for namespaces that are yet to be made; a drive that does not say has the same for all.
    about=$(nvme id-ns "$device" --namespace-id=0xffffffff --force 2>/dev/null) ||
        about=$(nvme_read id-ns "$device" --namespace-id="$(nsids | head -n 1)")
    index=$(format_index "$about")
    [ -n "$index" ] || die "$device has no format with blocks of $block_bytes B and no metadata"
    blocks=$((size_mib * 1048576 / block_bytes))
    answer=$(change nvme create-ns "$device" --nsze="$blocks" --ncap="$blocks" --flbas="$index" --dps=0)
    say "$answer"
    if [ "$dry_run" = 1 ]; then
        nsid=NSID
    else
        # "create-ns: Success, created nsid:3"
        nsid=$(sed -nE 's/.*nsid: *([0-9]+).*/\1/p' <<<"$answer")
        [ -n "$nsid" ] || die "create-ns did not say which namespace it made; see nvme list-ns $device --all"
    fi
    attach
}

format() {
    local name about index
    name=$(basename "$(readlink -m "$root$device")")
    [[ $name =~ ^nvme[0-9]+n[0-9]+$ ]] || usage_error "format takes a whole namespace, as /dev/nvme0n2, not '$device'"
    [ -e "$(sysfs_of "$name")" ] || die "there is no $device; nvme list shows what there is"
    guard "$name" "$force"
    about=$(nvme_read id-ns "/dev/$name")
    index=$(format_index "$about")
    [ -n "$index" ] || die "/dev/$name has no format with blocks of $block_bytes B and no metadata"
    if grep -qE "^lbaf +$index .*in use" <<<"$about"; then
        say "  /dev/$name has blocks of $block_bytes B already" && return
    fi
    # On such a drive a format of one namespace is a format of all.
    if [ $(($(nvme_read id-ctrl "/dev/$name" | field fna) & 1)) = 1 ] && [ "$(nsids | wc -l)" -gt 1 ]; then
        die "the drive of /dev/$name formats all its $(nsids | wc -l) namespaces at once (fna bit 0); nothing was changed"
    fi
    if [ "$yes" = 0 ] && [ "$dry_run" = 0 ]; then
        die "this destroys all of /dev/$name, $(($(cat "$(sysfs_of "$name")/size") / 2048)) MiB; say --yes"
    fi
    change nvme format "/dev/$name" --lbaf="$index" --ses=0 --force
}

[ $# -gt 0 ] || usage_error "list, create, attach or format?"
action=$1
shift
case $action in
    list | create | attach | format) parse "$@" ;;
    --help | -h) print_help && exit ;;
    *) usage_error "unknown command '$action'" ;;
esac
need nvme=nvme-cli
if [ -z "$root" ]; then need_root; fi
"$action"
