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
# The tool that mends versions is not a version itself: it is the image's, always.
if [ -d "$data/opt/edged/bin" ]; then
    mv "$data/opt/edged/bin" "$root/usr/lib/edged/bin"
    ln -s /usr/lib/edged/bin "$data/opt/edged/bin"
fi
rm -rf "$root/var/lib/edged" "$root/etc/edged" "$root/var/lib/systemd" "$root/etc/systemd/network"
mkdir -p "$root/var/lib/edged" "$root/etc/edged" "$root/var/lib/systemd" "$root/etc/systemd/network"

# ---- the root
cp -R "$here/rootfs/." "$root/"
mkdir -p "$root/usr/lib/edged/firstboot"
cp "$here"/firstboot/*.py "$root/usr/lib/edged/firstboot/"
cp "$here/rootfs/boot/firmware/edged.toml.example" "$root/usr/lib/edged/"

options="rw,noatime,lazytime,errors=remount-ro" boot="rw"
if [ "$variant" = ro ]; then
    options="ro,noatime" boot="ro"
    touch "$root/usr/lib/edged/read-only-root"
fi
# nofail: a board whose data partition is gone still says so on its boot partition, and lets a person in by console.
# 300s: nothing runs without it, so a slow card is waited for; it is the root's own, and that is there by then.
# umask: edged.toml has secrets in it until it is wiped.
cat > "$root/etc/fstab" <<END
LABEL=edged-root / ext4 $options 0 1
LABEL=edged-data /data ext4 noatime,lazytime,prjquota,nofail,x-systemd.device-timeout=300s 0 2
LABEL=EDGED-BOOT /boot/firmware vfat $boot,umask=0077,noatime,nofail,x-systemd.device-timeout=30s 0 2
/data/edged /var/lib/edged none bind,nofail 0 0
/data/etc/edged /etc/edged none bind,nofail 0 0
/data/etc/network /etc/systemd/network none bind,nofail 0 0
/data/opt/edged /opt/edged none bind,nofail 0 0
/data/systemd /var/lib/systemd none bind,nofail 0 0
tmpfs /tmp tmpfs mode=1777,nosuid,nodev,size=20% 0 0
tmpfs /var/tmp tmpfs mode=1777,nosuid,nodev,size=10% 0 0
tmpfs /var/log tmpfs mode=0755,nosuid,nodev,noexec,size=16M 0 0
END
if [ "$variant" = ro ]; then
    # `edged watchdog apply` writes its drop-in there, at each boot (edged-watchdog.service).
    mkdir -p "$root/etc/systemd/system.conf.d"
    echo "tmpfs /etc/systemd/system.conf.d tmpfs mode=0755,nosuid,nodev,noexec,size=64k 0 0" >> "$root/etc/fstab"
fi
# Each board makes its own at the first boot. An empty machine-id is "none yet", in systemd's words.
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" "$data/systemd/random-seed"
: > "$root/etc/machine-id"
echo edged > "$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n' > "$root/etc/hosts"
if [ "$variant" = ro ]; then
    ln -sfn /data/etc/localtime "$root/etc/localtime"
    ln -s /usr/share/zoneinfo/Etc/UTC "$data/etc/localtime"
fi
# What pods get as name servers comes from /run/systemd/resolve/resolv.conf; edged knows.
ln -sfn ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

units() { systemctl --root="$root" --quiet "$@"; }
units enable systemd-networkd.service systemd-resolved.service systemd-timesyncd.service ssh.service \
    edged-firstboot.service edged-join.service edged-watchdog.service
for unit in edged.service edged-pods.service edged-dashboard.socket; do
    [ ! -e "$root/etc/systemd/system/$unit" ] || units enable "$unit"
done
# Nobody waits for the network; nothing may write by itself; nobody can log in by password, so the screen is for messages.
units mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service wpa_supplicant.service
