"""Converts a database failure into a command's error message and exit code."""

from app.errors import CommandFailed, CommandUnfinished, DatabaseUnavailable


def command_failure(error: DatabaseUnavailable) -> CommandFailed:
    """Returns the error to report: CommandUnfinished if the operator should run the same command again, else CommandFailed."""
    from app.database.errors import is_temporary_failure, operator_advice, original_error_message

    cause, remedy = original_error_message(error), operator_advice(error)
    if error.settings_stored:
        return CommandUnfinished(
            f"the change is stored, but may not yet apply to calls that already wait ({cause}): run the command again"
        )
    if error.commit_in_doubt:
        return CommandUnfinished(
            f"the connection to the database was lost before an answer came ({cause}), so it is not certain whether anything "
            "was changed: run the command again"
        )
    if is_temporary_failure(error):
        return CommandUnfinished(f"the database could not run the command now ({cause}): {remedy}")
    return CommandFailed(f"the database cannot be used ({cause}): {remedy}")
