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
# The package of etcd starts a service and has it start at every boot; the tests want the program alone.
if ! command -v etcd >/dev/null || ! command -v etcdctl >/dev/null; then
	policy=/usr/sbin/policy-rc.d # invoke-rc.d(8)
	if [ $can = yes ] && [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && trap 'rm -f $policy' EXIT
	fi
	if [ $can = no ] || ! install etcd-server etcd-client; then
		echo "setup: MISSING: apt-get install etcd-server etcd-client" >&2
	elif [ -d /run/systemd/system ]; then
		systemctl disable --quiet etcd || echo "setup: the service etcd starts at the next boot: systemctl disable etcd" >&2
	fi
fi
# The virtual machine's kernel comes through apt as well, which knows none before an update.
if [ $can = yes ] && [ $updated = no ] && ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
	apt-get update -qq || echo "setup: apt-get update failed" >&2
fi
exit 0
