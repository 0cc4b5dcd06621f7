"""Our own format: a folder with `config.json`, `model.safetensors`, tokenizer, preprocessing facts and model card."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from one_peace.checkpoints.model_card import model_card
from one_peace.checkpoints.renamed import Renamed
from one_peace.checkpoints.replacing import work_folder
from one_peace.checkpoints.tensor_file import Piece, nbytes, write_tensor_file
from one_peace.configuration import build_dataclass
from one_peace.errors import CheckpointError
from one_peace.modalities import get_modality

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ORIGIN = "official.json"  # of a converted folder: the names of the official file, their order and its settings
OFFICIAL_PREFIX = "official."  # tensors without a native counterpart, kept so that a conversion can be undone
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")  # tensors that are no parameters
MAX_SHARD_BYTES = 5_000_000_000


class LazyTensors(Mapping[str, list[Tensor]]):
    """Tensors of a folder by name, memory-mapped when asked for, each as a list of one piece."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> list[Tensor]:
        path = self._files[name]
        try:
            return [self._file(path).get_tensor(name)]
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        except Exception as error:  # safetensors has an error class of its own
            raise CheckpointError(f"{path}: {name}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            from safetensors import safe_open

            self._open[path] = safe_open(path, framework="pt", device="cpu")
        return self._open[path]


@dataclass(frozen=True)
class NativeFolder:
    """A saved model: plain config, tensors by native name, and leftovers of an official file by official name."""

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, list[Tensor]]
    leftovers: Mapping[str, list[Tensor]] = field(default_factory=dict)

    @property
    def composed(self) -> bool:
        """Whether the weights include a decoder or a head, and so encoder names start with `encoder.`."""
        return any(name.startswith("encoder.") for name in self.tensors)


def is_native(path: Path) -> bool:
    """Whether a path is a folder in our format."""
    return (path / CONFIG).is_file()


def open_folder(path: str | Path) -> NativeFolder:
    """Opens a folder; weights are read when used. `CheckpointError` says what is missing or damaged."""
    path = Path(path)
    config = read_json(path / CONFIG)
    tensors = open_weights(path)
    rest = {name.removeprefix(OFFICIAL_PREFIX): name for name in tensors if name.startswith(OFFICIAL_PREFIX)}
    own = {name: name for name in tensors if not name.startswith(OFFICIAL_PREFIX)}
    return NativeFolder(path, config, Renamed(tensors, own), Renamed(tensors, rest))


