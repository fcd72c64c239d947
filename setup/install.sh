#!/usr/bin/env bash
# setup/install.sh [--binary FILE] [--remove] [--root DIR] [--dry-run]: puts Forebay in place as a service of systemd.
#
# Installs, and replaces when they differ:
#   /usr/local/bin/forebay              the binary, by default target/release/forebay of this tree
#   /usr/local/lib/forebay/             host.sh, namespace.sh and what they need
#   /etc/systemd/system/                forebay.service, forebay-host.service
#   /etc/forebay/forebay.toml           only when there is none: it is yours
#   the system user and group forebay
# Starts nothing, enables nothing and touches no drive; it ends by saying what comes next.
#
#   --remove     takes the files away again that it installed; keeps /etc/forebay, the user, and all data
#   --root DIR   installs below DIR, for packages; makes no user there
#   --dry-run    prints every change instead of making it
# Exit codes: 0 done; 1 refused or failed; 2 the command line was not understood.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

binary=$here/../target/release/forebay remove=0 root=''
library=(host.sh namespace.sh lib.sh guard.sh journal.sh status.sh)
units=(forebay.service forebay-host.service)

while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=$(value_of "$@"); shift ;;
        --root) root=$(value_of "$@"); shift ;;
        --remove) remove=1 ;;
        --dry-run) dry_run=1 ;;
        --help | -h) print_help && exit ;;
        *) usage_error "unknown argument '$1'" ;;
    esac
    shift
done

# place MODE FROM TO: installs a file unless it is there and the same. The old one stays whole until the new one is.
place() {
    if cmp -s "$2" "$root$3" && [ "$(stat -c %a "$root$3")" = "$1" ]; then say "  $3 is up to date" && return; fi
    change install -D -m "$1" "$2" "$root$3.new"
    change mv -f "$root$3.new" "$root$3"
}

reload_units() {
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then change systemctl daemon-reload; fi
}

if [ -z "$root" ]; then need_root; fi

if [ "$remove" = 1 ]; then
    for unit in "${units[@]}"; do
        if [ -z "$root" ] && [ -d /run/systemd/system ] && systemctl is-active --quiet "$unit"; then
            die "$unit runs; stop it first: systemctl disable --now $unit"
        fi
    done
    for file in "${units[@]/#//etc/systemd/system/}" "${library[@]/#//usr/local/lib/forebay/}" /usr/local/bin/forebay; do
        if [ -e "$root$file" ]; then change rm "$root$file"; fi
    done
    if [ -d "$root/usr/local/lib/forebay" ]; then change rmdir --ignore-fail-on-non-empty "$root/usr/local/lib/forebay"; fi
    reload_units
    say "kept: /etc/forebay, the user forebay, all drives"
    exit
fi

[ -x "$binary" ] || die "there is no binary at $binary; build it (cargo build --release), or name one with --binary"
if [ -z "$root" ] && ! getent passwd forebay >/dev/null; then
    # A system user: the shared memory of others is cleared away when they log out.
    change useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin forebay
fi
place 755 "$binary" /usr/local/bin/forebay
for file in "${library[@]}"; do place "$(stat -c %a "$here/$file")" "$here/$file" "/usr/local/lib/forebay/$file"; done
for unit in "${units[@]}"; do place 644 "$here/$unit" "/etc/systemd/system/$unit"; done
if [ -e "$root/etc/forebay/forebay.toml" ]; then
    say "  /etc/forebay/forebay.toml is yours: left as it is"
else
    place 644 "$here/forebay.toml" /etc/forebay/forebay.toml
fi
reload_units
say "next: name the drive in /etc/forebay/forebay.toml, forebay format it, systemctl enable --now forebay (docs/operations.md)"
