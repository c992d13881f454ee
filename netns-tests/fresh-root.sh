#!/usr/bin/env bash
# Runs a command in a fresh clone of this checkout's last commit, on a clean Debian that is made for it
# and removed afterwards, whatever the command does.
#
#     netns-tests/fresh-root.sh bookworm|trixie "make demo && make test"
#
# The Debian is what debootstrap makes, with git and make in it and nothing else; the README's commands
# have to bring the rest. It has the machine's kernel, devices, cgroups and network, and mount, PID, IPC
# and UTS namespaces of its own: when the command ends, or this script is killed, so do all its processes
# and mounts. With FRESH_CACHE=DIRECTORY what debootstrap makes is kept there and used the next time.
set -euo pipefail

die() {
	echo "cannot make a clean root: $1" >&2
	exit 2
}

# First process of the namespaces: ROOT SUITE KEPT COMMAND
inside() {
	local root=$1 suite=$2 kept=$3 each
	echo "making a clean $suite in $root"
	if [ -f "$kept" ]; then
		tar -C "$root" -xf "$kept"
	else
		debootstrap --variant=minbase "$suite" "$root" >"$root.log" 2>&1 || {
			tail -n 20 "$root.log" >&2
			die "debootstrap failed"
		}
		if [ "$kept" ]; then
			tar -C "$root" -cf "$kept.$$" .
			mv "$kept.$$" "$kept"
		fi
	fi
	git -c safe.directory='*' clone --quiet --no-hardlinks "$checkout" "$root/root/flannel"
	# Debian's installer makes these, debootstrap does not.
	printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 fresh\n' >"$root/etc/hosts"
	echo fresh | tee "$root/etc/hostname" >/proc/sys/kernel/hostname
	cp -L /etc/resolv.conf "$root/etc/resolv.conf"
	# A machine may reach PyPI through a proxy with a certificate of its own.
	if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
		cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/pip-ca.crt"
		printf '[global]\ncert = /etc/pip-ca.crt\n' >"$root/etc/pip.conf"
	fi

	mount --bind "$root" "$root"
	cd "$root"
	mount -t proc proc proc
	for each in sys dev; do
		mount --rbind "/$each" "$each"
		mount --make-rslave "$each"
	done
	mount -t tmpfs -o mode=755 tmpfs run
	# chroot would not do: runc wants the root of its mount namespace.
	pivot_root . mnt
	umount -l mnt
	cd /root/flannel
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update && apt-get install --yes --no-install-recommends git make; } >/tmp/make.log 2>&1 || {
		tail -n 20 /tmp/make.log >&2
		die "apt-get cannot install git and make"
	}
	echo "running in it: $4"
	bash -c "$4"
}

checkout=$(cd "$(dirname "$0")/.." && pwd)
if [ "${1:-}" = --inside ]; then
	inside "${@:2}"
	exit
fi
suite=${1:-} command=${2:-}
case $suite in
bookworm | trixie) ;;
*) die "the suite is bookworm or trixie, not '$suite'" ;;
esac
[ "$command" ] || die "no command for it"
[ "$(id -u)" -eq 0 ] || die "this needs root"
command -v debootstrap >/dev/null || die "there is no debootstrap: apt-get install debootstrap"
if [ "${FRESH_CACHE:-}" ]; then mkdir -p "$FRESH_CACHE"; fi

above=$(mktemp -d "${TMPDIR:-/var/tmp}/flannel-fresh.XXXXXX")
child=
# shellcheck disable=SC2329 # the trap calls it
clean_up() {
	trap '' INT TERM HUP # rm ignores them as well: nothing is left
	# The first process of its PID namespace takes all others along.
	if [ "$child" ]; then
		kill -KILL "$child" 2>/dev/null || true
		wait "$child" 2>/dev/null || true
	fi
	rm -rf --one-file-system "$above"
	echo "removed $above"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir "$above/$suite"
# Of the caller's environment only what leads to the network.
clean=(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root)
clean+=(LANG=C.UTF-8 TERM="${TERM:-dumb}")
for each in http_proxy https_proxy no_proxy; do
	if [ "${!each:-}" ]; then clean+=("$each=${!each}"); fi
done
"${clean[@]}" unshare --mount --pid --ipc --uts --fork --kill-child --mount-proc \
	"$checkout/netns-tests/fresh-root.sh" --inside "$above/$suite" "$suite" \
	"${FRESH_CACHE:+$FRESH_CACHE/$suite.tar}" "$command" <&0 &
child=$!
status=0
wait "$child" || status=$?
child=
exit "$status"
