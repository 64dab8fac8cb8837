"""The shell scripts: set-up logic with a stand-in for pip, faults in one line, arguments that pass through."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = [*(path for folder in ("scripts", "test_tipc", "benchmarks") for path in sorted(ROOT.glob(f"{folder}/*.sh"))),
           ROOT / ".ci" / "run"]


@pytest.fixture
def repo(tmp_path):
    """A copy of the scripts and requirements: set-ups and runs leave the real repository alone."""
    folder = tmp_path / "a repo"
    for name in ("scripts", "locks"):
        shutil.copytree(ROOT / name, folder / name)
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, folder)
    kernels = folder / "utils" / "retrieval"
    kernels.mkdir(parents=True)
    (kernels / "warm_up.py").write_text("open('warmed', 'a').write('once ')\n")
    return folder


def program(path, body):
    """An executable /bin/sh script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + body, encoding="utf-8")
    path.chmod(0o755)
    return path


class Interpreter:
    """A stand-in for Python whose virtual environments have a stand-in for pip: it logs its arguments."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "pip.log"
        inside = program(folder / "inside", f"""
if [ "$1 $2" = "-m pip" ]; then
    shift 2
    [ "$1" != show ] || exit 1
    echo "$*" >>"{self.log}"
    [ ! -e "{folder}/pip_fails" ]
    exit $?
fi
exec "{sys.executable}" "$@"
""")
        self.path = program(folder / "python", f"""
if [ "$1 $2" = "-m venv" ]; then
    for target; do :; done
    rm -rf "$target"
    mkdir -p "$target/bin"
    : >"$target/pyvenv.cfg"
    cp "{inside}" "$target/bin/python"
    exit 0
fi
exec "{sys.executable}" "$@"
""")

    def installs(self):
        """Arguments of the pip calls since the last look."""
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.write_text("")
        return calls


@pytest.fixture
def python(tmp_path):
    return Interpreter(tmp_path / "stand-in")


def sh(repo, script, *arguments, ok=True, **env):
    """Run a script from another folder; VENV, PYTHON and PADDLE_* come from ``env`` only."""
    clean = {key: value for key, value in os.environ.items()
             if not key.startswith("PADDLE_") and key not in ("VENV", "PYTHON", "NPROC")}
    done = subprocess.run(["/bin/sh", str(repo / "scripts" / script), *map(str, arguments)], cwd=repo.parent, text=True,
                          env={**clean, **{key: str(value) for key, value in env.items()}},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def fault(done):
    """The one line that a refused command prints."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


# set-up ------------------------------------------------------------------------------------------
def test_second_set_up_installs_nothing_and_says_so(repo, python):
    first = sh(repo, "setup.sh", PYTHON=python.path)
    assert "skipped" not in first.stdout
    calls = python.installs()
    assert "--require-hashes -r locks/paddlepaddle-3.3.1.txt" in calls[0] and len(calls) == 2
    # paddleclas comes last and brings no dependencies of its own
    assert "--no-deps --require-hashes -r locks/paddleclas-2.6.0.txt" in calls[-1]
    second = sh(repo, "setup.sh")
    assert "install skipped" in second.stdout and python.installs() == []


def test_kernels_are_compiled_ahead_once_and_when_they_change(repo, python):
    for _ in range(2):
        sh(repo, "setup.sh", PYTHON=python.path)
        assert (repo / "warmed").read_text() == "once "
    (repo / "utils" / "retrieval" / "kernels.py").write_text("BLOCK = 1\n")
    sh(repo, "setup.sh")
    assert (repo / "warmed").read_text() == "once once "
    (repo / "utils" / "retrieval" / "warm_up.py").write_text("raise SystemExit(1)\n")
    assert "cannot be compiled" in fault(sh(repo, "setup.sh", ok=False))


def test_test_requirements_come_once_and_on_top(repo, python):
    sh(repo, "setup.sh", PYTHON=python.path)
    python.installs()
    sh(repo, "setup.sh", "--test")
    assert len(calls := python.installs()) == 1 and "requirements-test.txt" in calls[0]
    sh(repo, "setup.sh", "--test")
    assert python.installs() == []
    sh(repo, "setup.sh", "--visualdl")
    assert len(calls := python.installs()) == 1 and "requirements-visualdl.txt" in calls[0]


