"""What a `.env` says about the doors to the outside: keys, a bucket, a CMS, a webhook, the provider's limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from flows.batch.problems import NotStarted, Problem

ANYCAP = {"ANYCAP_API_KEY": "api_key"}
S3 = {
    "ROWSHOT_S3_BUCKET": "bucket",
    "ROWSHOT_S3_FOLDER": "folder",
    "ROWSHOT_S3_REGION": "region",
    "ROWSHOT_S3_ENDPOINT": "endpoint",
    "ROWSHOT_S3_ACCESS_KEY_ID": "access_key_id",
    "ROWSHOT_S3_SECRET_ACCESS_KEY": "secret_access_key",
}
CMS = {
    "ROWSHOT_CMS_URL": "base_url",
    "ROWSHOT_CMS_TOKEN": "token",
    "ROWSHOT_CMS_PATH": "path",
    "ROWSHOT_CMS_BODY": "body",
}
SLACK = {"ROWSHOT_SLACK_WEBHOOK": "url"}
LIMITS = {"ROWSHOT_LIMIT": "at_once", "ROWSHOT_REQUESTS_PER_MINUTE": "per_minute"}
_LEAST = {"at_once": 1, "per_minute": 2}
_DIGITS = 7
_OURS = ("ROWSHOT_S3_", "ROWSHOT_CMS_", "ROWSHOT_SLACK_", "ROWSHOT_LIMIT", "ROWSHOT_REQUESTS")
_EXAMPLE = "Begin with .env.example: cp .env.example .env"


@dataclass(frozen=True, slots=True)
class Doors:
    """The values for each block, by the block's own names; empty where the file has none. They hold secrets."""

    anycap: Mapping[str, str] = field(default_factory=dict, repr=False)
    s3: Mapping[str, str] = field(default_factory=dict, repr=False)
    cms: Mapping[str, str] = field(default_factory=dict, repr=False)
    slack: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: Mapping[str, int] = field(default_factory=dict)


def read_doors(path: str) -> Doors:
    """What the file says. Raises: NotStarted where it can't be read, says nothing, or says only half of something."""
    file = Path(path).expanduser()
    try:
        with file.open(encoding="utf-8-sig") as text:
            values = {
                name: (value or "").strip() for name, value in dotenv_values(stream=text, interpolate=False).items()
            }
    except (OSError, UnicodeDecodeError) as error:
        raise NotStarted([Problem(f"{path} can't be read ({type(error).__name__}).", _EXAMPLE)]) from error
    problems = [
        Problem(f"{path}: nobody knows {name}.", f"Known are {', '.join([*S3, *CMS, *SLACK, *ANYCAP, *LIMITS])}.")
        for name in values
        if name.startswith(_OURS) and name not in {**S3, **CMS, **SLACK, **LIMITS}
    ]
    limits = {ours: _number(text) for ours, text in _given(values, LIMITS).items()}
    problems += [
        Problem(
            f"{path}: {_name(LIMITS, ours)} is no whole number from {_LEAST[ours]} on.", "Mend it or leave it empty."
        )
        for ours, number in limits.items()
        if number < _LEAST[ours]
    ]
    anycap, s3, cms, slack = (_given(values, names) for names in (ANYCAP, S3, CMS, SLACK))
    doors = Doors(anycap, s3, cms, slack, limits)
    for group, first, names in ((doors.s3, "bucket", S3), (doors.cms, "base_url", CMS)):
        if group and first not in group:
            problems.append(Problem(f"{path}: {_name(names, first)} is empty.", "Fill it in, or empty its others too."))
    pair = {"access_key_id", "secret_access_key"}
    if len(pair & doors.s3.keys()) == 1:
        (missing,) = pair - doors.s3.keys()
        problems.append(Problem(f"{path}: {_name(S3, missing)} is empty.", "Fill in both keys, or none."))
    if not problems and not (doors.anycap or doors.s3 or doors.cms or doors.slack or doors.limits):
        problems.append(Problem(f"{path} fills in nothing.", _EXAMPLE))
    if problems:
        raise NotStarted(problems)
    return doors


def _number(text: str) -> int:
    """The number that a text is; 0 where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else 0


def _given(values: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {ours: values[name] for name, ours in names.items() if values.get(name)}


def _name(names: Mapping[str, str], ours: str) -> str:
    return next(name for name, found in names.items() if found == ours)
