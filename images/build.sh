#!/usr/bin/env bash
# Builds the project's container images. An image whose inputs have not changed is left alone, so that a warm run takes a second.
#
# Usage: build.sh --version VERSION [--bin DIR] [--force] [--rootfs-only] [IMAGE…]
#
#   --version VERSION  the images are tagged calico/<name>:VERSION, and calico/<name>:latest
#   --bin DIR          where the programs lie (default: bin beside this folder)
#   --force            build even what has not changed
#   --rootfs-only      make only the root file systems, which need no programs
#   IMAGE…             only these, and what they are built from (default: all); lab-host@26 is the lab's host with that engine
#
# An image is a folder beside this script with a Dockerfile. Its first argument of each COPY is taken from
#   bin/NAME           the folder of --bin
#   confd-templates/…  the project's folder of that name
#   anything else      the image's own folder
# A folder with a file `packages` has a root file system made of these Debian packages, which the Dockerfile gets as ROOTFS. It comes from
# debian:bookworm-slim where that image is here or can be pulled, and from mmdebstrap with this machine's apt sources where not;
# ROOTFS_FROM=debian or ROOTFS_FROM=mmdebstrap asks for one of the two. Dockerfiles that ask for BASE get calico/base.
#
# A folder with a file `engines` is built once for each line of it, from the suite that stands there, as calico/<name>:VERSION-engine<line>. NAME@ENGINE is one of
# them, NAME is all.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$here")
readonly here repo
# Debian's suite of all images but those of `engines`.
readonly main_suite=bookworm
readonly label=internal.calico.input
# Says which of our images one is: `calicoctl node run` starts no other under their names.
readonly name_label=org.projectcalico.docker.image
readonly version_label=org.opencontainers.image.version
# Those that take longest first.
readonly all_folders=(lab-host base node etcd confd calicoctl felix bgpd libnetwork-plugin workload)

version=
bin=$repo/bin
force=
rootfs_only=
wanted=()
declare -A file_hash=()
# Builds at once: they wait for the network and the disk as much as for the processor.
readonly at_once=2

say() { printf 'images: %s\n' "$*"; }
die() {
	printf 'images: %s\n' "$*" >&2
	exit 1
}
seconds_since() { echo $((($(date +%s%N) - $1) / 1000000)) | sed -E 's/^([0-9]{1,3})$/000\1/; s/^0*([0-9]+)([0-9])[0-9]{2}$/\1.\2 s/'; }

