"""What a large corpus takes: tokenizing it in several processes, packing it, opening its cache.

    python -m benchmarks.large_corpus [--corpus FILE] [--megabytes N] [--vocabulary-size N]
        [--workers N ...] [--repeats N] [--opened-tokens N]

Each round tokenizes the text once for each number of ``--workers``, with an empty cache. Ratios are
formed round by round. The caches must be equal, byte for byte. Processor seconds are those of all
processes; they tell what a busy machine hides. Then the text is packed, and a cache of
``--opened-tokens`` tokens is opened. Its files are sparse: nothing is stored in them, and opening
does not read them. The last lines are the estimate for a billion sentences, and one JSON object.

Without ``--corpus`` the text is the embedded corpus, as often as ``--megabytes`` needs it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.choosing import check_numbers
from benchmarks.harness import origin, print_origin, print_summary, print_table, spread
from benchmarks.large_cache import RULES, make_cache, open_cache
from benchmarks.turns import status_bytes
from electra_ref.batch import SpecialTokens
from electra_ref.errors import UserError
from electra_ref.text import embedded_corpus
from electra_ref.text.corpus_file import CorpusFile
from electra_ref.text.corpus_sample import draw_sample, read_sample
from electra_ref.text.examples import ExampleSource, open_examples
from electra_ref.text.listing import list_files
from electra_ref.text.shards import SHARD_BYTES
from electra_ref.text.token_cache import TokenCache
from electra_ref.text.tokenizing import Recipe, tokenize_files
from electra_ref.text.vocabulary import train_vocabulary

BILLION = 10**9
HELD_OUT = 0.05
LOOK_SECONDS = 0.1
SAMPLE_BYTES = 1 << 24  # of the text train the vocabulary


class Taken(NamedTuple):
    """What one thing took."""

    seconds: float
    cpu_seconds: float  # of all processes


class Clock:
    """Counts from its creation."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._cpu = sum(os.times()[:4])

    def taken(self) -> Taken:
        """Return what has passed; processes that have ended are counted."""
        return Taken(time.perf_counter() - self._start, sum(os.times()[:4]) - self._cpu)


class PeakOfChildren:
    """Looks at the largest memory of each process that this one starts in a block; Linux only.

    What ``getrusage`` says of children includes the memory of the process that started them.
    """

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> PeakOfChildren:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            for child in _children():
                peak = status_bytes("VmHWM", child) or 0
                self.megabytes = max(self.megabytes, peak / 1e6)


