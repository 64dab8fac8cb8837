#!/bin/sh
# Write locks/: what scripts/setup.sh installs, with the hashes of all files of each package, for Python 3.9 to 3.12.
#
#   sh scripts/make_locks.sh
#
# Versions are those of requirements.txt and requirements-lock.txt. Needs uv (pip install uv) and the package index.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
command -v uv >/dev/null || die "uv is not on the PATH; pip install uv"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# lock NAME VERSION FILE ...: locks/NAME-VERSION.txt, of the package and the requirements in the files
lock() {
    target=locks/$1-$2.txt
    echo "$1==$2" >"$scratch/package.txt"
    shift 2
    uv pip compile --quiet --no-config --universal --python-version 3.9 --generate-hashes --no-header --no-annotate \
        -o "$target" "$scratch/package.txt" "$@"
    echo "wrote $target"
}

# Paddle 2.6.2 wants an older protobuf on Windows
sed "s/^protobuf==\(.*\)/protobuf==\1; sys_platform != 'win32'/" requirements-lock.txt >"$scratch/versions.txt"
lock paddlepaddle 3.3.1 requirements.txt -c "$scratch/versions.txt"
lock paddlepaddle 2.6.2 requirements.txt -c "$scratch/versions.txt"
lock paddleclas 2.6.0 --no-deps
