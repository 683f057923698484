"""Speed of WordPiece and of the ``tokenizers`` package, on one thread and the same documents.

    python -m benchmarks.tokenizer [--corpus FILE] [--vocabulary-size N] [--repeats N]

There are three jobs: ids of new text (a new tokenizer each time, nothing remembered), ids of known
text (the same tokenizer reads it again), and ids with offsets. Before the timing, both must give
the same ids for every document. The contenders take turns, so that other work on the machine slows
them alike. Figures are medians with the fastest and the slowest run. The last line is one JSON
object.

Without ``--corpus`` the text is the reference documentation that comes with Python.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when the package is first used

from benchmarks.choosing import check_numbers
from benchmarks.harness import origin, print_summary, read_text
from electra_ref.errors import UserError
from electra_ref.text.vocabulary import train_vocabulary
from electra_ref.text.wordpiece import WordPiece

Job = Callable[[], int]  # encodes all documents, returns the number of pieces


class Contender(NamedTuple):
    """One way to do one of the jobs; ``prepare`` is not timed."""

    job: str
    name: str
    prepare: Callable[[], Job]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; print a table and one JSON object; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", type=Path, help="a UTF-8 text, one document a line")
    parser.add_argument("--vocabulary-size", type=int, default=8192, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="default: %(default)s")
    options = parser.parse_args(arguments)

    try:
        check_numbers(options, {"repeats": 1})
        documents = read_documents(options.corpus)
        vocabulary = train_vocabulary(documents, options.vocabulary_size)
    except UserError as error:
        print(f"benchmarks.tokenizer: error: {error}", file=sys.stderr)
        return 2
    contenders = electra_ref_contenders(vocabulary, documents)
    try:
        contenders += tokenizers_contenders(vocabulary, documents)
    except ImportError:
        print("tokenizers is not installed: electra_ref is timed alone", file=sys.stderr)
    report(documents, vocabulary, time_in_turns(contenders, options.repeats))
    return 0


def read_documents(corpus: Path | None) -> list[str]:
    """Return the non-empty lines of ``corpus``, or of the documentation that comes with Python.

    Raises UserError if the file cannot be read.
    """
    if corpus is None:
        from pydoc_data.topics import topics  # noqa: PLC0415  (large, and not always needed)

        text = "\n".join(topics.values())
    else:
        text = read_text(corpus)
    return [line for line in text.split("\n") if line]


def electra_ref_contenders(vocabulary: list[str], documents: list[str]) -> list[Contender]:
    """Return this project's three jobs."""

    def new_text() -> Job:
        fresh = WordPiece(vocabulary)
        return lambda: fresh.encode_lines(documents).ids.size

    def known_text() -> Job:
        job = new_text()
        job()
        return job

    def with_offsets() -> Job:
        fresh = WordPiece(vocabulary)
        return lambda: sum(len(fresh.encode_with_offsets(text).ids) for text in documents)

    return [
        Contender("new text", "electra_ref", new_text),
        Contender("known text", "electra_ref", known_text),
        Contender("offsets", "electra_ref", with_offsets),
    ]


def tokenizers_contenders(vocabulary: list[str], documents: list[str]) -> list[Contender]:
    """Return the same jobs for ``tokenizers``.

    Raises ImportError if the package is not installed, and SystemExit if its ids differ.
    """
    # the rival is optional, so it is imported only where it is timed
    from tokenizers import Tokenizer  # noqa: PLC0415  (an extra)
    from tokenizers.models import WordPiece as Model  # noqa: PLC0415  (the same)
    from tokenizers.normalizers import BertNormalizer  # noqa: PLC0415  (the same)
    from tokenizers.pre_tokenizers import BertPreTokenizer  # noqa: PLC0415  (the same)

    def build() -> Any:
        tokenizer = Tokenizer(
            Model({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]")
        )
        tokenizer.normalizer = BertNormalizer()
        tokenizer.pre_tokenizer = BertPreTokenizer()
        return tokenizer

    def new_text() -> Job:
        fresh = build()
        return lambda: sum(len(e.ids) for e in fresh.encode_batch_fast(documents))

    def known_text() -> Job:
        job = new_text()
        job()
        return job

    def with_offsets() -> Job:
        fresh = build()
        return lambda: sum(len(e.ids) + 0 * len(e.offsets) for e in fresh.encode_batch(documents))

    ours = WordPiece(vocabulary)
    for text, theirs in zip(documents, build().encode_batch(documents), strict=True):
        if ours.encode(text) != theirs.ids:
            raise SystemExit(f"the two tokenizers disagree on {text!r}")
    return [
        Contender("new text", "tokenizers", new_text),
        Contender("known text", "tokenizers", known_text),
        Contender("offsets", "tokenizers", with_offsets),
    ]


def time_in_turns(contenders: list[Contender], repeats: int) -> list[dict[str, Any]]:
    """Time each contender ``repeats`` times, in turns; return seconds and pieces."""
    seconds: list[list[float]] = [[] for _ in contenders]
    pieces = [0] * len(contenders)
    for _ in range(repeats):
        for i, contender in enumerate(contenders):
            job = contender.prepare()
            gc.collect()
            start = time.perf_counter()
            pieces[i] = job()
            seconds[i].append(time.perf_counter() - start)
    return [
        {
            "job": contender.job,
            "name": contender.name,
            "pieces": pieces[i],
            "median_seconds": statistics.median(seconds[i]),
            "seconds": seconds[i],
        }
        for i, contender in enumerate(contenders)
    ]


def report(documents: list[str], vocabulary: list[str], results: list[dict[str, Any]]) -> None:
    """Print the table for people and the object for programs."""
    megabytes = sum(len(text.encode()) + 1 for text in documents) / 1e6
    print(f"{megabytes:.2f} MB in {len(documents):,} documents, {len(vocabulary):,} pieces known")
    print(f"{'job':12}{'':14}{'MB/s':>8}{'slowest':>9}{'fastest':>9}{'tokens/s':>13}")
    for result in sorted(results, key=lambda result: str(result["job"])):
        rates = sorted(megabytes / s for s in result["seconds"])
        result["megabytes_per_second"] = megabytes / result["median_seconds"]
        result["tokens_per_second"] = result["pieces"] / result["median_seconds"]
        print(
            f"{result['job']:12}{result['name']:14}{result['megabytes_per_second']:8.2f}"
            f"{rates[0]:9.2f}{rates[-1]:9.2f}{result['tokens_per_second']:13,.0f}"
        )
    summary = {
        "benchmark": "tokenizer",
        "megabytes": megabytes,
        "documents": len(documents),
        "vocabulary_size": len(vocabulary),
        "threads": 1,
        "results": results,
        "speed_relative_to_tokenizers": relative_speeds(results),
        "machine": origin(("numpy", "regex", "tokenizers")),
    }
    print_summary(summary)


def relative_speeds(results: list[dict[str, Any]]) -> dict[str, float]:
    """Return how many times as fast as ``tokenizers`` this is, for each job that both did."""
    seconds = {(r["job"], r["name"]): r["median_seconds"] for r in results}
    return {
        job: seconds[job, "tokenizers"] / seconds[job, "electra_ref"]
        for job, name in seconds
        if name == "tokenizers"
    }


if __name__ == "__main__":
    sys.exit(main())
