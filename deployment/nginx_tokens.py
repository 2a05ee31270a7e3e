"""The tokens of the reverse proxy: a file that a person keeps, and the maps that nginx reads."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deployment.nginx_values import refuse_public
from recsys.errors import InputError

SHORTEST, LONGEST = 32, 512
MOST = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z", re.ASCII)


@dataclass(frozen=True)
class Token:
    """What somebody who may ask shows, and by what name the log knows them."""

    name: str
    secret: str = field(repr=False)


def read_tokens(file: Path) -> list[Token]:
    """Tokens of a file with lines ``NAME TOKEN``; a name may have several, empty lines and ``#`` lines are left out.

    Raises:
        InputError: a line that is none of this, or a token that stands there twice; the text does not show a token.
    """
    refuse_public(file)
    found: dict[str, Token] = {}
    for number, line in enumerate(_lines(file), 1):
        if not line.strip() or line.startswith("#"):
            continue
        place, (name, secret, *more) = f"{file}, line {number}", [*line.split(), "", ""]
        if any(more) or not _NAME.match(name):
            raise InputError(f"{place}: expected NAME TOKEN; a name has letters, digits, '.', '_' and '-'")
        if not (_TOKEN.match(secret) and SHORTEST <= len(secret) <= LONGEST):
            allowed = "letters, digits and any of . _ ~ + / - (then =)"
            raise InputError(f"{place}: a token has {SHORTEST} to {LONGEST} signs, {allowed}; try openssl rand -hex 32")
        if secret in found:
            raise InputError(f"{place}: this token is that of '{found[secret].name}' too; make another")
        found[secret] = Token(name, secret)
    if not 0 < len(found) <= MOST:
        raise InputError(f"{file}: {len(found)} tokens; expected 1 to {MOST} lines NAME TOKEN")
    return list(found.values())


def bearer_map(tokens: Sequence[Token]) -> str:
    """Lines of nginx's map from the header ``Authorization: Bearer TOKEN`` to names (RFC 6750)."""
    return "".join(f'"~^(?i:bearer) +{_literal(t.secret)}$" "{t.name}";\n' for t in tokens)


def basic_map(tokens: Sequence[Token]) -> str:
    """The same for browsers, which send a name and a password, here the token (RFC 7617)."""
    lines = []
    for token in tokens:
        code = base64.b64encode(f"{token.name}:{token.secret}".encode()).decode()
        lines.append(f'"~^(?i:basic) +{_literal(code)}$" "{token.name}";\n')
    return "".join(lines)


def _literal(text: str) -> str:
    """A regular expression that matches just this text, of which only two signs mean something in one."""
    return text.replace(".", "[.]").replace("+", "[+]")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{file}: not a text in UTF-8") from None
