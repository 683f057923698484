"""Time and memory of training a vocabulary, and those of the ``tokenizers`` package.

    python -m benchmarks.vocabulary [--corpus FILE] [--vocabulary-size N] [--repeats N]

There are two texts: the corpus, and the same corpus without spaces, cut into words of at most
MAX_CHARACTERS. A word there is long and seldom occurs twice. The rivals normalize, count words and
merge pieces of the same lines, and end at the same size or at the same least count. ``tokenizers``
runs with one thread and with as many as it takes by itself; this project's program has one. Every
rival has its own process, and they take turns. Figures are medians with the fastest and the slowest
run. The last line is one JSON object.

Without ``--corpus`` the text is the embedded corpus.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.choosing import check_numbers
from benchmarks.harness import (
    origin,
    print_origin,
    print_summary,
    print_table,
    read_text,
    spread,
)
from benchmarks.turns import Program, Step, Turn, take_turns
from electra_ref.errors import UserError
from electra_ref.text import embedded_corpus
from electra_ref.text.fast_merging import find_merges
from electra_ref.text.vocabulary import MINIMUM_PAIR_COUNT, train_vocabulary
from electra_ref.text.wordpiece import MAX_CHARACTERS

MODULE = "benchmarks.vocabulary"
TEXTS = ("text", "text without spaces")
_LONG_WORD = re.compile(rf"\S{{{MAX_CHARACTERS}}}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vocabulary", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--corpus", type=Path, help="a UTF-8 text")
    parser.add_argument("--vocabulary-size", type=int, default=8192, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args(arguments)
    where_from = origin(("numpy", "numba", "tokenizers"))
    print_origin(where_from)
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_numbers(options, {"repeats": 1})
            paths = write_texts(options.corpus, Path(folder))
            sizes = {text: os.path.getsize(path) for text, path in paths.items()}
            turns = measure(paths, options.vocabulary_size, options.repeats)
        except UserError as error:
            print(f"{parser.prog}: error: {error}", file=sys.stderr)
            return 2
    results = [
        summarize(text, name, taken[TEXTS.index(text) :: len(TEXTS)])
        for text in TEXTS
        for name, taken in turns.items()
    ]
    print_table(
        ("", "MB", "seconds", "fastest", "slowest", "CPU s", "pieces", "peak MB"),
        (
            (
                f"{result['text']}: {result['name']}",
                f"{sizes[result['text']] / 1e6:.1f}",
                *(f"{result['seconds'][key]:.2f}" for key in ("median", "min", "max")),
                f"{result['cpu_seconds']['median']:.2f}",
                f"{result['pieces']:.0f}",
                f"{result['peak_megabytes']:.0f}",
            )
            for result in results
        ),
    )
    print_summary(
        {
            "benchmark": "vocabulary",
            "vocabulary_size": options.vocabulary_size,
            "bytes": sizes,
            "results": results,
            "machine": where_from,
        }
    )
    return 0


def summarize(text: str, name: str, turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the figures of one rival on one text."""
    return {
        "text": text,
        "name": name,
        "seconds": spread([turn.seconds for turn in turns]),
        "all_seconds": [turn.seconds for turn in turns],
        "cpu_seconds": spread([turn.cpu_seconds for turn in turns]),
        "pieces": turns[-1].figures["pieces"],
        "peak_megabytes": turns[-1].peak_bytes / 1e6,
    }


def write_texts(corpus: Path | None, folder: Path) -> dict[str, str]:
    """Write the two texts into ``folder``; return their paths. Raises UserError."""
    if corpus is None:
        documents = embedded_corpus.read_documentation(embedded_corpus.documentation_files())
        text = "\n".join(line for document in documents for line in document)
    else:
        text = read_text(corpus)
    without_spaces = _LONG_WORD.sub(r"\g<0> ", text.replace(" ", ""))
    paths = {}
    for name, content in zip(TEXTS, (text, without_spaces), strict=True):
        paths[name] = str(folder / name)
        Path(paths[name]).write_text(content, encoding="utf-8")
    return paths


def measure(paths: dict[str, str], size: int, repeats: int) -> dict[str, list[Turn]]:
    """Let the rivals train on each text in turns; return their turns, text after text."""
    programs = {"electra_ref": Program(MODULE, "prepare_ours", {"paths": paths, "size": size})}
    if find_spec("tokenizers") is None:
        print("tokenizers is not installed: electra_ref is timed alone", file=sys.stderr)
    else:
        for name, threads in {"1 thread": "1", "default threads": None}.items():
            rival = {"paths": paths, "size": size, "threads": threads}
            programs[f"tokenizers, {name}"] = Program(MODULE, "prepare_tokenizers", rival, False)
    rounds = [dict.fromkeys(programs, text) for _ in range(repeats) for text in TEXTS]
    return take_turns(programs, rounds, threads=1, on_round=lambda _: None)


def prepare_ours(paths: dict[str, str], size: int) -> Step:
    """Return the step that trains on the text it is given the name of."""
    lines = _read(paths)
    for _ in find_merges({"abab": 2}, MINIMUM_PAIR_COUNT):  # loads the kernels
        pass

    def step(text: str) -> dict[str, float]:
        return {"pieces": len(train_vocabulary(lines[text], size))}

    return step


def prepare_tokenizers(paths: dict[str, str], size: int, threads: str | None) -> Step:
    """Return the same step for ``tokenizers``."""
    if threads is not None:
        os.environ["RAYON_NUM_THREADS"] = threads
    # the rival is optional, and reads the environment when it is first used
    from tokenizers import Tokenizer  # noqa: PLC0415
    from tokenizers.models import WordPiece  # noqa: PLC0415
    from tokenizers.normalizers import BertNormalizer  # noqa: PLC0415
    from tokenizers.pre_tokenizers import BertPreTokenizer  # noqa: PLC0415
    from tokenizers.trainers import WordPieceTrainer  # noqa: PLC0415

    lines = _read(paths)

    def step(text: str) -> dict[str, float]:
        tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = BertNormalizer()
        tokenizer.pre_tokenizer = BertPreTokenizer()
        trainer = WordPieceTrainer(
            vocab_size=size,
            min_frequency=MINIMUM_PAIR_COUNT,
            special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            show_progress=False,
        )
        tokenizer.train_from_iterator(lines[text], trainer)
        return {"pieces": tokenizer.get_vocab_size()}

    return step


def _read(paths: dict[str, str]) -> dict[str, list[str]]:
    return {
        text: Path(path).read_text(encoding="utf-8").split("\n") for text, path in paths.items()
    }


if __name__ == "__main__":
    sys.exit(main())
