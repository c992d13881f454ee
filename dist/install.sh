#!/usr/bin/env bash
# Installs this checkout: a virtual environment of its own in PREFIX/lib/flannel, links to its
# programs, units, documents, and files that keep other network managers off its devices.
#
#     DESTDIR= PREFIX=/usr WHEELHOUSE= dist/install.sh install /usr/bin/python3
#     DESTDIR= PREFIX=/usr dist/install.sh files      all but the environment and its programs
#     DESTDIR= PREFIX=/usr dist/install.sh remove
#
# Everything is made aside, in PREFIX/lib/flannel.new.*, and is moved into place when it is complete:
# a failure before that changes nothing, a failure in the move is rolled back, and a kill leaves each
# file either old or new. `remove` deletes the files of the list that was written then, and no other.
#
# With DESTDIR the tree is made there, for a package or an image, and is right for its place in /.
# With WHEELHOUSE, a directory that `make dist` has filled, no network and no compiler is needed.
set -euo pipefail
umask 022

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr}
WHEELHOUSE=${WHEELHOUSE:-}
[ -z "$DESTDIR" ] || DESTDIR=$(realpath -m "$DESTDIR")
home=$PREFIX/lib/flannel
list=$home/installed # directories end with a slash
checkout=$(cd "$(dirname "$0")/.." && pwd)
stage=          # where everything is made; $stage/new has the same paths as $DESTDIR
copy=           # of the sources
files=()        # made there, but for $home
directories=()  # made below $DESTDIR by us, now or earlier
declare -A ours # the files of the installation before

die() {
	echo "cannot $1: $2" >&2
	exit 1
}

is_there() { [ -e "$1" ] || [ -L "$1" ]; }

# $1 and the directories above it, those of them that are missing.
make_directory() {
	if [ -d "$DESTDIR$1/" ]; then return 0; fi
	make_directory "${1%/*}"
	mkdir "$DESTDIR$1"
	directories+=("$1/")
}

# put MODE FILE DESTINATION
put() {
	mkdir -p "$stage/new${3%/*}"
	# Units name commands in full; with another prefix these are not in /usr/bin.
	sed "s#/usr/bin/\(flanneld\|mk-docker-opts\)#$PREFIX/bin/\1#g" "$2" >"$stage/new$3"
	chmod "$1" "$stage/new$3"
	files+=("$3")
}

# put_all DIRECTORY DESTINATION: the files in it, if it is there.
put_all() {
	local file
	for file in "$1"/*; do
		if [ -f "$file" ]; then put 644 "$file" "$2/${file##*/}"; fi
	done
}

put_files() {
	local doc=$PREFIX/share/doc/flannel
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
	put 644 cloud-config.yaml "$doc/cloud-config.yaml"
	put 644 grafana-dashboard.json "$doc/grafana-dashboard.json"
	# As in the checkout, for their links to each other.
	put 644 ../README.md "$doc/README.md"
	put 644 ../CHANGELOG.md "$doc/CHANGELOG.md"
	put 644 ../SECURITY.md "$doc/SECURITY.md"
	put_all ../docs "$doc/docs"
}

programs() { sed -n '/^\[project.scripts\]/,/^$/s/^\([a-z-]*\) = .*/\1/p' "$checkout/pyproject.toml"; }

put_programs() {
	local program
	mkdir -p "$stage/new$PREFIX/bin"
	for program in $(programs); do
		ln -s "$home/bin/$program" "$stage/new$PREFIX/bin/$program"
		files+=("$PREFIX/bin/$program")
	done
}