def _children() -> list[int]:
    """Return the processes that any thread of this one has started, and that have not ended."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text(encoding="ascii").split()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_corpus", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--corpus", type=Path, help="a UTF-8 text, a sentence a line")
    add("--megabytes", type=int, default=1000, help="of text (default: %(default)s)")
    add("--vocabulary-size", type=int, default=30522, help="default: %(default)s")
    add("--workers", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    add("--repeats", type=int, default=3, help="default: %(default)s")
    add("--opened-tokens", type=int, default=10 * BILLION, help="default: %(default)s")
    options = parser.parse_args(arguments)
    where_from = origin(("numpy", "regex", "numba"))
    print_origin(where_from)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            check_numbers(options, {"megabytes": 1, "workers": 1, "repeats": 1})
            path = options.corpus or write_text(folder / "text.txt", options.megabytes)
            files = list_files([str(path)]).files
            with PeakOfChildren() as peak:
                rounds, cache = tokenize_in_turns(files, options, folder)
            packing = pack(cache, folder)
        except UserError as error:
            print(f"{parser.prog}: error: {error}", file=sys.stderr)
            return 2
        sizes = sizes_of(files, cache, packing[1])
        opening = open_large(options.opened_tokens, folder / "large")
    figures = summarize(rounds, peak.megabytes, packing[0], sizes, opening)
    report(figures, options.opened_tokens)
    print_summary({"benchmark": "large_corpus", **figures, "machine": where_from})
    return 0


def write_text(path: Path, megabytes: int) -> Path:
    """Write the embedded corpus to ``path``, again and again."""
    documents = list(embedded_corpus.read_documentation(embedded_corpus.documentation_files()))
    text = "".join("\n".join(document) + "\n\n" for document in documents).encode()
    with open(path, "wb") as stream:
        while stream.tell() < megabytes * 10**6:
            stream.write(text[: megabytes * 10**6 - stream.tell()])
    return path


def tokenize_in_turns(
    files: Sequence[CorpusFile], options: argparse.Namespace, folder: Path
) -> tuple[list[dict[int, Taken]], TokenCache]:
    """Tokenize with each number of workers in turns; return what it took, and the last cache."""
    sample = draw_sample(files, SAMPLE_BYTES)
    vocabulary = train_vocabulary(read_sample(sample, lambda _: None), options.vocabulary_size)
    recipe = Recipe(tuple(vocabulary), lowercase=True, strip_accents=True)
    rounds: list[dict[int, Taken]] = []
    expected = None
    for number in range(options.repeats):
        rounds.append({})
        for workers in options.workers:
            cache_dir = folder / "cache"
            shutil.rmtree(cache_dir, ignore_errors=True)
            cache_dir.mkdir()
            clock = Clock()
            cache = tokenize_files(files, recipe, cache_dir, workers, lambda _: None)
            rounds[-1][workers] = clock.taken()
            found = [(shard.path / "meta.json").read_bytes() for shard in cache.shards]
            if found != (expected := expected or found):
                raise SystemExit("the caches differ")
            taken = rounds[-1][workers]
            print(
                f"round {number + 1}, {workers} workers: {taken.seconds:.1f} s, "
                f"{taken.cpu_seconds:.1f} CPU s",
                flush=True,
            )
    return rounds, cache


def pack(cache: TokenCache, folder: Path) -> tuple[Taken, ExampleSource]:
    """Hold out and pack; the kernels are compiled before."""
    (folder / "warm").mkdir()
    open_examples(folder / "warm", cache._replace(shards=cache.shards[:1]), RULES, HELD_OUT)
    (folder / "packed").mkdir()
    clock = Clock()
    training, _ = open_examples(folder / "packed", cache, RULES, HELD_OUT)
    return clock.taken(), training


def sizes_of(
    files: Sequence[CorpusFile], cache: TokenCache, training: ExampleSource
) -> dict[str, int]:
    """Return how much of everything there is."""
    report = cache.folder.facts["report"]
    return {
        "bytes": sum(file.size for file in files),
        "tokens": cache.tokens.size,
        "sentences": sum(shard.sizes["sentence_ends.bin"] // 8 for shard in cache.shards),
        "documents": report["documents"],
        "examples": training.count,
        "shards": len(cache.shards),
    }


def open_large(tokens: int, folder: Path) -> dict[str, float]:
    """Make a sparse cache, open it, assemble a batch; return what that took."""
    folder.mkdir()
    key = make_cache(folder, tokens)
    clock = Clock()
    training, _ = open_cache(folder, key)
    opened = clock.taken()
    numbers = training.training_examples(0, 128, seed=0)
    training.batch(numbers, RULES.max_length, SpecialTokens(0, 1, 2, 3, 4))
    return {
        "seconds": opened.seconds,
        "cpu_seconds": opened.cpu_seconds,
        "with_a_batch": clock.taken().seconds,
        "examples": training.count,
    }


def summarize(
    rounds: Sequence[dict[int, Taken]],
    worker_peak_megabytes: float,
    packing: Taken,
    sizes: dict[str, int],
    opening: dict[str, float],
) -> dict[str, Any]:
    """Return all figures as plain JSON."""
    results = []
    first = next(iter(rounds[0]))
    for workers in rounds[0]:
        taken = [each[workers] for each in rounds]
        ratios = [each[first].seconds / each[workers].seconds for each in rounds]
        results.append(
            {
                "workers": workers,
                "seconds": spread([each.seconds for each in taken]),
                "cpu_seconds": spread([each.cpu_seconds for each in taken]),
                "megabytes_per_second": spread([sizes["bytes"] / 1e6 / t.seconds for t in taken]),
                "ratio_to_first": spread(ratios),
                "rounds": [list(each) for each in taken],
            }
        )
    return {
        "sizes": sizes,
        "tokenizing": results,
        "worker_peak_megabytes": worker_peak_megabytes,
        "packing": packing._asdict(),
        "opening": opening,
        "billion_sentences": estimate(sizes, results, packing),
    }


def estimate(
    sizes: dict[str, int], results: Sequence[dict[str, Any]], packing: Taken
) -> dict[str, float]:
    """Return what a billion sentences like these take: everything grows with their number.

    On disk a token takes 2 bytes, a sentence 8, a document 16 and an example 12.
    """
    times = BILLION / sizes["sentences"]
    stored = (
        2 * sizes["tokens"]
        + 8 * sizes["sentences"]
        + 16 * sizes["documents"]
        + 12 * sizes["examples"]
    )
    cpu = float(np.median([result["cpu_seconds"]["median"] for result in results]))
    return {
        "text_gigabytes": times * sizes["bytes"] / 1e9,
        "tokens": times * sizes["tokens"],
        "cache_gigabytes": times * stored / 1e9,
        "tokenizing_cpu_hours": times * cpu / 3600,
        "packing_minutes": times * packing.cpu_seconds / 60,
        "shards": times * sizes["bytes"] / SHARD_BYTES,
    }


def report(figures: dict[str, Any], opened_tokens: int) -> None:
    """Print the figures for people."""
    print(", ".join(f"{number:,} {name}" for name, number in figures["sizes"].items()))
    print_table(
        ("workers", "seconds", "fastest", "slowest", "CPU s", "MB/s", "times as fast"),
        (
            (
                str(result["workers"]),
                *(f"{result['seconds'][key]:.1f}" for key in ("median", "min", "max")),
                f"{result['cpu_seconds']['median']:.1f}",
                f"{result['megabytes_per_second']['median']:.1f}",
                "{median:.2f} ({min:.2f}-{max:.2f})".format(**result["ratio_to_first"]),
            )
            for result in figures["tokenizing"]
        ),
    )
    packing, opening = figures["packing"], figures["opening"]
    if peak := figures["worker_peak_megabytes"]:  # a single worker is this process
        print(f"peak memory of a worker: {peak:.0f} MB")
    print(f"packing: {packing['seconds']:.1f} s, {packing['cpu_seconds']:.1f} CPU s")
    print(
        f"opening {opened_tokens:,} tokens: {opening['seconds']:.2f} s, "
        f"{opening['with_a_batch']:.2f} s to the first batch"
    )
    billion = {key: f"{value:,.1f}" for key, value in figures["billion_sentences"].items()}
    print("a billion sentences: " + ", ".join(f"{key} {value}" for key, value in billion.items()))


if __name__ == "__main__":
    sys.exit(main())
