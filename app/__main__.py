"""The entry point of `callgate` and `python -m app`."""

import sys


def main() -> None:
    """Runs the command in `sys.argv`, and exits with its status.

    `callgate healthcheck` runs without an import of `app.cli`, which would take most of its run time.
    """
    command, *arguments = sys.argv[1:] or [""]
    if command == "healthcheck" and len(arguments) < 2 and not any(word.startswith("-") for word in arguments):
        from app.healthcheck import check_health

        sys.exit(check_health(*arguments))
    from app.cli import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