parse_arguments() {
	while [ $# -gt 0 ]; do
		case $1 in
		--version) version=${2-} && shift ;;
		--bin) bin=${2-} && shift ;;
		--force) force=yes ;;
		--rootfs-only) rootfs_only=yes ;;
		-h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
		-*) die "unknown option $1; see build.sh --help" ;;
		*)
			[ -n "$(images_of "$1")" ] || die "there is no image $1; there are: $(images_of "${all_folders[@]}" | paste -sd' ')"
			mapfile -t -O "${#wanted[@]}" wanted < <(images_of "$1")
			;;
		esac
		shift
	done
	[ -n "$version" ] || die "no --version; the Makefile passes one"
	[ ${#wanted[@]} -gt 0 ] || mapfile -t wanted < <(images_of "${all_folders[@]}")
}

# --- the names of images

# folder prints the folder of an image, engine the engine that it is for, if it is for one.
folder() { echo "${1%@*}"; }
engine() { [[ $1 != *@* ]] || echo "${1#*@}"; }

# images_of prints the images of folders; one that stands there already is printed as it is, if it can be built.
images_of() {
	local name
	for name in "$@"; do
		if [ ! -f "$here/$(folder "$name")/engines" ]; then
			[ ! -f "$here/$name/Dockerfile" ] || echo "$name"
		elif [ -n "$(engine "$name")" ]; then
			[ -z "$(engine_line "$name")" ] || echo "$name"
		else
			awk -v name="$name" '/^[^#]/ { print name "@" $1 }' "$here/$name/engines"
		fi
	done
}

# engine_line prints the line of an image's engine: the suite and the packages.
engine_line() { awk -v engine="$(engine "$1")" '$1 == engine { $1 = ""; print substr($0, 2) }' "$here/$(folder "$1")/engines" 2>/dev/null || true; }

suite() { engine_line "$1" | awk '{ sub(/\*$/, "", $1); print $1; found = 1 } END { if (!found) print "'$main_suite'" }'; }

# may_be_missing says whether an image is left out when its packages cannot be had.
may_be_missing() { [[ $(engine_line "$1") =~ ^[a-z]+\* ]]; }

# tag prints an image's name with a tag; with an engine, that ends it.
tag() {
	local engine
	engine=$(engine "$1")
	echo "calico/$(folder "$1"):$2${engine:+-engine$engine}"
}

# --- what an image is made of

dockerfile_arguments() { sed -nE 's/^ARG ([A-Z]+).*/\1/p' "$here/$(folder "$1")/Dockerfile"; }

# sources prints what the Dockerfile copies from outside of its own folder, as it names it.
sources() { sed -nE '/^COPY --from/d; s/^COPY (.*) [^ ]+$/\1/p' "$here/$(folder "$1")/Dockerfile" | tr ' ' '\n' | grep -E '^(bin|confd-templates)/' || true; }

# where_is prints the folder that a source lies below.
where_is() { case $1 in bin/*) dirname "$bin" ;; *) echo "$repo" ;; esac; }

path_of() { case $1 in bin/*) echo "$bin/${1#bin/}" ;; *) echo "$repo/$1" ;; esac; }

# hash_tree prints one line for each file below the given paths: its hash, its permissions and its name.
hash_tree() {
	local file
	while IFS= read -r -d '' file; do
		[ -n "${file_hash[$file]-}" ] || file_hash[$file]=$(sha256sum <"$file" | cut -c1-64)
		printf '%s %s %s\n' "${file_hash[$file]}" "$(stat -c %a "$file")" "${file#"$repo/"}"
	done < <(find "$@" -type f -print0 | sort -z)
}

# hash_programs fills in the hashes of all programs, which several images hold.
hash_programs() {
	local file
	for file in "$bin"/*; do
		[ ! -f "$file" ] || file_hash[$file]=$(sha256sum <"$file" | cut -c1-64)
	done
}

# input_hash prints the hash of everything that goes into an image: its folder, what it copies, the images that it stands on.
input_hash() {
	local name=$1 source paths=("$here/$(folder "$1")") rootfs=${2-} base=${3-}
	for source in $(sources "$name"); do
		[ -e "$(path_of "$source")" ] || die "calico/$name needs $(path_of "$source"), which is not there: run "make build" first"
		paths+=("$(path_of "$source")")
	done
	{
		hash_tree "${paths[@]}"
		echo "rootfs $rootfs base $base labels $name_label $version_label=$version"
	} >"$scratch/inputs"
	sha256sum <"$scratch/inputs" | cut -c1-40
}

# --- root file systems from Debian packages

# Raised when these are made in another way, so that they are made anew.
readonly recipe=1

packages() {
	sed -E 's/#.*//; /^\s*$/d' "$here/$(folder "$1")/packages"
	engine_line "$1" | tr -s ' ' '\n' | tail -n +2
}
variant() { sed -nE 's/^# variant: //p' "$here/$(folder "$1")/packages"; }

# apt_sources prints this machine's own sources of a suite, so that a mirror or a proxy set up on it is used; nothing if it has none. A suite that
# the machine does not have lies beside the one that it has.
apt_sources() {
	local suite=$1 own
	own=$(own_sources "$suite")
	[ -n "$own" ] || own=$(own_sources "$main_suite" | sed -n "s/ $main_suite main$/ $suite main/p")
	printf '%s' "${own:+$own
}"
}

own_sources() {
	# shellcheck disable=SC2016 # apt's own placeholders
	apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
		grep -E " $1(-updates|-security)? main$" | sort -u || true
}

# What no program reads at run time. Licence texts stay.
readonly unwanted='man locale info bash-completion lintian doc' # below /usr/share

