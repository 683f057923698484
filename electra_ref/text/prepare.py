"""From what the user names to batches: read, train a vocabulary, tokenize, hold out, pack.

Every stage saves its result in the cache folder, under a hash of its input. A second run on the
same text only hashes the files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import select
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from electra_ref.config.pretraining import PretrainingConfig, has_default_vocabulary_size
from electra_ref.errors import UserError
from electra_ref.files import disk_errors
from electra_ref.text import embedded_corpus
from electra_ref.text.cache_folder import CacheFolder, cache_key, open_intact, open_or_build
from electra_ref.text.corpus import hash_files, read_documents
from electra_ref.text.corpus_file import BLOCK_BYTES, CorpusFile, CorpusReport
from electra_ref.text.corpus_sample import draw_sample, read_sample
from electra_ref.text.examples import ExampleSource, open_examples
from electra_ref.text.listing import DEFAULT_TEXT_KEY, Listing, describe_file, list_files
from electra_ref.text.packing import PackingRules
from electra_ref.text.token_cache import EncodedDocument, TokenCache, open_tokens, write_tokens
from electra_ref.text.token_ids import (
    check_ids,
    fit_vocabulary,
    id_documents,
    id_vocabulary,
    names_ids,
    open_id_array,
)
from electra_ref.text.unknown_words import UnknownWords
from electra_ref.text.vocabulary import load_vocabulary, save_vocabulary, train_vocabulary
from electra_ref.text.wordpiece import PREFIX, WordPiece, tokenizer_of

STANDARD_INPUT = "-"
VOCABULARY_BYTES = 1 << 28  # of a larger corpus a sample of about this size trains the vocabulary

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)`` in bytes, token ids or pieces; both 0 if nothing can be counted.

It is called often, and may raise to stop: then nothing half-built stays behind.
"""


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
    # ``notes`` to show; if files were listed, ``skipped`` and ``skipped_names`` of the listing


def prepare(
    config: PretrainingConfig,
    cache_dir: Path,
    *,
    corpus: Sequence[str] = (),
    text_key: str = DEFAULT_TEXT_KEY,
    ids_path: str | None = None,
    vocabulary: Sequence[str] | None = None,
    known_key: str | None = None,
    moved: bool = False,
    progress: Progress = _ignore,
) -> PreparedData:
    """Tokenize what ``tokenize`` describes, hold out a share of it, pack both parts.

    Of ``config``: DataConfig's fields, preset, vocab_size and seed. Raises UserError.
    """
    tokenizer, cache, report = tokenize(
        config, cache_dir, corpus=corpus, text_key=text_key, ids_path=ids_path,
        vocabulary=vocabulary, known_key=known_key, moved=moved, progress=progress,
    )  # fmt: skip
    training, held_out = open_examples(
        cache_dir,
        cache,
        packing_rules(config),
        config.held_out_fraction,
        lambda: progress("waiting", 0, 0),
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
    ids_path: str | None = None,
    vocabulary: Sequence[str] | None = None,
    known_key: str | None = None,
    moved: bool = False,
    progress: Progress = _ignore,
) -> Tokenized:
    """Tokenize the files and folders of ``corpus``, or check the array of ids at ``ids_path``.

    ``-`` in ``corpus`` is standard input; without both, the corpus is the embedded one. In JSON
    lines the text stands under ``text_key``. Without a ``vocabulary`` one is trained. A resumed run
    gives the vocabulary and the ``known_key`` of its first start. If that cache is intact and the
    corpus was not ``moved``, the corpus is not read; otherwise it must be the same.

    Raises UserError for input that cannot be used, and for a corpus that is not ``known_key``'s.
    """
    folder = None
    listing = Listing()
    if known_key is not None and vocabulary is not None and not moved:
        folder = open_intact(cache_dir, known_key)
    if folder is not None and vocabulary is not None:
        tokenizer = tokenizer_of(vocabulary, config)
    elif ids_path is not None:
        tokenizer, folder = _cache_ids(ids_path, vocabulary, cache_dir, progress)
    else:
        with _named_files(corpus, text_key, cache_dir, progress) as listing:
            _check_text_key(text_key, listing)
            if vocabulary is not None and names_ids(vocabulary):
                raise UserError(
                    "the vocabulary of the model names token ids, no pieces of text: name an array "
                    "of ids with --tokens"
                )
            tokenizer, folder = _cache_text(listing.files, config, vocabulary, cache_dir, progress)
    if known_key not in (None, folder.key):
        raise UserError(
            "the corpus is not the one this run began with; name where that one lies now "
            "(--resume --corpus or --tokens), or start a new run"
        )
    cache = open_tokens(folder, len(tokenizer.vocab))
    report = {"notes": [], **folder.facts, "tokens": int(cache.tokens.size)}
    if vocabulary is None and ids_path is None:
        report["notes"] = [*report["notes"], *_notes_on_size(tokenizer.vocab, config)]
    if listing.skipped:
        report |= {"skipped": listing.skipped, "skipped_names": listing.skipped_names}
    return Tokenized(tokenizer, cache, report)


