"""What an operator sets, and the limits that protect the service. Sizes are in bytes, times in seconds."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a client may ask for. Above it a request is refused, with the limit in the error.

    Args:
        request_bytes: body of any request but an upload; it is held in memory.
        upload_bytes: body of an upload; it is streamed to disk.
        upload_files: files of one upload.
        inputs: inputs of one call to encode, parts of one query.
        text_characters: of one text.
        answers: answers of one search.
        pixels: of one picture, checked before it is decoded.
        sound_seconds: of one sound.
        decode_seconds: time to decode one input; the process that takes longer is ended.
        request_seconds: until a response has begun.
        upload_seconds: the same, for uploads.
        idle_seconds: without a byte of a body that was announced.
        wait_seconds: a request that would wait longer for the model is refused (429).
        in_flight: requests being worked on at the same time.
        held_bytes: of the bodies of all of these together.
        uploads: uploads at the same time.
    """

    request_bytes: int = 32 * MIB
    upload_bytes: int = 256 * MIB
    upload_files: int = 64
    inputs: int = 256
    text_characters: int = 20_000
    answers: int = 200
    pixels: int = 50_000_000
    sound_seconds: float = 900.0
    decode_seconds: float = 20.0
    request_seconds: float = 60.0
    upload_seconds: float = 600.0
    idle_seconds: float = 20.0
    wait_seconds: float = 10.0
    in_flight: int = 256
    held_bytes: int = 1024 * MIB
    uploads: int = 8


@dataclass(frozen=True)
class Settings:
    """How the service runs.

    `keys` are the API keys that are accepted; empty means none is asked for, which `Settings` allows on loopback
    addresses only. `read_only` refuses to add and to delete. `decoders` is the number of processes that decode what
    clients send. `names` are further host names by which clients may call the service.

    Raises:
        ValueError: an address that others can reach, without keys; a key that is short enough to be guessed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    read_only: bool = False
    decoders: int = 2
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.keys and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from other machines: give API keys (--api-keys FILE, one a line; "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one), or stay on 127.0.0.1"
            )
        for key in self.keys:
            if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(
                    f"the API key {key[:2]}... is not safe: use 16 or more printable ASCII characters without spaces"
                )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
