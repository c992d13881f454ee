#!/usr/bin/env bash
# Installs this checkout: a virtual environment of its own in PREFIX/lib/flannel, links to its
# programs, units, and what keeps other network managers away. `remove` takes away what was installed,
# by the list that was written then, and nothing else.
#
#     DESTDIR= PREFIX=/usr dist/install.sh install /usr/bin/python3
#     DESTDIR= PREFIX=/usr dist/install.sh remove
#
# With DESTDIR the tree is made there, for a package or an image, and is right for its place in /.
set -euo pipefail

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr}
home=$PREFIX/lib/flannel
list=$home/installed # directories end with a slash
[ -z "$DESTDIR" ] || DESTDIR=$(realpath -m "$DESTDIR")
installed=()
copy=
checkout=$(cd "$(dirname "$0")/.." && pwd)

die() {
	echo "cannot $1: $2" >&2
	exit 1
}

# $1 and the directories above it, those of them that are not there.
make_directory() {
	if [ -d "$DESTDIR$1" ]; then return 0; fi
	[ "$1" = / ] || make_directory "$(dirname "$1")"
	mkdir -m 755 "$DESTDIR$1"
	installed+=("$1/")
}

# What is there already is somebody else's: what we installed earlier has been removed before.
claim() {
	make_directory "$(dirname "$1")"
	if [ -e "$DESTDIR$1" ] || [ -L "$DESTDIR$1" ]; then
		die install "$DESTDIR$1 is there, and not made by make install"
	fi
	installed+=("$1")
}

# put MODE FILE DESTINATION
put() {
	claim "$3"
	# Commands are named in full in units, and may be somewhere else than in /usr/bin here.
	sed "s#/usr/bin/\(flanneld\|mk-docker-opts\)#$PREFIX/bin/\1#g" "$2" >"$DESTDIR$3"
	chmod "$1" "$DESTDIR$3"
}

# put_all DIRECTORY DESTINATION: the files in it, if it is there.
put_all() {
	local file
	for file in "$1"/*; do
		if [ -f "$file" ]; then put 644 "$file" "$2/$(basename "$file")"; fi
	done
}

make_environment() {
	local target=$DESTDIR$home
	rm -rf "$target"
	"$python" -m venv "$target"
	python=$target/bin/python
	# From a copy: what an earlier build has left in the checkout would be installed as well.
	copy=$(mktemp -d)
	(cd "$checkout" && cp -r pyproject.toml setup.py README.md LICENSE csrc flannel "$copy")
	find "$copy" -name '*.so' -delete
	"$python" -m pip install -qq --disable-pip-version-check --no-compile "$copy"
	# Neither is needed any more.
	"$python" -m pip uninstall -qq --yes --disable-pip-version-check setuptools pip 2>/dev/null
	"$python" -m compileall -qq -s "$DESTDIR" -p / "$target/lib"
	# Programs and pyvenv.cfg name their place, which is not the final one yet; what activates an
	# environment for a person at a shell is not for this one.
	rm -f "$target"/bin/[Aa]ctivate*
	find "$target/bin" "$target/pyvenv.cfg" -type f -exec sed -i "s|$target|$home|g" {} +
}

programs() { sed -n '/^\[project.scripts\]/,/^$/s/^\([a-z-]*\) = .*/\1/p' "$checkout/pyproject.toml"; }

install_all() {
	[ -n "$python" ] || die install "no Python of 3.11 or later with venv and its C headers here"
	[ ! -e "$DESTDIR$home" ] || [ -e "$DESTDIR$list" ] ||
		die install "$DESTDIR$home is there, and not made by make install"
	[ ! -e "$DESTDIR$list" ] || remove_all # an earlier version, with what only that one had
	mkdir -p "$DESTDIR/"
	trap give_up EXIT
	local program
	for program in $(programs); do
		claim "$PREFIX/bin/$program"
		ln -s "$home/bin/$program" "$DESTDIR$PREFIX/bin/$program"
	done
	cd "$checkout/dist"
	put 755 mk-docker-opts.sh "$PREFIX/bin/mk-docker-opts.sh"
	put 644 flanneld.service "$PREFIX/lib/systemd/system/flanneld.service"
	put 644 flannel-docker.path "$PREFIX/lib/systemd/system/flannel-docker.path"
	put 644 flannel-docker.service "$PREFIX/lib/systemd/system/flannel-docker.service"
	put_all docker.service.d "$PREFIX/lib/systemd/system/docker.service.d"
	put_all networkd "$PREFIX/lib/systemd/network"
	put_all NetworkManager "$PREFIX/lib/NetworkManager/conf.d"
	put_all sysctl.d "$PREFIX/lib/sysctl.d"
	put_all man "$PREFIX/share/man/man8"
	put_all completions/bash "$PREFIX/share/bash-completion/completions"
	put_all completions/zsh "$PREFIX/share/zsh/site-functions"
	put_all completions/fish "$PREFIX/share/fish/vendor_completions.d"
	put 644 cloud-config.yaml "$PREFIX/share/doc/flannel/cloud-config.yaml"
	put 644 grafana-dashboard.json "$PREFIX/share/doc/flannel/grafana-dashboard.json"
	make_directory "$home"
	make_environment
	write_list
	trap - EXIT
	rm -rf "$copy"
}

write_list() { printf '%s\n' "${installed[@]}" >"$DESTDIR$list"; }

# Half an installation is none.
give_up() {
	rm -rf "$copy"
	make_directory "$home"
	write_list
	remove_all
}

remove_all() {
	[ -e "$DESTDIR$list" ] || die remove "there is no $DESTDIR$list, which says what to remove"
	local names name i
	mapfile -t names <"$DESTDIR$list"
	rm -rf "$DESTDIR${home:?}"
	for ((i = ${#names[@]} - 1; i >= 0; i--)); do
		name=$DESTDIR${names[i]}
		case $name in
		*/) [ ! -d "$name" ] || rmdir --ignore-fail-on-non-empty "$name" ;; # others may use it now
		*) rm -f "$name" ;;
		esac
	done
}

case ${1:-} in
install)
	python=${2:-}
	install_all
	echo "installed in ${DESTDIR:-/}, see $DESTDIR$list"
	[ -n "$DESTDIR" ] || cat <<-'EOF'
		next: flags into /etc/default/flanneld, then
		    systemctl daemon-reload && systemctl enable --now flanneld
	EOF
	;;
remove)
	if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
		systemctl --quiet disable --now flanneld.service || true
	fi
	remove_all
	echo "removed; /etc/default/flanneld, /var/lib/flannel, the lease in etcd, device, routes and"
	echo "firewall rules stay as they are: flannel cleanup, before this, takes them from the host"
	;;
*) die "go on" "say install PYTHON, or remove" ;;
esac
