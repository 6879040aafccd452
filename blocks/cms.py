"""A CMS with a REST interface: an item a sku, whose field gets the image's address."""

import json
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, Literal

import requests
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator
from requests.auth import AuthBase

from blocks.cms_answers import Asked, CmsAnswer, FieldValue, failure
from blocks.cms_template import check_body, check_path, list_path, render_body, render_path, url_place
from blocks.errors import (
    DeliveryForbidden,
    DeliveryStopped,
    DeliveryUnavailable,
    UnknownField,
    ValueNotTaken,
)
from blocks.http_answers import one_line

LARGEST_ANSWER_BYTES: Final = 4 * 1024 * 1024
CONNECT_TIMEOUT_S: Final = 10
_SHOWN: Final = 200


class CmsSite(Block):
    """Where the addresses of finished images are published. Used by many threads at once.

    As it comes it fits Directus; with the path `/api/products/{{ sku }}` one's own.
    """

    _block_type_name = "CMS site"
    _block_type_slug = "cms-site"
    _description = "Puts the address of each image into the field of a CMS's item, over REST."

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str = Field(
        pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$",
        title="Address",
        description="The CMS's address, such as https://cms.example.com.",
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        title="Token",
        description="The access token of a user that may read and update the items, and no more.",
    )
    path: str = Field(
        default="/items/products/{{ sku }}",
        title="Path of an item",
        description="It may name {{ sku }} and {{ template }}; what they stand for is URL-quoted.",
    )
    body: str = Field(
        default='{"image_url": "{{ url }}"}',
        title="Body",
        description="JSON, whose texts may name {{ url }}, {{ sku }} and {{ template }}.",
    )
    method: Literal["PATCH", "PUT", "POST"] = Field(
        default="PATCH",
        title="Method",
        description="How an item is changed.",
    )
    read_path: str = Field(
        default="",
        title="Path to read an item",
        description="Where that is another one. Empty: the path of an item.",
    )
    field: str = Field(
        default="",
        pattern=r"^([^.\s]+(\.[^.\s]+)*)?$",
        title="Field in the answer",
        description=(
            "Where the answer has the address: data.image_url (Directus), image_url (plain), data.attributes.image_url "
            "(Strapi 4). Empty: the first of these that fits the body."
        ),
    )
    auth_scheme: str = Field(
        default="Bearer",
        pattern=r"^[!-~]*$",
        title="Scheme",
        description="What stands before the token in the Authorization header. Empty: the token alone.",
    )
    timeout_s: float = Field(
        default=30,
        gt=0,
        title="Time-out",
        description="Seconds to wait for an answer.",
    )

    _session: requests.Session | None = PrivateAttr(default=None)
    _may_read: bool = PrivateAttr(default=False)
    _may_change: bool = PrivateAttr(default=False)

    @field_validator("path")
    @classmethod
    def _path_is_usable(cls, path: str) -> str:
        return check_path(path)

    @field_validator("read_path")
    @classmethod
    def _read_path_is_usable(cls, path: str) -> str:
        return check_path(path) if path else path

    @field_validator("body")
    @classmethod
    def _body_is_usable(cls, body: str) -> str:
        return check_body(body)

    @property
    def name(self) -> str:
        """What the ledger and reports call it: its block document, or its address where it has none."""
        document = self._block_document_name
        return f"{self._block_type_slug}/{document}" if document else self.base_url

    def read(self, sku: str, template: str = "") -> FieldValue:
        """What the item of this sku has now. Raises: a leaf of DeliveryError."""
        answer = self._ask("GET", render_path(self.read_path or self.path, sku, template))
        if answer.status == 403 and not self._may_read:  # noqa: PLR2004 - forbidden: this item, or all of them?
            self.check()
            raise failure(answer, Asked.READ, sku, self._secrets, is_allowed=True)
        if not answer.ok:
            raise failure(answer, Asked.READ, sku, self._secrets, is_allowed=True)
        if not answer.is_json:
            raise self._no_json()
        self._may_read = True
        return answer.field(self._places)

    def publish(self, sku: str, url: Any, template: str = "") -> None:
        """Have the item's field be `url` (or what was there before: any JSON value), and see that it is.

        Raises: a leaf of DeliveryError. A CMS may say yes and mean no, so the value that it echoes must be the new one;
        where it echoes none, it is read.
        """
        body = render_body(self.body, {"sku": sku, "template": template, "url": url})
        answer = self._ask(self.method, render_path(self.path, sku, template), body)
        if answer.status == 403 and not self.read(sku, template).found:  # noqa: PLR2004 - forbidden, as it isn't there
            raise self._no_field(sku, answer)
        if not answer.ok:
            raise failure(answer, Asked.CHANGE, sku, self._secrets, is_allowed=self._may_change)
        self._may_change = True
        now = answer.field(self._places)
        if not now.found or now.value != url:  # some echo what was there before
            now = self.read(sku, template)
        if not now.found and url is not None:
            raise self._no_field(sku, answer)
        if now.value != url:
            kept = one_line(json.dumps(now.value, ensure_ascii=False), self._secrets)[:_SHOWN]
            raise ValueNotTaken(
                f"The CMS said yes ({answer.status}), and its item {sku!r} has {kept} in {self._field_name!r} instead. "
                "See what changes it there."
            )

    def check(self) -> bool:
        """Try whether the token is let in, by listing the items; changes nothing.

        Gives False where the CMS answers and has no such list, so that only an item can tell.
        Raises: DeliveryForbidden, DeliveryStopped or DeliveryUnavailable.
        """
        answer = self._ask("GET", list_path(self.read_path or self.path), query={"limit": "1"})
        if answer.status in {400, 404, 405, 410, 422}:
            return False
        if not answer.ok:
            raise failure(answer, Asked.LIST, "", self._secrets, is_allowed=False)
        if not answer.is_json:
            raise self._no_json()
        self._may_read = True
        return True

    @property
    def _places(self) -> list[tuple[str, ...]]:
        """Where in an answer the field may be, the likeliest first."""
        if self.field:
            return [tuple(self.field.split("."))]
        sent = url_place(json.loads(self.body)) or ()
        if sent[:1] == ("data",):
            return [sent, ("data", "attributes", *sent[1:]), sent[1:]]
        return [sent, ("data", *sent), ("data", "attributes", *sent)]

    @property
    def _field_name(self) -> str:
        return self.field or ".".join(url_place(json.loads(self.body)) or ())

    @property
    def _secrets(self) -> tuple[str, ...]:
        return (self.token.get_secret_value().strip(),)

    def _ask(self, method: str, path: str, body: Any = None, query: dict[str, str] | None = None) -> CmsAnswer:
        """One request, which follows no redirect: the token is for this address alone."""
        try:
            with self._connection().request(
                method,
                f"{self.base_url.rstrip('/')}{path}",
                params=query,
                data=None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace"),
                headers={"Accept": "application/json"} | ({} if body is None else {"Content-Type": "application/json"}),
                auth=_Authorization(self._authorization()),
                timeout=(CONNECT_TIMEOUT_S, self.timeout_s),
                allow_redirects=False,
                stream=True,
            ) as answer:
                return _read(answer)
        except requests.exceptions.SSLError as error:
            raise DeliveryStopped(
                f"The CMS {self.base_url} has no certificate that can be trusted. Mend it, or the address in its block."
            ) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise DeliveryUnavailable(
                f"The CMS {self.base_url} can't be reached ({type(error).__name__}). "
                "Check its address, and run the same command again once it is up."
            ) from error
        except requests.RequestException as error:
            raise DeliveryStopped(
                f"No request to the CMS {self.base_url} can be made ({type(error).__name__}). Mend its block."
            ) from error

    def _authorization(self) -> str:
        token = self._secrets[0]
        if not (token.isascii() and token.isprintable()):
            raise DeliveryForbidden("The CMS's token holds characters that no token has. Put it into its block anew.")
        return f"{self.auth_scheme} {token}".strip() if token else ""

    def _connection(self) -> requests.Session:
        if self._session is None:
            session = requests.Session()
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # threads share it, so it keeps nothing
            adapter = requests.adapters.HTTPAdapter(pool_maxsize=16)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            self._session = session
        return self._session

    def _no_field(self, sku: str, answer: CmsAnswer) -> UnknownField:
        return UnknownField(
            f"The CMS's item {sku!r} shows no field {self._field_name!r}, and what was sent came to nothing "
            f"({answer.status}). Add the field there, let the token read it, or mend the block's body or field."
        )

    def _no_json(self) -> DeliveryStopped:
        return DeliveryStopped(
            f"The CMS {self.base_url} answers with something else than JSON. Mend the address or the path in its block."
        )


class _Authorization(AuthBase):
    """The token's header. Said so, because requests would let a .netrc go before a header."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value:
            request.headers["Authorization"] = self._value
        return request


def _read(answer: requests.Response) -> CmsAnswer:
    text = b""
    for part in answer.iter_content(1 << 16):
        text += part
        if len(text) > LARGEST_ANSWER_BYTES:
            raise DeliveryStopped(
                f"The CMS answers with more than {LARGEST_ANSWER_BYTES:,} bytes. Mend the path in its block."
            )
    try:
        body, is_json = json.loads(text), True
    except ValueError:
        body, is_json = None, False
    headers = answer.headers
    return CmsAnswer(answer.status_code, body, is_json, headers.get("Retry-After", ""), headers.get("Location", ""))