def open_weights(path: Path) -> LazyTensors:
    """The tensors in a folder's safetensors, one file or several with their index; read when used."""
    if not (path / INDEX).exists() and not (path / WEIGHTS).exists():
        raise CheckpointError(f"{path}: has neither {WEIGHTS} nor {INDEX}")
    if (path / INDEX).exists():
        index = read_json(path / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(Path(str(f)).name == f for f in index.values()):
            raise CheckpointError(f"{path / INDEX}: weight_map must map tensor names to files of this folder")
        files = {name: path / file for name, file in index.items()}
        for shard in sorted(set(files.values())):
            held = set(_names(shard))
            absent = [name for name, file in files.items() if file == shard and name not in held]
            if absent:
                raise CheckpointError(f"{shard}: lacks {', '.join(absent)}, which {INDEX} promises")
    else:
        files = dict.fromkeys(_names(path / WEIGHTS), path / WEIGHTS)
    return LazyTensors(files)


def write_folder(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Sequence[Piece]],
    *,
    write_files: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Saves a model. A reader sees the old weights or the new ones: files are written elsewhere and then moved.

    Other files in the folder stay. `tensors` maps names to pieces to be joined along dimension 0. `write_files(folder)`
    adds files such as tokenizer.json.
    """
    given = Path(folder)
    if given.exists() and not given.is_dir():
        raise ValueError(f"{given} is a file; a model is saved as a folder")
    folder = given.resolve()  # what a link leads to: files cannot be moved from one disk to another
    folder.parent.mkdir(parents=True, exist_ok=True)
    # a folder that is there may be a disk of its own, such as a volume of a container
    with work_folder(folder, folder if folder.exists() else None) as work:
        _write_weights(work, tensors, max_shard_bytes, _shard_stem(folder))
        learned = [
            pieces
            for name, pieces in tensors.items()
            if not name.startswith(OFFICIAL_PREFIX) and not name.endswith(STATISTICS)
        ]
        parameters = sum(piece.numel() for pieces in learned for piece in pieces)
        dtypes = sorted(
            {
                str(pieces[0].dtype).removeprefix("torch.")
                for pieces in tensors.values()
                if pieces[0].is_floating_point()
            }
        )
        write_json(work / "preprocessor_config.json", _preprocessing(config))
        (work / "README.md").write_text(model_card(config, parameters, dtypes), encoding="utf-8")
        if write_files is not None:
            write_files(work)
        write_json(work / CONFIG, config)
        _publish(work, folder)
    return given


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file for people to read."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _shard_stem(folder: Path) -> str:
    """A beginning of names that no shard in a folder has: who follows the old index must not find new shards."""
    stems = itertools.chain(["model"], (f"model-{number}" for number in itertools.count(2)))
    return next(stem for stem in stems if not any(folder.glob(f"{stem}-{'[0-9]' * 5}-of-*.safetensors")))


def _write_weights(folder: Path, tensors: Mapping[str, Sequence[Piece]], max_shard_bytes: int, stem: str) -> None:
    shards: list[dict[str, Sequence[Piece]]] = [{}]
    room = max_shard_bytes
    for name, pieces in tensors.items():
        size = nbytes(pieces)
        if size > room and shards[-1]:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = pieces
        room -= size
    if len(shards) == 1:
        write_tensor_file(folder / WEIGHTS, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_tensor_file(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(nbytes(pieces) for pieces in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _publish(work: Path, folder: Path) -> None:
    """Moves finished files to their place: the one that makes the new weights those of the folder after all shards."""
    umask = os.umask(0)
    os.umask(umask)
    work.chmod(0o777 & ~umask)  # temporary folders are private
    for path in work.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    if not folder.exists():
        work.rename(folder)
        return
    last = (WEIGHTS, INDEX, CONFIG)
    new = sorted((path.name for path in work.iterdir()), key=lambda name: last.index(name) if name in last else -1)
    for name in new:
        os.replace(work / name, folder / name)
        if name == WEIGHTS:
            (folder / INDEX).unlink(missing_ok=True)  # a reader would follow it
    for path in [*folder.glob("model*.safetensors"), folder / ORIGIN]:  # of an earlier save
        if path.name not in new:
            path.unlink(missing_ok=True)


def _preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for programs other than this one; ours reads them from config.json."""
    if config.get("family") == "ofa":
        picture = {
            "size": config["image_size"],
            "resample": "bicubic",
            "image_mean": list(config["image_mean"]),
            "image_std": list(config["image_std"]),
        }
        return {"image": picture, "box": {"size": config["box_size"], "bins": config["bins"]}}
    modalities = config.get("modalities", {})
    if config.get("family") == "mico":  # its settings are of the form in which the shared tower reads inputs
        return {name: dict(settings) for name, settings in modalities.items()}
    facts: dict[str, Any] = {}
    for name, settings in modalities.items():
        modality = get_modality(name)
        facts[name] = modality.preprocessing(build_dataclass(modality.Config, settings, f"modalities.{name}"))
    return facts


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return list(file.keys())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing from the model's folder") from error
    except Exception as error:  # safetensors has an error class of its own
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. `CheckpointError` for a file that is missing or holds anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: no {path.name}; not a model saved by this package") from None
    except (ValueError, RecursionError) as error:  # bad JSON or bad UTF-8
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must hold a JSON object")
    return values