make_environment() {
	local target=$stage/new$home quiet=(-qq --disable-pip-version-check) wheel
	if [ "$WHEELHOUSE" ]; then
		wheel=$(find "$WHEELHOUSE" -maxdepth 1 -name 'pip-*.whl' | head -1)
		[ "$wheel" ] || die install "$WHEELHOUSE has no wheels; make dist fills such a directory"
		"$python" -m venv --without-pip "$target"
		PYTHONPATH=$wheel "$target/bin/python" -m pip --isolated install "${quiet[@]}" --no-compile \
			--no-index --find-links "$WHEELHOUSE" "flannel==$(version)"
	else
		"$python" -m venv "$target"
		# A copy: an earlier build in the checkout would be installed as well.
		# From a place that has nothing to do with $DESTDIR: what is built may name it.
		copy=$(mktemp -d)
		(cd "$checkout" && cp -r pyproject.toml setup.py README.md LICENSE csrc flannel "$copy")
		find "$copy" -name '*.so' -delete
		"$target/bin/python" -m pip install "${quiet[@]}" --no-compile "$copy"
		# Neither is needed any more.
		"$target/bin/python" -m pip uninstall "${quiet[@]}" --yes setuptools pip 2>/dev/null
	fi
	# It has to load here before it replaces one that does.
	"$target/bin/python" -IBc 'import flannel.__main__, flannel.cli.main, flannel.backends.udp.dataplane'
	"$target/bin/python" -m compileall -qq -s "$stage/new" -p / "$target/lib"
	# Programs and pyvenv.cfg name their place, which is not the final one yet. Scripts that activate
	# an environment are for a person at a shell.
	rm -f "$target"/bin/[Aa]ctivate*
	find "$target/bin" "$target/pyvenv.cfg" -type f -exec sed -i "s|$target|$home|g" {} +
}

version() { sed -n 's/^__version__ = "\(.*\)"/\1/p' "$checkout/flannel/__init__.py"; }

read_list() {
	local names name
	[ -e "$DESTDIR$list" ] || return 0
	mapfile -t names <"$DESTDIR$list"
	for name in "${names[@]}"; do
		case $name in
		"$home/") ;;
		*/) directories+=("$name") ;;
		*) ours[$name]=yes ;;
		esac
	done
}

# write_list FILE NAME...: in one step, with all directories.
write_list() {
	printf '%s\n' "${directories[@]}" "$home/" "${@:2}" >"$1.new"
	mv -T "$1.new" "$1"
}

lock() {
	exec 9<"$DESTDIR$PREFIX/lib"
	flock -n 9 || die "$1" "another make install or uninstall is running"
	rm -rf "$DESTDIR$home".new.* # of one that was killed
}

# A directory for the new files, on the file system of their place.
begin() {
	mkdir -p "$DESTDIR/"
	trap give_up EXIT
	trap 'exit 130' INT TERM HUP
	make_directory "$PREFIX/lib"
	lock install
	stage=$(mktemp -d "$DESTDIR$home.new.XXXXXX")
	chmod 755 "$stage"
}

# What is there already and not in our list is somebody else's.
claim_all() {
	local name
	for name in "${files[@]}"; do
		if [ ! "${ours[$name]:-}" ] && is_there "$DESTDIR$name"; then
			die install "$DESTDIR$name is there, and not made by make install"
		fi
	done
}

# exchange ONE OTHER: two directories change their names in one step, where the file system can.
exchange() {
	"$python" -c 'import ctypes, os, sys
at_cwd, exchange = -100, 2
one, other = map(os.fsencode, sys.argv[1:])
sys.exit(ctypes.CDLL(None).renameat2(at_cwd, one, at_cwd, other, exchange) != 0)' "$1" "$2" \
		2>/dev/null || {
		mv -T "$2" "$stage/exchanged" && mv -T "$1" "$2" && mv -T "$stage/exchanged" "$1"
	}
}

