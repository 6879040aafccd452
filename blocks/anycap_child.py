"""Runs the AnyCap CLI as a child process that may outlive us, and finds it again."""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from blocks.errors import GeneratorMissing, InvalidRequest, ServiceUnavailable
from blocks.image import ChildProcess, ImageRequest, Mode

ANSWER: Final = "answer.json"
STDERR: Final = "stderr.txt"
IMAGE: Final = "image.png"
INSTALL: Final = (
    "Install it with 'npm install -g @anycap/cli-linux-x64@0.6.2'. That puts no anycap on PATH, so name the program: "
    "export ROWSHOT_ANYCAP=$(npm root -g)/@anycap/cli-linux-x64/bin/anycap (or its path in the block's executable)."
)

_RESERVED: Final = frozenset({"prompt", "model", "mode", "images"})
_SHORT_OF_RESOURCES: Final = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ETXTBSY})
_START_TOLERANCE_S: Final = 2.0
_HELP_TIMEOUT_S: Final = 30.0
_SLICE_S: Final = 1.0
_help_lock = threading.Lock()
_json_flags: dict[str, tuple[str, ...]] = {}


def find_program(executable: str) -> str:
    """The CLI's path: `executable`, else ROWSHOT_ANYCAP, else `anycap` on PATH. Raises GeneratorMissing."""
    name = executable or os.environ.get("ROWSHOT_ANYCAP", "") or "anycap"
    found = shutil.which(str(Path(name).expanduser().absolute()) if "/" in name else name)
    if found is None:
        raise GeneratorMissing(f"There is no program {name!r} that could be started. {INSTALL}", code="no_program")
    return str(Path(found).absolute())


def environment(key: str, endpoint: str) -> dict[str, str]:
    """The child's environment: ours, with the key and the endpoint where they are given.

    A stored login is left in reach only while there is no key: a key from the environment wins over it.
    """
    variables = {**os.environ, "ANYCAP_NO_UPDATE": "1"}
    if endpoint:
        variables["ANYCAP_API_ENDPOINT"] = endpoint
    if key:
        variables["ANYCAP_API_KEY"] = key
        variables["ANYCAP_NO_KEYRING"] = "1"
    return variables


def json_flags(program: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    """The flags that make this CLI answer in JSON, if it has any: its help is read once a program."""
    with _help_lock:
        if program not in _json_flags:
            told = run_quietly([program, "image", "generate", "--help"], variables)
            _json_flags[program] = ("--output-format", "json") if "--output-format" in told else ()
        return _json_flags[program]


def run_quietly(command: list[str], variables: Mapping[str, str]) -> str:
    """What a free command of the CLI prints; empty where it does not end.

    Raises GeneratorMissing or ServiceUnavailable where it does not start.
    """
    try:
        done = subprocess.run(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_HELP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""
    except OSError as error:
        raise _cannot_start(command[0], error) from error
    return done.stdout.decode(errors="replace")


def arguments(program: str, flags: Iterable[str], request: ImageRequest, folder: Path) -> list[bytes]:
    """The command line. Each text is one argument with its flag before a `=`, so that none can be taken for a flag.

    Raises InvalidRequest for what the CLI would misread.
    """
    if not request.prompt.strip():
        raise InvalidRequest("The prompt is empty, and the CLI would leave it out. Fill the row's cells.", code="empty")
    command = [program, "image", "generate", f"--prompt={request.prompt}", f"--model={request.model}"]
    if request.mode is Mode.IMAGE_TO_IMAGE:
        command.append(f"--mode={request.mode.value}")
    for name, value in request.params.items():
        _check_param(name, value)
        command.append(f"--param={name}={value}")
    if request.references:
        paths = [str(path.resolve()) for path in request.references]
        command.append(f"--param=images={json.dumps(paths, ensure_ascii=False)}")
    command += [*flags, f"--output={folder / IMAGE}"]
    if any("\0" in part for part in command):
        raise InvalidRequest("The prompt or a parameter holds a NUL character. Take it out of the row.", code="nul")
    try:
        return [os.fsencode(part) if part == program else part.encode() for part in command]
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "The prompt or a parameter holds half a character (a lone surrogate). Save the file as UTF-8 again.",
            code="bad_text",
        ) from error


def spawn(
    command: list[bytes],
    variables: Mapping[str, str],
    folder: Path,
    on_child: Callable[[ChildProcess], None],
) -> subprocess.Popen[bytes]:
    """Start the CLI in a session of its own, its answer going to a file, so that neither Ctrl-C nor our death loses it.

    It runs in `folder`, so that it reads no `.env` of whoever started us. Raises InvalidRequest, GeneratorMissing or
    ServiceUnavailable: nothing was sent then.
    """
    try:
        with (folder / ANSWER).open("xb") as answer, (folder / STDERR).open("xb") as errors:
            child = subprocess.Popen(
                command,
                env=variables,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=errors,
                start_new_session=True,
            )
    except OSError as error:
        raise _cannot_start(os.fsdecode(command[0]), error) from error
    on_child(ChildProcess(child.pid, _start_time(child.pid)))
    return child


def wait_for_exit(pid: int, timeout_s: float, left: threading.Event | None = None) -> bool:
    """Whether the process ends in time, and before `left` is set (which is noticed within a second).

    Sleeps in the kernel where it can, which costs next to no CPU.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):
        return _in_slices(partial(_wait_by_asking, pid), timeout_s, left)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return _in_slices(lambda slice_s: bool(poll.poll(max(0, round(slice_s * 1000)))), timeout_s, left)
    finally:
        os.close(handle)


def kill(child: subprocess.Popen[bytes]) -> None:
    """End a child of ours and all that it started."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def find_running(folder: Path, child: ChildProcess | None) -> psutil.Process | None:
    """The process that still draws into `folder`: `child`, else one whose command line names the image."""
    if child is not None and (noted := _noted(child, folder)) is not None:
        return noted
    target = f"--output={folder / IMAGE}"
    for found in psutil.process_iter():
        try:
            if target in found.cmdline() and found.status() != psutil.STATUS_ZOMBIE:
                return found
        except psutil.Error:
            continue
    return None


def trace_id(folder: Path) -> str:
    """The call's trace id, which the CLI writes down before it sends anything; empty where it is not there."""
    for line in read_text(folder / STDERR).splitlines():
        try:
            event: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("trace_id"), str):
            return str(event["trace_id"])
    return ""


