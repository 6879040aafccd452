"""The AnyCap CLI as an image generator: one child process a call, which may outlive us."""

import os
import signal
from decimal import Decimal
from pathlib import Path
from typing import Annotated, ClassVar, Final

import psutil
from PIL import Image, UnidentifiedImageError
from pydantic import Field, SecretStr, WithJsonSchema

from blocks import anycap_child
from blocks.anycap_answers import failure, parse_answer, read_answer
from blocks.errors import LeftRunning, ServiceUnavailable
from blocks.image import Capabilities, ChildProcess, GeneratedImage, ImageRequest, Mode
from blocks.image_generator import ImageGenerator

Amount = Annotated[Decimal, Field(ge=0), WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?$"})]
_KEY: Final = "ANYCAP_API_KEY"


class AnyCap(ImageGenerator):
    """Images by the AnyCap CLI. `AnyCap()` takes the program and the key from the environment."""

    _block_type_name = "AnyCap"
    _block_type_slug = "anycap"
    _description = "Makes images with the AnyCap CLI, one call an image."

    capabilities: ClassVar[Capabilities] = Capabilities(
        provider="anycap",
        models=frozenset(
            {
                "nano-banana-2",
                "nano-banana-pro",
                "seedream-5",
                "seedream-4.5",
                "gpt-image-2",
                "flux-kontext-max",
                "qwen-image",
            }
        ),
        modes=frozenset({Mode.TEXT_TO_IMAGE, Mode.IMAGE_TO_IMAGE}),
        sizes=("1k", "2k", "4k"),
    )

    api_key: SecretStr = Field(
        default=SecretStr(""),
        title="API key",
        description="The key of the paying account. Empty: ANYCAP_API_KEY where the run is, else the CLI's own login.",
    )
    executable: str = Field(
        default="",
        pattern=r"^[^\x00]*$",
        title="Program",
        description="Path or name of the CLI. Empty: ROWSHOT_ANYCAP where the run is, else anycap on PATH.",
    )
    endpoint: str = Field(
        default="",
        pattern=r"^(https?://[!-~]+)?$",
        title="Endpoint",
        description="Address of the AnyCap server. Empty: the CLI's own (ANYCAP_API_ENDPOINT, its config, AnyCap's).",
    )
    timeout_s: float = Field(
        default=300,
        gt=0,
        title="Time-out",
        description="Seconds to wait for one image. A call that is cut off may have been charged all the same.",
    )
    usd_per_credit: Amount = Field(
        default=Decimal(0),
        title="US dollars per credit",
        description="What one credit costs this account, such as 0.01. 0: not known, and the list price counts.",
    )

    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make one image. A caller that is killed meanwhile finds it again with `recover`.

        What `request.on_child` raises comes through, and the child goes on then.
        """
        folder = request.folder.resolve()
        program = anycap_child.find_program(self.executable)
        variables = anycap_child.environment(self._key(), self.endpoint)
        command = anycap_child.arguments(program, anycap_child.json_flags(program, variables), request, folder)
        child = anycap_child.spawn(command, variables, folder, request.on_child)
        if anycap_child.wait_for_exit(child.pid, self.timeout_s, request.left):
            exit_code = child.wait()
            return self._read(exit_code if exit_code >= 0 else None, request, folder)
        if request.left.is_set():
            raise _left(request)
        anycap_child.kill(child)
        return self._read(None, request, folder, otherwise="time_out")

    def recover(self, request: ImageRequest, child: ChildProcess | None) -> GeneratedImage:
        """Adopt what a dead caller's call brought: waits for its child, then reads the answer it left in the folder."""
        folder = request.folder.resolve()
        if child is None and not (folder / anycap_child.ANSWER).exists():  # of a call with a child it is gone
            raise ServiceUnavailable(
                f"The call for {request.sku!r} was never sent, so nothing was bought. Ask for it again.",
                code="never_sent",
            )
        if parse_answer(anycap_child.read_text(folder / anycap_child.ANSWER)) is None:
            running = anycap_child.find_running(folder, child)
            if running is not None and not anycap_child.wait_for_exit(running.pid, self.timeout_s, request.left):
                if request.left.is_set():
                    raise _left(request)
                _end(running)
                return self._read(None, request, folder, otherwise="time_out")
        return self._read(None, request, folder)

    def check(self) -> None:
        """Raise GeneratorMissing or AuthenticationFailed if no call could succeed. Asks the CLI, and no server."""
        program = anycap_child.find_program(self.executable)
        key = self._key()
        variables = anycap_child.environment(key, self.endpoint)
        told = parse_answer(anycap_child.run_quietly([program, "credentials", "show"], variables))
        if not key and told is not None and told.fields.get("authenticated") is False:
            raise failure("auth_required", said="there is no key")

    def _key(self) -> str:
        key = self.api_key.get_secret_value().strip() or os.environ.get(_KEY, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise failure("auth_required", said="the key holds characters that no key has")
        return key

    def _read(
        self, exit_code: int | None, request: ImageRequest, folder: Path, *, otherwise: str = "half_answer"
    ) -> GeneratedImage:
        """Read the answer; where there is no whole one, a picture that is there whole was bought and is taken."""
        text = anycap_child.read_text(folder / anycap_child.ANSWER)
        trace_id = anycap_child.trace_id(folder)
        if exit_code != 0 and parse_answer(text) is None:
            if _decodes(folder / anycap_child.IMAGE):
                return GeneratedImage(folder / anycap_child.IMAGE, request.model, request_id=trace_id)
            if exit_code is None:
                raise failure(otherwise, request_id=trace_id)
        secrets = (self._key(),)
        return read_answer(exit_code, text, folder, model=request.model, trace_id=trace_id, secrets=secrets)


def _left(request: ImageRequest) -> LeftRunning:
    return LeftRunning(
        f"The call for {request.sku!r} was left running when the run ended. Run the same command again: it waits for "
        "the image and takes it, which costs nothing more.",
        code="left_running",
    )


def _decodes(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return False
    return True


def _end(found: psutil.Process) -> None:
    """End a child that another caller started, unless it has ended by itself."""
    try:
        found.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return
    anycap_child.wait_for_exit(found.pid, 5)
