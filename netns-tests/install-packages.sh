#!/usr/bin/env bash
# Installs the Debian packages that the checkout needs: to build it, to test it, to run the demo.
# Does nothing, in no time, where nothing is missing. Other distributions are told what is.
set -euo pipefail

# What proves that a package is there, and the package; of several, from A|B, the first that this
# release of Debian has. A name without / is a command.
needs=(
	gcc gcc
	/usr/include/stdio.h libc6-dev
	clang clang # csrc/fuzz/
	python3 python3
	etcd etcd-server
	etcdctl etcd-client
	ip iproute2
	ping iputils-ping
	nft nftables
	iptables iptables
	dockerd docker.io
	docker "docker-cli|docker.io" # apart from the daemon since Debian 13
	/usr/bin/busybox busybox-static # what the containers are made of
	sysctl procps
	ethtool ethtool
	nsenter util-linux
	setarch util-linux
	systemd-analyze systemd # verifies dist/flanneld.service
)
needs+=("$@") # what a caller needs besides, in the same way

missing=()
for ((i = 0; i < ${#needs[@]}; i += 2)); do
	case ${needs[i]} in
	/*) [ -e "${needs[i]}" ] ;;
	*) PATH=$PATH:/usr/sbin:/sbin command -v "${needs[i]}" >/dev/null ;;
	esac || missing+=("${needs[i + 1]}")
done
# Debian has these apart from Python itself; whatever python3 is, it must be able to do both.
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
python3 -c 'import os, sysconfig
os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || missing+=(python3-dev)
# What clang's sanitizers link to is in a package that is named after its version.
if ! [ -e "$(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a" 2>/dev/null)" ]; then
	missing+=(libclang-rt-dev)
fi

((${#missing[@]})) || exit 0

# name PACKAGE: what this release calls it, as far as its lists are there.
name() {
	local each version
	if [ "$1" = libclang-rt-dev ]; then
		version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p')
		set -- "libclang-rt-${version:-14}-dev"
	fi
	for each in ${1//|/ }; do
		if apt-cache show "$each" >/dev/null 2>&1; then
			echo "$each"
			return
		fi
	done
	echo "${1##*|}"
}

name_all() {
	local each
	names=()
	for each in "${missing[@]}"; do names+=("$(name "$each")"); done
}

name_all
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "missing packages; as root on Debian: apt-get install ${names[*]}" >&2
	exit 1
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
clean_up() {
	rm -f "$log"
	if [ "$made_policy" ]; then rm -f "$policy"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# The packages must not start services here: the tests run an etcd of their own.
if ! [ -e "$policy" ]; then
	made_policy=yes
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
fi

install() {
	export DEBIAN_FRONTEND=noninteractive
	local options=(-q -o DPkg::Lock::Timeout=300)
	apt-get update "${options[@]}" || return
	name_all # with the lists of now
	apt-get install "${options[@]}" --yes --no-install-recommends "${names[@]}"
}

echo "installing packages: ${names[*]}"
if ! { install || { sleep 5 && install; }; } >"$log" 2>&1 </dev/null; then
	cat "$log" >&2
	echo "cannot install packages: ${names[*]}" >&2
	exit 1
fi
# Nor at the next boot.
disable() { # PACKAGE UNIT...
	if [[ " ${missing[*]} " == *" $1 "* ]] && command -v systemctl >/dev/null; then
		systemctl --quiet disable "${@:2}" >>"$log" 2>&1 || { cat "$log" >&2; exit 1; }
		echo "${*:2} of $1: installed, and left stopped and disabled"
	fi
}
disable etcd-server etcd.service
disable docker.io docker.service docker.socket containerd.service
disable podman podman.service podman.socket podman-auto-update.timer podman-auto-update.service podman-restart.service
