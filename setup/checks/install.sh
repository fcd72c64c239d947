# shellcheck shell=bash
# shellcheck disable=SC2154 # setup/test sets it
# install.sh below a directory.

place=$scratch/place
install() { "$setup/install.sh" --root "$place" --binary /bin/true "$@"; }
installed() { (cd "$place" 2>/dev/null && find . -type f -printf '%m %p\n' | sort -k2) || true; }

expect 1 'no binary at /nowhere; build it' "install without a binary" "$setup/install.sh" --root "$place" --binary /nowhere
expect 0 '^\+ install' "install, dry run" install --dry-run
same "install, dry run: nothing was changed" '' "$(installed)"
expect 0 '^next: ' "install" install
for file in '755 ./usr/local/bin/forebay' '755 ./usr/local/lib/forebay/host.sh' '644 ./usr/local/lib/forebay/guard.sh' \
    '644 ./etc/systemd/system/forebay.service' '644 ./etc/forebay/forebay.toml'; do
    same "installed: $file" "$file" "$(installed | grep -xF "$file")"
done
expect 0 'NVMe|hugepages' "the installed host.sh runs alone" "$place/usr/local/lib/forebay/host.sh" status
echo '# mine' >>"$place/etc/forebay/forebay.toml"
echo '# old' >>"$place/etc/systemd/system/forebay.service"
expect 0 'forebay.toml is yours' "install again" install
expect 0 '^# mine' "install again keeps the configuration" cat "$place/etc/forebay/forebay.toml"
same "install again mends the unit" '' "$(grep '^# old' "$place/etc/systemd/system/forebay.service")"
expect 0 'kept: /etc/forebay' "remove" install --remove
same "remove leaves the configuration alone" '644 ./etc/forebay/forebay.toml' "$(installed)"
