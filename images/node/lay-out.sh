#!/bin/sh
# Makes the content of a card's root and data partition from an ordinary Debian tree with edged in it.
#
#   lay-out.sh ROOT DATA ro|rw     ROOT is changed in place, DATA is made (firstboot/README.md: the card)
#   lay-out.sh packages            the Debian packages that the result relies on
set -eu
here="$(cd "$(dirname "$0")" && pwd)"

# cloud-guest-utils: growpart. dosfstools, e2fsprogs: fsck at boot. wpasupplicant, wireless-regdb: Wi-Fi.
PACKAGES="systemd systemd-sysv systemd-resolved systemd-timesyncd udev dbus openssh-server python3 tzdata
cloud-guest-utils fdisk dosfstools e2fsprogs util-linux initramfs-tools wpasupplicant wireless-regdb"
if [ "${1:-}" = packages ]; then
    echo $PACKAGES
    exit
fi
root="$1" data="$2" variant="$3"
case "$variant" in ro | rw) ;; *) echo "lay-out.sh: the third word is ro or rw, not $variant" >&2; exit 2 ;; esac
[ ! -e "$data" ] || { echo "lay-out.sh: $data is there already" >&2; exit 1; }

# ---- the data partition: what edged has in its ordinary places moves there; the factory version stays in the root
umask 022
mkdir -p "$data/etc/edged" "$data/etc/network" "$data/ssh/authorized_keys" "$data/systemd" "$data/opt/edged/versions" \
    "$root/data" "$root/boot/firmware" "$root/etc/edged" "$root/var/lib/edged" "$root/var/lib/systemd" \
    "$root/usr/lib/edged/versions" "$root/opt/edged"
mkdir -p -m 0700 "$data/first-boot" "$data/edged"
cp -a "$root/var/lib/edged/." "$data/edged/"
cp -a "$root/etc/edged/." "$data/etc/edged/"
cp -a "$root/var/lib/systemd/." "$data/systemd/"
chmod 0700 "$data/edged"
for version in "$root"/opt/edged/versions/*; do
    [ -d "$version" ] || continue
    name="$(basename "$version")"
    mv "$version" "$root/usr/lib/edged/versions/$name"
    ln -s "/usr/lib/edged/versions/$name" "$data/opt/edged/versions/$name"
done
for other in "$root"/opt/edged/* "$root"/opt/edged/.[!.]*; do
    [ -e "$other" ] || [ -L "$other" ] || continue
    case "$other" in */versions) rmdir "$other" ;; *) mv "$other" "$data/opt/edged/" ;; esac
done
