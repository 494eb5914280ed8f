"""``python -m dcm_core.convert`` within the test's own process."""

from __future__ import annotations

from dcm_core.convert.command import main


def run(capsys, *arguments):
    """(exit status, standard output, standard error)"""
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    said = capsys.readouterr()
    return status, said.out, said.err
