"""A small task without data of one's own: which package does a piece of documentation come from?

The texts are docstrings of the standard library and of the installed numeric packages, the same
documentation that ``train`` reads by default. Sentences that name a package are left out. A source
file is either learned from or asked about, never both.

The pre-trained model is shown beside the same model before its pre-training, the most frequent
answer, and logistic regression on the words of a text (counts weighted by rarity, tf-idf).
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.errors import UserError
from electra_ref.files import disk_errors, write_text_atomically
from electra_ref.processes import ALONE, Processes
from electra_ref.text.embedded_corpus import files_by_package, read_documentation
from electra_ref.training.completing import Limits
from electra_ref.training.finetuning.encoder_source import EncoderSource
from electra_ref.training.finetuning.run import Files
from electra_ref.training.finetuning.session import RUNS, Ended, new_settings, train_new
from electra_ref.training.new_folder import require_empty
from electra_ref.training.progress import Progress
from electra_ref.training.run_directory import new_run_path
from electra_ref.training.stop_signals import StopSignals

NAME = "which-package"
WORDS = 30  # of a text at least, so that there is something to go by
TRAIN, DEV = 600, 150  # texts of each package
FILES = "train.jsonl", "dev.jsonl"
DEV_SHARE = 5  # one file in so many is asked about
NAMES = ("python", "numpy", "scipy", "sklearn", "scikit", "numba", "cpython")

STARTS = {"pre-trained": "from_scratch=false", "from-scratch": "from_scratch=true"}
TOO_SHORT = (
    "this pre-training was too short to be of use: a discriminator that has learned little is a "
    "worse beginning than random numbers; train on with more steps and more text"
)
CHANCE = 0.037  # two standard deviations of the difference of two runs, of 0.013 each
QUESTION = "which package does a text of the documentation come from?"


class Text(NamedTuple):
    """A piece of documentation."""

    text: str
    label: str  # the package


def embedded_task() -> tuple[list[Text], list[Text]]:
    """Return the texts to learn from and those that are asked about, alike for each package."""
    train: list[Text] = []
    dev: list[Text] = []
    seen: set[str] = set()
    for package, files in files_by_package().items():
        own: tuple[list[Text], list[Text]] = [], []
        for path in files:
            is_dev = hashlib.sha256(path.name.encode()).digest()[0] % DEV_SHARE == 0
            for document in read_documentation([path]):
                own[is_dev].extend(Text(text, package) for text in _texts_of(document, seen))
        train += _spread(own[0], TRAIN)
        dev += _spread(own[1], DEV)
    return train, dev


def write_texts(folder: Path, train: Sequence[Text], dev: Sequence[Text]) -> tuple[Path, Path]:
    """Write both into ``folder``, which is there, and return the files. Raises UserError."""
    paths = folder / FILES[0], folder / FILES[1]
    for path, texts in zip(paths, (train, dev), strict=True):
        write_text_atomically(path, "".join(_line(text) for text in texts))
    return paths


def compare(
    encoder: EncoderSource,
    config: Path | None,
    given: Sequence[str],
    output_dir: Path | None,
    seeds: int | None,
    limits: Limits,
    progress: Progress,
    stop: StopSignals,
    processes: Processes = ALONE,
) -> list[str]:
    """Fine-tune with the encoder and without it; return a table for people, [] after a signal.

    Raises UserError.
    """
    if "from_scratch=true" in given:
        raise UserError("--from-scratch: without --task both are shown; leave it out")
    if seeds is not None and limits.given:
        raise UserError(
            f"--seeds and {limits.given}: without --task, several seeds are compared when all are "
            "trained to the end; leave one of them out, or choose fewer steps with --set steps=N"
        )
    settings = new_settings("classification", encoder, config, given, processes.size)
    is_ours = output_dir is None or not os.path.lexists(output_dir)
    path = processes.of_first(lambda: _new_folder(output_dir))
    ended: dict[str, Ended] = {}
    try:
        progress.say("reading the documentation of the installed packages")
        train, dev = processes.of_first(embedded_task)
        written = processes.of_first(lambda: write_texts(path, train, dev))
        files = Files(str(encoder.path), *map(os.path.abspath, written))
        progress.say(
            f"{QUESTION} {len(train):,} texts to learn from, {len(dev):,} to be asked about"
        )
        for name, setting in STARTS.items():
            progress.say(f"{name}:")
            own = new_settings("classification", encoder, config, [*given, setting], processes.size)
            one = train_new(
                path / name, own, files, encoder, seeds, limits, progress, stop, processes
            )
            progress.close()
            if one is None:
                return []
            ended[name] = one
    finally:
        if processes.rank == 0 and len(ended) < len(STARTS):
            _discard(path, folder_too=is_ours)
    accuracies: dict[str, list[float]] = {
        "the most frequent answer": [_majority(train, dev)],
        "words, logistic regression": [_logistic_regression(train, dev)],
    }
    for label, name in (("from scratch", "from-scratch"), ("pre-trained", "pre-trained")):
        length = _length(settings, ended[name])
        accuracies[f"{label}, {length}"] = _accuracies(ended[name])
    lines = [f"{QUESTION} Accuracy on {len(dev):,} texts:", *_table(accuracies)]
    pretrained, scratch = (statistics.mean(_accuracies(ended[name])) for name in STARTS)
    is_cut = any(one.cut_at is not None for one in ended.values())
    if scratch - pretrained > CHANCE and not is_cut:
        lines.append(TOO_SHORT)
    return [*lines, *_last(path)]


def _texts_of(sentences: Sequence[str], seen: set[str]) -> Iterator[str]:
    """Yield texts of WORDS words or more, of several sentences that are not yet ``seen``."""
    words: list[str] = []
    for sentence in sentences:
        if sentence in seen or any(name in sentence.lower() for name in NAMES):
            continue
        seen.add(sentence)
        words += sentence.split()
        if len(words) >= WORDS:
            yield " ".join(words)
            words = []


def _spread(texts: list[Text], count: int) -> list[Text]:
    """Return ``count`` of ``texts`` at even distances, or all."""
    if len(texts) <= count:
        return texts
    return [texts[number * len(texts) // count] for number in range(count)]


def _new_folder(output_dir: Path | None) -> Path:
    if output_dir is None:
        return new_run_path(RUNS, NAME)
    with disk_errors(f"create {output_dir}"):
        output_dir.mkdir(parents=True, exist_ok=True)
        require_empty(output_dir, "choose another --output-dir")
    return output_dir


def _discard(folder: Path, *, folder_too: bool) -> None:
    """Delete what ``write_texts`` wrote, unless a run is there, which reads it when resumed."""
    if any(os.path.lexists(folder / name) for name in STARTS):
        return
    with suppress(OSError):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        if folder_too:
            folder.rmdir()


def _line(text: Text) -> str:
    return json.dumps(text._asdict(), ensure_ascii=False) + "\n"


def _majority(train: Sequence[Text], dev: Sequence[Text]) -> float:
    labels = [text.label for text in train]
    most = max(sorted(set(labels)), key=labels.count)
    return sum(text.label == most for text in dev) / len(dev)


def _logistic_regression(train: Sequence[Text], dev: Sequence[Text]) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  (slow to load)
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    words = TfidfVectorizer()
    model = LogisticRegression(max_iter=1000)
    model.fit(words.fit_transform([t.text for t in train]), [t.label for t in train])
    accuracy = model.score(words.transform([t.text for t in dev]), [t.label for t in dev])
    return float(accuracy)


def _length(settings: FinetuningConfig, ended: Ended) -> str:
    """Return how long a model was trained."""
    steps = ended.cut_at or settings.steps
    if not steps:
        return f"{settings.epochs:g} epochs"
    return f"{steps:,} step{'s' * (steps > 1)}"


def _accuracies(ended: Ended) -> list[float]:
    return [scores["accuracy"] for scores in ended.scores.values()]


def _table(accuracies: Mapping[str, Sequence[float]]) -> Iterator[str]:
    width = max(map(len, accuracies))
    for name, values in accuracies.items():
        line = f"  {name:{width}}  {statistics.mean(values):.3f}"
        if len(values) > 1:
            line += f" +- {statistics.stdev(values):.3f} ({len(values)} seeds)"
        yield line


def _last(path: Path) -> list[str]:
    return [
        f"texts and models are in {path}; to ask the pre-trained one:",
        f"python -m electra_ref.predict --model {shlex.quote(str(path / 'pre-trained'))} --input "
        f"{shlex.quote(str(path / 'dev.jsonl'))}",
    ]
