"""Prepares the data of a pre-training run, and says what they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.counting import counted
from electra_ref.errors import UserError
from electra_ref.processes import Processes, in_turn
from electra_ref.text.cache_folder import find_cache_dir
from electra_ref.text.prepare import PreparedData, prepare
from electra_ref.text.reading import Reading, Share
from electra_ref.text.shards import Shard
from electra_ref.text.sharing import help_first, tokenize_share, with_helpers
from electra_ref.text.token_ids import names_ids
from electra_ref.text.tokenizing import Recipe
from electra_ref.text.vocabulary import load_vocabulary
from electra_ref.training.checkpoint import list_checkpoints
from electra_ref.training.pretraining.data_report import data_lines
from electra_ref.training.pretraining.source import Source
from electra_ref.training.progress import Progress
from electra_ref.training.run_data import read_key, read_vocabulary
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.saved_model import find_model
from electra_ref.training.stop_signals import StoppedError, StopSignals


def prepare_data(
    run: RunDirectory,
    config: PretrainingConfig,
    source: Source,
    progress: Progress,
    stop: StopSignals,
    reading: Reading,
    again: str,
    processes: Processes,
    *,
    moved: bool,
) -> PreparedData:
    """Prepare the data; a resumed run takes those of its first start.

    The first of ``processes`` prepares them, and the others help it to tokenize, then open them by
    their key. Raises UserError, and StoppedError with the command ``again`` if a signal asks one of
    the processes to stop.
    """

    def cache_dir() -> Path:
        return find_cache_dir(run.path / "cache")

    def report(stage: str, done: int, total: int) -> None:
        if stop.requested is not None:
            raise StoppedError(again)
        progress.stage(stage, done, total)

    def prepared(
        vocabulary: Sequence[str] | None, known_key: str | None, moved: bool, reading: Reading
    ) -> PreparedData:
        return prepare(
            config,
            cache_dir(),
            corpus=source.corpus,
            text_key=source.text_key,
            ids_paths=source.tokens,
            vocabulary=vocabulary,
            known_key=known_key,
            moved=moved,
            progress=report,
            reading=reading,
        )

    def own_share(recipe: Recipe, shards: Sequence[Shard]) -> None:
        with suppress(UserError, StoppedError):  # the first process meets it again, and says it
            tokenize_share(processes, recipe, shards, cache_dir(), reading, report)

    def all_of_it(share: Share) -> tuple[PreparedData, tuple[Sequence[str], str]]:
        known_key = read_key(run) if run.data.exists() else None
        vocabulary = _vocabulary(run, source)
        data = prepared(vocabulary, known_key, moved, reading._replace(share=share))
        return data, (data.tokenizer.vocab, data.key)

    def found(known: tuple[Sequence[str], str]) -> PreparedData | None:
        with suppress(StoppedError):  # the others wait: they are asked below
            return prepared(*known, False, reading)
        return None

    try:
        if processes.rank > 0:
            help_first(processes, own_share)
        data = in_turn(processes, lambda: with_helpers(processes, own_share, all_of_it), found)
        if any(processes.gather(data is None)) or data is None:
            raise StoppedError(again)
    except UserError as error:
        names = [name for name in (*source.corpus, *source.tokens) if name != "-"]
        if run.data.exists() and not moved and not all(map(os.path.exists, names)):
            raise UserError(
                f"{error}; if it lies elsewhere now, name it: --resume --corpus or --tokens"
            ) from error
        raise
    finally:
        progress.close()
    figures = data.report
    progress.say(
        f"data: {figures['tokens']:,} tokens, {len(data.tokenizer.vocab):,} in the vocabulary, "
        f"{counted(data.training.count, 'row')} to train on; held out: "
        f"{counted(data.held_out.count, 'row')} with {counted(data.held_out.tokens, 'token')} of "
        f"{counted(data.held_out.documents, 'document')}"
    )
    for line in data_lines(figures):
        progress.say(line)
    for note in figures["notes"]:
        progress.say(note)
    return data


def _vocabulary(run: RunDirectory, source: Source) -> Sequence[str] | None:
    """Return the vocabulary of the run, None if one is to be trained. Raises UserError."""
    if run.data.exists():
        return read_vocabulary(run)
    if list_checkpoints(run.checkpoints) and run.vocabulary.exists():
        return load_vocabulary(run.vocabulary)  # it has learned with this one
    if source.init_from is not None:
        return find_model(Path(source.init_from)).tokenizer.vocab
    if source.vocabulary is None:
        return None
    vocabulary = load_vocabulary(source.vocabulary)
    if names_ids(vocabulary):
        raise UserError(
            f"{source.vocabulary} names token ids, no pieces of text: leave --vocab out, and name "
            "an array of ids with --tokens"
        )
    return vocabulary
