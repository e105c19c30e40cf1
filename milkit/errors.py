"""What a user can get wrong. Every message says what was found, where, what was expected and what to do."""


class MilkitError(Exception):
    """A mistake that the user can mend; the command line prints it without a traceback and exits with 2."""


class DataError(MilkitError):
    """A feature file, a store or a bag that cannot be used as it is."""


class CohortError(MilkitError):
    """A table of slides and patients that cannot be used as it is; names file, row and column."""


class ProtocolError(MilkitError):
    """Who trains, validates and tests cannot be arranged as asked (a leak, an empty role, too few patients)."""


class ConfigError(MilkitError):
    """An experiment whose parts do not fit together, found before any training starts."""


class RunFolderError(MilkitError):
    """A run folder that exists, is incomplete, or was written by another experiment."""


class NonFiniteError(MilkitError):
    """A loss became NaN or infinite; names the run, the step and the bag."""


class WorkerError(MilkitError):
    """Processes or machines that run programs of a study died, or cannot be had."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a study in good order: what had finished is readable and can be resumed.

    Attributes:
        status: exit status of the command line: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, where: str, status: int = 130) -> None:
        super().__init__(
            f"interrupted{where and ' ' + where}. What had finished is readable; repeat the command with --resume "
            "(in place of --force) to go on from there."
        )
        self.status = status
