"""The task without data of one's own: its texts, its rivals, the table that it ends with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from electra_ref.errors import UserError
from electra_ref.training.completing import Limits
from electra_ref.training.finetuning import embedded
from electra_ref.training.finetuning.embedded import NAMES, TOO_SHORT, WORDS, Text, embedded_task
from electra_ref.training.finetuning.session import Ended, encoder_at
from electra_ref.training.progress import Progress
from electra_ref.training.stop_signals import StopSignals
from tests.small_finetuning import write_encoder

SENTENCE = "Return the {} of all values that the {} holds, in the order in which they came."
NO_LIMITS = Limits(None, None, 0.0)
PACKAGES = {"python": ("list", "window"), "numpy": ("array", "axis")}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Path]]:
    """Write two packages of forty files, whose docstrings have words of their own."""
    found: dict[str, list[Path]] = {}
    for name, (noun, place) in PACKAGES.items():
        for number in range(40):
            path = tmp_path / f"{name}_{number}.py"
            sentences = [SENTENCE.format(f"{noun} {number} {part}", place) for part in range(6)]
            sentences.append("All of this is written for numpy and for nothing else at all.")
            path.write_text('"""' + "\n\n".join(sentences) + '"""\n', encoding="utf-8")
            found.setdefault(name, []).append(path)
    monkeypatch.setattr(embedded, "files_by_package", lambda: found)
    return found


def test_texts_are_long_enough_and_name_no_package(packages: dict[str, list[Path]]) -> None:
    del packages
    train, dev = embedded_task()
    assert {text.label for text in train} == {text.label for text in dev} == set(PACKAGES)
    for text in (*train, *dev):
        assert len(text.text.split()) >= WORDS
        assert not any(name in text.text.lower() for name in NAMES)


def test_a_file_is_learned_from_or_asked_about(packages: dict[str, list[Path]]) -> None:
    def numbers(texts: list[Text]) -> set[tuple[str, str]]:
        words = [text.text.split() for text in texts]
        return {(text.label, word[3]) for text, word in zip(texts, words, strict=True)}

    del packages
    train, dev = map(numbers, embedded_task())
    assert train
    assert dev
    assert not train & dev


def test_a_sentence_counts_once(packages: dict[str, list[Path]]) -> None:
    before = sum(map(len, embedded_task()))
    twin = packages["numpy"][0].with_name("copy.py")
    twin.write_bytes(packages["numpy"][0].read_bytes())
    packages["numpy"].append(twin)
    assert sum(map(len, embedded_task())) == before


def test_every_package_has_as_many_texts(
    packages: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    del packages
    monkeypatch.setattr(embedded, "TRAIN", 9)
    monkeypatch.setattr(embedded, "DEV", 3)
    train, dev = embedded_task()
    for texts, count in ((train, 9), (dev, 3)):
        assert [text.label for text in texts] == ["python"] * count + ["numpy"] * count
    assert len({text.text for text in train}) == 18


class Trained:
    """Stands for training: gives scores, and remembers what it was asked for."""

    def __init__(self, cut_at: int | None = None, **accuracies: list[float]) -> None:
        self.cut_at, self.accuracies = cut_at, accuracies
        self.settings: list[Any] = []
        self.files: list[Any] = []

    def __call__(self, path: Path, settings: Any, files: Any, *_: Any) -> Ended:
        self.settings.append(settings)
        self.files.append(files)
        values = self.accuracies["scratch" if settings.from_scratch else "pretrained"]
        scores = {str(seed): {"accuracy": value} for seed, value in enumerate(values)}
        return Ended(path, scores, [], self.cut_at)


def compare(
    tmp_path: Path, *given: str, output: Path | None = None, limits: Limits = NO_LIMITS,
    seeds: int | None = None,
) -> list[str]:  # fmt: skip
    progress = Progress()
    path = tmp_path / "encoder"
    encoder = encoder_at(path if path.exists() else write_encoder(path), progress)
    output = output or tmp_path / "out"
    return embedded.compare(encoder, None, given, output, seeds, limits, progress, StopSignals())


def test_the_table_has_four_ways_to_answer(
    packages: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del packages
    monkeypatch.setattr(embedded, "DEV", 12)  # as many for both packages
    trained = Trained(pretrained=[0.5, 0.7], scratch=[0.25, 0.35])
    monkeypatch.setattr(embedded, "train_new", trained)
    lines = compare(tmp_path, "epochs=2.0")
    assert [line.split("  ")[-1].strip() for line in lines[1:5]] == [
        "0.500",  # two packages, as often
        "1.000",  # their words differ
        "0.300 +- 0.071 (2 seeds)",
        "0.600 +- 0.141 (2 seeds)",
    ]
    assert "from scratch, 2 epochs" in lines[3]
    assert "pre-trained, 2 epochs" in lines[4]
    assert TOO_SHORT not in lines
    assert [one.from_scratch for one in trained.settings] == [False, True]
    assert [one.epochs for one in trained.settings] == [2.0, 2.0]
    train, dev = embedded_task()
    for path, texts in ((trained.files[0].train, train), (trained.files[0].dev, dev)):
        written = Path(path).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in written] == [text._asdict() for text in texts]


def test_it_says_what_it_reads_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda _, line, **__: said.append(line))

    def read() -> Any:
        assert said[-1] == "reading the documentation of the installed packages"
        raise UserError("read")

    monkeypatch.setattr(embedded, "embedded_task", read)
    with pytest.raises(UserError, match=r"^read$"):
        compare(tmp_path)


def test_it_says_so_where_pretraining_is_of_no_use(
    packages: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del packages
    monkeypatch.setattr(embedded, "train_new", Trained(pretrained=[0.4], scratch=[0.5]))
    assert TOO_SHORT in compare(tmp_path)
    limited = NO_LIMITS._replace(max_steps=3)
    assert TOO_SHORT in compare(tmp_path, output=tmp_path / "not reached", limits=limited)
    monkeypatch.setattr(embedded, "train_new", Trained(3, pretrained=[0.4], scratch=[0.5]))
    assert TOO_SHORT not in compare(tmp_path, output=tmp_path / "cut", limits=limited)
    monkeypatch.setattr(embedded, "train_new", Trained(pretrained=[0.47], scratch=[0.5]))
    assert TOO_SHORT not in compare(tmp_path, output=tmp_path / "by chance")


def test_what_cannot_be_is_refused(
    packages: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del packages
    monkeypatch.setattr(embedded, "train_new", Trained(pretrained=[0.4], scratch=[0.5]))
    with pytest.raises(UserError, match="--from-scratch"):
        compare(tmp_path, "from_scratch=true")
    for flag, limits in (("steps", Limits(5, None, 0.0)), ("minutes", Limits(None, 5.0, 0.0))):
        with pytest.raises(UserError, match=f"--seeds and --max-{flag}: without --task, several"):
            compare(tmp_path, seeds=2, limits=limits)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").touch()
    with pytest.raises(UserError, match=r"holds something else \(notes\)"):
        embedded.compare(
            encoder_at(tmp_path / "encoder", Progress()), None, (), tmp_path / "out", None,
            Limits(None, None, 0.0), Progress(), StopSignals(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "limits", "cut_at", "said"),
    [
        ((), NO_LIMITS, None, "3 epochs"),
        (("steps=1",), NO_LIMITS, None, "1 step"),
        (("steps=2000",), NO_LIMITS, None, "2,000 steps"),
        ((), Limits(3, None, 0.0), 3, "3 steps"),
        (("steps=2000",), Limits(None, 1.0, 0.0), 3, "3 steps"),
        (("steps=2000",), Limits(None, 60.0, 0.0), None, "2,000 steps"),
        ((), Limits(None, 60.0, 0.0), None, "3 epochs"),
    ],
)
def test_the_table_says_how_long_models_were_trained(
    given: tuple[str, ...], limits: Limits, cut_at: int | None, said: str,
    packages: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    del packages
    monkeypatch.setattr(embedded, "train_new", Trained(cut_at, pretrained=[0.5], scratch=[0.25]))
    lines = compare(tmp_path, *given, limits=limits)
    assert [line.split("  ")[1] for line in lines[3:5]] == [
        f"from scratch, {said}", f"pre-trained, {said}",
    ]  # fmt: skip


def test_files_are_named_by_absolute_paths_and_quoted_in_the_command(
    packages: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run could not be resumed from another folder."""
    del packages
    trained = Trained(pretrained=[0.5], scratch=[0.25])
    monkeypatch.setattr(embedded, "train_new", trained)
    monkeypatch.chdir(tmp_path)
    last = compare(tmp_path, output=Path("an answer"))[-1]
    assert {one[1:] for one in trained.files} == {
        tuple(str(tmp_path / "an answer" / name) for name in ("train.jsonl", "dev.jsonl"))
    }
    assert shlex.split(last)[3:] == [
        "--model", "an answer/pre-trained", "--input", "an answer/dev.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("begun", [None, "pre-trained", "from-scratch"])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("how", ["error", "signal"])
def test_texts_are_kept_for_runs_only(
    how: str, exists: bool, begun: str | None, packages: dict[str, list[Path]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What a run has begun with is read again when it goes on."""
    del packages
    output = tmp_path / "out"
    if exists:
        output.mkdir()

    def train_new(path: Path, *_: Any) -> Ended | None:
        assert len(list(output.glob("*.jsonl"))) == 2
        if begun is not None:
            path.mkdir()
            if path.name != begun:
                return Ended(path, {"0": {"accuracy": 0.5}}, [])
        if how == "error":
            raise UserError("it went wrong")
        return None

    monkeypatch.setattr(embedded, "train_new", train_new)
    if how == "error":
        with pytest.raises(UserError, match="it went wrong"):
            compare(tmp_path)
    else:
        assert compare(tmp_path) == []
    assert output.exists() == (exists or begun is not None)
    assert len(list(output.glob("*.jsonl"))) == (0 if begun is None else 2)