rootfs_by_mmdebstrap() {
	local name=$1 tag=$2 suite id path arguments=() mirror=() merged=()
	suite=$(suite "$name")
	command -v mmdebstrap >/dev/null || {
		say "debian:$suite-slim cannot be had and mmdebstrap is not installed: apt-get install mmdebstrap" >&2
		return 1
	}
	for path in $unwanted; do arguments+=(--dpkgopt="path-exclude=/usr/share/$path/*"); done
	apt_sources "$suite" >"$scratch/sources.list"
	# Without a mirror, mmdebstrap takes Debian's.
	[ -s "$scratch/sources.list" ] && mirror=(-)
	# The machine's settings for fetching (proxies, time-outs, checks) hold for this too.
	apt-config dump Acquire | grep -vE '^Acquire::(IndexTargets|CompressionTypes|Changelogs|cdrom)' >"$scratch/apt.conf"
	# Later suites bring the merged /usr in their base-files.
	[ "$suite" != bookworm ] || [ -n "$(variant "$name")" ] || merged=(--include=usr-is-merged)
	mmdebstrap --variant="$(variant "$name" | grep . || echo essential)" --format=tar \
		--aptopt="$scratch/apt.conf" --aptopt='Acquire::Languages "none"' \
		"${arguments[@]}" --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
		--include="$(packages "$name" | paste -sd,)" "${merged[@]}" \
		"$suite" "$scratch/rootfs.tar" "${mirror[@]}" <"$scratch/sources.list" >"$scratch/log" 2>&1 || {
		tail -n 20 "$scratch/log" >&2
		say "mmdebstrap could not make the root file system of $name: its last lines are above" >&2
		return 1
	}
	id=$(docker import "$scratch/rootfs.tar" "$tag") && [ -n "$id" ] || return 1
	rm -f "$scratch/rootfs.tar"
}

rootfs_by_debian_image() {
	local name=$1 tag=$2
	{
		echo "FROM debian:$(suite "$name")-slim"
		printf 'RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends %s' "$(packages "$name" | sed "s/.*/'&'/" | paste -sd' ')"
		printf ' && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* && cd /usr/share && find %s ! -name copyright ! -type d -delete\n' "$unwanted"
	} | docker_build "$tag" -
}

have_debian_image() {
	docker image inspect "$1" >/dev/null 2>&1 || timeout 120 docker pull -q "$1" >/dev/null 2>&1
}

rootfs_tag() {
	local made_of
	made_of=$(packages "$1" && variant "$1" && echo "$(suite "$1") $unwanted $recipe")
	echo "calico/rootfs:${1/@/-engine}-$(sha256sum <<<"$made_of" | cut -c1-12)"
}

# build_rootfs makes the root file system of an image, unless it is there.
build_rootfs() {
	local name=$1 tag start
	tag=$(rootfs_tag "$name")
	if [ -z "$force" ] && docker image inspect "$tag" >/dev/null 2>&1; then return; fi
	start=$(date +%s%N)
	if make_rootfs "$name" "$tag"; then
		say "$name: root file system of $(size_of "$tag") made in $(seconds_since "$start")"
	elif may_be_missing "$name"; then
		say "$name: LEFT OUT: the packages of Debian's $(suite "$name"), which moves, cannot be had: $(engine_line "$name" | cut -d' ' -f2-). What is said above is why; all else goes on" >&2
	else
		exit 1
	fi
}

make_rootfs() {
	local name=$1 tag=$2 from=${ROOTFS_FROM:-auto} debian_image
	debian_image=debian:$(suite "$name")-slim
	if [ "$from" != mmdebstrap ] && have_debian_image "$debian_image"; then
		say "$name: installing $(packages "$name" | wc -l) packages on $debian_image …"
		rootfs_by_debian_image "$name" "$tag" || { [ "$from" = auto ] && rootfs_by_mmdebstrap "$name" "$tag"; }
	else
		[ "$from" != debian ] || die "$debian_image is not here and cannot be pulled"
		say "$name: making a root file system of $(packages "$name" | paste -sd' ') by mmdebstrap …"
		rootfs_by_mmdebstrap "$name" "$tag"
	fi
}

# --- images

size_of() { docker image inspect --format '{{.Size}}' "$1" | awk '{ printf "%.0f MB", $1 / 1e6 }'; }

# docker_build TAG CONTEXT [ARGUMENT…] prints the builder's output only if it fails.
docker_build() {
	local tag=$1 context=$2
	shift 2
	# The classic builder does not need buildx, which is a package of its own.
	DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0} docker build --force-rm --tag "$tag" "$@" "$context" >"$scratch/log" 2>&1 || {
		cat "$scratch/log" >&2
		say "docker could not build $tag: its output is above" >&2
		return 1
	}
}

