"""The error tree: every error that a user can cause, with its exit code and one-line message."""

# What the shell sees, and what it means.
INTERRUPTED, PIPE_CLOSED, UNEXPECTED = 130, 141, 70
EXIT_CODES = {
    0: "done",
    1: "done in part: the rest is written, the same command tries what failed again",
    2: "the request is wrong: usage, settings, a missing file or library",
    3: "no row of an input can be used, or more are rejected than --max-rejects allows: an older output stays",
    4: "another run holds the folder OUT.run",
    UNEXPECTED: "an error that nobody expected: the line names a file with its traceback; please report it",
    INTERRUPTED: "interrupted: the same command goes on",
    PIPE_CLOSED: "stdout was closed: who read it has enough",
}


class WeibotagError(Exception):
    """An error that the command line prints as one line; `exit_code` is what the shell sees."""

    exit_code = 2


class RequestError(WeibotagError):
    """The request is wrong: usage, settings, a missing file, an unknown column or expression."""


class MissingExtraError(RequestError):
    """A library that the request needs is not installed; the message names the pip line."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs: pip install 'weibotag[{extra}]'")


class TaxonomyError(RequestError):
    """The taxonomy can't be used; the message says the file, the line and the fix."""


class ModelError(RequestError):
    """The model folder can't be read, or was trained on something else than it is asked to work on."""


class OwnFileError(ModelError):
    """A file that weibotag wrote (of a model, a plan, a gallery …) is absent, damaged or altered."""


class PartialError(WeibotagError):
    """Some parts failed or were set aside; the rest is written, the same command tries them again."""

    exit_code = 1


class TooManyRejectsError(WeibotagError):
    """More rows were rejected than `--max-rejects` allows."""

    exit_code = 3


class NothingAcceptedError(WeibotagError):
    """No row of an input can be used: nothing is written, and an older output stays where it is."""

    exit_code = 3

    def __init__(self, path: object, rejected: str = "it has none") -> None:
        super().__init__(f"{path}: no row can be used ({rejected}): nothing was written, an older output stays as it is")


class LockedError(WeibotagError):
    """Another run holds the folder."""

    exit_code = 4
