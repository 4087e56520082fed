"""Errors of the processes that load images, told as if there were no such processes."""

from collections.abc import Iterator
from contextlib import contextmanager


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
        if "DataLoader worker (pid" in said:
            raise LoadingError(
                f"a process that loads images was lost ({said.splitlines()[0]}): often memory ran out, so lower the "
                "number of workers or the batch and give the same command again; a training goes on from its last "
                "checkpoint"
            ) from error
        if said.startswith("Caught ") and "Original Traceback" in said:
            raise type(error)(said.splitlines()[-1].partition(": ")[2]) from error
        raise
