"""How commands end."""

import errno
import subprocess
import sys

import pytest

from vidkd import cli
from vidkd.errors import ConfigError, DataError


def ending(error):
    def main(argv):
        raise error

    return cli.run_main(main, [])


def test_the_status_of_main_and_its_arguments():
    assert cli.run_main(lambda argv: len(argv), ["a", "b", "c"]) == 3


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError("optim.lr: must be positive"), 2, "optim.lr: must be positive\n"),
        (DataError("a.mp4: not a video"), 2, "a.mp4: not a video\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), 2, "/data/x: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device; make room"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_person_can_mend_is_one_message(error, status, said, capsys):
    assert ending(error) == status
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("wrong call"), AssertionError(), OSError(errno.EIO, "I/O error")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        ending(error)


def test_a_reader_who_leaves_is_no_error():
    code = "import sys; from vidkd import cli; sys.exit(cli.run_main(lambda a: print('x\\n' * 10**6) or 0, []))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == cli.PIPE_CLOSED
