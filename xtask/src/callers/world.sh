#!/bin/sh
# Runs rows of commands once with each runtime, in the peers' tree and in namespaces of its own: whatever is started here
# ends, and whatever is mounted or configured is gone, when this script ends.
#
#   world.sh TREE BINARY ROWS OUT [NAME...]
#
# ROWS holds `docker.rows`, `podman.rows`, `ctr.rows`; OUT receives `CALLER/ROW.RUNTIME`, what the row's commands printed and
# their exit codes.
set -u
TREE=$1 BINARY=$2 ROWS=$3 OUT=$4
shift 4

# A root that can be pivoted to: what joins a container's mount namespace from a mere chroot finds the host's root there.
mount --bind "$TREE" "$TREE"
for directory in sys dev; do mount --rbind /$directory "$TREE/$directory"; mount --make-rslave "$TREE/$directory"; done
mount -t proc proc "$TREE/proc"
mount -t tmpfs -o mode=755 tmpfs "$TREE/run"
mount -t tmpfs -o mode=1777 tmpfs "$TREE/tmp"
ip link set lo up
mkdir -p "$TREE/run/callers/rows" "$TREE/run/callers/out"
cp "$BINARY" "$TREE/run/callers/lighter-runtime"
cp "$ROWS"/* "$TREE/run/callers/rows/"
mount --bind "$OUT" "$TREE/run/callers/out"
busybox=$(command -v busybox)
root=$TREE/run/callers/rootfs
mkdir -p "$root/bin" "$root/etc" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/root"
cp "$busybox" "$root/bin/busybox"
chroot "$root" /bin/busybox --install -s /bin
printf 'root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/tmp:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nguest:x:1000:\nstaff:x:50:guest\n' >"$root/etc/group"
tar -C "$root" -cf "$TREE/run/callers/busybox.tar" .
cd "$TREE" && pivot_root . mnt && exec chroot . /bin/sh -c 'umount -l /mnt; exec sh /run/callers/rows/inside.sh "$@"' sh "$@"
