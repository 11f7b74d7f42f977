#!/bin/busybox sh
# The guest's initial file system: finds the two disks and hands over to what the kernel's command line names.
PATH=/bin
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in /modules/*; do
    /bin/busybox insmod "$module"
done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox poweroff -f
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/payload || exec /bin/busybox poweroff -f
init=/payload/guest.sh
for word in $(/bin/busybox cat /proc/cmdline); do
    case "$word" in lighter.init=*) init=${word#*=} ;; esac
done
/bin/busybox umount /proc
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root "$init"