@pytest.mark.parametrize("flag, file", [("--service", "requirements-service.txt"),
                                        ("--deploy", "requirements-deploy.txt")])
def test_optional_requirements_come_once_and_on_top(repo, python, flag, file):
    sh(repo, "setup.sh", PYTHON=python.path)
    python.installs()
    sh(repo, "setup.sh", flag)
    assert file in python.installs()[0]
    sh(repo, "setup.sh", flag)
    assert python.installs() == []


def test_changed_requirements_or_versions_are_installed(repo, python):
    sh(repo, "setup.sh", PYTHON=python.path)
    python.installs()
    with open(repo / "requirements.txt", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    sh(repo, "setup.sh")
    assert python.installs()
    sh(repo, "setup.sh", PADDLE_VERSION="2.6.2")
    assert any("locks/paddlepaddle-2.6.2.txt" in call for call in python.installs())
    sh(repo, "setup.sh", PADDLE_VERSION="2.6.2")
    assert python.installs() == []
    # another Paddle, or one of another index, is in no lock
    for more in ({"PADDLE_VERSION": "3.2.0"}, {"PADDLE_INDEX_URL": "https://example.org/cpu/"}):
        assert "without hashes" in sh(repo, "setup.sh", **more).stdout
        assert any("-r requirements.txt" in call and "paddlepaddle==" in call for call in python.installs())


def test_interrupted_install_is_done_again(repo, python):
    (python.folder / "pip_fails").touch()
    assert "run the same command again" in fault(sh(repo, "setup.sh", PYTHON=python.path, ok=False))
    (python.folder / "pip_fails").unlink()
    python.installs()
    assert "skipped" not in sh(repo, "setup.sh").stdout
    assert any("locks/paddlepaddle-" in call for call in python.installs())


def test_gpu_takes_the_newest_wheel_of_the_public_index(repo, python):
    sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="gpu")
    assert any("paddlepaddle-gpu==2.6.2" in call and "index-url" not in call for call in python.installs())
    sh(repo, "setup.sh", PADDLE_DEVICE="gpu", PADDLE_VERSION="3.3.1", PADDLE_INDEX_URL="https://example.org/gpu/")
    assert any("--extra-index-url https://example.org/gpu/" in call for call in python.installs())


def card(folder, *lines, status=0):
    """A PATH whose nvidia-smi prints these lines (driver, compute capability, name)."""
    text = "\n".join(lines)
    program(folder / "nvidia" / "nvidia-smi", f"cat <<'END'\n{text}\nEND\nexit {status}\n")
    return f"{folder / 'nvidia'}:{os.environ['PATH']}"


A10, OLD = "535.104.05, 8.6, NVIDIA A10", "418.226.00, 7.0, Tesla V100-SXM2"
H100, BLACKWELL = "550.54.15, 9.0, NVIDIA H100 80GB HBM3", "570.86.10, 12.0, NVIDIA GeForce RTX 5090"


@pytest.mark.parametrize("line", [A10, "535.104.05, 8.9, NVIDIA L4", "470.82.01, 7.0, Tesla V100-SXM2-16GB",
                                  "450.80.02, 7.5, Tesla T4", "535.104.05, 6.1, Tesla P4"])
def test_a_card_that_the_wheel_has_code_for_is_set_up(repo, python, tmp_path, line):
    done = sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="gpu", PATH=card(tmp_path, line))
    name = line.rsplit(", ", 1)[1]
    assert f"GPU {name}: compute capability" in done.stdout and "2.6.2 has machine code for it" in done.stdout
    assert "neither CUDA nor cuDNN" in done.stdout
    assert any("paddlepaddle-gpu==2.6.2" in call for call in python.installs())


@pytest.mark.parametrize("line, advice", [
    (H100, "PADDLE_VERSION=3.3.1 PADDLE_INDEX_URL=.*cu126"), (BLACKWELL, "PADDLE_INDEX_URL=.*cu129"),
    ("570.86.10, 10.0, NVIDIA B200", "cu129"), ("535.104.05, 6.0, Tesla P100-PCIE-16GB", "PADDLE_DEVICE=cpu"),
    ("470.82.01, 5.2, NVIDIA GeForce GTX 980", "PADDLE_DEVICE=cpu"), (OLD, "driver 418.226.00 is older than 450")])
