"""From what the user names to batches: read, train a vocabulary, tokenize, hold out, pack.

Every stage saves its result in the cache folder, under a hash of its input. A second run on the
same text reads no more of it than the sample that its vocabulary comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.config.pretraining import PretrainingConfig, has_default_vocabulary_size
from electra_ref.counting import counted
from electra_ref.errors import UserError
from electra_ref.text.cache_folder import cache_key, open_or_build
from electra_ref.text.corpus import hash_files
from electra_ref.text.corpus_file import CorpusFile
from electra_ref.text.corpus_sample import draw_sample, read_sample
from electra_ref.text.examples import ExampleSource, open_examples
from electra_ref.text.id_shards import cache_ids
from electra_ref.text.listing import DEFAULT_TEXT_KEY, Listing
from electra_ref.text.named_files import Progress, counter, named_files
from electra_ref.text.packing import PackingRules
from electra_ref.text.reading import ONE_PROCESS, Reading
from electra_ref.text.token_cache import TokenCache, open_tokens
from electra_ref.text.token_ids import names_ids
from electra_ref.text.tokenizing import recipe_of, tokenize_files
from electra_ref.text.vocabulary import load_vocabulary, save_vocabulary, train_vocabulary
from electra_ref.text.wordpiece import PREFIX, WordPiece, tokenizer_of

FEWEST_TOKENS = 200  # to train on: a twentieth of less is no row to evaluate on
VOCABULARY_BYTES = 1 << 28  # of a larger corpus a sample of about this size trains the vocabulary


def _ignore(_stage: str, _done: int, _total: int) -> None:
    """Report progress to nobody."""


class Tokenized(NamedTuple):
    """A corpus as token ids."""

    tokenizer: WordPiece
    cache: TokenCache
    report: dict[str, Any]  # see PreparedData


class PreparedData(NamedTuple):
    """Everything about the data that training needs."""

    tokenizer: WordPiece
    training: ExampleSource
    held_out: ExampleSource
    key: str  # of the token cache; a resumed run hands it back as ``known_key``
    report: dict[str, Any]  # what was read: CorpusReport's fields, UnknownWords' facts, ``tokens``;
    # ``notes`` to show; if files were listed, ``skipped``, ``skipped_names`` and ``skipped_runs``
    # of the listing


def prepare(
    config: PretrainingConfig,
    cache_dir: Path,
    *,
    corpus: Sequence[str] = (),
    text_key: str = DEFAULT_TEXT_KEY,
    ids_paths: Sequence[str] = (),
    vocabulary: Sequence[str] | None = None,
    known_key: str | None = None,
    moved: bool = False,
    progress: Progress = _ignore,
    reading: Reading = ONE_PROCESS,
) -> PreparedData:
    """Tokenize what ``tokenize`` describes, hold out a share of it, pack both parts.

    Of ``config``: DataConfig's fields, preset, vocab_size, discriminator_input and seed. Raises
    UserError.
    """
    tokenizer, cache, report = tokenize(
        config, cache_dir, corpus=corpus, text_key=text_key, ids_paths=ids_paths,
        vocabulary=vocabulary, known_key=known_key, moved=moved, fewest=FEWEST_TOKENS,
        progress=progress, reading=reading,
    )  # fmt: skip
    training, held_out = open_examples(
        cache_dir,
        cache,
        packing_rules(config),
        config.held_out_fraction,
        lambda: progress("waiting", 0, 0),
        partial(progress, "packing"),
        contents=reading.verify,
    )
    return PreparedData(tokenizer, training, held_out, cache.folder.key, report)


def packing_rules(config: PretrainingConfig) -> PackingRules:
    """Return how the rows of a run of ``config`` are packed."""
    return PackingRules(
        config.row_length,
        config.single_segment_probability,
        config.short_probability,
        config.seed,
    )


def tokenize(
    config: PretrainingConfig,
    cache_dir: Path,
    *,
    corpus: Sequence[str] = (),
    text_key: str = DEFAULT_TEXT_KEY,
    ids_paths: Sequence[str] = (),
    vocabulary: Sequence[str] | None = None,
    known_key: str | None = None,
    moved: bool = False,
    fewest: int = 1,
    progress: Progress = _ignore,
    reading: Reading = ONE_PROCESS,
) -> Tokenized:
    """Tokenize the files and folders of ``corpus``, or check the arrays of ids at ``ids_paths``.

    ``-`` in ``corpus`` is standard input; without both, the corpus is the embedded one. In JSON
    lines and Parquet files the text stands under ``text_key``. Without a ``vocabulary`` one is
    trained. A resumed run gives the vocabulary and the ``known_key`` of its first start. If that
    cache is intact and the corpus was not ``moved``, the corpus is not read; otherwise it must be
    the same.

    Raises UserError for input that cannot be used, fewer tokens than ``fewest``, and a corpus that
    is not ``known_key``'s.
    """
    cache = None
    listing = Listing()
    notes: list[str] = []
    if known_key is not None and vocabulary is not None and not moved:
        on_bytes = partial(progress, "verifying the cache") if reading.verify else None
        cache = open_tokens(cache_dir, known_key, on_bytes)
    if cache is not None and vocabulary is not None:
        tokenizer = tokenizer_of(vocabulary, config)
    elif ids_paths:
        tokenizer, cache = cache_ids(
            ids_paths,
            vocabulary,
            cache_dir,
            reading.workers,
            partial(counter, progress),
            lambda: progress("waiting", 0, 0),
            verify=reading.verify,
        )
    else:
        with named_files(corpus, text_key, cache_dir, progress) as listing:
            _check_text_key(text_key, listing)
            if vocabulary is not None and names_ids(vocabulary):
                raise UserError(
                    "the vocabulary of the model names token ids, no pieces of text: name an array "
                    "of ids with --tokens"
                )
            tokenizer, cache, notes = _cache_text(
                listing.files, config, vocabulary, cache_dir, progress, reading
            )
    if known_key not in (None, cache.folder.key):
        raise UserError(
            "the corpus is not the one this run began with; name where that one lies now "
            "(--resume --corpus or --tokens), or start a new run"
        )
    if cache.tokens.size < fewest:
        raise UserError(
            f"{_joined([file.name for file in listing.files] or ids_paths)}: the corpus is too "
            f"small: {counted(cache.tokens.size, 'token')}, need at least {fewest}; name more data"
        )
    report = {"notes": [], **cache.folder.facts["report"], "tokens": cache.tokens.size}
    report["notes"] = [*report["notes"], *notes]
    if listing.skipped:
        report |= {"skipped": listing.skipped, "skipped_names": listing.skipped_names}
    if listing.runs:
        report["skipped_runs"] = listing.runs
    return Tokenized(tokenizer, cache, report)


def _joined(names: Sequence[str]) -> str:
    """Return what messages call files: the first one, and how many others there are."""
    first, *others = names or ["the corpus"]
    return f"{first} and {len(others):,} more" if others else first


def _check_text_key(text_key: str, listing: Listing) -> None:
    if text_key != DEFAULT_TEXT_KEY and all(file.format == "text" for file in listing.files):
        raise UserError(
            f"--text-key {text_key}: the corpus has neither JSON lines nor Parquet files; these "
            "end in .jsonl and .parquet"
        )


def _cache_text(
    files: Sequence[CorpusFile],
    config: PretrainingConfig,
    vocabulary: Sequence[str] | None,
    cache_dir: Path,
    progress: Progress,
    reading: Reading,
) -> tuple[WordPiece, TokenCache, list[str]]:
    """Return the tokenizer, the tokens, and notes on the vocabulary if it was trained here."""
    notes: list[str] = []
    if vocabulary is None:
        vocabulary, notes = _cached_vocabulary(files, config, cache_dir, progress)
    recipe = recipe_of(vocabulary, config)
    cache = tokenize_files(
        files,
        recipe,
        cache_dir,
        reading.workers,
        counter(progress, "tokenizing", sum(file.size for file in files)),
        lambda: progress("waiting", 0, 0),
        reading.share,
        verify=reading.verify,
    )
    return tokenizer_of(vocabulary, config), cache, notes


def _cached_vocabulary(
    files: Sequence[CorpusFile], config: PretrainingConfig, cache_dir: Path, progress: Progress
) -> tuple[list[str], list[str]]:
    """Train a vocabulary on all documents, the held-out ones too, or on a sample of many.

    Only the sample is read. Return notes, too.
    """
    size = config.vocab_size or config.max_vocab_size
    may_grow = has_default_vocabulary_size(config)
    sample = draw_sample(files, VOCABULARY_BYTES)
    content = hash_files(sample.files, counter(progress, "hashing the text", sample.bytes))

    def build(folder: Path) -> dict[str, Any]:
        advance = counter(progress, "training the vocabulary", sample.bytes)
        vocabulary = train_vocabulary(
            read_sample(sample, advance),
            size,
            lowercase=config.lowercase,
            strip_accents=config.strips_accents,
            may_grow=may_grow,
            name=_joined([file.name for file in files]),
            on_work=lambda: advance(0),
            on_merges=lambda done, wanted: progress("merging pieces", done, wanted),
        )
        save_vocabulary(folder / "vocab.txt", vocabulary)
        return {}

    key = cache_key(
        "vocabulary",
        corpus=content,
        size=size,
        may_grow=may_grow,
        lowercase=config.lowercase,
        strip_accents=config.strips_accents,
    )
    folder = open_or_build(cache_dir, key, build, lambda: progress("waiting", 0, 0))
    vocabulary = load_vocabulary(folder.path / "vocab.txt")
    notes = list(_notes_on_size(vocabulary, config))
    if sample.has_prefixes:
        notes.append(
            f"the vocabulary comes from about {VOCABULARY_BYTES >> 20} MiB, of compressed files "
            "the beginning; if they are sorted, by language or date, shuffle them first or give "
            "--vocab"
        )
    return vocabulary, notes


def _notes_on_size(vocabulary: Sequence[str], config: PretrainingConfig) -> Iterator[str]:
    if has_default_vocabulary_size(config) and len(vocabulary) > config.max_vocab_size:
        characters = sum(len(token.removeprefix(PREFIX)) == 1 for token in vocabulary)
        yield (
            f"the characters of this corpus take {characters:,} entries, so its vocabulary has "
            f"{len(vocabulary):,} and not {config.max_vocab_size:,}; max_vocab_size sets its size"
        )
