"""The generator that comes with the house: it draws a stand-in, free, without an account or a network."""

import hashlib
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from blocks.errors import GeneratorMissing, InvalidRequest
from blocks.image import Capabilities, ChildProcess, GeneratedImage, ImageRequest, Mode
from blocks.image_generator import ImageGenerator
from blocks.proof_drawing import LONG_SIDES, Card, draw_proof, proof_size
from blocks.proof_text import font


class Proof(ImageGenerator):
    """Draws a card with the prompt's words, the sku, the model and the size that was asked for, marked as a proof.

    It stands in for any model of the price book, so that a sheet and its templates can be tried before a cent is spent.
    The same request gives the same bytes, always a PNG.
    """

    _block_type_name = "Proof"
    _block_type_slug = "proof"
    _description = "Draws a stand-in for each image: free, without an account or a network."

    capabilities: ClassVar[Capabilities] = Capabilities(
        provider="proof",
        any_priced_model=True,
        modes=frozenset(Mode),
        sizes=tuple(LONG_SIDES),
        free=True,
    )

    delay_s: float = Field(
        default=0,
        ge=0,
        le=600,
        title="Delay",
        description="Seconds that each proof takes, to try out how many at once a run can bear.",
    )

    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Draw `proof.png` into the request's folder. Parameters that a drawing has no use for change its colours only.

        Raises: InvalidRequest for a ratio, a resolution or a reference that can't be; OSError where the folder can't be
        written.
        """
        digest = _digest(request)
        for reference in request.references:
            if not reference.is_file():
                raise InvalidRequest(f"The reference image {reference} is not there. Mend its path in the sheet.")
        try:
            size = proof_size(request.params.get("aspect_ratio", "1:1"), request.params.get("resolution", "1k"))
        except ValueError as error:
            raise InvalidRequest(str(error), code="invalid_param") from error
        time.sleep(self.delay_s)
        drawing = draw_proof(Card(request.sku, request.prompt, request.model, size, seed=int(digest, 16)))
        return GeneratedImage(
            path=_write_whole(drawing, request.folder / "proof.png"),
            model=request.model,
            request_id=f"proof-{digest[:12]}",
            credits_used=Decimal(0),
        )

    def recover(self, request: ImageRequest, child: ChildProcess | None) -> GeneratedImage:
        """Draw again: it is free, and the bytes are the same."""
        return self.generate(request)

    def check(self) -> None:
        """Raise GeneratorMissing where the font is not installed, without which Hangul would be empty boxes."""
        try:
            font(16)
        except OSError as error:
            raise GeneratorMissing(
                f"The font of the proofs can't be read ({error}). Install it again: pip install --force-reinstall "
                "pylopdf-fonts-ko"
            ) from error


def _digest(request: ImageRequest) -> str:
    told = [request.sku, request.prompt, request.model, request.mode, sorted(request.params.items())]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _write_whole(drawing: bytes, path: Path) -> Path:
    beside = path.with_suffix(".part")
    beside.write_bytes(drawing)
    return beside.replace(path)