def _check_text_key(text_key: str, listing: Listing) -> None:
    if text_key != DEFAULT_TEXT_KEY and all(file.format == "text" for file in listing.files):
        raise UserError(
            f"--text-key {text_key}: the corpus has no JSON lines; their files end in .jsonl"
        )


@contextmanager
def _named_files(
    corpus: Sequence[str], text_key: str, cache_dir: Path, progress: Progress
) -> Iterator[Listing]:
    """Yield the files to read, in the order they were named; standard input is kept on disk."""
    if not corpus:
        yield Listing([_embedded_file(cache_dir, progress)])
    elif STANDARD_INPUT not in corpus:
        yield list_files(corpus, text_key)
    elif corpus.count(STANDARD_INPUT) > 1:
        raise UserError("standard input (-) can be read only once; name it once")
    else:
        before = corpus.index(STANDARD_INPUT)
        listing = list_files(corpus[:before], text_key)
        with _spooled_input(text_key, cache_dir, progress) as typed:
            listing.files.append(typed)
            listing.add(list_files(corpus[before + 1 :], text_key))
            yield listing


@contextmanager
def _spooled_input(text_key: str, cache_dir: Path, progress: Progress) -> Iterator[CorpusFile]:
    """Standard input as a file that can be read twice.

    The file has no name, so nothing stays behind however the process ends. It is read by its
    descriptor: opening /dev/fd/N begins at the start on Linux, but not on macOS.
    """
    if sys.stdin is None:
        raise UserError("standard input (-) is closed; pipe text into it or name a file")
    with ExitStack() as stack:
        with disk_errors(f"keep standard input in {cache_dir}"):
            spool = stack.enter_context(tempfile.TemporaryFile(dir=cache_dir))
            advance = _counter(progress, "reading standard input", 0)
            descriptor, block = sys.stdin.fileno(), b"..."
            while block:
                # Others may be slow to write: a request to stop is heard while nothing comes.
                while not select.select([descriptor], [], [], 0.2)[0]:
                    advance(0)
                block = os.read(descriptor, BLOCK_BYTES)
                spool.write(block)
                advance(len(block))
            spool.flush()
        yield describe_file(spool.fileno(), name="standard input", text_key=text_key)


def _embedded_file(cache_dir: Path, progress: Progress) -> CorpusFile:
    """The embedded corpus as a text file in the cache, extracted anew when its sources change."""
    sources = embedded_corpus.documentation_files()
    states = [(str(path), (s := path.stat()).st_size, s.st_mtime_ns) for path in sources]
    key = cache_key("documentation", sources=states)
    done = 0

    def advanced() -> Iterator[Path]:
        nonlocal done
        for path, size, _ in states:
            progress("reading the installed documentation", done, sum(s for _, s, _ in states))
            yield Path(path)
            done += size

    def build(folder: Path) -> dict[str, Any]:
        with open(folder / "documentation.txt", "w", encoding="utf-8", newline="\n") as stream:
            for document in embedded_corpus.read_documentation(advanced()):
                stream.write("\n".join(document) + "\n\n")
        return {}

    return describe_file(str(open_or_build(cache_dir, key, build).path / "documentation.txt"))