swap() {
	local name
	# Until all is done, the list has old and new files.
	write_list "$stage/new$list" "${files[@]}" "${!ours[@]}"
	for name in "${!ours[@]}"; do
		if ! is_there "$DESTDIR$name"; then continue; fi
		mkdir -p "$stage/old${name%/*}"
		cp -a "$DESTDIR$name" "$stage/old$name"
	done
	swapping=yes
	if [ -d "$DESTDIR$home" ]; then
		exchange "$stage/new$home" "$DESTDIR$home"
		swapped=exchanged
	else
		mv -T "$stage/new$home" "$DESTDIR$home"
		swapped=moved
	fi
	for name in "${files[@]}"; do
		make_directory "${name%/*}"
		mv -fT "$stage/new$name" "$DESTDIR$name"
		unset "ours[$name]"
	done
	for name in "${!ours[@]}"; do rm -f "$DESTDIR$name"; done # only the earlier version had it
	write_list "$DESTDIR$list" "${files[@]}"
}
swapping=
swapped=

# As before, whatever has failed.
give_up() {
	local status=$? name
	trap '' INT TERM HUP
	set +e
	if [ "$swapping" ]; then
		case $swapped in
		exchanged) exchange "$stage/new$home" "$DESTDIR$home" ;;
		moved) rm -rf "$DESTDIR${home:?}" ;;
		esac
		for name in "${files[@]}" "${!ours[@]}"; do
			if is_there "$stage/new$name"; then continue; fi # it was not moved
			if is_there "$stage/old$name"; then
				mv -fT "$stage/old$name" "$DESTDIR$name"
			else
				rm -f "$DESTDIR$name"
			fi
		done
	fi
	[ -z "$stage" ] || rm -rf "$stage"
	[ -z "$copy" ] || rm -rf "$copy"
	remove_directories
	[ ! -e "$DESTDIR$list" ] || echo "the installation before is as it was" >&2
	exit "$status"
}

# Those that are empty: others may use the rest.
remove_directories() {
	local i
	for ((i = ${#directories[@]} - 1; i >= 0; i--)); do
		rmdir --ignore-fail-on-non-empty "$DESTDIR${directories[i]}" 2>/dev/null || true
	done
}

finish() {
	trap - EXIT
	rm -rf "$stage"
	[ -z "$copy" ] || rm -rf "$copy"
}

install_all() {
	[ -n "$python" ] || die install \
		"no Python of 3.11 or later with venv here; without WHEELHOUSE it needs its C headers as well"
	[ ! -e "$DESTDIR$home" ] || [ -e "$DESTDIR$list" ] ||
		die install "$DESTDIR$home is there, and not made by make install"
	read_list
	begin
	put_files
	put_programs
	claim_all
	make_environment
	swap
	finish
}

# The list is the last to end: if this is killed, it can be done again.
remove_all() {
	[ -e "$DESTDIR$list" ] || die remove "there is no $DESTDIR$list, which says what to remove"
	local name
	lock remove
	read_list
	for name in "${!ours[@]}"; do rm -f "$DESTDIR$name"; done
	mv -T "$DESTDIR$home" "$DESTDIR$home.new.removed"
	rm -rf "$DESTDIR$home.new.removed"
	remove_directories
}

[ -z "$WHEELHOUSE" ] || WHEELHOUSE=$(realpath "$WHEELHOUSE")
case ${1:-} in
install)
	python=${2:-}
	install_all
	echo "installed in ${DESTDIR:-/}, see $DESTDIR$list"
	[ -n "$DESTDIR" ] || cat <<-'EOF'
		next: flags into /etc/default/flanneld, then
		    systemctl daemon-reload && systemctl enable --now flanneld
		or, if it was installed before: systemctl daemon-reload && systemctl try-restart flanneld
	EOF
	;;
files)
	stage=$(mktemp -d)
	trap 'rm -rf "$stage"' EXIT
	put_files
	mkdir -p "$DESTDIR/"
	cp -a "$stage/new/." "$DESTDIR/"
	;;
remove)
	if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
		systemctl --quiet disable --now flanneld.service || true
	fi
	remove_all
	echo "removed; /etc/default/flanneld, /var/lib/flannel, the lease in etcd, device, routes and"
	echo "firewall rules stay as they are: flannel cleanup, before this, takes them from the host"
	;;
*) die "go on" "say install PYTHON, files, or remove" ;;
esac
