"""Values of nginx's configuration: checked, so that none can end its own place in it and begin another."""

import grp
import ipaddress
import os
import pwd
import re
import ssl
from pathlib import Path

from recsys.errors import ConfigError, InputError, one_line

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z", re.ASCII)
_PATH = re.compile(r"/[\w /.,:@+=~-]*\Z")
_READABLE_BY_ALL = 0o004


def server_name(text: str) -> str:
    """A host name or an address; ConfigError for anything else, patterns included."""
    if not (_HOST.match(text) or _is_ip(text)):
        raise ConfigError(f"--server-name {text!r}: expected a host name such as recsys.example.com, or an IP address")
    return f"[{text}]" if ":" in text else text.lower()


def model_name(text: str) -> str:
    """The name of a model; ConfigError where it could not stand in an address as it is."""
    if not _MODEL.match(text) or ".." in text:
        raise ConfigError(f"--model {text!r}: expected letters, digits, '-', '_' or '.', a letter or digit first")
    return text


def address(flag: str, text: str) -> str:
    """HOST:PORT of another server; ConfigError for anything else."""
    host, colon, port = text.rpartition(":")
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and _port(port) and (_HOST.match(host) or (_is_ip(inner) and (host != inner) == (":" in inner)))):
        raise ConfigError(f"{flag} {text!r}: expected HOST:PORT, for instance 127.0.0.1:8000 or [::1]:8000")
    return text


def listen_address(text: str) -> str:
    """[ADDRESS:]PORT of this machine; ConfigError for anything else."""
    if _port(text):
        return text
    place = address("--listen", text)
    if not _is_ip(place.rpartition(":")[0].strip("[]")):
        raise ConfigError(f"--listen {text!r}: expected a port, or an IP address and a port: 443, 127.0.0.1:8443")
    return place


def location(flag: str, path: Path) -> Path:
    """The absolute path, symbolic links kept (a renewed certificate moves them); ConfigError where it has signs that
    mean something to nginx."""
    text = os.path.normpath(path.absolute())
    if not _PATH.match(text):
        raise ConfigError(f"{flag} {text!r}: a path may hold letters, digits, blanks and any of / . , : @ + = ~ _ -")
    return Path(text)


def number(flag: str, value: int, most: int) -> int:
    """A whole number from 1; ConfigError outside."""
    if not 1 <= value <= most:
        raise ConfigError(f"{flag} {value}: expected a whole number from 1 to {most}")
    return value


def system_user(name: str) -> str:
    """An account and its group, as nginx writes them; ConfigError where there is none."""
    try:
        group = grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
    except (KeyError, ValueError):
        raise ConfigError(f"--user {name!r}: this machine has no such account") from None
    if not (_MODEL.match(name) and _MODEL.match(group)):
        raise ConfigError(f"--user {name!r}: the account or its group ({group!r}) has signs that nginx cannot read")
    return f"{name} {group}"


def certificate(file: Path, key: Path) -> tuple[Path, Path]:
    """Both files, which belong together.

    Raises:
        InputError: one cannot be read, is for everybody to read, or is not that of the other.
    """
    found = location("--certificate", file), location("--key", key)
    for path in found:
        _require_file(path)
    refuse_public(found[1])
    try:
        # A key with a password would have nginx ask for it at every start.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*found, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise InputError(
            f"{found[0]} and {found[1]}: not a certificate and its key in PEM without a password: {one_line(error)}"
        ) from None
    return found


def refuse_public(path: Path) -> None:
    """InputError where every account of the machine may read the file."""
    if path.stat().st_mode & _READABLE_BY_ALL:
        raise InputError(f"{path}: every account of this machine may read it; chmod 600 {path}")


def state_folder(path: Path, user: str | None) -> None:
    """Make the folder of what nginx writes, for nobody but its workers."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    if user and os.geteuid() == 0:
        account, group = user.split()
        os.chown(path, pwd.getpwnam(account).pw_uid, grp.getgrnam(group).gr_gid)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")


def _port(text: str) -> bool:
    return bool(re.match(r"[1-9][0-9]{0,4}\Z", text, re.ASCII)) and int(text) < 1 << 16


def _is_ip(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False
