"""The entry point of `callgate` and `python -m app`."""

import sys


def main() -> None:
    """Runs the command line. Does not import `app.cli` for `callgate healthcheck`.

    The import would take most of that command's run time.
    """
    command, *arguments = sys.argv[1:] or [""]
    if command == "healthcheck" and len(arguments) < 2 and not any(word.startswith("-") for word in arguments):
        from app.healthcheck import check_health

        sys.exit(check_health(*arguments))
    from app.cli import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
