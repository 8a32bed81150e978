#!/usr/bin/env bash
# Gets what the tests of `ddq web` need: Chromium (Debian, as root) and, into DIR, LiteRT.js.
#
#     bash tests/web/setup.sh DIR [PYTHON]
#
# PYTHON has ddq_tf, which knows the version. Ends with 1, and says why, if the tests will skip.
set -euo pipefail
dir=$1 python=${2:-python3}
missing() { printf 'the browser tests skip: %s\n' "$1" && exit 1; }

if ! command -v chromium >/dev/null; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || missing "Chromium is not installed"
  log=$(mktemp)
  { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } >"$log" 2>&1 ||
    missing "Chromium could not be installed: $(tail -n 1 "$log")"
fi

archive=$("$python" -c 'from ddq_tf.web import VERSION; print(f"litertjs-core-{VERSION}.tgz")')
[ -f "$dir/$archive" ] && exit 0
command -v npm >/dev/null || missing "npm, which downloads LiteRT.js, is not installed"
mkdir -p "$dir"
version=${archive#litertjs-core-}
npm pack "@litertjs/core@${version%.tgz}" --silent --pack-destination "$dir" >/dev/null ||
  missing "LiteRT.js could not be downloaded"
