"""Child processes that end with this one, however it ends: by kill -9, too, and with everything they started.

A pipe closes with the process that holds its end, whatever killed that process, so a child that waits for the close
needs no cooperation from its parent. Linux's parent-death signal is not used: it is sent when the *thread* that started
the child ends, is set between fork and exec, and does not reach grandchildren.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

# Waits for the close of its standard input, ends the group, and deletes what the dead left.
_GUARD = """\
cat > /dev/null
kill -s KILL -- "-$1"
shift
sleep 1
for path; do
  case $path in *'*') rm -rf -- "${path%?}"* ;; *) rm -rf -- "$path" ;; esac
done
"""


class ProcessGroup:
    """A group for child processes: start them with ``process_group=group.id``. Leaving the ``with`` block kills it.

    Where this process dies before that, a guard outside the group kills the group, then deletes ``leftovers``, of which
    one that ends in ``*`` stands for all that begin so. The group exists before its first child, so there is no moment
    to die in between.
    """

    def __init__(self, leftovers: Sequence[Path] = ()) -> None:
        # The first member: it keeps the group's number from being given to others.
        self._anchor = _waiting(["/bin/cat"], own_group=True)
        try:
            paths = [str(path.absolute()) for path in leftovers]
            self._guard = _waiting(["/bin/sh", "-c", _GUARD, "lwc-guard", str(self.id), *paths], own_session=True)
        except BaseException:
            _end(self._anchor)
            raise

    @property
    def id(self) -> int:
        """The group's number, until it is killed."""
        return self._anchor.pid

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill all members, for the caller to reap its own. Safe to call again."""
        if self._anchor.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.id, signal.SIGKILL)
        for process in (self._guard, self._anchor):
            _end(process)


def _waiting(command: Sequence[str], own_group: bool = False, own_session: bool = False) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0 if own_group else None,
        start_new_session=own_session,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def end_with_parent() -> None:
    """For a process of `multiprocessing` ("spawn"), as a pool's initializer: end it as soon as its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not started by multiprocessing"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