def _cache_text(
    files: Sequence[CorpusFile],
    config: PretrainingConfig,
    vocabulary: Sequence[str] | None,
    cache_dir: Path,
    progress: Progress,
) -> tuple[WordPiece, CacheFolder]:
    on_disk = sum(file.size for file in files)
    content = hash_files(files, _counter(progress, "hashing the corpus", on_disk))
    if vocabulary is None:
        vocabulary = _cached_vocabulary(files, content, config, cache_dir, progress)
    tokenizer = tokenizer_of(vocabulary, config)

    def build(folder: Path) -> dict[str, Any]:
        report = CorpusReport()
        advance = _counter(progress, "tokenizing", on_disk)
        documents = read_documents(files, report, advance)
        unknown = UnknownWords(tokenizer)
        encoded = (_encode(document, tokenizer, unknown) for document in documents)
        write_tokens(folder, encoded, len(tokenizer.vocab))
        return {**dataclasses.asdict(report), **unknown.facts()}

    key = cache_key(
        "tokens",
        corpus=content,
        vocabulary=hashlib.sha256("\n".join(tokenizer.vocab).encode()).hexdigest(),
        lowercase=config.lowercase,
        strip_accents=config.strips_accents,
    )
    return tokenizer, open_or_build(cache_dir, key, build, lambda: progress("waiting", 0, 0))


def _encode(document: list[str], tokenizer: WordPiece, unknown: UnknownWords) -> EncodedDocument:
    encoded = tokenizer.encode_lines(document)
    unknown.count(document, encoded)
    return EncodedDocument(*encoded)


def _cached_vocabulary(
    files: Sequence[CorpusFile],
    content: str,
    config: PretrainingConfig,
    cache_dir: Path,
    progress: Progress,
) -> list[str]:
    """Train a vocabulary on all documents, the held-out ones too, or on a sample of many."""
    size = config.vocab_size or config.max_vocab_size
    may_grow = has_default_vocabulary_size(config)

    def build(folder: Path) -> dict[str, Any]:
        sample = draw_sample(files, VOCABULARY_BYTES)
        advance = _counter(progress, "training the vocabulary", sample.bytes)
        vocabulary = train_vocabulary(
            read_sample(sample, advance),
            size,
            lowercase=config.lowercase,
            strip_accents=config.strips_accents,
            may_grow=may_grow,
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
        sample=VOCABULARY_BYTES,
    )
    folder = open_or_build(cache_dir, key, build, lambda: progress("waiting", 0, 0))
    return load_vocabulary(folder.path / "vocab.txt")


def _notes_on_size(vocabulary: Sequence[str], config: PretrainingConfig) -> Iterator[str]:
    if has_default_vocabulary_size(config) and len(vocabulary) > config.max_vocab_size:
        characters = sum(len(token.removeprefix(PREFIX)) == 1 for token in vocabulary)
        yield (
            f"the characters of this corpus take {characters:,} entries, so its vocabulary has "
            f"{len(vocabulary):,} and not {config.max_vocab_size:,}; max_vocab_size sets its size"
        )


def _cache_ids(
    path: str, vocabulary: Sequence[str] | None, cache_dir: Path, progress: Progress
) -> tuple[WordPiece, CacheFolder]:
    ids = open_id_array(path)
    before = os.stat(path)
    found = check_ids(ids, path, _counter(progress, "checking the token ids", ids.size))
    names = id_vocabulary(found.largest)
    if vocabulary is not None:
        names = fit_vocabulary(names, vocabulary, path)
    tokenizer = WordPiece(names, lowercase=False)

    def build(folder: Path) -> dict[str, Any]:
        advance = _counter(progress, "copying the token ids", ids.size)
        write_tokens(folder, id_documents(ids, advance), len(tokenizer.vocab))
        now = os.stat(path)
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise UserError(f"{path} has changed while it was being used; start again")
        return {
            "files": 1,
            "bytes": now.st_size,
            "documents": found.documents,
            "notes": found.notes,
        }

    content = _hash_file(path, _counter(progress, "hashing the token ids", before.st_size))
    key = cache_key("ids", content=content)
    return tokenizer, open_or_build(cache_dir, key, build, lambda: progress("waiting", 0, 0))


def _hash_file(path: str, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()


def _counter(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Return a function that adds to what is done and passes the sum on."""
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        progress(stage, done, total)

    return advance
