#!/data/data/com.termux/files/usr/bin/sh
export SVDIR="$PREFIX/var/service" LOGDIR="$PREFIX/var/log"
service-daemon start >/dev/null 2>&1
