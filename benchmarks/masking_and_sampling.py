"""Speed of random words, masks and samples: compiled kernels and their plain NumPy twins.

    python -m benchmarks.masking_and_sampling [--batch-size N] [--max-length N]
        [--vocabulary-size N] [--repeats N]

Sampling is also compared with Gumbel noise in float64, which needs a random number for each token
of the vocabulary. Before the timing, each kernel must give the result of its twin. The contenders
take turns. Figures are medians with the fastest and the slowest run. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np

from benchmarks.choosing import check_numbers
from benchmarks.harness import origin, print_summary
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.errors import UserError
from electra_ref.masking import mask_tokens, mask_tokens_reference, masked_slots
from electra_ref.process import prepare_process
from electra_ref.rng import RandomStream, random_words, random_words_reference
from electra_ref.sampling import sample_tokens, sample_tokens_reference

SPECIAL_TOKENS = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)
STREAM = RandomStream(seed=0, purpose=0, step=0)


class Contender(NamedTuple):
    """One way to do one of the jobs, on a number of threads."""

    job: str
    name: str
    threads: int
    run: Callable[[], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; print a table and one JSON object; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--max-length", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--vocabulary-size", type=int, default=8192, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=15, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        least = {"batch_size": 1, "max_length": 8, "vocabulary_size": 6, "repeats": 1}
        check_numbers(options, least)
    except UserError as error:
        print(f"benchmarks.masking_and_sampling: error: {error}", file=sys.stderr)
        return 2
    contenders = all_contenders(options.batch_size, options.max_length, options.vocabulary_size)
    report(vars(options), time_in_turns(contenders, options.repeats))
    return 0


def all_contenders(batch_size: int, max_length: int, vocabulary_size: int) -> list[Contender]:
    """Return each job with its contenders: kernel on one and on all threads, twin, rival."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, vocabulary_size, (batch_size, max_length)).astype(np.int32)
    batch = Batch(ids, np.zeros_like(ids), np.ones_like(ids, np.bool_))
    slots = masked_slots(max_length, 0.15)
    logits = 3 * rng.standard_normal((batch_size * slots, vocabulary_size)).astype(np.float32)
    words = 256 * max_length  # a dropout mask of width 512

    def gumbel() -> Any:
        return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)

    jobs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "random words": (
            lambda: random_words(STREAM, batch_size, words),
            lambda: random_words_reference(STREAM, batch_size, words),
        ),
        "masks": (
            lambda: mask_tokens(batch, SPECIAL_TOKENS, 0.15, STREAM),
            lambda: mask_tokens_reference(batch, SPECIAL_TOKENS, 0.15, STREAM),
        ),
        "samples": (
            lambda: sample_tokens(logits, 1.0, STREAM, slots),
            lambda: sample_tokens_reference(logits, 1.0, STREAM, slots),
        ),
    }
    contenders = []
    for job, (kernel, twin) in jobs.items():
        if not all(map(np.array_equal, leaves(kernel()), leaves(twin()))):
            raise SystemExit(f"{job}: the kernel and its twin disagree")
        for threads in sorted({1, numba.get_num_threads()}):
            contenders.append(Contender(job, "kernel", threads, kernel))
        contenders.append(Contender(job, "NumPy twin", 1, twin))
    return [*contenders, Contender("samples", "Gumbel noise", 1, gumbel)]


def leaves(result: Any) -> list[Any]:
    """Return the arrays in a result, which is an array or a tuple of results."""
    if isinstance(result, tuple):
        return [array for field in result for array in leaves(field)]
    return [result]


def time_in_turns(contenders: list[Contender], repeats: int) -> list[dict[str, Any]]:
    """Time each contender ``repeats`` times, in turns."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(repeats):
        for i, contender in enumerate(contenders):
            numba.set_num_threads(contender.threads)
            start = time.perf_counter()
            contender.run()
            seconds[i].append(time.perf_counter() - start)
    return [
        {
            "job": contender.job,
            "name": contender.name,
            "threads": contender.threads,
            "median_seconds": statistics.median(seconds[i]),
            "seconds": seconds[i],
        }
        for i, contender in enumerate(contenders)
    ]


def report(sizes: dict[str, int], results: list[dict[str, Any]]) -> None:
    """Print the table for people and the object for programs."""
    print(f"{'job':14}{'':14}{'threads':>8}{'median ms':>11}{'fastest':>9}{'slowest':>9}")
    for result in results:
        print(
            f"{result['job']:14}{result['name']:14}{result['threads']:8}"
            f"{1e3 * result['median_seconds']:11.3f}"
            f"{1e3 * min(result['seconds']):9.3f}{1e3 * max(result['seconds']):9.3f}"
        )
    print_summary(
        {
            "benchmark": "masking_and_sampling",
            **sizes,
            "results": results,
            "machine": origin(("numpy", "numba")),
        }
    )


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