def test_a_card_that_the_wheel_has_nothing_for_stops_before_the_install(repo, python, tmp_path, line, advice):
    done = sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="gpu", PATH=card(tmp_path, line), ok=False)
    assert re.search(advice, fault(done)) and done.returncode == 2
    assert python.installs() == [] and not (repo / ".venv").exists()


def test_paddle_3_is_looked_at_with_the_cuda_of_its_index(repo, python, tmp_path):
    def three(line, cuda, **more):
        return sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="gpu", PADDLE_VERSION="3.3.1",
                  PADDLE_INDEX_URL=f"https://example.org/stable/{cuda}/", PATH=card(tmp_path, line), **more)
    for line, cuda in ((H100, "cu126"), (A10, "cu118"), (BLACKWELL, "cu129"), ("580.65.06, 7.5, Tesla T4", "cu130")):
        known = three(line, cuda).stdout
        assert f"CUDA {cuda[2:4]}.{cuda[4]} knows it; not known whether paddlepaddle-gpu 3.3.1" in known
    assert "12.8 is the first" in fault(three(BLACKWELL, "cu126", ok=False))
    assert "driver 550.54.15 is older than 580" in fault(three(H100, "cu130", ok=False))
    assert "CUDA 13.0 has dropped" in fault(three("580.65.06, 7.0, Tesla V100", "cu130", ok=False))


@pytest.mark.parametrize("page", ["gpu.md", "gpu_cn.md"])
def test_the_tables_of_the_gpu_pages_say_what_the_set_up_does(repo, python, tmp_path, page):
    rows = re.findall(r"^\| .+ \| (\d.*?) \| (.*) \|$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M)
    assert len(rows) == 9
    column = {}
    for cell, what in rows:
        for capability in re.findall(r"\b\d+\.\d\b", cell)[:2 if "12.0" in cell else 1]:
            column[capability] = "cu129" if "12.9" in what else "PADDLE_DEVICE=cpu" if "CPU" in what else \
                "2.6.2" if "2.6.2" in what or re.search("same|同上", what) else "cu126"
    assert set(column) == {"6.1", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0", "6.0"}
    for capability, wanted in column.items():
        served = wanted == "2.6.2"
        done = sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="gpu", ok=served,
                  PATH=card(tmp_path, f"580.65.06, {capability}, Card"))
        assert wanted in (done.stdout if served else fault(done)), capability


def test_one_card_that_fits_is_enough(repo, python, tmp_path):
    done = sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="gpu", PATH=card(tmp_path, A10, H100))
    assert "NVIDIA A10: compute capability 8.6, driver 535.104.05: paddlepaddle-gpu 2.6.2 has machine" in done.stdout
    assert "NVIDIA H100 80GB HBM3: compute capability 9.0" in done.stdout and "no PTX" in done.stdout


def test_without_a_driver_the_set_up_says_what_it_could_not_see(repo, python, tmp_path):
    """Images are built on machines without a GPU."""
    failing = card(tmp_path, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", status=9)
    done = sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="gpu", PATH=failing)
    assert "couldn't communicate" in done.stdout and "docs/gpu.md" in done.stdout and python.installs()
    done = sh(repo, "setup.sh", PADDLE_DEVICE="gpu", PATH=card(tmp_path, "470.1, [N/A], NVIDIA Old"))
    assert "compute capability of NVIDIA Old" in done.stdout
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("dirname", "cat", "ls", "head"):
        (tools / name).symlink_to(shutil.which(name))
    done = sh(repo, "setup.sh", PADDLE_DEVICE="gpu", PATH=tools)
    assert "no nvidia-smi" in done.stdout and "docs/gpu.md" in done.stdout
    assert "nvidia-smi" not in sh(repo, "setup.sh", PATH=card(tmp_path, H100)).stdout   # a CPU set-up looks at nothing


