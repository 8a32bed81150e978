#!/usr/bin/env bash
# Makes an aarch64 Python with LiteRT, emulated by qemu-user, in a folder; the host stays as it is.
#
#     bash tests/arm64/setup.sh DIR
#     DIR/python cortex-a76 script.py      # a core with dot products
#     DIR/python cortex-a53 script.py      # a core without
#
# Needs an x86-64 Debian or a relative of it, and the network: about 110 MB of downloads, 200 MB on
# disk. A second call on a finished folder does nothing. DDQ_DEBIAN_MIRROR and pip's own settings
# choose other servers.
#
# Exit codes: 0 done, 2 wrong call, 3 a program is missing, 4 a download failed, 5 does not run.
set -euo pipefail

suite=bookworm # its Python is 3.11, its qemu 7.2
mirror=${DDQ_DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
wheels=(ai-edge-litert==2.3.0 numpy==2.4.6 flatbuffers==25.12.19)
pins="$suite ${wheels[*]} layout-1"

fail() {
  printf 'tests/arm64/setup.sh: %s\n' "$2" >&2
  exit "$1"
}

[ $# = 1 ] || fail 2 'give the folder to make: bash tests/arm64/setup.sh DIR'
target=$(realpath -m -- "$1")
if [ -f "$target/ready" ] && [ "$(cat "$target/ready")" = "$pins" ]; then
  exit 0
fi
if [ -e "$target" ] && [ ! -f "$target/ready" ] && [ -n "$(ls -A "$target")" ]; then
  fail 2 "$target holds something else; name an empty or a new folder"
fi

[ "$(uname -sm)" = 'Linux x86_64' ] || fail 3 "this is $(uname -sm); it runs on x86-64 Linux only"
for program in apt-get dpkg-deb python3; do
  command -v "$program" >/dev/null || fail 3 "$program is missing; this needs Debian or Ubuntu"
done
python3 -m pip --version >/dev/null 2>&1 || fail 3 'pip is missing: apt-get install python3-pip'
[ -f "$keyring" ] || fail 3 "$keyring is missing: apt-get install debian-archive-keyring"

# All is made aside and moved in at the end: an interrupted call leaves nothing that looks finished.
mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT

# A package manager of its own: another suite, another architecture, no packages installed.
mkdir -p "$work"/apt/{lists,archives}/partial "$work/apt/debs"
: >"$work/apt/status"
printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" >"$work/apt/sources.list"
cat >"$work/apt/conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Dir::State "$work/apt";
Dir::State::lists "$work/apt/lists";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt";
Dir::Cache::archives "$work/apt/archives";
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
CONF
log=$work/log
apt() { APT_CONFIG=$work/apt/conf apt-get -q -y "$@" >"$log" 2>&1; }
no_debian() {
  tail -n 5 "$log" >&2
  fail 4 "cannot get Debian packages from $mirror (above); DDQ_DEBIAN_MIRROR names another mirror"
}

# update succeeds even where every server was out of reach; --error-on=any tells.
apt update --error-on=any || no_debian
(cd "$work/apt/debs" && apt download qemu-user-static:amd64) || no_debian
apt install --download-only python3.11-minimal libpython3.11-stdlib libstdc++6 || no_debian

dpkg-deb --fsys-tarfile "$work"/apt/debs/qemu-user-static_*.deb |
  tar -x -C "$work" --strip-components=3 ./usr/bin/qemu-aarch64-static
mkdir "$work/root"
for package in "$work"/apt/archives/*.deb; do dpkg-deb -x "$package" "$work/root"; done

python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
  --dest "$work/wheels" "${wheels[@]}" >"$log" 2>&1 || {
  tail -n 5 "$log" >&2
  fail 4 "pip cannot download ${wheels[*]} (above)"
}
mkdir "$work/site"
for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/site"; done

# LiteRT asks /proc/cpuinfo which kernels the core can run, and crashes on the host's, which is
# x86's. qemu's -L redirects it to this one. It must match the emulated core, or kernels are chosen
# that are illegal there. More processors than the host has do no harm; fewer would.
core() {
  local folder=$work/cores/$1 part=$2 features=$3 number
  mkdir -p "$folder/proc"
  for entry in "$work"/root/*; do
    ln -s "../../root/$(basename "$entry")" "$folder/$(basename "$entry")"
  done
  for number in {0..255}; do
    printf 'processor\t: %d\nBogoMIPS\t: 100.00\nFeatures\t: %s\nCPU implementer\t: 0x41\n' \
      "$number" "$features"
    printf 'CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: %s\nCPU revision\t: 0\n\n' "$part"
  done >"$folder/proc/cpuinfo"
}
common='fp asimd evtstrm aes pmull sha1 sha2 crc32'
core cortex-a53 0xd03 "$common"
core cortex-a76 0xd0b "$common atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

cat >"$work/python" <<'RUN'
#!/bin/sh
# usage: python cortex-a53|cortex-a76 SCRIPT [ARGUMENT ...]
here=$(dirname "$(realpath "$0")")
core=$1
shift
[ -d "$here/cores/$core" ] || { echo "no such core: $core; there are $(ls "$here/cores")" >&2; exit 2; }
exec env OPENBLAS_NUM_THREADS=1 PYTHONHOME="$here/root/usr" PYTHONPATH="$here/site" \
  PYTHONDONTWRITEBYTECODE=1 "$here/qemu-aarch64-static" -cpu "$core" -L "$here/cores/$core" \
  "$here/root/usr/bin/python3.11" "$@"
RUN
chmod +x "$work/python"
rm -rf "$work/apt" "$work/wheels"

for name in cortex-a53 cortex-a76; do
  "$work/python" "$name" -c 'import ai_edge_litert.interpreter' >"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    fail 5 "LiteRT does not load on the emulated $name (above)"
  }
done
rm "$log"
printf '%s\n' "$pins" >"$work/ready"
chmod 755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
