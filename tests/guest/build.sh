#!/bin/sh
# build.sh DEBS OUT: makes OUT/vmlinuz and OUT/initrd, the tests' guest, from the packages that fetch.sh left in
# DEBS and from this machine's static busybox. Takes seconds; does nothing when OUT was made of the same parts.
set -eu
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
debs=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)

busybox=$(command -v busybox) || { echo "build.sh: run: apt-get install busybox-static" >&2; exit 1; }
key=$( { cat "$here/build.sh" "$here/init" "$busybox"; ls "$debs"; } | sha256sum | cut -d' ' -f1)
if [ -f "$out/vmlinuz" ] && [ -f "$out/initrd" ] && [ "$(cat "$out/key" 2>/dev/null)" = "$key" ]; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for deb in "$debs"/linux-image-*.deb "$debs"/qemu-guest-agent_*.deb; do
    dpkg-deb -x "$deb" "$work/packages"
done
modules=$(echo "$work"/packages/lib/modules/*)
version=$(basename "$modules")

root=$work/root
for dir in bin sbin usr/sbin etc/qemu dev proc sys run tmp mnt var/run modules; do
    mkdir -p "$root/$dir"
done
cp "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
install -m 755 "$here/init" "$root/init"

# The agent, with the libraries it is linked to; qemu-system-x86 needs the same ones, so they are here.
agent=$work/packages/usr/sbin/qemu-ga
if ldd "$agent" | grep 'not found' >&2; then
    echo "build.sh: qemu-ga needs libraries that are not installed; run: apt-get install qemu-system-x86" >&2
    exit 1
fi
cp "$agent" "$root/usr/sbin/"
ldd "$agent" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done

# The modules the guest needs, each after those it depends on, in the order in which init loads them. The package
# comes without modules.dep.
depmod -b "$work/packages" "$version" 2>/dev/null
name_of() { sed -n "s|^\([^:]*/$1\.ko[^:]*\):.*|\1|p" "$modules/modules.dep"; }
take() {
    grep -qx "$(basename "$1")" "$root/modules/order" && return
    for needed in $(sed -n "s|^$1: *||p" "$modules/modules.dep" | tr ' ' '\n' | tac); do
        take_alone "$needed"
    done
    take_alone "$1"
}
take_alone() {
    file=$(basename "$1")
    grep -qx "$file" "$root/modules/order" && return
    cp "$modules/$1" "$root/modules/$file"
    echo "$file" >> "$root/modules/order"
}
: > "$root/modules/order"
for module in button evdev virtio_pci virtio_blk virtio_console; do
    path=$(name_of "$module")
    [ -n "$path" ] && take "$path" || echo "build.sh: kernel $version has no module $module" >&2
done

(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -1) > "$out/initrd.part"
cp "$work/packages/boot/vmlinuz-$version" "$out/vmlinuz.part"
mv "$out/initrd.part" "$out/initrd"
mv "$out/vmlinuz.part" "$out/vmlinuz"
echo "$key" > "$out/key"
