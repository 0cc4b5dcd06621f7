"""What the documentation says runs: every code block, command and link; and public names explain themselves."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.main import get_command
from typer.testing import CliRunner

import one_peace
from one_peace.cli.main import COMMANDS, app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "bash", "yaml", "text"}


@dataclass(frozen=True)
class CodeBlock:
    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[CodeBlock]:
    """The fenced blocks of a page. An unclosed or indented fence is an error of the page."""
    blocks: list[CodeBlock] = []
    language, start, lines = None, 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            assert line.startswith("```"), f"{page.name}:{number}: an indented fence"
            if language is None:
                language, start, lines = line[3:].strip(), number, []
            else:
                assert line == "```", f"{page.name}:{number}: a fence inside the one of line {start}"
                blocks.append(CodeBlock(language, "\n".join(lines), start))
                language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{page.name}:{start}: the fence is not closed"
    return blocks


def commands_of(block: CodeBlock) -> list[list[str]]:
    """The command lines of a block as words, without comments."""
    joined = block.code.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def in_page(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the files that the pages name."""
    import soundfile

    def draw(path: Path, colour: str) -> None:
        picture = Image.new("RGB", (96, 64), "white")
        ImageDraw.Draw(picture).ellipse((20, 8, 76, 56), fill=colour)
        picture.save(path)

    def play(path: Path, pitch: float, seconds: float = 1.5) -> None:
        time = np.arange(int(seconds * 22_050)) / 22_050
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * time).astype(np.float32), 22_050)

    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (("dog.jpeg", "brown"), ("elephant.png", "grey"), ("rose.png", "red")):
        draw(tmp_path / name, colour)
        draw(photos / name, colour)
    (photos / "rose.txt").write_text("A red rose.\n", encoding="utf-8")
    (photos / "notes.md").write_text("What the dog did on Sunday.\n", encoding="utf-8")
    (tmp_path / "broken.jpeg").write_bytes((tmp_path / "dog.jpeg").read_bytes()[:300])
    play(tmp_path / "cow.flac", 180)
    play(photos / "bell.wav", 880)
    shutil.copy(ROOT / "examples" / "add_a_modality.py", tmp_path)
    tutorial = blocks_of(ROOT / "docs" / "add-a-modality.md")[0]
    (tmp_path / "thermal.py").write_text(tutorial.code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for variable in ("ONE_PEACE_VOCAB", "ONE_PEACE_WEIGHTS_URL", "ONE_PEACE_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    _forget_examples()  # a module that an earlier test imported would not register its modality again
    yield tmp_path
    _forget_examples()


def _forget_examples() -> None:
    for module in ("add_a_modality", "thermal"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("page", PAGES, ids=in_page)
def test_blocks_run(page: Path, small_files: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page):
        where = f"{in_page(page)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: mark the block as one of {', '.join(sorted(LANGUAGES))}"
        if block.language == "python":
            # The line numbers of a traceback are those of the page.
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
        elif block.language == "bash":
            for words in commands_of(block):
                run_command(words, where)
        elif block.language == "yaml":
            check_recipe(block)
        else:
            for words in text_commands(block):
                parse_command(words[1:], where)


def test_the_tutorial_adds_a_modality_in_under_60_lines() -> None:
    assert len(blocks_of(ROOT / "docs" / "add-a-modality.md")[0].code.splitlines()) < 60


def run_command(words: list[str], where: str) -> None:
    if words[0] == "./run":
        assert words[1] in usage_commands(), f"{where}: ./run has no command {words[1]!r}"
        return
    assert words[0] == "one-peace", f"{where}: only ./run and one-peace can be run; mark other commands as text"
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{where}: {shlex.join(words)}\n{result.output}"


def usage_commands() -> set[str]:
    done = subprocess.run([ROOT / "run", "help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE))


def text_commands(block: CodeBlock) -> list[list[str]]:
    lines = [line for line in block.code.splitlines() if line.startswith("one-peace ")]
    return [shlex.split(line, comments=True) for line in lines]


def parse_command(words: list[str], where: str) -> None:
    """Commands that need a network are parsed: the command, its arguments and its options must exist."""
    group = get_command(app)
    assert words[0] in COMMANDS, f"{where}: no command {words[0]!r}"
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    try:
        command.make_context(words[0], words[1:])
    except Exception as error:
        pytest.fail(f"{where}: one-peace {shlex.join(words)}: {error}")


def check_recipe(block: CodeBlock) -> None:
    from one_peace.recipe_files import read_recipe
    from one_peace.training.mico.recipe import MiCoRecipe
    from one_peace.training.pretraining.recipe import PretrainRecipe

    Path("block.yaml").write_text(block.code, encoding="utf-8")  # in the current folder of a test
    values = read_recipe("pretrain", "block.yaml")
    (MiCoRecipe if values.get("family") == "mico" else PretrainRecipe).from_dict(values)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=in_page)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{in_page(page)}: {target} does not exist"
        if anchor:
            assert anchor in anchors(file), f"{in_page(page)}: {target}: no such heading"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reachable_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f"(docs/{p.name})" not in readme] == []


def test_the_map_has_every_file() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = dict(re.findall(r"^### `([\w/]+)/`\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL))
    package = ROOT / "src" / "one_peace"
    standing = {
        folder.relative_to(package).as_posix(): {f.name for f in folder.glob("*.py")} - {"__init__.py"}
        for folder in package.rglob("*")
        if folder.is_dir()
    }
    described = {room: set(re.findall(r"^\| `(\w+\.py)` \|", text, re.MULTILINE)) for room, text in rooms.items()}
    assert described == {room: names for room, names in standing.items() if names}


RECIPES = {
    "pretraining.md": [
        "training.pretraining.recipe.PretrainRecipe",
        "training.recipe.OptimizerRecipe",
        "training.pretraining.recipe.EvaluationSchedule",
        "tasks.pretraining.PretrainingStage",
        "data.pairs.DataRecipe",
    ],
    "fine-tuning.md": [
        "training.finetuning.recipe.FinetuneRecipe",
        "training.finetuning.recipe.Tables",
        "training.finetuning.lora.LoRARecipe",
        "tasks.kinds.TaskSettings",
    ],
    "ofa.md": [
        "tasks.ofa.kinds.SequenceSettings",
        "training.ofa.recipe.SequenceRecipe",
        "training.vqgan.recipe.CodingRecipe",
    ],
    "mico.md": [
        "training.mico.recipe.MiCoRecipe",
        "training.mico.recipe.ClipSource",
        "training.mico.recipe.MiCoEvaluation",
    ],
}
ELSEWHERE = {"kind", "family", "tables", "columns", "model", "seed", "task"}  # what a recipe is of, on every page


@pytest.mark.parametrize(("page", "part"), [(page, part) for page, parts in RECIPES.items() for part in parts])
def test_every_key_of_a_recipe_is_explained(page: str, part: str) -> None:
    module, _, name = part.rpartition(".")
    settings = getattr(import_module(f"one_peace.{module}"), name)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    keys = {field.name for field in dataclasses.fields(settings)} - ELSEWHERE
    assert [key for key in sorted(keys) if not re.search(rf"[`.]{key}[`.:=]", text)] == []


@pytest.mark.parametrize("name", [name for name in one_peace.__all__ if name != "__version__"])
def test_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(one_peace, name)
    assert inspect.getdoc(thing), name
    if inspect.isclass(thing):
        members = inspect.getmembers(thing, lambda m: inspect.isfunction(m) or isinstance(m, property))
        public = [(n, m) for n, m in members if not n.startswith("_")]
        assert [n for n, m in public if not inspect.getdoc(m)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.help, name
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


def test_examples_say_how_to_run_them() -> None:
    for file in sorted((ROOT / "examples").glob("*.py")):
        first = inspect.cleandoc(file.read_text(encoding="utf-8").split('"""')[1])
        assert f"python examples/{file.name}" in first, file.name
        assert os.path.getsize(file) < 20_000
