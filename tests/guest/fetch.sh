#!/bin/sh
# fetch.sh DIR: downloads, without installing, the two Debian packages the tests' guest is made of: the cloud kernel
# and the guest agent. fetch.sh --present DIR: only says by its status whether they are there.
set -eu
if [ "$1" = --present ]; then
    [ -e "$2/complete" ]
    exit
fi
mkdir -p "$1"
cd "$1"
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
[ -n "$kernel" ] || { echo "fetch.sh: apt knows no linux-image-cloud-amd64; run: apt-get update" >&2; exit 1; }
rm -f ./*.deb
echo "fetching $kernel and qemu-guest-agent"
# As root apt would drop to a user that may not write here.
apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$kernel" qemu-guest-agent
touch complete
