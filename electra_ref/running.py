"""How a command starts and ends: in one process, or in all that a launcher has started.

Exit codes: 0 done, 2 wrong input, 130 or 143 after SIGINT or SIGTERM, 141 if the reader of the
output went away; 1 after a defect.

Of several processes, the first one alone prints. When all end with an error at the same place, as
they do if a setting is wrong, the first one says it, and all end with its code. When one ends with
an error of its own, the others would wait for it forever; so it says which one it is, and ends all.
A process that is killed says nothing: its launcher reports that, and ends the others.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import NamedTuple

from electra_ref.errors import ReaderGoneError, UserError
from electra_ref.process import prepare_process
from electra_ref.processes import ALONE, Processes, is_first_on_node, launched, open_processes
from electra_ref.standard_error import forgiving_standard_error
from electra_ref.terminal_text import visible
from electra_ref.training.stop_signals import exit_code

LESS_MEMORY = "end other programs, or use a machine with more memory"
# For so long the others wait until the first process has said it: a launcher may end that one as
# soon as another one has ended.
SPEAKING_SECONDS = 2.0


class Ending(NamedTuple):
    """How a command has ended."""

    code: int
    error: str = ""  # one line
    details: str = ""  # of a defect: where it is


def run_command(program: str, command: Callable[[], int], if_too_large: str = LESS_MEMORY) -> int:
    """Run ``command``; return its exit code, or 2 after one line on standard error.

    ``if_too_large`` says what to do if memory is not enough. A SIGINT that ``reporting`` does not
    catch, while libraries are loaded, ends the command at once. The command runs in one process: a
    launcher that has started several is an error.
    """
    rank, size = launched()
    if size > 1:
        return _refused(program, rank, "it runs in one process: start it without mpiexec")
    return run_alone(program, command, if_too_large)


def run_alone(program: str, command: Callable[[], int], if_too_large: str = LESS_MEMORY) -> int:
    """Run ``command`` as ``run_command`` does, whatever a launcher has started."""
    prepare_process()
    with forgiving_standard_error():
        ending = _ending_of(command, if_too_large)
        if ending.error:
            _say(program, ending.error)
    return ending.code


def run_together(
    program: str, command: Callable[[Processes], int], if_too_large: str = LESS_MEMORY
) -> int:
    """Run ``command`` in all processes that a launcher has started; return its exit code.

    Standard output is that of the first one.
    """
    rank, _ = launched()
    prepare_process()
    try:
        processes = open_processes()
    except UserError as error:
        return _refused(program, rank, str(error))
    if processes.size == 1:
        return run_alone(program, lambda: command(ALONE), if_too_large)
    with forgiving_standard_error(), open(os.devnull, "w", encoding="utf-8") as nowhere:
        with redirect_stdout(nowhere if processes.rank else sys.stdout):
            ending = _ending_with_defects(lambda: command(processes), if_too_large)
        return _end(program, processes, ending)


def _end(program: str, processes: Processes, ending: Ending) -> int:
    """Say what is wrong, if anything is; return the exit code, or end all processes."""
    if ending.code == 0:
        return 0
    together = processes.ends_together()
    if ending.error and (processes.rank == 0 or not together):
        print(ending.details, end="", file=sys.stderr)
        where = f"process {processes.rank} of {processes.size} on {socket.gethostname()}: "
        _say(program, f"{'' if together else where}{ending.error}")
    if not together:
        processes.abort(ending.code)
    return ending.code


def _ending_of(command: Callable[[], int], if_too_large: str) -> Ending:
    try:
        return Ending(command())
    except UserError as error:
        return Ending(2, str(error))
    except MemoryError as error:  # NumPy's and CuPy's are of this kind
        return Ending(2, f"out of memory ({error}): {if_too_large}")
    except FileNotFoundError:
        if _has_current_folder():
            raise
        return Ending(2, "the current folder is gone: change to one that is there")
    except KeyboardInterrupt:
        return Ending(exit_code(signal.SIGINT))
    except ReaderGoneError:
        return Ending(exit_code(signal.SIGPIPE))


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _ending_with_defects(command: Callable[[], int], if_too_large: str) -> Ending:
    try:
        return _ending_of(command, if_too_large)
    except SystemExit as end:  # of a parser that was asked for help
        return Ending(end.code if isinstance(end.code, int) else int(end.code is not None))
    except Exception as error:  # a defect, or a lost connection: the others must not wait
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return Ending(1, what, traceback.format_exc())


def _refused(program: str, rank: int, error: str) -> int:
    """Say what a process cannot do, which cannot talk to the others; return the exit code.

    Probably it is the error of all, and the first one says it. If another one is the first on its
    node, it may be the error of that node, and is said as well.
    """
    if rank == 0:
        _say(program, error)
        return 2
    time.sleep(SPEAKING_SECONDS)
    if is_first_on_node():
        _say(program, f"process {rank} on {socket.gethostname()}: {error}")
    return 2


def _say(program: str, error: str) -> None:
    print(f"{program}: error: {visible(error)}", file=sys.stderr)
