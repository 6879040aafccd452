"""What Slack is told of a run: one message at its start and one at its end, in Block Kit, within Slack's limits."""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

from flows.batch.prices import dollars, dollars_or_free, for_about
from flows.batch.summary import Summary
from flows.batch.words import duration

Message = dict[str, Any]

MOST_TEXT = 3000
MOST_HEADER = 150
MOST_URL = 3000
MOST_PICTURES = 3
MOST_KINDS = 10
_EXAMPLE = 200
_NAME = 100
_REASON = 500  # no more than 3,000 characters even if each is spelt out as &amp;
_NOTES = 5


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to show: its sku, and its address."""

    sku: str
    url: str


@dataclass(frozen=True, slots=True)
class Links:
    """Where one can look: the flow run's page and the contact sheet; empty where there is none.

    `contact_sheet` may also be a path, which is told and not linked.
    """

    run: str = ""
    contact_sheet: str = ""


def start_message(title: str, rows: int, images: int, cost_usd: Decimal | None, run: str = "") -> Message:
    """A run begins: so many rows, so many images to buy, for about so much; `cost_usd` is None where it isn't known."""
    if not images:
        told = f"{rows:,} rows; nothing to buy."
    else:
        cost = "at a price that isn't known" if cost_usd is None else for_about(cost_usd)
        told = f"{rows:,} rows; {images:,} {'image' if images == 1 else 'images'} to buy, {cost}."
    headline = f"{_cut(title, _NAME)}: begun"
    return _message(headline, [_section(escaped(told)), *_links(Links(run=run))], told)


def question_message(title: str, question: str, run: str = "") -> Message:
    """A run waits for somebody to answer on its page."""
    headline = f"{_cut(title, _NAME)}: waits for your answer"
    return _message(headline, [_section(escaped(_cut(question, _REASON))), *_links(Links(run=run))], question)


def end_message(title: str, summary: Summary, links: Links, pictures: Iterable[Picture] = ()) -> Message:
    """A run has ended: counts, cost, time, failures by kind, where to look, and some of its images."""
    why = {"Ended early": summary.stopped, "Handing on ended early": summary.delivery_stopped}
    incomplete = summary.failed or summary.undelivered or summary.notes
    ending = "ended early" if any(why.values()) else "done, with failures" if incomplete else "done"
    told = [f"*{name}:* {escaped(_cut(reason, _REASON))}" for name, reason in why.items() if reason]
    blocks = [_section(text) for text in [*told, *(escaped(_cut(note, _REASON)) for note in summary.notes[:_NOTES])]]
    doubt = f" ({dollars(summary.in_doubt_usd)} of it in doubt)" if summary.in_doubt_usd else ""
    facts = {status.value.capitalize(): f"{count:,}" for status, count in summary.counts.items()}
    if summary.undelivered:
        facts["Not handed on yet"] = f"{summary.undelivered:,}"
    facts |= {
        "Bought now": f"{summary.bought:,}",
        "Cost": f"{dollars_or_free(summary.spent_usd)}{doubt}",
        "Time": duration(summary.seconds),
    }
    blocks += _fields(facts)
    if summary.failures:
        blocks.append(_section(_failures(summary)))
    blocks += _links(links)
    blocks += [_image(picture) for picture in _shown(pictures)]
    return _message(f"{_cut(title, _NAME)}: {ending}", blocks, f"{summary}; {facts['Cost']}, in {facts['Time']}.")


def without_pictures(message: Message) -> Message:
    """The message without its images: Slack refuses a message of which it can't fetch one."""
    return {**message, "blocks": [block for block in message["blocks"] if block["type"] != "image"]}


def escaped(text: str) -> str:
    """Text in which nothing is a link or a mention to Slack."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _message(headline: str, blocks: Sequence[Message], told: str) -> Message:
    header = {"type": "header", "text": {"type": "plain_text", "text": _fit(headline, MOST_HEADER), "emoji": False}}
    return {"text": _fit(f"{headline}. {told}", MOST_TEXT), "blocks": [header, *blocks]}


def _section(text: str) -> Message:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _fields(facts: dict[str, str]) -> list[Message]:
    """Two columns of figures; ten to a block at most."""
    told = [{"type": "mrkdwn", "text": f"*{escaped(name)}*\n{escaped(value)}"} for name, value in facts.items()]
    return [{"type": "section", "fields": told[first : first + 10]} for first in range(0, len(told), 10)]


def _failures(summary: Summary) -> str:
    """Each kind with its number and one example, as many as there is room for."""
    kinds = Counter(row.error_kind or row.status.value for row in summary.failures)
    examples = {row.error_kind or row.status.value: row for row in reversed(summary.failures)}
    lines = [f"*{len(summary.failures):,} rows failed*"]
    for told, (kind, count) in enumerate(kinds.most_common()):
        row = examples[kind]
        line = (
            f"• {count:,} × {escaped(_cut(kind, _NAME))}, e.g. line {row.line}, {escaped(_cut(row.sku, _NAME))}: "
            f"{escaped(_cut(row.error, _EXAMPLE))}"
        )
        rest = f"… and {len(kinds) - told:,} more kinds, in failures.csv"
        if told == MOST_KINDS or sum(len(one) + 1 for one in (*lines, line, rest)) > MOST_TEXT:
            lines.append(rest)
            break
        lines.append(line)
    return "\n".join(lines)


def _links(links: Links) -> list[Message]:
    told = [
        _link(target, name) for name, target in (("Run", links.run), ("Contact sheet", links.contact_sheet)) if target
    ]
    return [{"type": "context", "elements": [{"type": "mrkdwn", "text": text} for text in told]}] if told else []


def _link(target: str, name: str) -> str:
    if not target.startswith(("https://", "http://")) or len(target) > MOST_URL - _NAME:
        return f"{name}: `{escaped(_cut(target, 500).replace('`', ' '))}`"
    safe = quote(target, safe="%/:?#[]@!$&'()*+,;=~-._")  # Slack's own signs, < > and |, among what is spelt out
    return f"<{escaped(safe)}|{name}>"


def _shown(pictures: Iterable[Picture]) -> list[Picture]:
    public: list[Picture] = []
    for picture in pictures:
        if len(public) == MOST_PICTURES:
            break
        if is_public(picture.url):
            public.append(picture)
    return public


def is_public(url: str) -> bool:
    """Whether Slack's servers may fetch this address: https, and not on a network of one's own."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme != "https" or len(url) > MOST_URL or "." not in host.strip(".") or " " in url:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return not host.endswith((".local", ".localhost", ".internal", ".lan"))


def _image(picture: Picture) -> Message:
    return {"type": "image", "image_url": picture.url, "alt_text": _cut(picture.sku, _NAME) or "image"}


def _cut(text: str, most: int) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _fit(text: str, most: int) -> str:
    """Escaped, and cut so that it fits with what escaping adds."""
    room = most
    while len(escaped(_cut(text, room))) > most:
        room -= max(1, (len(escaped(_cut(text, room))) - most) // 5)
    return escaped(_cut(text, room))
