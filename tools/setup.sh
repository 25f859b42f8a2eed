#!/usr/bin/env bash
# Brings what `make demo` (or, with "test", "vm", "arm64" or "bench", `make test`, `test-vm`, `test-vm-arm64` or the peers of
# `make bench`) needs: Debian packages and a virtual environment with pinned, hash-checked Python packages. Does nothing
# where everything is there. Debian 12 and 13.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose="${1:-demo}"

# Each package with the program by which we notice that it is missing.
runtime=(crun:crun conmon:conmon mosquitto:mosquitto nft:nftables dnsmasq:dnsmasq-base busybox:busybox-static
    ip:iproute2 unshare:util-linux umount:mount mke2fs:e2fsprogs)
testing=(systemd-analyze:systemd faketime:faketime htpasswd:apache2-utils skopeo:skopeo umoci:umoci docker-registry:docker-registry
    chromium:chromium nsenter:util-linux initdb:postgresql)
benching=(dockerd:docker.io podman:podman containerd:containerd losetup:mount)
machines=(mmdebstrap:mmdebstrap qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils
    ssh:openssh-client mcopy:mtools mkfs.vfat:dosfstools sfdisk:fdisk)
cards=(arch-test:arch-test qemu-aarch64-static:qemu-user-static
    qemu-system-aarch64:qemu-system-arm QEMU_EFI.fd:qemu-efi-aarch64)
wanted=("${runtime[@]}")
[ "$purpose" = test ] && wanted+=("${testing[@]}")
[ "$purpose" = bench ] && wanted+=("${testing[@]}" "${benching[@]}")
[ "$purpose" = vm ] && wanted+=("${machines[@]}")
[ "$purpose" = arm64 ] && wanted+=("${machines[@]}" "${cards[@]}")

missing=()
export PATH="$PATH:/usr/sbin:/sbin"
for pair in "${wanted[@]}"; do
    program="${pair%%:*}" package="${pair#*:}"
    if [ "$package" = busybox-static ]; then # another package may bring a dynamic busybox
        dpkg -s busybox-static >/dev/null 2>&1 || missing+=("$package")
    elif [ "$package" = qemu-efi-aarch64 ]; then # no program at all
        [ -e /usr/share/qemu-efi-aarch64/QEMU_EFI.fd ] || missing+=("$package")
    elif [ "$package" = postgresql ]; then # its programs are not on PATH
        compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=("$package")
    elif ! command -v "$program" >/dev/null 2>&1; then
        missing+=("$package")
    fi
done
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: installing Debian packages: ${missing[*]}"
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        echo "setup: this needs root once, and there is no sudo here; as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root apt-get update -qq
    install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
    case " ${missing[*]} " in
    *" postgresql "*) # tests start clusters of their own; the distribution's is neither made nor started
        if ! dpkg -s postgresql-common >/dev/null 2>&1; then
            install postgresql-common
            as_root sed -ri 's/^#?create_main_cluster .*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
        fi
        ;;
    esac
    install "${missing[@]}"
    # The hub runs a mosquitto of its own, tests run registries of their own; the packages' services are in the way.
    for service in mosquitto docker-registry; do
        case " ${missing[*]} " in
        *" $service "*)
            [ -d /run/systemd/system ] && as_root systemctl disable --now "$service" >/dev/null 2>&1 || true
            ;;
        esac
    done
fi

# The stamp is the lock file itself: pip runs only when it changed.
if ! cmp -s requirements.lock .venv/requirements.lock || ! .venv/bin/python -c 'import edged, cloudlink' 2>/dev/null; then
    echo "setup: virtual environment .venv ($(python3 --version))"
    # Anew where there is none, where its making was interrupted and where the system's Python is another one now.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear .venv
    .venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
    .venv/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
    cp requirements.lock .venv/requirements.lock
fi
