#!/bin/bash
# Installs what building and testing need on a bare Debian 12 and is not there yet; a moment's no-op when all is.
# Root, or a user with sudo. Neither systemd nor dbus is needed, no service of the system is used by the tests.
#
#   tests/setup/packages.sh
#
# Beside packages: the parts of the tests' guest (target/guest/debs) and the Python client pyone (target/pyone).
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin
target=${CARGO_TARGET_DIR:-target}
pyone_version=7.0.2

# One line per reason.
packages=(
    gcc libc6-dev make pkg-config libvirt-dev          # building
    libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients
    qemu-system-x86 qemu-utils                         # the hypervisor; see qemu_versions
    libnbd-bin                                         # oracle for our NBD client
    restic                                             # oracle for our repositories
    virtnbdbackup                                      # beside us in `make bench`
    busybox-static kmod cpio e2fsprogs                 # the guest and its disks
    libxml2-utils jq                                   # documents against schemas
    python3 python3-venv ca-certificates               # Python's clients at the door; the processes' supervisor
    util-linux
    zsh fish                                           # completion of the commands, beside bash
    man-db groff-base mandoc                           # judges of the man pages
    openssh-server sshfs                               # shares: over ssh …
    nfs-ganesha nfs-ganesha-vfs nfs-common             # … and NFS, whose client is a kernel in user mode
    user-mode-linux iproute2
)

missing() {
    local installed
    installed=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package} ' "$@" 2>/dev/null || true) "
    for package; do
        case $installed in *" ii $package "*|*" hi $package "*) ;; *) echo "$package" ;; esac
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "packages.sh: needs root for: $*  (run it as root, or install sudo)" >&2; exit 1
    fi
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@"; }

updated=no
update_once() {
    [ $updated = yes ] && return
    echo "packages.sh: reading the package lists" >&2
    apt update >&2
    updated=yes
}

installed_version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true; }
known_versions() { apt-cache madison "$1" | awk -F'|' '{gsub(/ /, "", $2); print $2}'; }
# A rebuild (+b3) of one binary package does not change what it fits.
plain() { sed 's/+b[0-9]*$//' <<<"$1"; }

# qemu-utils and qemu-system-x86 of different versions exclude each other: apt would quietly remove the one when it
# installs the other (a machine may carry qemu-utils of backports beside a stable archive). Prints pkg=version for
# one version of all parts: the installed one where the archives have it for all and apt can do it, else apt's own
# choice, else any.
qemu_versions() {
    local wanted part version chosen list
    local parts="qemu-system-x86 qemu-system-common qemu-system-data qemu-utils"
    [ -n "$(installed_version qemu-block-extra)" ] && parts="$parts qemu-block-extra"
    for wanted in "$(installed_version qemu-system-x86)" "$(installed_version qemu-utils)" \
        "$(apt-cache policy qemu-system-x86 | awk '/Candidate:/{print $2}')" $(known_versions qemu-system-x86); do
        [ -n "$wanted" ] && [ "$wanted" != "(none)" ] || continue
        list=""
        for part in $parts; do
            chosen=""
            for version in $(installed_version "$part") $(known_versions "$part"); do
                [ "$(plain "$version")" = "$(plain "$wanted")" ] && { chosen=$version; break; }
            done
            [ -n "$chosen" ] || continue 2
            list="$list $part=$chosen"
        done
        # Takers of another release's package may need more of that release than apt is willing to give.
        local plan
        plan=$(apt-get -s -q install --no-install-recommends --allow-downgrades $list 2>/dev/null) || continue
        grep -q '^Remv qemu' <<<"$plan" && continue
        echo "$list"
        return
    done
    echo "packages.sh: the package archives hold no complete set of QEMU of one version" >&2
    return 1
}

qemu_number() { "$@" --version 2>/dev/null | sed -n '1s/.*version \([0-9][0-9.]*\).*/\1/p'; }

if ! command -v dpkg-query >/dev/null; then
    echo "packages.sh: this is not a Debian; install by hand: ${packages[*]}" >&2
    exit 1
fi

# Versions of QEMU's parts, by the package database first (quick).
skewed() { [ "$(plain "$(installed_version qemu-utils)")" != "$(plain "$(installed_version qemu-system-x86)")" ]; }

mapfile -t absent < <(missing "${packages[@]}")
if [ ${#absent[@]} -gt 0 ] || skewed; then
    update_once
    arguments=()
    for package in ${absent[@]+"${absent[@]}"}; do
        case $package in qemu-*) ;; *) arguments+=("$package") ;; esac
    done
    case " ${absent[*]-} " in
        *" qemu-"*) qemu=yes ;;
        *) if skewed; then qemu=yes; else qemu=no; fi ;;
    esac
    if [ $qemu = yes ]; then
        versions=$(qemu_versions)
        read -r -a versions <<<"$versions"
        arguments+=("${versions[@]}")
    fi
    echo "packages.sh: installing ${arguments[*]}" >&2
    apt install --no-install-recommends --allow-downgrades "${arguments[@]}" >&2
    mapfile -t absent < <(missing "${packages[@]}")
    if [ ${#absent[@]} -gt 0 ]; then
        echo "packages.sh: still missing: ${absent[*]}; see apt's words above" >&2
        exit 1
    fi
fi

utils=$(qemu_number qemu-img)
system=$(qemu_number qemu-system-x86_64)
if [ -z "$utils" ] || [ "$utils" != "$system" ]; then
    echo "packages.sh: qemu-img is version '${utils:-none}' but qemu-system-x86_64 is '${system:-none}'; run:" >&2
    echo "  apt-get install --no-install-recommends --allow-downgrades $(qemu_versions)" >&2
    exit 1
fi

if ! command -v cargo >/dev/null && [ ! -x "${HOME:-}/.cargo/bin/cargo" ]; then
    echo "packages.sh: cargo is missing: install Rust 1.91 or newer (https://rustup.rs), then run this again" >&2
    exit 1
fi

if ! tests/guest/fetch.sh --present "$target/guest/debs"; then
    # An old list names files that are no longer there.
    tests/guest/fetch.sh "$target/guest/debs" >&2 || { update_once; tests/guest/fetch.sh "$target/guest/debs" >&2; }
fi

if [ ! -e "$target/pyone/$pyone_version" ]; then
    echo "packages.sh: installing pyone $pyone_version into $target/pyone" >&2
    rm -rf "$target/pyone"
    mkdir -p "$target"
    python3 -m venv "$target/pyone"
    "$target/pyone/bin/python" -m pip install -q --disable-pip-version-check "pyone==$pyone_version" >&2
    "$target/pyone/bin/python" -c 'import pyone'
    touch "$target/pyone/$pyone_version"
fi
