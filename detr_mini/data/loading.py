"""Errors of the processes that load images, told as if there were no such processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_start_method

GUARD = (
    "each process that loads images runs your script anew here, up to this line, and starts processes of its own: put "
    "what trains or evaluates under `if __name__ == \"__main__\":`, or set workers=0"
)


class LoadingError(RuntimeError):
    """A process that loads images was lost. The message says what helps."""


@contextmanager
def workers_errors() -> Iterator[None]:
    """Around everything that uses a DataLoader: what a loading process raised comes out as it was, without PyTorch's
    report around it.

    Raises LoadingError when such a process was killed.
    """
    try:
        yield
    except LoadingError:
        raise  # told already, of an evaluation inside a training
    except Exception as error:
        said = str(error).strip()
        if "before the current process has finished its bootstrapping phase" in said:
            raise LoadingError(GUARD) from error
        if "DataLoader worker (pid" in said and "exited unexpectedly" in said and get_start_method() != "fork":
            raise LoadingError(f"a process that loads images ended at once ({said.splitlines()[0]}): {GUARD}; if that "
                               "is done already, what such a process wrote above says more") from error
        if "DataLoader worker (pid" in said:
            raise LoadingError(
                f"a process that loads images was lost ({said.splitlines()[0]}): often memory ran out, so lower the "
                "number of workers or the batch and give the same command again; a training goes on from its last "
                "checkpoint"
            ) from error
        if said.startswith("Caught ") and "Original Traceback" in said:
            raise type(error)(said.splitlines()[-1].partition(": ")[2]) from error
        raise
