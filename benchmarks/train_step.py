"""Seconds of a training step: this project's backends, PyTorch, and the matrix products alone.

    python -m benchmarks.train_step [--preset small] [--set KEY=VALUE ...] [--batch-size N]
        [--max-length N] [--vocab-size N] [--repeats N] [--warmup N] [--threads N]
        [--rivals NAME ...|all] [--profile|--scaling]

Every rival has its own process. In each round all take one step on the same batch, in turns, so
that other work on the machine slows them alike. Figures are medians with the fastest and the
slowest step; ratios are formed round by round. A step goes from a batch of token ids to updated
parameters: masking, both networks, sampling, clipping and the optimizer. Tokens include padding.
CPU s is the time of all threads on a core, spinning included; with --threads 1 it is the time on a
quiet machine. Peak MB is the largest resident memory of the process, compilation included.

The floor is the time of the step's matrix products alone (formulas: ``matrix_products``), in
float32 with ``np.matmul(out=)``. The parts of the data work of a step are timed, too, and shown as
shares of the step of the fastest rival.

``--profile`` shows the time of each operation in the step of this project's rivals. ``--scaling``
shows how the step grows with the length, the batch, the width and the vocabulary. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from benchmarks.choosing import ALL, check_numbers
from benchmarks.comparison import comparison
from benchmarks.harness import origin, print_origin, print_summary
from benchmarks.operation_times import profile
from benchmarks.rivals import RIVALS, rivals_of
from benchmarks.scaling import scaling
from electra_ref.config.pretraining import PRESETS, PretrainingConfig, resolve_config
from electra_ref.errors import UserError

PACKAGES = ("numpy", "numba", "scipy", "cupy-cuda13x", "cupy-cuda12x", "torch", "transformers")
SIZES = {"batch_size": 16, "max_length": 128, "vocab_size": 8192}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, or 2 after one line of error."""
    options = build_parser().parse_args(arguments)
    try:
        config = config_of(options)
        rivals = rivals_of(options.rivals)
        where_from = origin(PACKAGES)
        print_origin(where_from)
        figures = options.report(config, rivals, options)
    except UserError as error:
        print(f"benchmarks.train_step: error: {error}", file=sys.stderr)
        return 2
    print_summary(
        {
            "benchmark": "train_step",
            "threads": options.threads,
            "repeats": options.repeats,
            "warmup": options.warmup,
            "config": dataclasses.asdict(config),
            **figures,
            "machine": where_from,
        }
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description=(__doc__ or "").partition("\n")[0],
        epilog="rivals: " + ", ".join(rival.name for rival in RIVALS),
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="small", help="default: %(default)s")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    for key, size in SIZES.items():
        add(f"--{key.replace('_', '-')}", type=int, metavar="N", help=f"default: {size}")
    add("--repeats", type=int, default=10, metavar="N", help="timed rounds; default: %(default)s")
    add("--warmup", type=int, default=2, metavar="N", help="rounds before; default: %(default)s")
    add("--threads", type=int, default=2, metavar="N", help="of each rival; default: %(default)s")
    add(
        "--rivals",
        nargs="+",
        metavar="NAME",
        help=f"see below; ratios are to the first. {ALL}: all that can run here. Default: those "
        "but the compiled ones, which take minutes to compile",
    )
    other = parser.add_mutually_exclusive_group()
    for flag, report, what in (
        ("--profile", profile, "time the operations of this project's rivals"),
        ("--scaling", scaling, "time the first of this project's rivals over a range of sizes"),
    ):
        other.add_argument(flag, action="store_const", const=report, dest="report", help=what)
    parser.set_defaults(report=comparison)
    return parser


def config_of(options: argparse.Namespace) -> PretrainingConfig:
    """Return the configuration to time. Raises UserError if it cannot be timed."""
    check_numbers(options, {"repeats": 1, "warmup": 0, "threads": 1})
    given = [f"{key}={n}" for key in SIZES if (n := getattr(options, key)) is not None]
    sizes = [f"{key}={size}" for key, size in SIZES.items()]
    config = resolve_config(preset=options.preset, settings=[*sizes, *options.settings, *given])
    if config.accumulate != 1:
        raise UserError(f"accumulate = {config.accumulate}: only whole batches are timed")
    return config


if __name__ == "__main__":
    sys.exit(main())
