#!/bin/bash
# Makes what Android shows of a machine, as root in namespaces of its own, says "ready", and stays as its first process.
#   holder.sh IMAGE ROOT DATA SEMAPHORES STORAGE [SOURCE TARGET]...
# SEMAPHORES: yes or no. STORAGE: how many megabytes it has, its files gone with it; 0: as many as this machine. Each SOURCE is shown read-only as TARGET, a name below /mnt.
set -eu
image=$1 root=$2 data=$3 semaphores=$4 storage=$5
shift 5
hostname localhost
mount --bind "$image" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sys "$root/sys"
mount -t tmpfs -o mode=755 mnt "$root/mnt"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 pts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
if [ "$semaphores" = yes ]; then mount -t tmpfs -o mode=1777 shm "$root/dev/shm"; fi
if [ "$storage" = 0 ]; then mount --bind "$data" "$root/data"; else
    mount -t tmpfs -o "size=${storage}m" data "$root/data"
    cp -a "$data/." "$root/data"
fi

# What Android denies to an app.
deny=$root/mnt/denied
mkdir -m 0700 "$deny"
mkdir -m 0000 "$deny/directory"
: >"$deny/file"
chmod 0000 "$deny/file"
for file in stat loadavg uptime vmstat diskstats filesystems partitions version; do
    if [ -e "$root/proc/$file" ]; then mount --bind "$deny/file" "$root/proc/$file"; fi
done
for directory in thermal power_supply hwmon net; do
    if [ -d "$root/sys/class/$directory" ]; then mount --bind "$deny/directory" "$root/sys/class/$directory"; fi
done
mount --bind "$deny/directory" "$root/sys/fs/cgroup"

while [ $# -gt 1 ]; do
    mkdir -p "$root/mnt/$2"
    mount --bind "$1" "$root/mnt/$2"
    mount -o remount,bind,ro "$root/mnt/$2"
    shift 2
done
# bash collects the children of those who end before them, as a first process must.
exec chroot "$root" /bin/bash -c 'echo ready; trap : TERM; while :; do sleep 1000 & wait; done'