def read_text(path: Path) -> str:
    """A file's text; empty where there is no such file."""
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _check_param(name: str, value: str) -> None:
    if not name or not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise InvalidRequest(
            f"{name!r} is no name of a parameter. Use letters, digits, '_', '-' and '.'.", code="param"
        )
    if name in _RESERVED:
        raise InvalidRequest(
            f"param.{name} would override the row's own {name}. Use the row's column for it and drop the param.",
            code="param",
        )
    try:
        parsed: Any = json.loads(value)
    except (ValueError, RecursionError):
        parsed = value
    if any(_is_local(text) for text in _texts(parsed)):
        raise InvalidRequest(
            f"param.{name} names a local file, which the CLI would upload. Take it out; no row can name images.",
            code="param",
        )


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _is_local(text: str) -> bool:
    """Whether a text could lead the CLI to a file; it runs in an empty folder, so a bare name leads nowhere."""
    text = text.strip()
    return text.startswith(("/", "~", "\\")) or text.lower().startswith("file:") or ".." in text.split("/")


def _noted(child: ChildProcess, folder: Path) -> psutil.Process | None:
    """The process, unless it has ended or its number has passed on to another."""
    try:
        found = psutil.Process(child.pid)
        same = abs(found.create_time() - child.started) <= _START_TOLERANCE_S
        if same and found.status() != psutil.STATUS_ZOMBIE and any(str(folder) in part for part in found.cmdline()):
            return found
    except psutil.Error:
        return None
    return None


def _start_time(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return time.time()


def _in_slices(ended: Callable[[float], bool], timeout_s: float, left: threading.Event | None) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        going = left is not None and left.is_set()
        if ended(0.0 if going else min(_SLICE_S, deadline - time.monotonic())):
            return True
        if going or time.monotonic() >= deadline:
            return False


def _wait_by_asking(pid: int, timeout_s: float) -> bool:
    try:
        psutil.Process(pid).wait(timeout=max(0.0, timeout_s))
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def _cannot_start(program: str, error: OSError) -> GeneratorMissing | InvalidRequest | ServiceUnavailable:
    if error.errno == errno.E2BIG:
        return InvalidRequest("The prompt is too long for a command line (about 128 KB). Shorten it.", code="too_long")
    why = error.strerror or type(error).__name__
    at_fault = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno in _SHORT_OF_RESOURCES or Path(at_fault).name in {ANSWER, STDERR}:
        return ServiceUnavailable(
            f"This machine could not start a call ({why}); nothing was sent. Free memory, disk or open files, or lower "
            "--concurrency.",
            code="not_started",
        )
    return GeneratorMissing(f"{program} can't be started ({why}). {INSTALL}", code="no_program")
