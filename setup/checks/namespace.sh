# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# namespace.sh with a drive that is made up: an `nvme` that answers as nvme-cli does and writes down what it is told.

mkdir -p "$scratch/bin"
cat >"$scratch/bin/nvme" <<'END'
#!/bin/sh
echo "nvme $*" >>"$NVME_LOG"
case $1 in
    id-ctrl) printf 'sn        : TEST\noacs      : %s\ncntlid    : 0x7\nfna       : %s\nunvmcap   : 1073741824\n' "$NVME_OACS" "$NVME_FNA" ;;
    id-ns) printf 'nsze    : 0x1000\nlbaf  0 : ms:0   lbads:9  rp:0 (in use)\nlbaf  1 : ms:8   lbads:12 rp:0 \nlbaf  2 : ms:0   lbads:12 rp:0x2 \nlbaf  3 : ms:0   lbads:12 rp:0x1 \n' ;;
    list-ns) printf '[   0]:0x1\n[   1]:0x2\n' ;;
    create-ns) echo 'create-ns: Success, created nsid:3' ;;
esac
END
chmod +x "$scratch/bin/nvme"

# drive OACS FNA: a drive of two namespaces, the first of them empty.
drive() {
    tree=$scratch/drive
    rm -rf "$tree"
    mkdir -p "$tree/dev" "$tree/proc/self" "$tree/sys/class/block/nvme0n1/holders"
    echo 259:1 >"$tree/sys/class/block/nvme0n1/dev"
    echo 4096 >"$tree/sys/class/block/nvme0n1/size"
    echo '22 1 254:0 / / rw - ext4 /dev/vda rw' >"$tree/proc/self/mountinfo"
    : >"$tree/proc/swaps"
    : >"$tree/dev/nvme0"
    truncate -s 2M "$tree/dev/nvme0n1"
    oacs=$1 fna=$2
    : >"$scratch/nvme.log"
}

# Only the commands that change something.
told() { grep -vE 'nvme (id-|list-ns)' "$scratch/nvme.log" || true; }

namespace() {
    env PATH="$scratch/bin:$PATH" NVME_LOG="$scratch/nvme.log" NVME_OACS="$oacs" NVME_FNA="$fna" \
        FOREBAY_HOST_ROOT="$tree" "$setup/namespace.sh" "$@"
}

drive 0x8 0
expect 0 'serial TEST' "list" namespace list /dev/nvme0
expect 2 'no device is named' "format of nothing" namespace format --yes
expect 2 'a whole namespace' "format of a controller" namespace format /dev/nvme0 --yes
expect 2 '4096 or 512' "blocks of 1000 B" namespace format /dev/nvme0n1 --block-bytes 1000
expect 2 'needs --size' "create without a size" namespace create /dev/nvme0
expect 2 '1 MiB or more' "create of nothing" namespace create /dev/nvme0 --size 0
for number in 0 4294967295; do
    expect 2 '1 to 4294967294' "attach of namespace $number" namespace attach /dev/nvme0 --nsid $number
done
expect 2 'create was given an option of another' "create with a number" namespace create /dev/nvme0 --size 100 --nsid 3
expect 2 'format was given an option of another' "format with a size" namespace format /dev/nvme0n1 --size 100 --yes
expect 2 'list was given an option of another' "list with a format" namespace list /dev/nvme0 --block-bytes 4096
expect 2 'needs --nsid' "attach without a number" namespace attach /dev/nvme0
expect 1 'there is no /dev/nvme7n1' "format of what is not there" namespace format /dev/nvme7n1 --yes
expect 1 'destroys all of /dev/nvme0n1, 2 MiB; say --yes' "format without --yes" namespace format /dev/nvme0n1
expect 0 '^\+ nvme format /dev/nvme0n1 --lbaf=3 ' "format, dry run" namespace format /dev/nvme0n1 --dry-run
expect 0 '^\+ nvme create-ns /dev/nvme0 --nsze=25600 .*--flbas=3' "create, dry run" namespace create /dev/nvme0 --size 100 --dry-run
expect 0 '^\+ nvme attach-ns /dev/nvme0 --namespace-id=NSID --controllers=0x7' "create, dry run: attach" \
    namespace create /dev/nvme0 --size 100 --dry-run
same "until here nothing was changed" '' "$(told)"

expect 0 'already' "format to the blocks that it has" namespace format /dev/nvme0n1 --block-bytes 512 --yes
expect 0 'format' "format" namespace format /dev/nvme0n1 --yes
expect 0 'attach-ns' "create" namespace create /dev/nvme0 --size 100
same "the fastest format of 4 KiB without metadata; the namespace that was made is attached" \
    "nvme format /dev/nvme0n1 --lbaf=3 --ses=0 --force
nvme create-ns /dev/nvme0 --nsze=25600 --ncap=25600 --flbas=3 --dps=0
nvme attach-ns /dev/nvme0 --namespace-id=3 --controllers=0x7
nvme ns-rescan /dev/nvme0" "$(told)"

drive 0x0 0
expect 1 'no namespace management' "create on a drive that cannot" namespace create /dev/nvme0 --size 100
drive 0x8 0x1
expect 1 'formats all its 2 namespaces at once' "format on a drive that formats all" namespace format /dev/nvme0n1 --yes --force
drive 0x8 0
echo x >"$scratch/x" && dd if="$scratch/x" of="$tree/dev/nvme0n1" conv=notrunc status=none
expect 1 'unknown data.*--force' "format of what holds data" namespace format /dev/nvme0n1 --yes
echo '23 1 259:1 / /srv rw - xfs /dev/x rw' >>"$tree/proc/self/mountinfo"
expect 1 'mounted on /srv' "format of what is mounted, by force" namespace format /dev/nvme0n1 --yes --force
same "refused means that nothing was changed" '' "$(told)"
