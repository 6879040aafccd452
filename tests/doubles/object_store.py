"""A store of objects in memory, for the rules of handing on; what S3 itself does is shown on a real server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from blocks.errors import DeliveryError


@dataclass
class ObjectStore:
    """Takes what it is given, but for the calls whose turn it is to fail: `script`, by the key's words."""

    script: dict[str, Sequence[DeliveryError | None]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, str]] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    folder: str = "shop"
    destination: str = "s3://bucket/shop"

    def key(self, path: str) -> str:
        """The key of a path."""
        return f"{self.folder}/{path}"

    def location(self, key: str) -> str:
        """An object's name."""
        return f"s3://bucket/{key}"

    def put_new(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> None:
        """Take an object, if it isn't there."""
        self._play(key)
        self.objects.setdefault(key, data)
        self.kinds[key] = content_type
        self.metadata[key] = metadata

    def put(self, key: str, data: bytes, content_type: str, cache_control: str = "no-cache") -> None:
        """Take an object."""
        self._play(key)
        self.objects[key] = data
        self.kinds[key] = f"{content_type} ({cache_control})"

    def get(self, key: str, destination: Path) -> Mapping[str, str]:
        """Bring an object to disk. Raises: LookupError."""
        destination.write_bytes(self.objects[key])
        return self.metadata[key]

    def signed_url(self, key: str) -> str:
        """An address with a signature."""
        return f"https://signed.example/{key}?signature=abc"

    def signed_until(self) -> datetime:
        """Some time."""
        return datetime(2027, 1, 2, 3, 4, tzinfo=UTC)

    def _play(self, key: str) -> None:
        self.puts.append(key)
        for words, steps in self.script.items():
            turn = sum(words in put for put in self.puts) - 1
            error = steps[turn] if words in key and turn < len(steps) else None
            if error:
                raise error
