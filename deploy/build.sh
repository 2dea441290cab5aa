#!/usr/bin/env bash
# pgfunnel as the image has it: built, watched while it serves clients of a PostgreSQL of its own, and built again by
# what was seen (profile-guided optimization). What is missing is installed; nothing is left running.
#
#   deploy/build.sh      leaves target/pgo/pgfunnel, and does nothing if that is newer than what it is made of
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=deploy/needs.sh
source "$root/deploy/needs.sh"
cd "$root"
readonly out=target/pgo/pgfunnel
readonly made_of=(Cargo.toml Cargo.lock src config deploy/build.sh tests/load/train.py)

main() {
  if [[ -x $out && -z $(find "${made_of[@]}" -newer "$out" -print -quit) ]]; then return; fi
  install_missing
  host=$(rustc -vV | sed -n 's/^host: //p')
  local profiles=$PWD/target/pgo/profiles
  rm -rf "$profiles"
  mkdir -p "$profiles"

  say 'build.sh: building pgfunnel to be watched …'
  build watched "-Cprofile-generate=$profiles"
  say 'build.sh: watching it at work …'
  local log
  log=$(python3 tests/load/train.py "target/pgo/watched/$host/release/pgfunnel" "$profiles" 2>&1) || fail "$log"
  log=$("$profdata" merge -o "$profiles/merged" "$profiles"/*.profraw 2>&1) ||
    fail "$profdata cannot read what rustc $(rustc -V | cut -d ' ' -f 2) writes; rustup component add llvm-tools has one that can: $log"
  say 'build.sh: building it by what was seen …'
  build final "-Cprofile-use=$profiles/merged"
  cp "target/pgo/final/$host/release/pgfunnel" "$out"
}

# build DIRECTORY FLAG: by the target's name, so that build scripts and macros are built without the flag.
build() {
  # Changed profiles are no reason for cargo to build again.
  rm -rf "target/pgo/$1/$host/release/.fingerprint"/pgfunnel-*
  CARGO_TARGET_DIR=target/pgo/$1 RUSTFLAGS="${RUSTFLAGS:-} $2" \
    cargo build --release --locked --quiet --bin pgfunnel --target "$host"
}

install_missing() {
  local packages=()
  need_postgres
  need_tools
  need python3 python3
  need openssl openssl
  ((${#packages[@]} == 0)) || install "${packages[@]}"
  need_rust
  find_profdata && return
  local newest
  newest=$(apt-cache --quiet pkgnames llvm- 2>/dev/null | grep -E '^llvm-[0-9]+$' | sort --version-sort | tail -n 1)
  [[ -n $newest ]] || fail 'llvm-profdata is missing: rustup component add llvm-tools'
  install "$newest"
  find_profdata || fail "no llvm-profdata in $newest"
}

# Sets profdata to the toolchain's own, or to Debian's newest.
find_profdata() {
  local candidates
  mapfile -t candidates < <(
    printf '%s\n' "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata
    printf '%s\n' /usr/lib/llvm-*/bin/llvm-profdata | sort --version-sort --reverse
  )
  for profdata in "${candidates[@]}"; do [[ -x $profdata ]] && return; done
  return 1
}

main
