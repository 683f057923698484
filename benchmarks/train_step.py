"""Seconds of a training step: this project's backends, PyTorch, and the matrix products alone.

    python -m benchmarks.train_step [--preset small] [--set KEY=VALUE ...] [--batch-size N]
        [--max-length N] [--vocab-size N] [--repeats N] [--warmup N] [--threads N]
        [--rivals NAME ...] [--scaling]

Every rival has a process of its own; they take turns, a step each on the same batch, so that what
else the machine does hits them alike. Figures are medians with the fastest and the slowest step,
ratios are formed round by round. A step goes from a batch of token ids to updated parameters:
masking, both networks, sampling, clipping and the optimizer. Tokens count padding. CPU s is what
all threads spent on a core, spinning included: with --threads 1, the time of a quiet machine.

The floor is the time of the step's matrix products alone (``matrix_products`` has the formulas), in
float32 through ``np.matmul(out=)``. The data work of a step is timed beside it, part by part;
tokenizing, once a corpus, has ``benchmarks.tokenizer``.

``--scaling`` times the first rival only, over lengths, batches, widths and vocabularies, each size
in turns with the size it started from: the seconds a token should grow as the FLOP a token do.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from benchmarks.electra_step import SPECIAL_TOKENS, make_batches, open_rival
from benchmarks.harness import origin, print_origin, print_summary, print_table, spread
from benchmarks.matrix_products import Product, step_products
from benchmarks.turns import Program, Turn, take_turns
from electra_ref.config import PRESETS, Config, resolve_config
from electra_ref.errors import UserError
from electra_ref.masking import masked_slots

PACKAGES = ("numpy", "numba", "scipy", "cupy-cuda13x", "cupy-cuda12x", "torch", "transformers")
SIZES = {"batch_size": 16, "max_length": 128, "vocab_size": 8192}
FLOOR, DATA = "floor", "data work"  # not rivals, but timed in their rounds
LENGTHS = (64, 128, 256, 512)


class Rival(NamedTuple):
    """One way to take a training step. ``compiled`` is torch.compile's."""

    name: str
    program: str  # electra_ref or pytorch
    device: str
    precision: str
    compiled: bool = False
    default: bool = True  # timed where it can be, unless --rivals says otherwise


