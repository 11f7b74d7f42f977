#!/bin/sh
# Runs the tests in the guest: as its first process, or as a service of systemd's.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root
if [ $$ = 1 ]; then
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777 shm /dev/shm
    mount -t tmpfs -o mode=755 run /run
    mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
    mount -t securityfs security /sys/kernel/security
    mount -t bpf bpf /sys/fs/bpf 2>/dev/null
    hostname guest
    ip link set lo up
fi
# The modules are on the second disk; none but these are needed, and nobody else loads them.
for module in overlay erofs loop veth bridge nf_tables fuse bfq; do
    modprobe -q $module || echo "no module $module" >&2
done
. /payload/settings
cd /lighter || exit 1
exec 3>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
/payload/e2e "$@" </dev/null >&3 2>&1
echo "lighter-vm: exit $?" >&3
sync
if [ $$ = 1 ]; then
    poweroff -f
else
    systemctl poweroff
fi