def test_set_up_faults_are_one_line(repo, python, tmp_path):
    old = program(tmp_path / "old", "echo 3.8.18\n")
    assert "Python 3.8.18" in fault(sh(repo, "setup.sh", PYTHON=old, ok=False))
    assert "/nowhere/python" in fault(sh(repo, "setup.sh", PYTHON="/nowhere/python", ok=False))
    bare = program(tmp_path / "bare", f"""
case $2 in *ensurepip*) exit 1 ;; esac
exec "{sys.executable}" "$@"
""")
    assert "python3-venv" in fault(sh(repo, "setup.sh", PYTHON=bare, ok=False))
    assert "PADDLE_DEVICE=tpu" in fault(sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="tpu", ok=False))
    done = sh(repo, "setup.sh", PYTHON=python.path, PADDLE_DEVICE="gpu", PADDLE_VERSION="3.3.1", ok=False)
    assert "PADDLE_INDEX_URL" in fault(done)
    assert "--foo" in fault(sh(repo, "setup.sh", "--foo", ok=False))
    assert python.installs() == []


def test_a_folder_that_is_no_environment_is_left_alone(repo, python, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    refused = sh(repo, "setup.sh", PYTHON=python.path, VENV=tmp_path / "photos", ok=False)
    assert "no virtual environment" in fault(refused)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_no_python_on_the_path(repo, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("dirname", "cat", "ls"):
        (tools / name).symlink_to(shutil.which(name))
    program(tools / "python3", "echo 3.13.0\n")
    line = fault(sh(repo, "setup.sh", PATH=tools, ok=False))
    assert "python3 is 3.13.0" in line and "3.9 to 3.12" in line


def test_every_pin_is_exact():
    for path in ROOT.glob("requirements*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            pin = line.split("; ")[0]  # what follows says where the pin holds
            comment = not line or line.startswith("#")
            assert comment or re.fullmatch(r"[A-Za-z0-9-]+==[0-9.a-z]+", pin), (path.name, line)


@pytest.mark.parametrize("version", ["3.3.1", "2.6.2"])
def test_a_lock_has_every_requirement_with_hashes(version):
    """scripts/make_locks.sh is run when a requirement changes."""
    text = (ROOT / "locks" / f"paddlepaddle-{version}.txt").read_text()
    locked = [re.match(r"(\S+)==(\S+)( ; [^\\]+)? (.*)", entry.replace("\\\n", " ")).groups()
              for entry in re.split(r"\n(?=\S)", text.strip())]
    assert all(re.fullmatch(r"( *--hash=sha256:[0-9a-f]{64})+ *", hashes) for *_, hashes in locked)
    everywhere = {f"{name}=={one}" for name, one, condition, _ in locked if not condition}
    wanted = [line.lower() for line in (ROOT / "requirements.txt").read_text().splitlines() if line[:1] not in "#"]
    assert {*filter(None, wanted), f"paddlepaddle=={version}"} <= everywhere
    known = (ROOT / "requirements-lock.txt").read_text().splitlines() + wanted
    assert {f"{name}=={one}" for name, one, condition, _ in locked if "win32" not in (condition or "")} - set(known) \
        == {f"paddlepaddle=={version}"}
    assert "://" not in text


def test_licences_of_everything_installed_are_listed():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "licences.py"], stdout=subprocess.PIPE, text=True,
                          check=True)
    lines = {line.split()[0].lower(): line for line in done.stdout.splitlines()}
    assert "BSD" in lines["numpy"] and "Apache" in lines["paddlepaddle"] and len(lines) > 30


# runs --------------------------------------------------------------------------------------------
@pytest.fixture
def echo(tmp_path):
    """A stand-in for Python that has Paddle and prints its arguments."""
    return program(tmp_path / "echo", '[ "$1" != -c ] || exit 0\nprintf "%s|" "$@"\n')


@pytest.mark.parametrize("script, main", [("train_single_gpu.sh", "main_single_gpu.py"),
                                          ("train_multi_gpu.sh", "main_multi_gpu.py")])
def test_train_scripts_pass_their_arguments(repo, echo, script, main):
    assert sh(repo, script, PYTHON=echo).stdout == f"{main}|"
    assert sh(repo, script, "--data-path", "my photos", PYTHON=echo).stdout == f"{main}|--data-path|my photos|"


def test_nproc_is_the_number_of_processes(repo, echo):
    said = sh(repo, "train_multi_gpu.sh", "--bit", 16, PYTHON=echo, NPROC=3).stdout
    assert said == "main_multi_gpu.py|--nprocs|3|--bit|16|"


@pytest.mark.parametrize("script, main", [("test_single_gpu.sh", "main_single_gpu.py"),
                                          ("test_multi_gpu.sh", "main_multi_gpu.py")])
def test_test_scripts_find_the_newest_checkpoint(repo, echo, script, main):
    assert "train_single_gpu.sh" in fault(sh(repo, script, PYTHON=echo, ok=False))
    for age, name in enumerate(("b", "a", "c")):
        path = repo / "output" / name / "best.safetensors"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 + (name == "a") * 10 - age, 1000 + (name == "a") * 10 - age))
    assert sh(repo, script, PYTHON=echo).stdout.endswith(f"\n{main}|--eval|--pretrained|output/a/best.safetensors|")
    assert sh(repo, script, "--pretrained", "x y", PYTHON=echo).stdout == f"{main}|--eval|--pretrained|x y|"


