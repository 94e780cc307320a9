#!/bin/bash
# Installs what the tests need and this machine lacks, where there are apt and root; else says what to install.
# Exits 0 all the same: a lane that cannot run says so itself.
set -u
export PATH=$PATH:/usr/sbin:/sbin

missing=()
need() { # PROGRAM PACKAGE...
	command -v "$1" >/dev/null || missing+=("${@:2}")
}
need ip iproute2
need nft nftables
need iptables iptables
need strace strace
need modprobe kmod
need xz xz-utils
need gcc gcc libc6-dev
need qemu-system-x86_64 qemu-system-x86
need containerd containerd
need runc runc
need podman podman
need make make
need ping iputils-ping
need dnsmasq dnsmasq-base
need curl curl
need mandoc mandoc
need zsh zsh
need fish fish
if ! busybox=$(command -v busybox) || ldd "$busybox" >/dev/null 2>&1; then # ldd fails for a static one
	missing+=(busybox-static)
fi

updated=no
install() {
	echo "setup: installing $*"
	[ $updated = yes ] || apt-get update -qq
	updated=yes
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
can=no
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && can=yes

if [ ${#missing[@]} -gt 0 ]; then
	if [ $can = no ] || ! install "${missing[@]}"; then
		echo "setup: MISSING: apt-get install ${missing[*]}" >&2
	fi
fi
# Older releases ship virtiofsd with QEMU, newer ones as a package of its own.
if [ ! -e /usr/lib/qemu/virtiofsd ] && [ ! -e /usr/libexec/virtiofsd ]; then
	if [ $can = no ] || ! install virtiofsd; then
		echo "setup: MISSING: apt-get install virtiofsd" >&2
	fi
fi
# Some packages start a service and have it start at every boot; the tests want the program alone.
quietly() { # SERVICE PACKAGE...
	local policy=/usr/sbin/policy-rc.d made=no done=no # invoke-rc.d(8)
	if [ $can = yes ]; then
		[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && made=yes; }
		install "${@:2}" && done=yes
		[ $made = no ] || rm -f $policy
	fi
	if [ $done = no ]; then
		echo "setup: MISSING: apt-get install ${*:2}" >&2
	elif [ -d /run/systemd/system ]; then
		systemctl disable --quiet "$1" || echo "setup: the service $1 starts at the next boot: systemctl disable $1" >&2
	fi
}
if ! command -v etcd >/dev/null || ! command -v etcdctl >/dev/null; then
	quietly etcd etcd-server etcd-client
fi
if ! command -v dockerd >/dev/null; then
	quietly docker docker.io
	[ ! -d /run/systemd/system ] || systemctl disable --quiet docker.socket
fi
# The virtual machine's kernel comes through apt as well, which knows none before an update.
if [ $can = yes ] && [ $updated = no ] && ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
	apt-get update -qq || echo "setup: apt-get update failed" >&2
fi
exit 0
