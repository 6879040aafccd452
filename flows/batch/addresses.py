"""How the public address of a stored object is made: virtual host, path style or a CDN, as one template."""

import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from flows.batch.problems import NotStarted, Problem

VARIABLES = ("key", "bucket", "region", "endpoint")
MEND = "Write --public-url like https://cdn.example.com/{key}; it may name {bucket}, {region} and {endpoint} too."

_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of one bucket's objects. An empty `template`: the bucket is private, and they have none."""

    template: str = ""
    bucket: str = ""
    region: str = ""
    endpoint: str = ""

    def __bool__(self) -> bool:
        return bool(self.template)

    def of(self, key: str) -> str:
        """An object's public address, its key URL-quoted; empty where the bucket is private."""
        values = {"key": quote(key), "bucket": self.bucket, "region": self.region, "endpoint": self.endpoint}
        return _BRACES.sub(lambda found: values[found[1]], self.template)

    def check(self) -> None:
        """Raise NotStarted where the template makes no web addresses, or the same one for every object."""
        if not self.template:
            return
        named = _BRACES.findall(self.template)
        unknown = [name for name in named if name not in VARIABLES]
        if unknown or re.search(r"[{}]", _BRACES.sub("", self.template)):
            what = f"{{{unknown[0]}}}" if unknown else "a lone brace"
            raise _wrong(f"The public address {self.template!r} has {what}, which means nothing here.")
        if "key" not in named:
            raise _wrong(f"The public address {self.template!r} is the same for every image: it lacks {{key}}.")
        for name in ("bucket", "region", "endpoint"):
            if name in named and not getattr(self, name):
                raise _wrong(f"The public address names {{{name}}}, and the store's block tells none.")
        try:
            parts = urlsplit(self.of("images/product/a.png"))
            usable = parts.scheme in {"https", "http"} and bool(parts.hostname) and not parts.username
        except ValueError:
            usable = False
        if not usable or re.search(r"\s", self.template):
            raise _wrong(f"The public address {self.template!r} makes no web addresses.")


def _wrong(what: str) -> NotStarted:
    return NotStarted([Problem(what, MEND)])