@pytest.mark.parametrize("script", ["train_single_gpu.sh", "train_multi_gpu.sh", "test_single_gpu.sh",
                                    "test_multi_gpu.sh", "tipc.sh"])
def test_runs_need_paddle(repo, script, tmp_path):
    bare = program(tmp_path / "bare", "exit 1\n")
    assert "setup.sh" in fault(sh(repo, script, PYTHON=bare, ok=False))


def test_serve_makes_the_embedded_index_once_and_passes_flags(repo, python):
    sh(repo, "setup.sh", PYTHON=python.path)
    inside = repo / ".venv" / "bin" / "python"
    program(inside.with_name("real"), inside.read_text().split("\n", 1)[1])
    program(inside, f'''
case "$1 $2" in
    "-m deploy.index") mkdir -p output/quickstart/index && : >output/quickstart/index/manifest.json ;;
    "-c import importlib"*) exit 0 ;;
esac
case "$2" in deploy.*) printf "%s|" "$@"; echo; exit 0 ;; esac
exec "{inside.with_name("real")}" "$@"
''')
    for name in ("inference/inference.yml", "database.npz"):
        (repo / "output" / "quickstart" / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / "output" / "quickstart" / name).touch()
    first = sh(repo, "serve.sh", "--port", 9).stdout.splitlines()
    assert first[-2] == "-m|deploy.index|build|exact:output/quickstart/index|output/quickstart/database.npz|"
    assert first[-1] == ("-m|deploy.service|--model-dir|output/quickstart/inference|--index|"
                         "exact:output/quickstart/index|--port|9|")
    assert "deploy.index|build" not in sh(repo, "serve.sh").stdout
    own = sh(repo, "serve.sh", "--model-dir", "a b", "--index=exact:c").stdout.splitlines()[-1]
    assert own == "-m|deploy.service|--model-dir|a b|--index=exact:c|"


def test_quickstart_takes_no_arguments(repo):
    assert "no arguments" in fault(sh(repo, "quickstart.sh", "--bit", 16, ok=False))


def test_test_script_hands_its_arguments_to_pytest(repo, python):
    sh(repo, "setup.sh", "--test", PYTHON=python.path)
    (repo / "test_one.py").write_text("def test_a():\n    pass\n\n\ndef test_b():\n    assert False\n",
                                      encoding="utf-8")
    assert "1 passed" in sh(repo, "test.sh", "-k", "test_a", "test_one.py").stdout
    assert "1 failed" in sh(repo, "test.sh", "-k", "test_b", "test_one.py", ok=False).stdout


def test_scripts_are_clean():
    """shellcheck (a test requirement) and, for the POSIX ones, a parse by /bin/sh."""
    assert len(SCRIPTS) > 10
    for path in ROOT.glob("scripts/*.sh"):
        subprocess.run(["/bin/sh", "-n", str(path)], check=True)
    shellcheck = shutil.which("shellcheck") or pathlib.Path(sys.executable).with_name("shellcheck")
    if not pathlib.Path(shellcheck).exists():
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([str(shellcheck), "-x", *map(str, SCRIPTS)], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout
