#!/bin/sh
# Make the virtual environment and install the pinned requirements. Quick and says so when nothing is to do.
#
#   sh scripts/setup.sh [--test] [--deploy] [--service] [--visualdl]
#
#   --test      the test requirements too
#   --deploy    onnxruntime and paddle2onnx too: deploy/onnx and its TIPC chain
#   --service   fastapi and uvicorn too: deploy/service
#   --visualdl  VisualDL too: the flag --visualdl of training
#
# What runs is installed with hashes (pip --require-hashes) where locks/ has the Paddle that is asked for: a file that
# is not the one that was locked is refused.
#
# Environment:
#   PYTHON            interpreter, 3.9 to 3.12 (default: the first of python3, python3.12 ... python3.9, python)
#   VENV              folder of the environment (.venv)
#   PADDLE_DEVICE     cpu or gpu (cpu)
#   PADDLE_VERSION    3.3.1 on cpu; 2.6.2 on gpu, the newest paddlepaddle-gpu of the public index. With gpu the
#                     driver and the cards are looked at first; docs/gpu.md says which Paddle is for which card
#   PADDLE_INDEX_URL  one more package index: Paddle's own has the 3.x GPU wheels
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=scripts/gpu.sh
. scripts/gpu.sh

PADDLECLAS=2.6.0

# 3.11.7 for an interpreter; fails when it does not start
version_of() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

supported() {
    case $1 in 3.9.* | 3.10.* | 3.11.* | 3.12.*) return 0 ;; esac
    return 1
}

# Sets PYTHON and version, or stops with one line.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        version=$(version_of "$PYTHON") || die "PYTHON=$PYTHON does not start; give a Python 3.9 to 3.12"
        supported "$version" || die "$PYTHON is Python $version; Python 3.9 to 3.12 is needed (set PYTHON)"
        return
    fi
    seen=
    for PYTHON in python3 python3.12 python3.11 python3.10 python3.9 python; do
        version=$(version_of "$PYTHON") || continue
        supported "$version" && return
        seen="$seen $PYTHON is $version,"
    done
    die "no Python 3.9 to 3.12 on the PATH (${seen:- nothing found,} set PYTHON to one)"
}

make_venv() {
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$PYTHON has no venv module; on Debian and Ubuntu: apt-get install python3-venv (python${version%.*}-venv)"
    if [ -d "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
        die "$VENV holds something that is no virtual environment; set VENV to another folder"
    fi
    echo "making $VENV with Python $version"
    "$PYTHON" -m venv --clear "$VENV" || die "cannot make the virtual environment $VENV"
}

# A hash of all arguments and of what comes on standard input.
digest() {
    "$VENV/bin/python" -c 'import hashlib, sys
print(hashlib.sha256("\n".join(sys.argv[1:] + [sys.stdin.read()]).encode()).hexdigest())' "$@"
}

pip_install() {
    quiet=--quiet
    [ -t 1 ] && quiet=
    # shellcheck disable=SC2086  # an empty word must vanish
    "$VENV/bin/python" -m pip install --disable-pip-version-check --prefer-binary $quiet "$@" ||
        die "pip could not install into $VENV (see above); run the same command again when that is mended"
}

want_tests=no
want_deploy=no
want_service=no
want_visualdl=no
for argument; do
    case $argument in
        --test) want_tests=yes ;;
        --deploy) want_deploy=yes ;;
        --service) want_service=yes ;;
        --visualdl) want_visualdl=yes ;;
        *) die "unknown argument $argument; sh scripts/setup.sh [--test] [--deploy] [--service] [--visualdl]" ;;
    esac
done

case ${PADDLE_DEVICE:=cpu} in
    cpu) package=paddlepaddle; default_version=3.3.1 ;;
    gpu) package=paddlepaddle-gpu; default_version=2.6.2 ;;
    *) die "PADDLE_DEVICE=$PADDLE_DEVICE, expected cpu or gpu" ;;
esac
PADDLE_VERSION=${PADDLE_VERSION:-$default_version}
index=${PADDLE_INDEX_URL:-}
case $PADDLE_DEVICE$PADDLE_VERSION in
    gpu3.*) [ -n "$index" ] || die "paddlepaddle-gpu $PADDLE_VERSION is not on the public index; set PADDLE_INDEX_URL" \
        "(such as https://www.paddlepaddle.org.cn/packages/stable/cu126/) or PADDLE_VERSION=2.6.2" ;;
esac

[ "$PADDLE_DEVICE" = cpu ] || check_gpu "$PADDLE_VERSION" "$index"

# A virtual environment that runs is kept, unless PYTHON asks for another version.
if [ -f "$VENV/pyvenv.cfg" ] && version=$(version_of "$VENV/bin/python") && supported "$version"; then
    if [ -n "${PYTHON:-}" ]; then
        venv_version=$version
        find_python
        [ "${venv_version%.*}" = "${version%.*}" ] || make_venv
    fi
else
    find_python
    make_venv
fi

# The stamps are written last: what was interrupted is done again.
stamp=$VENV/.installed
lock=locks/$package-$PADDLE_VERSION.txt
[ -f "$lock" ] && [ -z "$index" ] || lock=
base=$(cat requirements.txt requirements-lock.txt ${lock:+"$lock"} | digest "$package" "$PADDLE_VERSION" "$index" "$PADDLECLAS" "${version%.*}")
tests=$(digest "$base" <requirements-test.txt)
service=$(digest "$base" <requirements-service.txt)
# what converts the graphs that this Paddle writes
case $PADDLE_VERSION in 2.*) paddle2onnx=1.3.1 ;; *) paddle2onnx=2.1.0 ;; esac
deploy=$(digest "$base" "$paddle2onnx" <requirements-deploy.txt)
visualdl=$(digest "$base" <requirements-visualdl.txt)

if [ "$(cat "$stamp" 2>/dev/null)" = "$base" ]; then
    echo "$VENV is up to date (Python $version, $package $PADDLE_VERSION): install skipped"
else
    echo "installing $package $PADDLE_VERSION and the requirements into $VENV (0.5 GB to download, 1.6 GB on disk, some minutes)"
    rm -f "$stamp" "$stamp-test" "$stamp-deploy" "$stamp-service" "$stamp-visualdl"
    # the two packages share their files: one must be gone before the other comes
    case $PADDLE_DEVICE in cpu) other=paddlepaddle-gpu ;; *) other=paddlepaddle ;; esac
    if "$VENV/bin/python" -m pip show --quiet "$other" 2>/dev/null; then
        "$VENV/bin/python" -m pip uninstall --quiet --yes "$other" "$package"
    fi
    if [ -n "$lock" ]; then
        pip_install --require-hashes -r "$lock"
    else
        echo "note: locks/ has no $package $PADDLE_VERSION of this index: installed by version, without hashes"
        pip_install ${index:+--extra-index-url "$index"} -c requirements-lock.txt -r requirements.txt \
            "$package==$PADDLE_VERSION"
    fi
    pip_install --no-deps --require-hashes -r "locks/paddleclas-$PADDLECLAS.txt"
    echo "$base" >"$stamp"
fi

# One set of optional requirements: wanted or not, name, digest, what it is called.
install_extra() {
    if [ "$1" = yes ] && [ "$(cat "$stamp-$2" 2>/dev/null)" != "$3" ]; then
        echo "installing $4 into $VENV"
        pip_install -c requirements-lock.txt -r "requirements-$2.txt"
        echo "$3" >"$stamp-$2"
    fi
}

install_extra "$want_tests" test "$tests" "the test requirements"
install_extra "$want_visualdl" visualdl "$visualdl" VisualDL
install_extra "$want_service" service "$service" "fastapi and uvicorn"

if [ "$want_deploy" = yes ] && [ "$(cat "$stamp-deploy" 2>/dev/null)" != "$deploy" ]; then
    echo "installing onnxruntime and paddle2onnx $paddle2onnx into $VENV"
    pip_install -c requirements-lock.txt -r requirements-deploy.txt
    pip_install --no-deps "paddle2onnx==$paddle2onnx"
    echo "$deploy" >"$stamp-deploy"
fi

# The machine code lies beside the sources; any change there compiles anew.
kernels=$(cat utils/retrieval/*.py | digest "$base" "$PWD")
if [ "$(cat "$stamp-kernels" 2>/dev/null)" != "$kernels" ]; then
    echo "compiling the search kernels (about 20 s, once)"
    "$VENV/bin/python" -m utils.retrieval.warm_up || die "the search kernels cannot be compiled; the lines above say why"
    echo "$kernels" >"$stamp-kernels"
fi
