"""A generator that answers with bytes that were prepared before: what it costs is what the rest costs.

It becomes a generator of a clone the way any new provider does (large.py): this file goes into blocks/, and its name
into blocks/__init__.py.
"""

import os
import time
from io import BytesIO
from typing import Any, ClassVar

from PIL import Image
from pydantic import Field, PrivateAttr

from blocks.image import Capabilities, GeneratedImage, ImageRequest
from blocks.image_generator import ImageGenerator

SIDE = 256


class PreparedImages(ImageGenerator):
    """Gives every row the same small PNG, after `delay_s` seconds, and adds a byte a call to the file `calls`.

    It is no free generator: the ledger, the caps and the global limit do for it what they do for a provider.
    """

    _block_type_name = "Prepared images"
    _block_type_slug = "prepared-images"
    _png: bytes = PrivateAttr(default=b"")

    capabilities: ClassVar[Capabilities] = Capabilities(provider="prepared")

    delay_s: float = Field(default=0, ge=0, title="Delay", description="Seconds that each answer takes.")
    calls: str = Field(default="", title="Calls", description="Path of a file that grows by a byte with each call.")

    def model_post_init(self, context: Any, /) -> None:
        """Draw the one picture."""
        super().model_post_init(context)
        gradient = Image.linear_gradient("L").resize((SIDE, SIDE))
        buffer = BytesIO()
        Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).save(buffer, "PNG")
        self._png = buffer.getvalue()

    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Wait, and write the picture."""
        if self.calls:
            place = os.open(self.calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                os.write(place, b".")
            finally:
                os.close(place)
        time.sleep(self.delay_s)
        path = request.folder / "image.png"
        path.write_bytes(self._png)
        return GeneratedImage(path, request.model, request_id=request.folder.name)