# context writes an image's build context as a tar to standard output.
context() {
	local name=$1 source arguments=(-C "$here/$(folder "$1")" .)
	for source in $(sources "$name"); do
		arguments+=(--transform="s,^$(basename "$bin")/,bin/," -C "$(where_is "$source")" "${source/#bin\//$(basename "$bin")/}")
	done
	tar --create --owner=0 --group=0 "${arguments[@]}"
}

id_of() { docker image inspect --format '{{.Id}}' "$1" 2>/dev/null; }

# build_image builds an image, unless one of the same inputs is there, and gives it its tags.
build_image() {
	local name=$1 rootfs='' base='' hash id start argument arguments=()
	for argument in $(dockerfile_arguments "$name"); do
		case $argument in
		ROOTFS)
			rootfs=$(rootfs_tag "$name")
			if may_be_missing "$name" && [ -z "$(id_of "$rootfs")" ]; then
				say "$name: not built, as it has no root file system"
				return
			fi
			arguments+=(--build-arg ROOTFS="$rootfs")
			;;
		BASE)
			base=$(id_of "calico/base:$version")
			arguments+=(--build-arg BASE="calico/base:$version")
			;;
		esac
	done
	hash=$(input_hash "$name" "$rootfs" "$base") || exit 1
	id=$([ -n "$force" ] || docker images --no-trunc --quiet --filter "label=$label=$hash" "calico/$(folder "$name")" | head -n 1)
	if [ -z "$id" ]; then
		start=$(date +%s%N)
		context "$name" | docker_build "$(tag "$name" "$version")" - "${arguments[@]}" \
			--label "$label=$hash" --label "$name_label=$(folder "$name")" --label "$version_label=$version" || exit 1
		id=$(id_of "$(tag "$name" "$version")")
		say "$name: built $(tag "$name" "$version"), $(size_of "$id"), in $(seconds_since "$start")"
	fi
	tag_image "$name" "$id"
}

# tag_image gives an image its tags, and removes those that had them before if nothing else uses them.
tag_image() {
	local name=$1 id=$2 tag before
	for tag in "$(tag "$name" "$version")" "$(tag "$name" latest)"; do
		before=$(id_of "$tag" || true)
		[ "$before" != "$id" ] || continue
		docker tag "$id" "$tag"
		[ -z "$before" ] || [ -n "$(docker image inspect --format '{{join .RepoTags " "}}' "$before")" ] ||
			docker rmi "$before" >/dev/null 2>&1 || true
	done
}

# --- the order of things

# parallel FUNCTION NAME… calls the function for each name, a few at once, and fails if one of them fails.
parallel() {
	local function=$1 name pid pids=() failed=
	shift
	for name in "$@"; do
		while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do sleep 0.05; done
		(
			scratch=$(mktemp -d -p "$scratch")
			"$function" "$name"
		) &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid" || failed=yes; done
	[ -z "$failed" ]
}

# stop ends all jobs with everything that they have started.
stop() {
	local job
	for job in $(jobs -rp); do kill -TERM -- "-$job" || true; done
	wait
	exit 130
}

is_wanted() { [[ " base ${wanted[*]} " == *" $1 "* ]]; }

main() {
	local start name rootfs=() images=()
	parse_arguments "$@"
	docker version >/dev/null 2>&1 || die "the Docker engine does not answer: is it installed, running, and may this user speak to it? (docker version says more)"
	start=$(date +%s%N)
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	# Each job in a process group of its own, so that all of it can be stopped.
	set -m
	trap stop INT TERM
	for name in $(images_of "${all_folders[@]}"); do
		is_wanted "$name" || continue
		[ ! -e "$here/$(folder "$name")/packages" ] || rootfs+=("$name")
		[ "$name" = base ] || images+=("$name")
	done
	parallel build_rootfs "${rootfs[@]}" || exit 1
	if [ -z "$rootfs_only" ]; then
		hash_programs
		parallel build_image base || exit 1
		parallel build_image "${images[@]}" || exit 1
	fi
	say "done in $(seconds_since "$start")"
}

main "$@"