RIVALS = (
    Rival("cpu-float32", "electra_ref", "cpu", "float32"),
    Rival("cpu-bfloat16", "electra_ref", "cpu", "bfloat16"),
    Rival("reference-float32", "electra_ref", "reference", "float32"),
    Rival("gpu-float32", "electra_ref", "gpu", "float32"),
    Rival("pytorch-float32", "pytorch", "cpu", "float32"),
    Rival("pytorch-bfloat16", "pytorch", "cpu", "bfloat16"),
    Rival("pytorch-float32-compiled", "pytorch", "cpu", "float32", True, default=False),
    Rival("pytorch-bfloat16-compiled", "pytorch", "cpu", "bfloat16", True, default=False),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says, return the exit code: 0, or 2 with one line."""
    options = build_parser().parse_args(arguments)
    try:
        config = config_of(options)
        rivals = rivals_of(options.rivals)
        where_from = origin(PACKAGES)
        print_origin(where_from)
        report = scaling if options.scaling else comparison
        figures = report(config, rivals, options)
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
        help="see below; ratios are to the first. Default: all that can run here, but the compiled "
        "ones, which take minutes to compile",
    )
    add("--scaling", action="store_true", help="time the first rival over a range of sizes")
    return parser


def config_of(options: argparse.Namespace) -> Config:
    """Return the configuration to time. Raises UserError for what cannot be timed."""
    for option, least in (("repeats", 1), ("warmup", 0), ("threads", 1)):
        if getattr(options, option) < least:
            raise UserError(f"--{option} {getattr(options, option)}: at least {least}")
    given = [f"{key}={n}" for key in SIZES if (n := getattr(options, key)) is not None]
    sizes = [f"{key}={size}" for key, size in SIZES.items()]
    config = resolve_config(preset=options.preset, settings=[*sizes, *options.settings, *given])
    if config.accumulate != 1:
        raise UserError(f"accumulate = {config.accumulate}: only whole batches are timed")
    return config


def rivals_of(names: list[str] | None) -> list[Rival]:
    """Return the rivals of these names, or the default ones that can run here.

    Raises UserError for a name that is unknown, given twice, or cannot run here.
    """
    if names is None:
        return [rival for rival in RIVALS if rival.default and why_not(rival) is None]
    known = {rival.name: rival for rival in RIVALS}
    for name in names:
        if name not in known:
            raise UserError(f"--rivals {name}: none of {', '.join(known)}")
        if names.count(name) > 1:
            raise UserError(f"--rivals {name}: given twice")
        if (reason := why_not(known[name])) is not None:
            raise UserError(f"--rivals {name}: {reason}")
    return [known[name] for name in names]


def why_not(rival: Rival) -> str | None:
    """Return why ``rival`` cannot run here, or None if it can."""
    if rival.program == "pytorch":
        missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
        return f"{' and '.join(missing)} not installed (extra: oracle)" if missing else None
    try:
        open_rival(rival.device, rival.precision)
    except UserError as error:
        return str(error)
    return None


def program_of(rival: Rival, config: Config, threads: int) -> Program:
    """Return what the process of ``rival`` has to run."""
    shared = {"config": config, "precision": rival.precision}
    if rival.program == "electra_ref":
        arguments = {**shared, "device": rival.device}
        return Program("benchmarks.electra_step", "prepare_electra_ref", arguments)
    arguments = {
        **shared,
        "masked_slots": masked_slots(config.max_length, config.mask_probability),
        "special_tokens": SPECIAL_TOKENS,
        "compiled": rival.compiled,
        "threads": threads,
    }
    return Program("benchmarks.pytorch_electra", "prepare_pytorch", arguments)


def products_of(config: Config) -> list[Product]:
    """Return the matrix products of a step of ``config``."""
    return step_products(config, masked_slots(config.max_length, config.mask_probability))


def flop_by_product(products: list[Product]) -> dict[str, int]:
    """Return the FLOP of the products of each name."""
    flop = dict.fromkeys((product.name for product in products), 0)
    for product in products:
        flop[product.name] += product.flop
    return flop


def measure(
    programs: dict[str, Program], rounds: Sequence[Mapping[str, Any]], options: argparse.Namespace
) -> dict[str, list[Turn]]:
    """Return the timed turns of each program; the first of ``rounds`` are the warm-up."""
    number = itertools.count(1)

    def on_round(turns: Sequence[Turn]) -> None:
        seconds = ", ".join(
            f"{name} {turn.seconds:.2f} s" for name, turn in zip(programs, turns, strict=True)
        )
        print(f"round {next(number)} of {len(rounds)}: {seconds}", file=sys.stderr)

    turns = take_turns(programs, rounds, options.threads, on_round)
    return {name: taken[options.warmup :] for name, taken in turns.items()}


def comparison(config: Config, rivals: list[Rival], options: argparse.Namespace) -> dict[str, Any]:
    """Time all rivals in turns, print the tables, return the figures."""
    products = products_of(config)
    programs = {rival.name: program_of(rival, config, options.threads) for rival in rivals}
    programs[FLOOR] = Program("benchmarks.matrix_products", "prepare_floor", {"products": products})
    programs[DATA] = Program("benchmarks.electra_step", "prepare_data_work", {"config": config})
    batches = make_batches(config, options.warmup + options.repeats)
    turns = measure(programs, [dict.fromkeys(programs, batch) for batch in batches], options)
    tokens = _tokens(config)
    flop = sum(product.flop for product in products)
    first = rivals[0].name
    results = [
        {
            "name": name,
            "seconds": spread(seconds := _seconds(turns[name])),
            "all_seconds": seconds,
            "cpu_seconds": spread([turn.cpu_seconds for turn in turns[name]]),
            "tokens_per_second": tokens / spread(seconds)["median"],
            "gigaflop_per_second": flop / spread(seconds)["median"] / 1e9,
            "ratio_to_first": spread(_ratios(turns[name], turns[first])),
            "ratio_to_floor": spread(_ratios(turns[name], turns[FLOOR])),
            "peak_megabytes": turns[name][-1].peak_bytes / 1e6,
            "device_megabytes": turns[name][-1].figures.get("device_bytes", 0.0) / 1e6,
            "loss": turns[name][-1].figures.get("loss"),
        }
        for name in (*(rival.name for rival in rivals), FLOOR)
    ]
    data = data_shares(turns[DATA], turns[first])
    print(
        f"{config.preset}: batch {config.batch_size}, length {config.max_length}, vocabulary "
        f"{config.vocab_size}, {options.threads} threads, {options.repeats} rounds; "
        f"{flop / 1e9:.1f} GFLOP a step, {flop / tokens / 1e6:.1f} MFLOP a token\n"
    )
    print_results(results, first)
    print(f"\ndata work as a share of the step of {first}")
    print_table(
        ("part", "ms", "%"),
        [(n, f"{1e3 * part['median_seconds']:.2f}", f"{part['percent']:.2f}") for n, part in data],
    )
    return {
        "flop_per_step": flop,
        "flop_per_token": flop / tokens,
        "flop_by_product": flop_by_product(products),
        "results": results,
        "data_work": dict(data),
    }


def data_shares(work: list[Turn], steps: list[Turn]) -> list[tuple[str, dict[str, float]]]:
    """Return seconds and percent of a step, paired round by round, for each part and for all."""
    shares = []
    for name in (*work[0].figures, "all"):
        seconds = [
            sum(turn.figures.values()) if name == "all" else turn.figures[name] for turn in work
        ]
        percent = [100 * s / step.seconds for s, step in zip(seconds, steps, strict=True)]
        part = {
            "median_seconds": spread(seconds)["median"],
            "percent": spread(percent)["median"],
        }
        shares.append((name, part))
    return shares


def print_results(results: list[dict[str, Any]], first: str) -> None:
    """Print one line a rival."""
    header = (
        "",
        "s/step",
        "min",
        "max",
        "CPU s",
        "tokens/s",
        f"x {first}",
        "min",
        "max",
        "x floor",
        "GFLOP/s",
        "peak MB",
        "GPU MB",
        "loss",
    )
    rows = []
    for r in results:
        seconds, ratio = r["seconds"], r["ratio_to_first"]
        loss = "" if r["loss"] is None else f"{r['loss']:.2f}"
        rows.append(
            (
                r["name"],
                *(f"{seconds[key]:.3f}" for key in ("median", "min", "max")),
                f"{r['cpu_seconds']['median']:.3f}",
                f"{r['tokens_per_second']:,.0f}",
                *(f"{ratio[key]:.2f}" for key in ("median", "min", "max")),
                f"{r['ratio_to_floor']['median']:.2f}",
                f"{r['gigaflop_per_second']:.1f}",
                f"{r['peak_megabytes']:,.0f}",
                f"{r['device_megabytes']:,.0f}" if r["device_megabytes"] else "",
                loss,
            )
        )
    print_table(header, rows)


def scaling_points(config: Config) -> Iterator[tuple[str, int, Config]]:
    """Yield what varies, its value, and ``config`` with it.

    Lengths share the tokens of a step out among fewer rows, as far as they divide; widths keep the
    width of a head and of the feed-forward layer relative to the rest.
    """
    tokens = config.batch_size * config.max_length
    for length in LENGTHS:
        if length <= config.max_position_embeddings:
            rows = max(1, tokens // length)
            yield "length", length, dataclasses.replace(config, max_length=length, batch_size=rows)
    for factor in (0.25, 0.5, 2.0):
        rows = max(1, int(config.batch_size * factor))
        yield "batch", rows, dataclasses.replace(config, batch_size=rows)
    for factor in (0.5, 2.0):
        width, heads, intermediate = (
            max(1, int(size * factor))
            for size in (config.hidden_size, config.num_attention_heads, config.intermediate_size)
        )
        yield (
            "width",
            width,
            dataclasses.replace(
                config, hidden_size=width, num_attention_heads=heads, intermediate_size=intermediate
            ),
        )
    for factor in (0.25, 4.0):
        words = int(config.vocab_size * factor)
        yield "vocabulary", words, dataclasses.replace(config, vocab_size=words)


def scaling(config: Config, rivals: list[Rival], options: argparse.Namespace) -> dict[str, Any]:
    """Time the first rival over the sizes, print the table, return the figures."""
    rival, flop = rivals[0], _flop_per_token
    start = flop(config)
    points, rows = [], []
    count = options.warmup + options.repeats
    for what, value, point in scaling_points(config):
        turns = _pair(rival, config, point, count, options)
        per_token = [seconds / _tokens(point) for seconds in _seconds(turns["point"])]
        ratios = [
            seconds * _tokens(config) / base.seconds
            for seconds, base in zip(per_token, turns["start"], strict=True)
        ]
        points.append(
            {
                "varied": what,
                "value": value,
                "seconds_per_token": spread(per_token),
                "flop_per_token": flop(point),
                "ratio_of_seconds": spread(ratios),
                "ratio_of_flop": flop(point) / start,
            }
        )
        rows.append(
            (
                f"{what} {value}",
                f"{1e6 * spread(per_token)['median']:.1f}",
                f"{flop(point) / 1e6:.1f}",
                *(f"{spread(ratios)[key]:.2f}" for key in ("median", "min", "max")),
                f"{flop(point) / start:.2f}",
            )
        )
    print(
        f"{rival.name}, {config.preset}, from batch {config.batch_size}, length "
        f"{config.max_length}, width {config.hidden_size}, vocabulary {config.vocab_size}\n"
    )
    header = ("", "us/token", "MFLOP/token", "x time", "min", "max", "x FLOP")
    print_table(header, rows)
    return {"rival": rival.name, "scaling": points}


def _pair(
    rival: Rival, start: Config, point: Config, count: int, options: argparse.Namespace
) -> dict[str, list[Turn]]:
    """Return the timed turns of ``rival`` at two sizes, each on batches of its own."""
    configs = {"start": start, "point": point}
    programs = {
        name: program_of(rival, config, options.threads) for name, config in configs.items()
    }
    batches = [make_batches(config, count) for config in configs.values()]
    rounds = [dict(zip(configs, pair, strict=True)) for pair in zip(*batches, strict=True)]
    return measure(programs, rounds, options)


def _seconds(turns: list[Turn]) -> list[float]:
    return [turn.seconds for turn in turns]


def _ratios(turns: list[Turn], others: list[Turn]) -> list[float]:
    return [turn.seconds / other.seconds for turn, other in zip(turns, others, strict=True)]


def _tokens(config: Config) -> int:
    return config.batch_size * config.max_length


def _flop_per_token(config: Config) -> float:
    return sum(product.flop for product in products_of(config)) / _tokens(config)


if __name__ == "__main__":
    sys.exit(main())
